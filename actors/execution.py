"""The ExecutionActor: a host in a Ray actor.

``shared`` actors have many seats; a ``dedicated`` one has a single execution, is named
after it, has its resources, runs its functions in its own process tree, and leaves when
the execution passivates.

A call that returns has committed what it says. A call that fails may have: repeat it
with the same ids. The constructor returns at once and recovers in the background,
from the store alone.
"""

import asyncio
import contextlib
import logging
import os
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

import ray

from actors import logs, metrics, names, tracing, wire
from actors.clock import DatabaseClock
from actors.feed import Feed
from actors.functions.caller import PooledFunctions
from actors.host import ExecutionHost
from actors.metrics import Metrics
from actors.observer import HostObserver
from actors.plans import PlanCache
from actors.ray_metrics import RayMetrics
from actors.runner import Runner
from actors.settings import Settings
from runtime.errors import JamjetError
from runtime.store import open_store
from runtime.store.port import ExecutorRow, Store

log = logging.getLogger("jamjet.execution")

BEAT_S = 1.0
ANSWER_WITHIN_S = 0.1
"""A batch is answered when all of it is, or after this with what is; the rest is asked for."""
LATE_ANSWERS_MAX = 10_000
LEAVE_POLL_S = 0.05


class ExecutionActor:
    """See the module. ``execution_id`` is given to a dedicated actor only."""

    def __init__(self, settings: dict[str, Any], name: str, execution_id: str | None = None) -> None:
        self._settings = Settings.from_dict(settings)
        logs.configure_process(self._settings.log_level, name)
        tracing.configure(self._settings.otlp_endpoint, name)
        self._metrics = Metrics()
        self._ray_metrics = RayMetrics(self._metrics)
        self._name = name
        self._execution_id = execution_id
        self._state = "active" if execution_id else "spare"
        self._store: Store | None = None
        self._host: ExecutionHost | None = None
        self._functions: PooledFunctions | None = None
        self._clock = DatabaseClock()
        self._feed = Feed()
        self._late: dict[tuple[str, int], asyncio.Task[wire.Answer]] = {}
        self._ready: asyncio.Future[ExecutionHost] = asyncio.get_event_loop().create_future()
        self._leaving: asyncio.Task[None] | None = None
        self._asked_at, self._used = time.monotonic(), time.process_time()
        self._life = asyncio.get_event_loop().create_task(self._live())

    # --- calls ----------------------------------------------------------------------------------

    async def deliver(self, batch: bytes) -> bytes:
        """Handle a batch of starts and signals; answers as ``list[wire.Answer]``."""
        host = await asyncio.shield(self._ready)
        delivery = wire.decode_delivery(batch)
        tasks: dict[int, asyncio.Task[wire.Answer]] = {}
        for number, start in delivery.starts:
            tasks[number] = _spawn_answer(number, lambda start=start: _start(host, start))  # type: ignore[misc]
        for number, signal in delivery.signals:
            tasks[number] = _spawn_answer(number, lambda signal=signal: host.signal(signal))  # type: ignore[misc]
        await asyncio.wait(tasks.values(), timeout=ANSWER_WITHIN_S)
        return wire.encode([self._answer(delivery.sender, number, task) for number, task in tasks.items()])

    async def answer(self, sender: str, number: int) -> bytes:
        """The answer to a request that was still pending when its batch was answered."""
        task = self._late.get((sender, number))
        if task is None:
            raise KeyError(number)
        answer = await asyncio.shield(task)
        self._late.pop((sender, number), None)
        return wire.encode([answer])

    async def watch(self, follower: str, cursor: int, timeout_s: float) -> bytes:
        """Wait for news since ``cursor`` (-1: just begin), at most ``timeout_s``; ``wire.Moves``."""
        host = await asyncio.shield(self._ready)
        if cursor >= 0:
            await self._feed.wait(follower, cursor, timeout_s)
        return wire.encode(self._feed.since(follower, cursor, live=host.live))

    async def listen(self, follower: str, execution_ids: list[str]) -> None:
        """From now on tell this follower what models say in these executions."""
        self._feed.listen(follower, execution_ids)

    async def activate(self, execution_ids: list[str]) -> list[str]:
        """Take these over; returns those for which there was no room."""
        host = await asyncio.shield(self._ready)
        return await host.activate(execution_ids)

    async def promote(self) -> None:
        """A spare takes work from now on."""
        await asyncio.shield(self._ready)
        if self._state == "spare":
            self._state = "active"
            await self._beat()

    async def retire(self, patience_s: float) -> None:
        """Take no more work, end what it has within ``patience_s``, leave the rest to others, and go.

        Returns when everybody can know that it takes no more. May be asked again, with less patience.
        """
        host = await asyncio.shield(self._ready)
        self._state = "draining"
        host.draining = True
        with contextlib.suppress(JamjetError):
            await self._beat()
        if self._leaving is not None:
            self._leaving.cancel()
        self._leaving = asyncio.get_running_loop().create_task(self._leave_within(host, patience_s))

    async def load(self) -> dict[str, Any]:
        """``{"live", "busy", "digest"}``: executions, CPUs used since the last call, settings and release."""
        now, used = time.monotonic(), time.process_time()
        busy = (used - self._used) / max(now - self._asked_at, 0.001)
        self._asked_at, self._used = now, used
        live = self._host.live if self._host is not None else 0
        return {"live": live, "busy": busy, "digest": self._settings.digest()}

    async def describe(self) -> dict[str, Any]:
        host = await asyncio.shield(self._ready)
        return {
            "name": self._name,
            "incarnation": host.incarnation,
            "pid": os.getpid(),
            "live": host.live,
            "state": self._state,
        }

    async def figures(self) -> bytes:
        """What this process has counted, as ``metrics.Snapshot``."""
        return metrics.encode(self._metrics.snapshot())

    async def leave(self) -> None:
        """End this actor for good."""
        ray.actor.exit_actor()  # type: ignore[no-untyped-call]

    # --- life -----------------------------------------------------------------------------------

    async def _live(self) -> None:
        """Boot, then beat and reconcile until the process ends."""
        try:
            host = await self._boot()
        except Exception:
            # Calls would wait for it for ever, and Ray would take it for alive.
            log.exception("%s could not boot: ending this process", self._name)
            os._exit(1)
        self._ready.set_result(host)
        if self._execution_id is not None:
            await host.activate([self._execution_id])
        while True:
            await asyncio.sleep(BEAT_S if self._execution_id is None or host.live else BEAT_S / 5)
            try:
                await self._upkeep(host)
            except JamjetError as error:
                log.warning("no heartbeat: %s", error)
            except Exception:
                log.exception("upkeep broke")
            if self._execution_id is not None and not host.live:
                await self._exit(host)
                return

    async def _boot(self) -> ExecutionHost:
        settings = self._settings
        on_commit = self._metrics.on_commit
        self._store = await _patiently(
            lambda: open_store(settings.database_url, migrate=False, on_commit=on_commit)
        )
        context = ray.get_runtime_context()
        if self._execution_id is None:
            self._functions = PooledFunctions.on_node(settings, context.get_node_id(), self._metrics)
        else:
            self._functions = PooledFunctions.in_process(settings, self._metrics)
        incarnation = names.incarnation(self._name, secrets.token_hex(4))
        host = ExecutionHost(
            incarnation=incarnation,
            store=self._store,
            plans=PlanCache(self._store.system),
            runner=Runner.over(settings, self._functions, self._store, on_token=self._feed.said),
            clock=self._clock,
            chance=random.random,
            env=settings.readable_env(),
            seats_max=1 if self._execution_id else settings.live_max,
            runs_dedicated=self._execution_id is not None,
            on_moved=self._feed.moved,
            observer=HostObserver(self._metrics),
        )
        await self._register(host, context.get_node_id())
        await _patiently(host.heed_tenants)
        return host

    async def _register(self, host: ExecutionHost, node_id: str) -> None:
        assert self._store is not None
        sent_at = asyncio.get_running_loop().time()
        row = ExecutorRow(
            incarnation=host.incarnation,
            name=self._name,
            node=node_id,
            pid=os.getpid(),
            isolation="dedicated" if self._execution_id else "shared",
            capacity=host.seats_max,
            live=0,
            state="active" if self._state == "active" else "spare",
            started_at=0,
            heartbeat_at=0,
        )
        system = self._store.system
        asked_at = self._clock.mark()
        self._clock.learn(await _patiently(lambda: system.register_executor(row)), asked_at)
        host.beat(sent_at)

    async def _upkeep(self, host: ExecutionHost) -> None:
        await self._beat()
        await host.reconcile()
        await host.heed_tenants()
        self._metrics.seats.set(host.live)
        self._ray_metrics.push()

    async def _beat(self) -> None:
        """One heartbeat. A life that was declared dead ends: Ray starts the next one."""
        assert self._store is not None
        host = self._ready.result()
        sent_at, asked_at = asyncio.get_running_loop().time(), self._clock.mark()
        now = await self._store.system.heartbeat(host.incarnation, live=host.live, state=self._state)
        if now is None:
            log.error("%s was declared dead: ending this process", host.incarnation)
            os._exit(1)
        self._clock.learn(now, asked_at)
        host.beat(sent_at)

    async def _leave_within(self, host: ExecutionHost, patience_s: float) -> None:
        until = time.monotonic() + patience_s
        while host.live and time.monotonic() < until:  # noqa: ASYNC110 - seats empty in many places
            await asyncio.sleep(LEAVE_POLL_S)
        # A beat after it is marked dead would end the process as if it had crashed, and Ray would restart it.
        self._life.cancel()
        log.info("%s leaves, with %d executions for others", self._name, host.live)
        await self._exit(host)

    async def _exit(self, host: ExecutionHost) -> None:
        """Hand over what it holds, leave for good, and free its resources."""
        assert self._store is not None
        await host.close()
        with contextlib.suppress(JamjetError):
            await self._store.system.mark_dead((host.incarnation,))
        if self._functions is not None:
            await self._functions.close()
        await self._store.close()
        await asyncio.to_thread(tracing.shut_down)
        self._feed.close()
        ray.get_runtime_context().current_actor.leave.remote()

    def _answer(self, sender: str, number: int, task: asyncio.Task[wire.Answer]) -> wire.Answer:
        if task.done():
            return task.result()
        self._late[sender, number] = task
        while len(self._late) > LATE_ANSWERS_MAX:
            self._late.pop(next(iter(self._late)))
        return wire.Answer(number=number, code=wire.PENDING)


async def _start(host: ExecutionHost, request: Any) -> dict[str, Any]:
    await host.start(request)
    return {}


def _spawn_answer(number: int, ask: Callable[[], Awaitable[dict[str, Any]]]) -> asyncio.Task[wire.Answer]:
    async def answer() -> wire.Answer:
        try:
            return wire.success(number, await ask())
        except Exception as error:
            return wire.failure(number, error)

    return asyncio.get_running_loop().create_task(answer())


async def _patiently(ask: Callable[[], Awaitable[Any]]) -> Any:
    """Ask the store until it answers: an actor that boots has nothing else to do."""
    delay_s = 0.1
    while True:
        try:
            return await ask()
        except JamjetError as error:
            log.warning("waiting for the store: %s", error)
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, 2.0)
