"""Single calls on machines that have what they ask for, each in a Ray actor that ends with it."""

import asyncio
import contextlib
import logging
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from actors import logs, options
from actors.cluster import ask_ray
from actors.functions.call import FunctionCall, FunctionResult, failure
from actors.functions.host import LocalHost
from actors.functions.pool import FunctionPool
from actors.functions.process import FunctionSettings
from runtime.errors import JamjetError, Unavailable

log = logging.getLogger("jamjet.placed")

LOSSES_MAX = 3
"""Actors that one call may lose: nobody can tell a lost node from a function that ends its actor."""


class FunctionActor:
    """Runs as a Ray actor with a call's resources; the function in a child of it, with the same ones."""

    def __init__(self, settings: FunctionSettings, log_level: str) -> None:
        logs.configure_process(log_level, "function")
        self._pool = FunctionPool(LocalHost(settings))

    async def run(self, call: FunctionCall, timeout_ms: int | None) -> FunctionResult:
        return await self._pool.run(call, timeout_ms)


class PlacedFunctions:
    """Runs calls with resources. Until there is a machine for it, a call waits."""

    def __init__(self, settings: FunctionSettings, log_level: str) -> None:
        self._settings = settings
        self._log_level = log_level

    async def run(
        self, call: FunctionCall, timeout_ms: int | None, resources: dict[str, Any]
    ) -> FunctionResult:
        """Run a function to its result. The timeout (ms) counts from when the function starts.

        Cancelling the awaiting task ends the actor, and so the function.

        Raises:
            Unavailable: no process for the function could be started.
        """
        for _ in range(LOSSES_MAX):
            made = options.function_actor(resources)
            actor = options.remote(FunctionActor).options(**made).remote(self._settings, self._log_level)
            try:
                result: FunctionResult = await actor.run.remote(call, timeout_ms)
            except RayActorError as error:
                log.info("the actor of %s was lost: %s", call.key, type(error).__name__)
            except RayError as error:
                cause = getattr(error, "cause", None)
                raise cause if isinstance(cause, JamjetError) else Unavailable(str(error)) from error
            else:
                return result
            finally:
                await asyncio.shield(_end(actor))
        return failure("worker_crashed", f"{call.module}.{call.function} lost {LOSSES_MAX} processes")


async def _end(actor: Any) -> None:
    with contextlib.suppress(Unavailable):
        await ask_ray(ray.kill, actor)
