"""Starts the actors of dedicated executions that nobody drives."""

import asyncio
import logging
import time
from collections.abc import Sequence

import msgspec

from actors import fleet, names
from actors.cluster import ask_ray
from actors.named import NamedActors
from actors.settings import Settings
from runtime.errors import Unavailable
from runtime.store.port import SweepRow

log = logging.getLogger("jamjet.dedicated")

STUCK_AFTER_S = 10.0
"""An owner that is gone, and whose actor has not come back by itself after this, is ended for good."""
SEEN_MAX = 10_000


class DedicatedStarter:
    """Has an actor for each execution that it is given, once; Ray starts it when its resources are there."""

    def __init__(self, settings: Settings, actors: NamedActors) -> None:
        self._settings = settings
        self._actors = actors
        self._turn = asyncio.Lock()
        self._gone_since: dict[str, float] = {}
        """By incarnation."""

    async def start(self, rows: Sequence[SweepRow]) -> None:
        """Start those that have no actor. One that is stopped, and so cannot come back, makes way first."""
        if not rows or self._turn.locked():
            return
        async with self._turn:
            try:
                there = await self._actors.names()
                for row in rows:
                    name = names.dedicated_execution_actor(row.execution_id)
                    if name in there and self._is_stuck(row):
                        log.warning("ending %s, which does not come back", name)
                        await self._actors.end(name)
                    elif name not in there:
                        resources = msgspec.json.decode(row.resources) if row.resources else None
                        await ask_ray(fleet.dedicated_actor, self._settings, row.execution_id, resources)
            except Unavailable as error:
                log.info("dedicated executions wait: %s", error)

    def _is_stuck(self, row: SweepRow) -> bool:
        if row.reason != "owner_gone" or row.owner is None:
            return False
        if len(self._gone_since) > SEEN_MAX:
            self._gone_since.clear()
        since = self._gone_since.setdefault(row.owner, time.monotonic())
        return time.monotonic() - since > STUCK_AFTER_S
