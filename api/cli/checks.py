"""What ``jamjet doctor`` looks at. Each check says what it found, and what to do where that is wrong."""

import os
import platform
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from api.cli.client import ApiClient
from api.cli.exits import EXIT_NO_ACCESS, EXIT_UNREACHABLE, CliError
from api.cli.findings import Finding, Status, note, ok, wrong

if TYPE_CHECKING:
    from actors.settings import Settings

CLOCK_DIFFERENCE_MAX_MS = 1_000
_PYTHON_MIN = (3, 11)
_PACKAGE = "jamjet-ray"
_RAY_PIN = re.compile(r"ray(?:\[[^]]*\])?\s*==\s*([0-9][0-9a-z.]*)")


def check_versions(python: tuple[int, ...] | None = None) -> Iterator[Finding]:
    """Python, and the release of Ray that this package was made for."""
    from importlib import metadata

    found = python or tuple(int(part) for part in platform.python_version_tuple()[:2])
    version = platform.python_version() if python is None else ".".join(map(str, python))
    if found < _PYTHON_MIN:
        yield wrong("python", f"Python {version} is too old", "use Python 3.11 or newer")
    else:
        yield ok("python", f"Python {version}")
    try:
        ray = metadata.version("ray")
    except metadata.PackageNotFoundError:
        yield wrong("ray", "Ray is not installed", f"install {_PACKAGE} with its dependencies")
        return
    wanted = _wanted_ray()
    if wanted is not None and ray != wanted:
        yield wrong(
            "ray", f"Ray {ray}, and this release needs {wanted}", f"pip install 'ray[serve]=={wanted}'"
        )
    else:
        yield ok("ray", f"Ray {ray}")


