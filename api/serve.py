"""The API as a Ray Serve deployment; ``import_path: api.serve:build_app`` in a Serve config.

The app is built in the replica: a FastAPI app cannot be sent there by pickle,
and what its lifespan opens must live on the loop that serves the requests.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ray import serve

from actors.settings import Settings, load_settings
from api.replicas import PER_NODE_MAX, REPLICAS_MAX

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve import Application

APP_NAME = "jamjet"
MAX_ONGOING_REQUESTS = 1_000
"""In one replica. Each event stream and each ``?wait=`` holds one."""
LOCAL_GRACE_S = 1.0
"""How long requests may take to end on a server of one machine, which is to be gone 4 s after SIGTERM."""
GRACE_S = 20.0
"""The same for a replica of a cluster. Those that only wait are answered at once."""


@serve.deployment(
    name="Api",
    max_ongoing_requests=MAX_ONGOING_REQUESTS,
    health_check_period_s=1,
    health_check_timeout_s=5,
    graceful_shutdown_wait_loop_s=0.1,
    graceful_shutdown_timeout_s=LOCAL_GRACE_S,
    ray_actor_options={"num_cpus": 0},
    logging_config={"enable_access_log": False},
)
@serve.ingress()
class Api:
    """One stateless replica. Its health is its own: a store that is down does not end it."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = Settings.from_dict(settings)
        _observe(self._settings)
        _close_internal_port()

    async def digest(self) -> str:
        """Of the settings and the release that this replica has; for deployments, not for callers."""
        return self._settings.digest()

    def __serve_build_asgi_app__(self) -> "FastAPI":
        return asgi_app(self._settings)


def build_app(args: Mapping[str, Any]) -> "Application":
    """The Serve application for a cluster: replicas on every node, and more where there is much to do.

    The database is migrated first, and a cluster that it cannot serve is refused.

    Args:
        args: settings by name, as in ``actors.settings.Settings``; those not given
            are read from the environment.

    Raises:
        BadRequest: a setting is wrong, or the database is a SQLite file and there are several nodes.
        Unavailable: the database does not answer.
    """
    from actors.bootstrap import refuse_many_nodes

    settings = _settings(args)
    refuse_many_nodes(settings)
    asyncio.run(prepare_store(settings))
    return _bound(
        settings,
        num_replicas=None,
        autoscaling_config=_autoscaling(settings),
        max_replicas_per_node=PER_NODE_MAX,
        graceful_shutdown_timeout_s=GRACE_S,
    )


def build_local_app(args: Mapping[str, Any]) -> "Application":
    """The same for an instance of one machine, whose store is open already: one replica."""
    return _bound(_settings(args))


def _autoscaling(settings: Settings) -> dict[str, Any]:
    """As ``api.replicas`` decides. Where nodes may stand empty of actors, they may of replicas too."""
    return {
        "min_replicas": 1,
        "max_replicas": REPLICAS_MAX,
        "upscale_delay_s": 5,
        "downscale_delay_s": 60,
        "policy": {
            "policy_function": "api.replicas:ReplicaPolicy",
            "policy_kwargs": {"on_every_node": settings.execution_actors_min > 0},
        },
    }


async def prepare_store(settings: Settings) -> None:
    """Migrate the database, and see that the audit log's key can be read.

    Raises:
        BadRequest, Unavailable
    """
    from actors.audit_key import signing_key
    from runtime.store import open_store

    await asyncio.to_thread(signing_key, settings)
    await (await open_store(settings.database_url)).close()


def _settings(args: Mapping[str, Any]) -> Settings:
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in args.items()
    }
    settings = load_settings(**given)
    return replace(settings, env=given["env"]) if "env" in given else settings


def _bound(settings: Settings, **options: Any) -> "Application":
    deployment: serve.Deployment = Api.options(**options) if options else Api  # type: ignore[attr-defined,assignment]
    return deployment.bind(settings.as_dict())


def asgi_app(settings: Settings) -> "FastAPI":
    """The FastAPI app over the store and the actors, both opened by its lifespan."""
    from actors import tracing
    from actors.agents.client import RayAgents
    from actors.client import connect
    from actors.metrics import Metrics
    from api.app import build_app as build_api

    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def open_resources() -> AsyncIterator[Any]:
        async with connect(settings, metrics) as executions:
            loop = asyncio.get_running_loop()
            _before_end(lambda: loop.call_soon_threadsafe(executions.drain))
            yield executions.store, executions, RayAgents(settings)
        await asyncio.to_thread(tracing.shut_down)

    return build_api(settings, open_resources=open_resources, metrics=metrics)


def _observe(settings: Settings) -> None:
    """Log and trace this replica as the settings ask for."""
    from actors import logs, tracing

    name = f"api:{os.getpid()}"
    logs.configure_process(settings.log_level, name)
    tracing.configure(settings.otlp_endpoint, name)


def _before_end(do: Callable[[], object]) -> None:
    """Call ``do`` when Serve begins to end this replica, before it waits for the requests under way.

    An application of Serve's is told only afterwards, when its lifespan ends, and a
    request that waits for an execution would be cut when ``GRACE_S`` is over.
    """
    from ray.serve._private import replica

    ended: Any = replica.Replica
    end = ended.perform_graceful_shutdown

    async def perform_graceful_shutdown(self: Any) -> None:
        do()
        await end(self)

    ended.perform_graceful_shutdown = perform_graceful_shutdown


def _close_internal_port() -> None:
    """Keep the port on which a replica takes pickled calls off the interfaces that Ray does not use.

    Serve opens it on all of them, for anybody. It does so after the replica's own
    constructor, so there is time to narrow it to the node's address.
    """
    import ray.util
    from ray.serve._private import replica

    module: Any = replica
    listen, host = module.add_port_to_grpc_server, ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    module.add_port_to_grpc_server = lambda server, _address: listen(server, f"{host}:0")
