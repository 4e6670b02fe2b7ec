"""What ``jamjet doctor`` looks at where the runtime has, or is to have, a cluster under it."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from api.cli.client import ApiClient
from api.cli.exits import EXIT_NO_ACCESS, EXIT_NOT_FOUND, CliError
from api.cli.findings import Finding, note, ok, wrong

if TYPE_CHECKING:
    from actors.settings import Settings

POSTGRESQL_MIN = 14
_SOURCE_IT = "source deploy/ray.env, then start Ray here again"


def check_ray_auth(environ: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """With a cluster named, Ray's own default for tokens differs between its ways in."""
    address, mode = environ.get("RAY_ADDRESS"), environ.get("RAY_AUTH_MODE")
    if not address:
        yield ok("ray auth", "RAY_ADDRESS is not set: no cluster is joined")
    elif not mode:
        yield wrong(
            "ray auth",
            f"RAY_ADDRESS is {address}, and RAY_AUTH_MODE is not set",
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH, as on the cluster: Ray's default varies",
        )
    elif mode != "token":
        yield wrong(
            "ray auth",
            f"RAY_AUTH_MODE is {mode}: whoever reaches the cluster's ports runs code on it",
            "set RAY_AUTH_MODE=token on every node, with one token",
        )
    else:
        yield _token(address, environ)


def _token(address: str, environ: Mapping[str, str]) -> Finding:
    """Where Ray would find its token, in the order in which it looks."""
    if environ.get("RAY_AUTH_TOKEN"):
        return ok("ray auth", f"RAY_ADDRESS is {address}, with a token")
    path = Path(environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    try:
        token, mode = path.read_text().strip(), path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        return wrong("ray auth", f"Ray's token cannot be read from {path}: {reason}", "copy the head's there")
    if not token:
        return wrong("ray auth", f"{path} is empty, and should hold Ray's token", "copy the head's there")
    if mode & 0o077:
        return wrong("ray auth", f"others here may read Ray's token in {path}", f"chmod 600 {path}")
    return ok("ray auth", f"RAY_ADDRESS is {address}, with the token in {path}")


def check_node_environment(environ: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """With a cluster named: whether Serve has HAProxy in front, with our errors."""
    from api.launch.environment import EVERYWHERE
    from api.launch.haproxy_main import BINARY_VARIABLE

    if not environ.get("RAY_ADDRESS"):
        return
    differ = sorted(name for name, value in EVERYWHERE.items() if environ.get(name) != value)
    binary = environ.get(BINARY_VARIABLE, "")
    if differ:
        yield note("ingress", f"not set as nodes of a cluster need it: {', '.join(differ)}", _SOURCE_IT)
    elif not os.access(binary, os.X_OK):
        yield wrong("ingress", f"{BINARY_VARIABLE} is {binary!r}, which cannot be run", _SOURCE_IT)
    else:
        yield ok("ingress", f"HAProxy is started by {binary}")


def check_postgresql(found: Mapping[str, str] | None) -> Iterator[Finding]:
    """The server's version, and whether what it has acknowledged survives it.

    Args:
        found: its settings, by PostgreSQL's own names; None: there is none, or it cannot be asked.
    """
    if found is None:
        return
    number = int(found["server_version_num"])
    version = f"PostgreSQL {number // 10_000}.{number % 10_000}"
    if number < POSTGRESQL_MIN * 10_000:
        yield wrong("postgresql", f"{version} is too old", f"use PostgreSQL {POSTGRESQL_MIN} or newer")
        return
    off = [name for name in ("fsync", "full_page_writes") if found.get(name) == "off"]
    waits = found.get("synchronous_commit")
    if off:
        yield wrong(
            "postgresql",
            f"{version} has {' and '.join(off)} off: a loss of power may take what was acknowledged",
            "turn it on in postgresql.conf",
        )
    elif waits in ("off", "local"):
        yield note(
            "postgresql",
            f"{version} has synchronous_commit {waits}, and the runtime turns it on for its own commits",
            "set it to on, or remote_apply, if others write here too",
        )
    else:
        yield ok("postgresql", f"{version}, with synchronous_commit {waits}")


def check_cluster(client: ApiClient, settings: "Settings | None") -> Iterator[Finding]:
    """What the server says it runs on. A server that has no such answer is passed over.

    Args:
        settings: as they are here, which should be as on the nodes.
    """
    try:
        shown = client.get("/cluster")
    except CliError as error:
        if error.exit_code == EXIT_NO_ACCESS:
            yield note("cluster", "the token may not see the nodes", "use an operator's token")
        elif error.exit_code != EXIT_NOT_FOUND:
            yield wrong("cluster", str(error), "see the Supervisor's log: `jamjet logs`")
        return
    nodes = shown.get("nodes") or []
    alive = [node for node in nodes if node.get("alive", True)]
    if nodes:
        yield from _nodes(nodes, alive)
    is_split = shown.get("database") == "sqlite" and len(alive) > 1
    if len(alive) > 1:
        yield from _many(len(alive), is_split, settings)
    for problem in shown.get("problems") or ():
        if not (is_split and "SQLite" in problem):  # That is said already, with what to do.
            yield wrong("cluster", problem, "see `jamjet status`, and Ray's logs on the head")
    yield from _versions(shown)


def _nodes(nodes: list[dict[str, Any]], alive: list[dict[str, Any]]) -> Iterator[Finding]:
    if not any(node.get("head") for node in alive):
        yield wrong(
            "cluster",
            f"{len(alive)} nodes are alive, and the head is not among them",
            "start Ray on the head again, as docs/deploy.md says, then `jamjet up`",
        )
        return
    count = "1 node" if len(alive) == 1 else f"{len(alive)} nodes"
    yield ok("cluster", f"{count}: {', '.join(map(_shown, alive))}")
    gone = [node for node in nodes if not node.get("alive", True)]
    if gone:
        yield note(
            "nodes",
            f"gone: {', '.join(str(node.get('address')) for node in gone)}",
            "start Ray there again, unless it was given back: others have taken over what it ran",
        )


def _shown(node: Mapping[str, Any]) -> str:
    marks = ", ".join(mark for mark in ("head", "draining") if node.get(mark))
    return f"{node.get('address')} ({marks})" if marks else str(node.get("address"))


def _many(count: int, is_split: bool, settings: "Settings | None") -> Iterator[Finding]:
    """What is wrong with several nodes only."""
    if is_split:
        yield wrong(
            "nodes",
            f"the database is a SQLite file of one node, so the other {count - 1} can run no executions",
            "set DATABASE_URL to a PostgreSQL database on every node, then `jamjet up`",
        )
    path = settings.python_path if settings is not None else None
    if path and not os.path.isabs(os.path.expanduser(path)):
        yield wrong(
            "functions",
            f"JAMJET_PYTHON_PATH is {path}, and where that is depends on each node's process",
            "name an absolute path that is the same on every node",
        )


def _versions(shown: Mapping[str, Any]) -> Iterator[Finding]:
    """Ray refuses a driver with another Ray or Python than the cluster has."""
    import platform
    from importlib import metadata

    try:
        here = {"ray": metadata.version("ray"), "python": platform.python_version()}
    except metadata.PackageNotFoundError:
        return  # Said elsewhere.
    for name, version in here.items():
        theirs = shown.get(name)
        if theirs and theirs != version:
            yield note(
                name,
                f"the cluster has {name} {theirs}, this machine {version}",
                "run `jamjet up` and `jamjet down` on one of its nodes, or install the same here",
            )