def _wanted_ray() -> str | None:
    from importlib import metadata

    try:
        requirements = metadata.requires(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None
    return next((match[1] for line in requirements if (match := _RAY_PIN.match(line))), None)


def check_bind(settings: "Settings") -> Iterator[Finding]:
    """Without authentication, only this machine may call."""
    from api.launch.ports import is_loopback

    if not settings.dev_mode:
        yield ok("auth", f"callers at {settings.bind}:{settings.port} need a token")
    elif is_loopback(settings.bind):
        yield note("auth", "auth is off, for this machine alone", "unset JAMJET_DEV_MODE to turn it on")
    else:
        yield wrong(
            "auth",
            f"auth is off (JAMJET_DEV_MODE), and the address to listen on is {settings.bind}",
            "unset JAMJET_DEV_MODE, or set JAMJET_BIND=127.0.0.1: no server starts like this",
        )


def check_ports() -> Iterator[Finding]:
    """Ports of Ray that others could reach, as far as this machine shows them."""
    from api.cli.open_ports import can_see, ray_ports_open_to_others

    if not can_see():
        yield note("ports", "this system does not show its ports", "look for 8265 and 6379 yourself")
        return
    found = ray_ports_open_to_others()
    for one in found:
        if one.is_dashboard:
            yield wrong(
                "dashboard",
                f"Ray's dashboard (process {one.pid}) is open to others: {one.address}, port {one.port}",
                "start Ray with --dashboard-host=127.0.0.1",
            )
    others = sorted({one.port for one in found if not one.is_dashboard})
    if not others:
        yield ok("ports", "no port of Ray's own is open to other machines")
        return
    listed = ", ".join(map(str, others))
    if any(one.wants_token for one in found):
        yield note(
            "ports",
            f"Ray listens for other machines, with a token: ports {listed}",
            "keep them in one network",
        )
    else:
        yield wrong(
            "ports",
            f"Ray listens for other machines, without a token: ports {listed}",
            "start Ray with RAY_AUTH_MODE=token, or on one machine with --node-ip-address=127.0.0.1",
        )


@dataclass(frozen=True)
class DatabaseLook:
    """What an open database told: its time less ours, and the role of the caller's token there."""

    difference_ms: int
    role: str | None


async def look_at_database(url: str, token: str | None) -> DatabaseLook:
    """Open it as it is, without a migration.

    Raises:
        JamjetError: it cannot be used.
    """
    from api.cli.tokens import hash_token
    from runtime.store import open_store

    store = await open_store(url, migrate=False)
    try:
        before = time.time()
        now = await store.system.now()
        ours_ms = (before + time.time()) / 2 * 1_000
        found = None if token is None else await store.system.credential(hash_token(token))
        return DatabaseLook(round(now - ours_ms), None if found is None else found.token.role)
    finally:
        await store.close()


def check_database(url: str, look: "DatabaseLook | Exception | None") -> Iterator[Finding]:
    """The database, its schema and its clock, from a look at it; None: there is no file to look at yet."""
    from runtime.store.url import redacted

    shown = redacted(url)
    if look is None:
        yield note("database", f"{shown} does not exist yet", "`jamjet dev` or `jamjet-server` makes it")
    elif isinstance(look, DatabaseLook):
        yield ok("database", f"{shown} is reachable, and its schema is this release's")
        yield _clock(look.difference_ms)
    elif "schema" in str(look):
        yield wrong(
            "database",
            f"{shown}: {look}",
            "start `jamjet dev` or `jamjet-server` of this release: it migrates",
        )
    else:
        yield wrong("database", f"{shown}: {look}", "set DATABASE_URL, or [database] url in jamjet.toml")


def _clock(difference_ms: int) -> Finding:
    if abs(difference_ms) <= CLOCK_DIFFERENCE_MAX_MS:
        return ok("clock", f"{difference_ms:+d} ms between the database and this machine")
    return wrong(
        "clock",
        f"the database's clock is {difference_ms / 1_000:+.1f} s from this machine's",
        "let NTP set the clocks of both: tokens and timers go by them",
    )


def check_audit_key(settings: "Settings") -> Iterator[Finding]:
    """Whether the audit log's seals are signed."""
    from actors.audit_key import key_path
    from runtime.audit.seals import SigningKey
    from runtime.errors import BadRequest

    try:
        path = key_path(settings)
    except BadRequest:
        return  # What is wrong with the database's name is said elsewhere.
    if path is None:
        todo = "make one with `jamjet audit key --create` where JAMJET_AUDIT_KEY names it, on every node"
        yield note("audit", "no key is set, so the audit log is sealed without signatures", todo)
    elif settings.audit_key is None and not path.exists():
        yield ok("audit", f"the first start makes the key {path}")
    else:
        try:
            yield ok("audit", f"seals are signed with the key {SigningKey.read(path).id} in {path}")
        except BadRequest as error:
            yield wrong(
                "audit",
                error.detail,
                "nothing is sealed without it, and a start here is refused: see `jamjet audit key`",
            )


def file_problem(path: Path) -> str | None:
    """Why a SQLite file cannot be written, or made; None when it can."""
    if path.exists():
        return None if path.is_file() and os.access(path, os.W_OK) else f"{path} cannot be written"
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir():
        return f"{parent} is no folder"
    return None if os.access(parent, os.W_OK | os.X_OK) else f"the folder {parent} cannot be written"


def check_server(client: ApiClient, *, is_named: bool, role: str | None) -> Iterator[Finding]:
    """The server, its release, and what it makes of the caller's token.

    Args:
        is_named: whether anybody said that there is one; else its absence is no fault.
        role: of the token, where the database told it.
    """
    from actors.settings import VERSION

    try:
        version = client.get("/health").get("version")
        client.get("/health/ready")
    except CliError as error:
        absent = Status.WRONG if is_named or error.exit_code != EXIT_UNREACHABLE else Status.NOTE
        yield Finding("server", absent, str(error), "`jamjet dev` starts one here; --url names another")
        return
    if version == VERSION:
        yield ok("server", f"{client.url} is ready, release {version}")
    else:
        yield note(
            "server", f"{client.url} has release {version}, this command {VERSION}", "use the same of both"
        )
    yield _check_token(client, role)


def _check_token(client: ApiClient, role: str | None) -> Finding:
    try:
        client.get("/executions", limit=1)
    except CliError as error:
        said = "the server does not take the token" if client.has_token else "there is no token"
        todo = "set JAMJET_TOKEN to a token of `jamjet token create`, or go to the folder of `jamjet dev`"
        return wrong("token", said if error.exit_code == EXIT_NO_ACCESS else str(error), todo)
    if not client.has_token:
        return note("token", "auth is off: whoever reaches the server is an operator", "start it with --auth")
    return ok("token", f"valid, {role or _role_by_asking(client)}")


def _role_by_asking(client: ApiClient) -> str:
    try:
        client.get("/tokens")
    except CliError:
        return "not an operator's"
    return "operator"
