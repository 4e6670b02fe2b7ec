"""The API as a Ray Serve deployment; ``import_path: api.serve:build_app`` in a Serve config.

The app is built in the replica: a FastAPI app cannot be sent there by pickle,
and what its lifespan opens must live on the loop that serves the requests.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ray import serve

from actors.settings import Settings, load_settings

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve import Application

APP_NAME = "jamjet"
MAX_ONGOING_REQUESTS = 1_000
"""In one replica. Each event stream and each ``?wait=`` holds one."""


@serve.deployment(
    name="Api",
    max_ongoing_requests=MAX_ONGOING_REQUESTS,
    health_check_period_s=1,
    health_check_timeout_s=5,
    graceful_shutdown_wait_loop_s=0.1,
    graceful_shutdown_timeout_s=1,
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

    def __serve_build_asgi_app__(self) -> "FastAPI":
        return asgi_app(self._settings)


def build_app(args: Mapping[str, Any]) -> "Application":
    """The Serve application.

    Args:
        args: settings by name, as in ``actors.settings.Settings``; those not given
            are read from the environment.
    """
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in args.items()
    }
    settings = load_settings(**given)
    if "env" in given:
        settings = replace(settings, env=given["env"])
    deployment: serve.Deployment = Api  # type: ignore[assignment]
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
            yield executions.store, executions, RayAgents(settings)
        await asyncio.to_thread(tracing.shut_down)

    return build_api(settings, open_resources=open_resources, metrics=metrics)


def _observe(settings: Settings) -> None:
    """Log and trace this replica as the settings ask for."""
    from actors import logs, tracing

    name = f"api:{os.getpid()}"
    logs.configure_process(settings.log_level, name)
    tracing.configure(settings.otlp_endpoint, name)


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
