"""Who takes work, as a client may know it: read from the store once a second, and at once on doubt."""

import asyncio
import logging

from actors.clock import DatabaseClock
from runtime.errors import JamjetError
from runtime.store.port import ExecutorRow, SystemStore

log = logging.getLogger("jamjet.directory")

REFRESH_S = 1.0


class Directory:
    """The executors, the backlog and the database's clock."""

    def __init__(self, system: SystemStore) -> None:
        self._system = system
        self._executors: list[ExecutorRow] = []
        self.backlog = 0
        self.reads = 0
        """How often it was read: with each, what was known of loads is known anew."""
        self.clock = DatabaseClock()
        self._refreshing: asyncio.Task[None] | None = None

    async def refresh(self) -> None:
        """Read it again; concurrent callers share one read."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.get_running_loop().create_task(self._read())
        await asyncio.shield(self._refreshing)

    async def keep_fresh(self) -> None:
        """Refresh for ever."""
        while True:
            try:
                await self.refresh()
            except JamjetError as error:
                log.warning("the directory is not fresh: %s", error)
            await asyncio.sleep(REFRESH_S)

    def takers(self) -> list[ExecutorRow]:
        """Shared actors that take work: the active ones, or failing these the spares."""
        alive = self.shared()
        active = [row for row in alive if row.state == "active"]
        return active or [row for row in alive if row.state == "spare"]

    def shared(self) -> list[ExecutorRow]:
        """The shared actors that beat, spares too."""
        return [row for row in self._executors if row.isolation == "shared" and not row.gone]

    def owners(self) -> set[str]:
        """The names of all actors that may own executions."""
        return {row.name for row in self._executors if not row.gone and row.state != "spare"}

    def is_alive(self, incarnation: str) -> bool:
        return any(row.incarnation == incarnation and not row.gone for row in self._executors)

    async def _read(self) -> None:
        executors = await self._system.executors()
        backlog = await self._system.backlog()
        asked_at = self.clock.mark()
        self.clock.learn(await self._system.now(), asked_at)
        self._executors, self.backlog = executors, backlog
        self.reads += 1
