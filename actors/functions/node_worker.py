"""The actor that holds one node's children, and how owners on that node ask it for them."""

import asyncio
import os
import time
from typing import Any

from ray.exceptions import ActorDiedError, RayActorError, RayError

from actors import logs
from actors.functions.host import Child, LocalHost
from actors.functions.process import FunctionSettings
from actors.named import NamedActors
from runtime.errors import JamjetError, Unavailable

PATIENCE_S = 30.0
"""For a NodeWorker to come back: where much was killed, processes start one after the other."""
ATTEMPT_S = 5.0
PAUSE_S = 0.5


class NodeWorker:
    """Runs as a Ray actor on each node. Calls do not pass through it: owners talk to its children.

    Its children die with it. A restarted one starts empty; owners see their sockets close and ask again.
    A ``spawn`` whose answer is lost leaves a child that ends by itself, because nobody connects to it.
    """

    def __init__(self, settings: FunctionSettings, log_level: str = "info", digest: str = "") -> None:
        logs.configure_process(log_level, "node-worker")
        self._host = LocalHost(settings)
        self._digest = digest

    async def digest(self) -> str:
        """Of the settings that it was made with."""
        return self._digest

    async def spawn(self) -> dict[str, Any]:
        """Start a child: ``{"generation", "socket", "pid"}``. It belongs to the caller alone.

        Raises:
            Unavailable: it could not be started.
        """
        child = await self._host.spawn()
        return {"generation": child.generation, "socket": child.socket, "pid": child.pid}

    async def kill(self, generation: str) -> None:
        """End a child and what it started; one that is unknown is gone already."""
        await self._host.kill(generation)

    async def describe(self) -> dict[str, Any]:
        """``{"pid", "children": [{"generation", "pid"}]}``."""
        children = [{"generation": child.generation, "pid": child.pid} for child in self._host.children()]
        return {"pid": os.getpid(), "children": children}

    async def close(self) -> None:
        """End all children."""
        await self._host.close()


class NodeWorkerHost:
    """A ``FunctionHost`` that asks the ``NodeWorker`` of this node; rides out its restarts and replacements.

    Args:
        actors: finds it.
        name: its name; it may be about to be started.
    """

    def __init__(self, actors: NamedActors, name: str) -> None:
        self._actors = actors
        self._name = name
        self._spawned: set[str] = set()

    async def spawn(self) -> Child:
        child = Child(**await self._ask("spawn"))
        self._spawned.add(child.generation)
        return child

    async def kill(self, generation: str) -> None:
        self._spawned.discard(generation)
        await self._ask("kill", generation)

    async def close(self) -> None:
        """End the children that were started through this handle; others' are left alone."""
        await asyncio.gather(*map(self.kill, list(self._spawned)), return_exceptions=True)

    async def _ask(self, method: str, *args: Any) -> Any:
        """Call the actor; both its methods may be called twice without harm."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                async with asyncio.timeout(ATTEMPT_S):
                    return await getattr(await self._found(), method).remote(*args)
            except ActorDiedError as error:
                # For good. Another takes its name.
                self._actors.forget(self._name)
                problem: Exception = error
            except (RayActorError, TimeoutError) as error:
                problem = error
            except RayError as error:
                # Ray wraps what the method raised in a class made on the spot.
                cause = getattr(error, "cause", None)
                if isinstance(cause, JamjetError):
                    raise cause from error
                problem = error
            except Unavailable as error:
                problem = error
            if time.monotonic() > until:
                raise Unavailable(f"the node's worker did not answer {method!r}: {problem}") from problem
            await asyncio.sleep(PAUSE_S)

    async def _found(self) -> Any:
        handle = await self._actors.find(self._name)
        if handle is None:
            raise Unavailable(f"there is no {self._name}")
        return handle
