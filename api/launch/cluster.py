"""Puts an installation on a Ray cluster that runs already, and takes it away again.

Replicas come first and the Supervisor after them: a replica that misses the Supervisor starts it with its own
settings, so those of the last release must be gone. For the same reason they go first at the end.
"""

import asyncio
import contextlib
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from actors.settings import Settings
from api.launch.ports import bracketed, is_loopback, reachable_host
from runtime.errors import BadRequest, JamjetError, Unavailable

READY_WITHIN_S = 120.0
POLL_S = 0.2
SERVE_ATTEMPTS = 5
ANSWER_WITHIN_S = 5.0

Say = Callable[[str], None]


class NoCluster(JamjetError):
    """There is no Ray to be joined, or it does not let us in."""

    code = "no_cluster"


@contextlib.contextmanager
def joined(settings: Settings, address: str, environ: Mapping[str, str]) -> Iterator[None]:
    """Be a driver of the cluster meanwhile.

    Raises:
        NoCluster
        BadRequest: nothing says whether Ray wants a token.
    """
    if not environ.get("RAY_AUTH_MODE"):
        raise BadRequest(
            "RAY_AUTH_MODE is not set, and Ray's own default varies: set RAY_AUTH_MODE=token and"
            " RAY_AUTH_TOKEN_PATH, as on the cluster's nodes"
        )
    import ray
    import ray.serve

    # Ray puts the driver's folder on every worker's path: it must hold nobody's modules.
    here, folder = Path.cwd(), tempfile.mkdtemp(prefix="jamjet-")
    os.chdir(folder)
    sys.argv = [""]
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        ray.init(
            address=address,
            namespace=settings.namespace,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise NoCluster(f"no Ray cluster was joined at {address}: {_first_line(error)}") from None
    else:
        yield
    finally:
        ray.shutdown()
        os.chdir(here)
        os.rmdir(folder)


def install(settings: Settings, say: Say) -> dict[str, Any]:
    """Deploy replicas and actors, and return when requests are served: ``GET /cluster`` without its figures.

    A repeat with the same settings changes nothing. With others, or another release, replicas are replaced
    while the others answer, and actors when they have ended what they run.

    Raises:
        BadRequest, Unavailable: the settings or the database cannot be used.
        NoCluster: Serve runs with another address or port, or nothing was ready in time.
    """
    import ray
    from ray import serve

    from actors import bootstrap
    from api.serve import APP_NAME, build_app

    nodes = sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]
    if nodes > 1 and is_loopback(settings.bind) and not _is_one_machine():
        raise BadRequest(
            f"JAMJET_BIND is {settings.bind}, and nodes must reach each other's replicas: set it to 0.0.0.0"
        )
    say(f"joined a cluster of {nodes} node{'s' if nodes != 1 else ''}; migrating the database")
    application = build_app(settings.as_dict())
    say("the database is ready; starting the API and the actors")
    # One with other settings is replaced when no replica is left that would start it again.
    bootstrap.ensure_supervisor(settings)
    _start_serve(settings)
    _check_serve(settings)
    if not _is_deployed(settings):
        serve.run(application, name=APP_NAME, route_prefix="/")
    say("the API is up; waiting for the actors")
    bootstrap.renew_supervisor(settings)
    asyncio.run(_ready(settings))
    return {"url": url_of(settings), "nodes": nodes}


def uninstall(settings: Settings, patience_s: float, say: Say) -> int:
    """Take replicas and actors away, and return how many actors there were. What is acknowledged stays.

    Applications of others on the same Serve are left alone.
    """
    from ray import serve
    from ray.serve.exceptions import RayServeException

    from actors import bootstrap
    from api.serve import APP_NAME

    with contextlib.suppress(RayServeException):
        present = set(serve.status().applications)
        if APP_NAME in present:
            say("ending the API")
            serve.delete(APP_NAME)
        if not present - {APP_NAME}:
            serve.shutdown()  # type: ignore[no-untyped-call]
    say(f"ending the actors; what they run may take {patience_s:g} s")
    return bootstrap.retire_actors(settings, patience_s)


def url_of(settings: Settings) -> str:
    """Where a driver on one of the nodes reaches the API."""
    return f"http://{bracketed(reachable_host(settings.bind))}:{settings.port}"


def _start_serve(settings: Settings) -> None:
    """Start Serve where it does not run. While much else starts, it may give up its first proxies."""
    from ray import serve
    from ray.exceptions import RayError

    for attempt in range(SERVE_ATTEMPTS):
        try:
            serve.start(
                proxy_location="EveryNode",
                http_options={"host": settings.bind, "port": settings.port},
                logging_config={"log_level": "WARNING"},
            )
        except (RayError, TimeoutError) as error:
            problem = _first_line(error)
            time.sleep(attempt + 1)
        else:
            return
    raise NoCluster(f"Serve did not start: {problem}")


def _check_serve(settings: Settings) -> None:
    """Serve keeps the address and port that it was started with."""
    from ray.serve.context import _get_global_client

    client: Any = _get_global_client()
    options = client.http_config
    if (options.host, options.port) != (settings.bind, settings.port):
        raise NoCluster(
            f"Serve listens on {options.host}:{options.port} already, and is to listen on"
            f" {settings.bind}:{settings.port}: use that address, or end it with `jamjet down`"
        )


def _is_deployed(settings: Settings) -> bool:
    """Whether replicas with these settings run: Serve itself replaces replicas at every deployment."""
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    from api.serve import APP_NAME

    present = serve.status().applications.get(APP_NAME)
    if present is None or present.status != "RUNNING":
        return False
    try:
        told = serve.get_app_handle(APP_NAME).digest.remote().result(timeout_s=ANSWER_WITHIN_S)
    except (TimeoutError, RayServeException, RayError):
        return False
    return bool(told == settings.digest())


def _is_one_machine() -> bool:
    """Whether all nodes have one address, as those of a test have."""
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return len({node["NodeManagerAddress"] for node in nodes if node["Alive"]}) == 1


async def _ready(settings: Settings) -> None:
    """Wait until the API is ready, and an ExecutionActor of these settings takes work."""
    import httpx2

    from runtime.store import open_store

    until = time.monotonic() + READY_WITHIN_S
    store = await open_store(settings.database_url, migrate=False)
    try:
        async with httpx2.AsyncClient(
            base_url=url_of(settings), timeout=ANSWER_WITHIN_S, trust_env=False
        ) as client:
            while time.monotonic() < until:
                with contextlib.suppress(httpx2.TransportError, Unavailable):
                    answer = await client.get("/health/ready")
                    executors = await store.system.executors()
                    if answer.status_code == 200 and any(
                        row.state == "active" and not row.gone for row in executors
                    ):
                        return
                await asyncio.sleep(POLL_S)
    finally:
        await store.close()
    raise NoCluster(
        f"nothing was ready within {READY_WITHIN_S:g} s: see `jamjet status`, and Ray's logs on the head node"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
