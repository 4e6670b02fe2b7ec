"""Executions within one process: one host, no Ray. For tests of what stands above it."""

import asyncio
import contextlib
import random
from contextlib import AbstractContextManager
from typing import Any

from actors import tracing
from actors.clock import DatabaseClock
from actors.feed import token_of
from actors.host import ExecutionHost, NodeRunner
from actors.listener import Listener
from actors.metrics import Process
from actors.observer import HostObserver
from actors.plans import PlanCache
from actors.port import Installation, SignalRequest, StartRequest
from actors.watcher import Watcher
from runtime.errors import JamjetError
from runtime.store.port import ExecutorRow, Store

BEAT_S = 1.0
SWEPT_MAX = 100


class LocalExecutions:
    """The ``Executions`` of one host on the caller's event loop."""

    def __init__(
        self,
        store: Store,
        runner: NodeRunner,
        *,
        incarnation: str = "local#1",
        env: dict[str, str] | None = None,
    ) -> None:
        self._store = store
        self._clock = DatabaseClock()
        self._watcher = Watcher()
        self._observer = HostObserver()
        self.host = ExecutionHost(
            incarnation=incarnation,
            store=store,
            plans=PlanCache(store.system),
            runner=runner,
            clock=self._clock,
            chance=random.random,
            env=env,
            on_moved=self._watcher.moved,
            observer=self._observer,
        )
        self._upkeep: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Register the host, and start its upkeep."""
        row = ExecutorRow(
            incarnation=self.host.incarnation,
            name="local",
            node="local",
            pid=0,
            isolation="shared",
            capacity=self.host.seats_max,
            live=0,
            state="active",
            started_at=0,
            heartbeat_at=0,
        )
        asked_at = self._clock.mark()
        self._clock.learn(await self._store.system.register_executor(row), asked_at)
        self.host.beat(asyncio.get_running_loop().time())
        await self.host.heed_tenants()
        self._upkeep = asyncio.get_running_loop().create_task(self._keep())

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            with contextlib.suppress(JamjetError):
                await self._beat()
                await self.host.reconcile()
                await self.host.heed_tenants()
                await self._sweep()

    async def _sweep(self) -> None:
        """What the Supervisor does where there is Ray."""
        system = self._store.system
        rows = [*await system.sweep(limit=SWEPT_MAX), *await system.dequeue(limit=SWEPT_MAX)]
        await self.host.activate([row.execution_id for row in rows])

    async def _beat(self) -> None:
        sent_at, asked_at = asyncio.get_running_loop().time(), self._clock.mark()
        now = await self._store.system.heartbeat(self.host.incarnation, live=self.host.live, state="active")
        if now is not None:
            self._clock.learn(now, asked_at)
            self.host.beat(sent_at)

    async def start(self, request: StartRequest) -> None:
        await self.host.start(tracing.carried(request))

    async def signal(self, request: SignalRequest) -> dict[str, Any]:
        return await self.host.signal(tracing.carried(request))

    async def changed(
        self, execution_id: str, *, after: int, timeout_s: float, settled: bool = False
    ) -> None:
        await self._watcher.changed(execution_id, after=after, timeout_s=timeout_s, settled=settled)

    @property
    def draining(self) -> bool:
        """See ``actors.port.Executions.draining``."""
        return self._watcher.draining

    def drain(self) -> None:
        """See ``actors.port.Executions.drain``."""
        self._watcher.drain()

    def listening(self, execution_id: str) -> AbstractContextManager[Listener]:
        return self._watcher.listening(execution_id)

    def said(self, key: str, attempt: int, text: str) -> None:
        """A model said something: the ``on_token`` of a runner."""
        self._watcher.said(token_of(key, attempt, text))

    async def unmet(self, asked: dict[str, Any], *, in_use: bool = True) -> str | None:
        """See ``actors.port.Executions.unmet``: one process is not asked for machines."""
        return None

    async def installation(self) -> Installation:
        """See ``actors.port.Executions.installation``: there is nothing below."""
        return Installation()

    async def figures(self) -> list[Process]:
        self._observer.metrics.seats.set(self.host.live)
        return [Process("local", self._observer.metrics.snapshot())]

    async def close(self) -> None:
        if self._upkeep is not None:
            self._upkeep.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._upkeep
        await self.host.close()
