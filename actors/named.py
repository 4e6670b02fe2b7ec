"""Our named actors: found once, called within bounds."""

import asyncio
import logging
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError

from actors.cluster import ask_ray
from runtime.errors import JamjetError, Unavailable

log = logging.getLogger("jamjet.named")

CALL_S = 5.0


class NamedActors:
    """The actors of one namespace, by name. A handle is kept: it outlives restarts of its actor."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._handles: dict[str, Any] = {}

    async def end(self, name: str) -> None:
        """Kill it for good, if it is there."""
        handle = await self.find(name)
        self.forget(name)
        if handle is not None:
            await ask_ray(ray.kill, handle)

    async def find(self, name: str) -> Any:
        """The handle; None: there is no such actor.

        Raises:
            Unavailable: Ray does not say.
        """
        if name not in self._handles:
            handle = await ask_ray(self._look_up, name)
            if handle is None:
                return None
            self._handles[name] = handle
        return self._handles[name]

    async def names(self) -> set[str]:
        """The names of all that there are now; handles of others are forgotten.

        Raises:
            Unavailable: Ray does not say.
        """
        found: set[str] = await ask_ray(self._names)
        self._handles = {name: handle for name, handle in self._handles.items() if name in found}
        return found

    def forget(self, name: str) -> None:
        """Look it up again when it is asked for next: another may have taken its name."""
        self._handles.pop(name, None)

    async def call(self, name: str, method: str, *args: Any, within_s: float = CALL_S) -> Any:
        """What the actor answers; None when it does not: that is its own trouble."""
        try:
            handle = await self.find(name)
            if handle is None:
                return None
            async with asyncio.timeout(within_s):
                return await getattr(handle, method).remote(*args)
        except ActorDiedError:
            self.forget(name)
            log.info("%s is dead: no %s", name, method)
        except (TimeoutError, RayError) as error:
            log.info("%s did not answer %s: %s", name, method, type(error).__name__)
        except Unavailable as error:
            log.info("%s could not %s: %s", name, method, error)
        except JamjetError as error:
            log.warning("%s refused %s: %s", name, method, error)
        return None

    def _names(self) -> set[str]:
        listed = ray.util.list_named_actors(all_namespaces=True)
        return {one["name"] for one in listed if one["namespace"] == self._namespace}

    def _look_up(self, name: str) -> Any:
        try:
            return ray.get_actor(name, namespace=self._namespace)
        except ValueError:
            return None
