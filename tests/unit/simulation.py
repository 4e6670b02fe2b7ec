"""A deterministic world of processes, one database and a bad network, for the execution hosts.

Everything runs on one event loop whose clock is virtual: when nobody can go on, time jumps to
the next timer. Every callback belongs to a *process* (told by a context variable), so a process
can be crashed before any of its callbacks, which is at any of its awaits, or held for a while
and let go on as a twin of whoever took over. A crashed process is never resumed: no ``finally``
of it runs. Calls to the database travel, land there at one instant, and their answers travel
back; a call may land although its sender is dead, or long after it was told that it is lost.

``Checked`` is the database that distrusts: it refolds every commit and holds it against the
promises. ``simulate(seed)`` is one whole story; the same seed is the same story.

    python tests/unit/simulation.py SEED [STORY]      # repeat a story and print its trace
"""

import asyncio
import contextvars
import gc
import heapq
import inspect
import itertools
import logging
import random
import sys
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from actors.clock import DatabaseClock
from actors.host import ExecutionHost, Redirect
from actors.plans import PlanCache
from actors.port import KeyTaken, SignalRequest, StartRequest
from actors.recorder import record_start
from runtime import events as ev
from runtime import signals as sg
from runtime.audit.check import check_log
from runtime.audit.entries import SYSTEM, Origin, event_digest
from runtime.audit.executions import AUDITED_TYPES
from runtime.effects import RunNode
from runtime.errors import Conflict, Forbidden, JamjetError, OutcomeUnknown, Unavailable
from runtime.graph import encode_graph
from runtime.ir import RegistrationPolicy, compile_ir
from runtime.plan import Plan
from runtime.state import (
    ExecutionState,
    apply,
    check_invariants,
    encode_state,
    has_work,
    is_terminal,
    new_state,
    status_of,
    stored_status,
    wake_at,
)
from runtime.store.faulty import FaultyStore
from runtime.store.memory import MemoryDatabase, MemoryStore
from runtime.store.port import (
    BEGUN_STATUSES,
    TERMINAL_STATUSES,
    ExecutorRow,
    IdempotencyRecord,
    Outcome,
    TenantRow,
    Turn,
    WorkflowRow,
)

TENANT = "t"
EPOCH_MS = 1_700_000_000_000
END_WITHIN_S = 90.0
"""Virtual seconds that everything may take to end, once nothing fails any more."""
CALLBACKS_MAX = 400_000


class Violation(AssertionError):
    """A promise was broken. The message names the seed, the command that repeats it, and what came before."""


# --- workflows ----------------------------------------------------------------------------------


def _step(**fields: Any) -> dict[str, Any]:
    return {"kind": {"type": "python_fn", "module": "steps", "function": "step"}, **fields}


def _wait(condition: str, **fields: Any) -> dict[str, Any]:
    return {"kind": {"type": "wait", "condition": condition, **fields}}


def _chain(workflow_id: str, **nodes: dict[str, Any]) -> dict[str, Any]:
    names = list(nodes)
    edges = [{"from": a, "to": b} for a, b in zip(names, [*names[1:], "end"], strict=True)]
    return {
        "workflow_id": workflow_id,
        "version": "1",
        "start_node": names[0],
        "nodes": nodes,
        "edges": edges,
        "retry_policies": {
            "quick": {
                "max_attempts": 3,
                "backoff": "fixed",
                "initial_delay": 0.3,
                "max_delay": 1,
                "jitter": True,
                "retryable_on": ["io_error"],
            }
        },
    }


APPROVAL = {"kind": {"type": "human_approval", "description": "May it go on?"}}
SOURCES = {
    "linear": _chain("linear", one=_step(), two=_step(), three=_step()),
    "approval": _chain("approval", draft=_step(), gate=APPROVAL, publish=_step()),
    "retry": _chain("retry", before=_step(), flaky=_step(retry_policy="quick"), after=_step()),
    "event": _chain("event", ask=_step(), paid=_wait("external_event", correlation_key="paid"), done=_step()),
    "nap": _chain("nap", one=_step(), nap=_wait("timer", timeout_secs=2), two=_step()),
    "sleep": _chain("sleep", one=_step(), sleep=_wait("timer", timeout_secs=14), gate=APPROVAL, two=_step()),
    "loop": {
        "workflow_id": "loop",
        "version": "1",
        "start_node": "work",
        "nodes": {
            "work": _step(),
            "check": {
                "kind": {
                    "type": "condition",
                    "branches": [
                        {"condition": "state.n >= 3", "target": "end"},
                        {"condition": None, "target": "work"},
                    ],
                }
            },
        },
        "edges": [{"from": "work", "to": "check"}],
    },
    "fan": {
        "workflow_id": "fan",
        "version": "1",
        "start_node": "split",
        "nodes": {
            "split": {"kind": {"type": "parallel", "branches": ["a", "b", "c"]}},
            **{name: _step() for name in ("a", "b", "c")},
            "meet": {"kind": {"type": "join", "wait_for": ["a", "b", "c"], "merge_strategy": "collect"}},
            "last": _step(),
        },
        "edges": [
            *({"from": name, "to": "meet"} for name in ("a", "b", "c")),
            {"from": "meet", "to": "last"},
            {"from": "last", "to": "end"},
        ],
    },
}
GRAPHS = {
    name: compile_ir(source, RegistrationPolicy(("*",), frozenset())).graph
    for name, source in SOURCES.items()
}
PLANS = {name: Plan(graph) for name, graph in GRAPHS.items()}
WORKFLOWS = {
    (TENANT, name, "1"): WorkflowRow(
        workflow_id=name, version="1", digest=name, ir="{}", graph=encode_graph(graph), created_at=EPOCH_MS
    )
    for name, graph in GRAPHS.items()
}
DECIDED_BY_PEOPLE = ("approval", "sleep")


# --- the story ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Story:
    """What happens in one simulation, apart from what the seed draws."""

    workflows: tuple[str, ...]
    hosts: int = 2
    fault_rate: float = 0.0
    late_rate: float = 0.0
    """The share of writes whose answer is lost and that land up to 3 s later."""
    quiet_at_s: float = 0.0
    """From then on nothing fails."""
    crashes: float = 0.0
    """The share of lives that are ended at one of their callbacks, and of those that are held there."""
    callers: bool = True
    """Whether starts and signals are doubled, late, keyed and cancelled."""
    crash_first_at: int = 0
    """End the first host's first life before this callback of it; 0: not."""
    hold_first_at: int = 0
    """Hold the first host's first life before this callback of it; 0: not."""
    slots: int | None = None
    """How many executions may have begun at once; further starts wait."""
    suspends: bool = False
    """Whether the tenant is suspended now and then."""


def random_story(seed: int) -> Story:
    """A few executions on two or three hosts, and trouble for some seconds."""
    draw = random.Random(f"story {seed}")
    return Story(
        workflows=tuple(draw.choices(list(SOURCES), k=draw.randint(1, 4))),
        hosts=draw.choice((2, 2, 3)),
        fault_rate=draw.choice((0.0, 0.02, 0.1)),
        late_rate=draw.choice((0.0, 0.02, 0.08)),
        quiet_at_s=draw.choice((6.0, 10.0)),
        crashes=draw.choice((0.0, 0.4, 0.8)),
        slots=draw.choice((None, None, 1, 2)),
        suspends=draw.choice((False, False, True)),
    )


# --- processes and their loop -------------------------------------------------------------------


class Process:
    """One life of one operating-system process: what the loop runs, holds, or never runs again."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.callbacks = 0
        self.crash_at = 0
        self.hold_at = 0
        self.held_until = 0.0
        self.held: deque[asyncio.Handle] = deque()
        self.dead = False
        self.context = contextvars.Context()
        self.context.run(_process.set, self)


_process: contextvars.ContextVar[Process] = contextvars.ContextVar("process")
NETWORK = contextvars.Context()
"""The context of what is on its way or in the database: it outlives every process."""


class SimulatedLoop(asyncio.AbstractEventLoop):
    """FIFO like any loop, but its time is virtual, and processes on it crash and stall."""

    def __init__(self, on_error: Callable[[str], None], on_crash: Callable[[Process], None]) -> None:
        self.now = 0.0
        self.count = 0
        self.stopped = False
        self.tasks: list[asyncio.Task[Any]] = []
        self.on_hold: Callable[[Process], float] = lambda process: 0.0
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._numbers = itertools.count()
        self._on_error = on_error
        self._on_crash = on_crash

    def run(self) -> None:
        """Run until stopped, or until nothing can ever happen again."""
        asyncio._set_running_loop(self)
        try:
            while not self.stopped and (handle := self._next()) is not None:
                if not handle._cancelled and self._may_run(handle):
                    self.count += 1
                    handle._run()
                    if self.count > CALLBACKS_MAX:
                        self._on_error(f"no end after {self.count} callbacks")
        finally:
            asyncio._set_running_loop(None)

    def _next(self) -> asyncio.Handle | None:
        if self._ready:
            return self._ready.popleft()
        if not self._timers:
            return None
        when, _, timer = heapq.heappop(self._timers)
        self.now = max(self.now, when)
        return timer

    def _may_run(self, handle: asyncio.Handle) -> bool:
        process = handle._context.get(_process)
        if process is None:
            return True
        if process.dead:
            return False
        if process.held_until > self.now or process.held:
            process.held.append(handle)
            return False
        process.callbacks += 1
        if process.callbacks == process.crash_at:
            self.crash(process)
            return False
        if process.callbacks == process.hold_at:
            self.hold(process, self.on_hold(process))
            process.held.append(handle)
            return False
        return True

    def crash(self, process: Process) -> None:
        process.dead = True
        self._on_crash(process)

    def hold(self, process: Process, seconds: float) -> None:
        process.held_until = self.now + seconds
        self.call_at(process.held_until, self._let_go, process, context=NETWORK)

    def _let_go(self, process: Process) -> None:
        process.held_until = self.now
        held, process.held = process.held, deque()
        self._ready.extendleft(reversed(held))

    # What asyncio asks of a loop.

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name, context=context)
        self.tasks.append(task)
        return task

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not self.stopped:
            self._ready.append(handle)
        return handle

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        timer._scheduled = True
        if not self.stopped:
            heapq.heappush(self._timers, (when, next(self._numbers), timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """A cancelled timer is passed over when its time comes."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.stopped:
            self._on_error(f"{context.get('message')}: {context.get('exception')!r}")

    def bury(self) -> None:
        """Let go of what was abandoned, quietly."""
        self.stopped = True
        self._ready.clear()
        self._timers.clear()
        for task in self.tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            coroutine = task.get_coro()
            if inspect.iscoroutine(coroutine) and inspect.getcoroutinestate(coroutine) == "CORO_CREATED":
                coroutine.close()
        self.tasks.clear()


# --- the database that distrusts ----------------------------------------------------------------


class Checked(MemoryDatabase):
    """Refolds each commit, and holds it against the promises."""

    world: "World"
    committer: Process
    """Whose call has just arrived."""

    def commit(self, turn: Turn) -> Outcome:
        before = self.executions.get(turn.execution_id)
        gone = before is None or before.owner is None or self._is_final(before.owner)
        outcome = super().commit(turn)
        if outcome is Outcome.COMMITTED:
            life = self.committer
            self.world.note(
                f"{life.name} commits {turn.execution_id} {before and before.owner_epoch}"
                f"->{turn.owner_epoch} {[row.type for row in turn.events]} owner {turn.owner}"
            )
            taking = before is not None and before.owner != getattr(life, "incarnation", None)
            if taking and not gone:
                self.world.fail(
                    f"{life.name} writes to {turn.execution_id}, which {before and before.owner} owns"
                )
            self.world.logs[turn.execution_id].follow(turn, self)
        return outcome

    def _is_final(self, incarnation: str) -> bool:
        found = self.executors.get(incarnation)
        return found is None or found[0].state == "dead"


class Log:
    """One execution as its log tells it, followed commit by commit."""

    def __init__(self, world: "World", execution_id: str, workflow: str) -> None:
        self.world = world
        self.execution_id = execution_id
        self.workflow = workflow
        self.plan = PLANS[workflow]
        self.state: ExecutionState = new_state(execution_id, self.plan)
        self.events: list[ev.Event] = []
        self.epoch = 0
        self.owner: str | None = None
        self.taken_at = 0.0
        self.started: dict[tuple[str, int, int], int] = {}
        """The epoch of each attempt: (node, visit, attempt)."""
        self.settled: set[tuple[str, int]] = set()
        self.completed: set[tuple[str, int]] = set()
        self.decided: Counter[tuple[str, int]] = Counter()
        self.signals: Counter[str] = Counter()
        self.due: dict[str, int] = {}

    def fail(self, text: str) -> None:
        self.world.fail(f"{self.execution_id}: {text}")

    def follow(self, turn: Turn, database: MemoryDatabase) -> None:
        """Hold one committed turn against what came before it."""
        if turn.owner_epoch < self.epoch:
            self.fail(f"epoch {turn.owner_epoch} after {self.epoch}")
        if turn.owner_epoch == self.epoch and turn.owner not in (self.owner, None) and turn.new is None:
            self.fail(f"{turn.owner} takes over without a new epoch")
        if turn.owner_epoch != self.epoch:
            self.taken_at = self.world.loop.now
        self.epoch, self.owner = turn.owner_epoch, turn.owner
        for row in turn.events:
            if row.sequence != self.state.sequence + 1:
                self.fail(f"sequence {row.sequence} after {self.state.sequence}")
            if row.created_at > database.clock():
                self.fail(f"{row.type} is from the future")
            self._event(ev.decode_event(row.type, row.data), row.created_at)
        self._compare(turn)
        slots = self.world.story.slots
        begun = sum(row.status in BEGUN_STATUSES for row in database.executions.values())
        if slots is not None and begun > slots:
            self.fail(f"{begun} executions have begun, and {slots} may")

    def _event(self, event: ev.Event, at: int) -> None:
        if is_terminal(self.state):
            self.fail(f"{event!r} after the end")
        match event:
            case ev.NodeStarted():
                self._started(event, at)
            case ev.NodeCompleted() | ev.NodeFailed() | ev.NodeCancelled():
                self._ended(event)
            case ev.ApprovalReceived(node_id=node_id, visit=visit):
                self.decided[node_id, visit] += 1
                if self.decided[node_id, visit] > 1:
                    self.fail(f"{node_id}/{visit} is decided twice")
            case (
                ev.TimerCreated(node_id=node_id, fire_at=due) | ev.RetryScheduled(node_id=node_id, due_at=due)
            ):
                self.due[node_id] = due
            case ev.TimerFired(node_id=str() as node_id) if at < self.due[node_id]:
                self.fail(f"the timer of {node_id} is early")
        signal_id = getattr(event, "signal_id", None)
        if signal_id is not None:
            self.signals[signal_id] += 1
            if self.signals[signal_id] > 1:
                self.fail(f"signal {signal_id} took effect twice")
        self.events.append(event)
        apply(self.state, self.plan, event, at)

    def _started(self, event: ev.NodeStarted, at: int) -> None:
        if (event.node_id, event.visit) in self.settled:
            self.fail(f"{event!r} after the visit has settled")
        if (event.node_id, event.visit, event.attempt) in self.started:
            self.fail(f"{event!r} comes twice")
        if event.reason == "retry" and at < self.due[event.node_id]:
            self.fail(f"the retry of {event.node_id} is early")
        self.started[event.node_id, event.visit, event.attempt] = self.epoch

    def _ended(self, event: ev.NodeCompleted | ev.NodeFailed | ev.NodeCancelled) -> None:
        key = (event.node_id, event.visit)
        if getattr(event, "outcome", "") is not None:
            if key in self.settled:
                self.fail(f"{key} settles twice: {event!r}")
            self.settled.add(key)
        if isinstance(event, ev.NodeCompleted):
            self.completed.add(key)

    def _compare(self, turn: Turn) -> None:
        state = self.state
        told = (turn.sequence, turn.status, turn.steps, turn.runnable, turn.wake_at, turn.completed_at)
        folded = (
            state.sequence,
            stored_status(state),
            state.steps,
            has_work(state),
            wake_at(state),
            state.completed_at,
        )
        if told != folded:
            self.fail(f"the row says {told}, the log {folded}")
        if turn.snapshot is not None and turn.snapshot != encode_state(state):
            self.fail("the snapshot is not the fold of the log")
        try:
            check_invariants(state, self.plan)
        except AssertionError as error:
            self.fail(f"an impossible state: {error}")

    def failures(self) -> list[ev.NodeFailed]:
        return [event for event in self.events if isinstance(event, ev.NodeFailed)]


# --- the store, as a process sees it ------------------------------------------------------------


class Remote:
    """The methods of an object in the database's process, called over the network."""

    def __init__(self, world: "World", process: Process, target: Any) -> None:
        self._world = world
        self._process = process
        self._target = target

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._target, name)
        is_write = name in WRITES

        def call(*args: Any, **options: Any) -> Awaitable[Any]:
            return self._world.travel(self._process, name, is_write, lambda: method(*args, **options))

        return call


WRITES = {"commit", "heartbeat", "mark_dead", "register_executor", "register_workflow", "send", "prune"}


class RemoteStore:
    """A ``Store`` over the network."""

    def __init__(self, world: "World", process: Process) -> None:
        self._world = world
        self._process = process
        self._store = MemoryStore(world.database.clock, database=world.database)
        self.journal: Any = Remote(world, process, self._store.journal)
        self.system: Any = Remote(world, process, self._store.system)
        self.all_agents: Any = Remote(world, process, self._store.all_agents)

    def agents(self, tenant_id: str, by: Origin = SYSTEM) -> Any:
        return Remote(self._world, self._process, self._store.agents(tenant_id, by))

    def tenant(self, tenant_id: str, by: Origin = SYSTEM) -> Any:
        return Remote(self._world, self._process, self._store.tenant(tenant_id, by))


class FadingStore:
    """A faulty store until the quiet comes, then a plain one."""

    def __init__(self, world: "World", process: Process) -> None:
        self._world = world
        self._plain: Any = RemoteStore(world, process)
        seed = world.draw.randrange(2**32)
        self._faulty: Any = FaultyStore(self._plain, seed=seed, rate=world.story.fault_rate)

    @property
    def _now(self) -> Any:
        return self._plain if self._world.is_quiet else self._faulty

    @property
    def journal(self) -> Any:
        return self._now.journal

    @property
    def system(self) -> Any:
        return self._now.system

    @property
    def all_agents(self) -> Any:
        return self._now.all_agents

    def agents(self, tenant_id: str, by: Origin = SYSTEM) -> Any:
        return self._now.agents(tenant_id, by)

    def tenant(self, tenant_id: str, by: Origin = SYSTEM) -> Any:
        return self._now.tenant(tenant_id, by)


# --- hosts --------------------------------------------------------------------------------------


class Life(Process):
    """One life of an actor's process, as ``ExecutionActor`` leads it."""

    def __init__(self, world: "World", index: int, number: int) -> None:
        super().__init__(f"actor-{index}#{number}")
        self.world = world
        self.index = index
        self.incarnation = self.name
        self.host: ExecutionHost | None = None
        self.fence_read: dict[str, float] = {}
        """When the database last told this life that it holds an execution's fence."""
        self.store = FadingStore(world, self)
        self.clock = DatabaseClock(monotonic=lambda: world.loop.now)

    async def live(self) -> None:
        host = await self._boot()
        self.host = host
        while True:
            await asyncio.sleep(1.0)
            try:
                await self._beat(host)
                await host.reconcile()
                await host.heed_tenants()
            except JamjetError as error:
                self.world.note(f"{self.name} no upkeep: {error}")

    async def _boot(self) -> ExecutionHost:
        world = self.world
        host = world.host_class(
            incarnation=self.incarnation,
            store=self.store,  # type: ignore[arg-type]
            plans=PlanCache(self.store.system),
            runner=Runner(world, self),
            clock=self.clock,
            chance=world.draw.random,
        )
        row = ExecutorRow(
            incarnation=self.incarnation,
            name=f"actor-{self.index}",
            node="n",
            pid=1,
            isolation="shared",
            capacity=100,
            live=0,
            state="active",
            started_at=0,
            heartbeat_at=0,
        )
        while True:
            sent_at = world.loop.now
            try:
                now = await self.store.system.register_executor(row)
            except Unavailable:
                await asyncio.sleep(0.2)
            else:
                break
        self.clock.learn(now, sent_at)
        host.beat(sent_at)
        return host

    async def _beat(self, host: ExecutionHost) -> None:
        sent_at = self.world.loop.now
        state = "draining" if host.draining else "active"
        now = await self.store.system.heartbeat(self.incarnation, live=host.live, state=state)
        if now is None:
            self.world.end(self, "declared dead")
            await asyncio.get_running_loop().create_future()
        self.clock.learn(now, sent_at)
        host.beat(sent_at)

    async def retire(self) -> None:
        """Hand everything over; the caller then ends the process."""
        if self.host is None:
            return
        self.world.note(f"{self.name} retires")
        await self.host.close()
        await self.store.system.mark_dead((self.incarnation,))


class Runner:
    """Answers after a while, sometimes with an error, and reports each call before it is made."""

    def __init__(self, world: "World", life: Life) -> None:
        self._world = world
        self._life = life

    async def run(self, effect: RunNode, *, tenant_id: str) -> sg.NodeSucceeded | sg.NodeErrored:
        world = self._world
        world.called(self._life, effect)
        slow = world.draw.random() < 0.1 and not world.is_quiet
        await asyncio.sleep(world.draw.uniform(0.5, 4.0) if slow else world.draw.uniform(0.0, 0.3))
        key = {"node_id": effect.node.id, "visit": effect.visit, "attempt": effect.attempt}
        if world.draw.random() < world.error_rate(effect):
            return sg.NodeErrored(**key, error="no luck", error_class="io_error")
        return sg.NodeSucceeded(**key, state_patch={"n": effect.state.get("n", 0) + 1})


# --- callers ------------------------------------------------------------------------------------


class ActorLost(Exception):
    """The process that was called is gone."""


class Replica:
    """An API process and its clients: starts and signals, repeated until it is told what became of them."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.process = Process("replica")
        self.store: Any = FadingStore(world, self.process)
        self.plans = PlanCache(self.store.system)
        self.pending = 0
        self.acknowledged: dict[str, str] = {}
        """Signal id -> execution, of what was accepted."""
        self.refused: dict[str, str] = {}
        self.repeated: set[str] = set()
        """Signals that were sent more than once: one may be refused, and its late twin be accepted."""
        self.started: dict[int, str] = {}
        """Number of the execution -> the id that its client was told."""
        self.tried: dict[int, list[str]] = {}
        self.keyed: set[int] = set()
        self.cancelled: set[str] = set()
        self.rejected: set[str] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.pending += 1
        task = self.world.loop.create_task(self._until_done(work), context=self.process.context)
        assert task is not None

    async def _until_done(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            self.world.fail(f"a caller broke: {error!r}")
        self.pending -= 1

    async def client(self, number: int, workflow: str) -> None:
        """One execution from its start to its end, as its callers see it."""
        world = self.world
        draw = world.draw
        # Alone, it waits until the first host has booted, so that this one gets it.
        await asyncio.sleep(draw.uniform(0, 3) if world.story.callers else 0.1)
        execution_id = await self._start(number, workflow)
        self.started[number] = execution_id
        if workflow in DECIDED_BY_PEOPLE:
            self.spawn(self._decide(execution_id, "ann", "approved"))
            if world.story.callers and draw.random() < 0.5:
                self.spawn(self._decide(execution_id, "bob", draw.choice(("approved", "rejected"))))
        if workflow == "event":
            self.spawn(self._pay(execution_id))
        if world.story.callers and draw.random() < 0.15:
            self.spawn(self._cancel(execution_id))

    async def _start(self, number: int, workflow: str) -> str:
        world = self.world
        keyed = world.story.callers and world.draw.random() < 0.4
        if keyed:
            self.keyed.add(number)
        execution_id = self._mint(number, workflow)
        while True:
            try:
                await self._start_once(execution_id, workflow, self._record(number, execution_id, keyed))
                return execution_id
            except KeyTaken:
                return await self._recorded(number)
            except (Unavailable, ActorLost, TimeoutError, Forbidden):
                await asyncio.sleep(world.draw.uniform(0.05, 0.5))
                if keyed:
                    execution_id = self._mint(number, workflow)

    def _mint(self, number: int, workflow: str) -> str:
        tries = self.tried.setdefault(number, [])
        execution_id = f"exec_{number}_{len(tries)}"
        tries.append(execution_id)
        self.world.logs[execution_id] = Log(self.world, execution_id, workflow)
        return execution_id

    def _record(self, number: int, execution_id: str, keyed: bool) -> IdempotencyRecord | None:
        if not keyed:
            return None
        return IdempotencyRecord(
            key=f"start-{number}",
            route="start",
            fingerprint="f",
            status=201,
            body=execution_id,
            expires_at=EPOCH_MS + 10**9,
        )

    async def _recorded(self, number: int) -> str:
        while True:
            try:
                record = await self.store.tenant(TENANT).idempotency(f"start-{number}", "start")
            except Unavailable:
                continue
            assert record is not None
            return str(record.body)

    async def _start_once(self, execution_id: str, workflow: str, record: IdempotencyRecord | None) -> None:
        request = StartRequest(
            tenant_id=TENANT,
            execution_id=execution_id,
            workflow_id=workflow,
            workflow_version="1",
            input={},
            queue=self.world.story.slots is not None,
            deadline=self.world.database_now() + 2_000 if self.world.draw.random() < 0.7 else 0,
            idempotency=record,
        )
        life = self.world.any_life() if self.world.story.callers else self.world.lives[0]
        try:
            await self._ask(life, lambda host: host.start(request), 0.5, request.execution_id)
        except (TimeoutError, ActorLost, OutcomeUnknown):
            await record_start(self.store, self.plans, request)

    async def _decide(self, execution_id: str, user_id: str, decision: Any) -> None:
        for turn in itertools.count():
            log = self.world.logs[execution_id]
            while not is_terminal(log.state) and status_of(log.state) != "paused":  # noqa: ASYNC110 (the clock is virtual)
                await asyncio.sleep(0.25)
            if is_terminal(log.state) or log.decided:
                return
            await asyncio.sleep(self.world.draw.uniform(0, 1))
            signal_id = f"{execution_id}-{user_id}-{turn}"
            signal = sg.Approve(signal_id=signal_id, decision=decision, user_id=user_id)
            if decision == "rejected":
                self.rejected.add(execution_id)
            if await self._signal(execution_id, signal):
                return

    async def _pay(self, execution_id: str) -> None:
        if self.world.story.callers:
            await asyncio.sleep(self.world.draw.uniform(0, 3))
        signal_id = f"{execution_id}-paid"
        signal = sg.SendEvent(signal_id=signal_id, correlation_key="paid", payload={"sum": 1})
        await self._signal(execution_id, signal)

    async def _cancel(self, execution_id: str) -> None:
        await asyncio.sleep(self.world.draw.uniform(0, 8))
        self.cancelled.add(execution_id)
        await self._signal(execution_id, sg.Cancel(signal_id=f"{execution_id}-cancel"))

    async def _signal(self, execution_id: str, signal: Any) -> bool:
        """Repeat one signal until it is accepted (True) or refused (False)."""
        world = self.world
        record = None
        if world.story.callers and world.draw.random() < 0.5:
            record = IdempotencyRecord(
                key=signal.signal_id,
                route="signal",
                fingerprint="f",
                status=200,
                body="",
                expires_at=EPOCH_MS + 10**9,
            )
        hint: Life | None = None
        while True:
            request = SignalRequest(
                tenant_id=TENANT,
                execution_id=execution_id,
                signal=signal,
                deadline=world.database_now() + 5_000 if world.draw.random() < 0.7 else 0,
                idempotency=record,
            )
            life = hint or world.owner_of(execution_id) or world.any_life()
            hint = None
            try:
                await self._ask(
                    life, lambda host, request=request: host.signal(request), 1.5, signal.signal_id
                )  # type: ignore[misc]
            except Redirect as redirect:
                hint = world.life_of(redirect.fields.get("owner"))
                await asyncio.sleep(0.05)
            except KeyTaken:
                break
            except Conflict as conflict:
                world.note(f"{signal.signal_id} is refused by {life and life.name}: {conflict}")
                self.refused[signal.signal_id] = execution_id
                return False
            except (Unavailable, ActorLost, TimeoutError):
                self.repeated.add(signal.signal_id)
                await asyncio.sleep(world.draw.uniform(0.05, 0.5))
            else:
                break
        self.acknowledged[signal.signal_id] = execution_id
        return True

    async def _ask(
        self,
        life: Life | None,
        make: Callable[[ExecutionHost], Coroutine[Any, Any, Any]],
        within_s: float,
        name: str,
    ) -> Any:
        """Call a host over the network; the call may arrive twice, the second time late."""
        if life is None:
            raise ActorLost
        world = self.world
        answer = world.loop.create_future()
        world.loop.call_later(world.hop(), self._arrive, life, make, answer, context=NETWORK)
        if world.story.callers and not world.is_quiet and world.draw.random() < 0.05:
            self.repeated.add(name)
            unread = world.loop.create_future()
            later = world.draw.uniform(0.1, 8.0)
            world.loop.call_later(
                later, self._arrive, world.any_life() or life, make, unread, context=NETWORK
            )
        return await asyncio.wait_for(answer, within_s)

    def _arrive(
        self,
        life: Life,
        make: Callable[[ExecutionHost], Coroutine[Any, Any, Any]],
        answer: asyncio.Future[Any],
    ) -> None:
        if life.dead or life.host is None:
            if not answer.done():
                answer.set_exception(ActorLost())
                answer.exception()
            return
        task = self.world.loop.create_task(make(life.host), context=life.context)
        task.add_done_callback(lambda done: self._answered(done, answer), context=NETWORK)

    def _answered(self, task: asyncio.Task[Any], answer: asyncio.Future[Any]) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, JamjetError):
            self.world.fail(f"a host answered with {error!r}")

        def deliver() -> None:
            if answer.done():
                return
            if error is None:
                answer.set_result(task.result())
            else:
                answer.set_exception(error)
                answer.exception()

        self.world.loop.call_later(self.world.hop(), deliver, context=NETWORK)


# --- the world ----------------------------------------------------------------------------------


@dataclass
class Report:
    """What became of a story."""

    trace: list[str] = field(default_factory=list)
    callbacks: int = 0
    calls: int = 0
    late_calls: int = 0
    reached: bool = False
    """Whether the callback at which the first life was to crash or stall was reached."""


class World:
    """The processes, the database and the network of one story."""

    def __init__(
        self,
        seed: int,
        story: Story,
        *,
        host_class: type[ExecutionHost] = ExecutionHost,
        database_class: type[Checked] = Checked,
    ) -> None:
        self.seed = seed
        self.story = story
        self.host_class = host_class
        self.draw = random.Random(seed)
        self.report = Report()
        self.failure: str | None = None
        self.loop = SimulatedLoop(self.fail, self._crashed)
        self.loop.on_hold = self._holding
        self.database = database_class(self.database_now)
        self.database.world = self
        self.database.workflows.update(WORKFLOWS)
        limits = "{}" if story.slots is None else f'{{"max_concurrent_executions":{story.slots}}}'
        self._set_tenant("active", limits)
        self.logs: dict[str, Log] = {}
        self.calls: set[tuple[str, int]] = set()
        self.erred: set[str] = set()
        self.lives: list[Life] = []
        self.buried: list[Life] = []
        self._numbers = itertools.count(1)
        self.replica = Replica(self)
        self.sweeper = Process("sweeper")
        self.sweeper_store: Any = FadingStore(self, self.sweeper)

    def _set_tenant(self, status: Any, limits: str) -> None:
        now = self.database_now()
        self.database.tenants[TENANT] = TenantRow(
            tenant_id=TENANT, name="T", status=status, policy="{}", limits=limits,
            created_at=EPOCH_MS, updated_at=now,
        )  # fmt: skip

    async def _suspend_now_and_then(self) -> None:
        while not self.is_quiet:
            await asyncio.sleep(self.draw.uniform(0.2, 3))
            for status in ("suspended", "active"):
                self.note(f"the tenant is {status}")
                self._set_tenant(status, self.database.tenants[TENANT].limits)
                await asyncio.sleep(self.draw.uniform(0.2, 3))

    # Time, chance and trace.

    def database_now(self) -> int:
        return EPOCH_MS + int(self.loop.now * 1_000)

    @property
    def is_quiet(self) -> bool:
        return self.loop.now >= self.story.quiet_at_s

    def hop(self) -> float:
        """Seconds that a message is on its way."""
        if not self.is_quiet and self.draw.random() < 0.03:
            return self.draw.uniform(0.1, 1.5)
        return self.draw.uniform(0.0, 0.01)

    def note(self, text: str) -> None:
        self.report.trace.append(f"{self.loop.now:8.3f} {text}")

    def fail(self, text: str) -> None:
        self.note(f"VIOLATION {text}")
        if self.failure is None:
            self.failure = text
        self.loop.stopped = True

    # The network to the database.

    async def travel(
        self, process: Process, name: str, is_write: bool, act: Callable[[], Coroutine[Any, Any, Any]]
    ) -> Any:
        answer = self.loop.create_future()
        is_late = is_write and not self.is_quiet and self.draw.random() < self.story.late_rate
        delay = self.draw.uniform(0.05, 3.0) if is_late else self.hop()
        if is_late:
            lost = OutcomeUnknown(f"{name}: the connection was lost")
            self.loop.call_later(self.hop(), _refuse, answer, lost, context=NETWORK)
        self.loop.call_later(delay, self._land, process, act, answer, context=NETWORK)
        return await answer

    def _land(
        self, process: Process, act: Callable[[], Coroutine[Any, Any, Any]], answer: asyncio.Future[Any]
    ) -> None:
        if process.dead and self.draw.random() < 0.5:
            return
        self.database.committer = process
        try:
            act().send(None)
        except StopIteration as stop:
            result, error = stop.value, None
        except JamjetError as refused:
            result, error = None, refused
        else:
            raise AssertionError("the database waited")
        if isinstance(process, Life):
            self._remember_fence(process, result)
        back = self.hop()
        if error is None:
            self.loop.call_later(back, _answer, answer, result, context=NETWORK)
        else:
            self.loop.call_later(back, _refuse, answer, error, context=NETWORK)

    def _remember_fence(self, life: Life, result: Any) -> None:
        for log in self.logs.values():
            if log.owner == life.incarnation:
                life.fence_read[log.execution_id] = self.loop.now

    # Calls of nodes.

    def error_rate(self, effect: RunNode) -> float:
        return 0.35 if effect.node.id == "flaky" and not self.is_quiet else 0.0

    def called(self, life: Life, effect: RunNode) -> None:
        execution_id = effect.key.split(":")[0]
        log = self.logs[execution_id]
        visit = (effect.node.id, effect.visit)
        attempt = (*visit, effect.attempt)
        self.report.calls += 1
        self.note(f"{life.name} calls {execution_id} {effect.node.id}/{effect.visit}#{effect.attempt}")
        if attempt not in log.started:
            self.fail(f"{life.name} calls {attempt} of {execution_id}, whose start is not in the log")
            return
        if (effect.key, effect.attempt) in self.calls:
            self.fail(f"{life.name} calls {attempt} of {execution_id} a second time")
        self.calls.add((effect.key, effect.attempt))
        row = self.database.executions[execution_id]
        epoch = log.started[attempt]
        if (row.owner, row.owner_epoch) == (life.incarnation, epoch):
            if visit in log.completed:
                self.fail(f"{life.name} calls {visit} of {execution_id}, which is completed")
        elif row.owner_epoch != epoch:
            self.report.late_calls += 1
            # A check of the fence can be followed by a stall, and only then by the call.
            if life.fence_read.get(execution_id, -1.0) > log.taken_at:
                return
            self._check_late(life, log, attempt)

    def _check_late(self, life: Life, log: Log, attempt: tuple[str, int, int]) -> None:
        checked_at = life.fence_read.get(log.execution_id)
        if checked_at is None or not life.was_checked(log, self.loop.now):
            self.fail(f"{life.name} calls {attempt} of {log.execution_id} without its lease")

    # Lives.

    def boot(self, index: int) -> None:
        life = Life(self, index, next(self._numbers))
        while len(self.lives) <= index:
            self.lives.append(life)
        self.lives[index] = life
        self.note(f"{life.name} boots")
        self._plan_accidents(life)
        self.loop.create_task(life.live(), context=life.context)

    def _plan_accidents(self, life: Life) -> None:
        story, draw = self.story, self.draw
        if self.is_quiet or not story.crashes:
            return
        if draw.random() < story.crashes:
            life.crash_at = draw.randint(1, 160)
        if draw.random() < story.crashes:
            life.hold_at = draw.randint(1, 120)
        if draw.random() < story.crashes / 4:
            self.loop.call_later(draw.uniform(1, 8), self._retire, life, context=NETWORK)

    def _retire(self, life: Life) -> None:
        if life.dead:
            return
        task = self.loop.create_task(life.retire(), context=life.context)
        task.add_done_callback(lambda done: done.cancelled() or done.exception(), context=NETWORK)
        self.loop.call_later(self.draw.uniform(0, 3), self.end, life, "retired", context=NETWORK)

    def end(self, life: Life, why: str) -> None:
        """End a life from outside of it."""
        if not life.dead:
            self.note(f"{life.name} is ended: {why}")
            self.loop.crash(life)

    def _crashed(self, process: Process) -> None:
        assert isinstance(process, Life)
        self.note(f"{process.name} crashes at its callback {process.callbacks}")
        self.report.reached |= process.callbacks == self.story.crash_first_at
        self.buried.append(process)
        self.loop.call_later(self.draw.uniform(0.2, 4.0), self.boot, process.index, context=NETWORK)

    def _holding(self, process: Process) -> float:
        seconds = self.draw.uniform(6.0, 10.0)
        self.note(f"{process.name} is held at its callback {process.callbacks} for {seconds:.3f} s")
        self.report.reached |= process.callbacks == self.story.hold_first_at
        return seconds

    def any_life(self) -> Life | None:
        living = [life for life in self.lives if not life.dead and life.host is not None]
        return self.draw.choice(living) if living else None

    def life_of(self, incarnation: str | None) -> Life | None:
        """Who has the actor's name now."""
        name = (incarnation or "").split("#")[0]
        return next((life for life in self.lives if life.name.split("#")[0] == name), None)

    def owner_of(self, execution_id: str) -> Life | None:
        row = self.database.executions.get(execution_id)
        if row is None or row.owner not in self.database.living():
            return None
        return self.life_of(row.owner)

    # The sweeper, and the end.

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            try:
                system = self.sweeper_store.system
                rows = [*await system.sweep(limit=100), *await system.dequeue(limit=100)]
            except Unavailable:
                continue
            for row in rows:
                life = self.any_life()
                if life is not None:
                    self.loop.call_later(self.hop(), self._offer, life, row.execution_id, context=NETWORK)

    def _offer(self, life: Life, execution_id: str) -> None:
        if not life.dead and life.host is not None:
            self.loop.create_task(life.host.activate([execution_id]), context=life.context)

    def _look(self) -> None:
        """Stop when all has ended, and nobody holds anything any more."""
        if self.loop.now > self.story.quiet_at_s + END_WITHIN_S:
            self.fail(f"no end: {self._unfinished()}")
        elif not self.replica.pending and not self._unfinished():
            self.loop.stopped = True
        else:
            self.loop.call_later(0.5, self._look, context=NETWORK)

    def _unfinished(self) -> list[str]:
        open_rows = [
            f"{row.execution_id} {row.status} owner {row.owner}"
            for row in self.database.executions.values()
            if row.status not in TERMINAL_STATUSES
        ]
        if not self.is_quiet and self.story.callers:
            return [*open_rows, "trouble"] if open_rows else []
        held = [
            f"{life.name} holds {life.host.live}"
            for life in self.lives
            if not life.dead and life.host is not None and life.host.live
        ]
        return open_rows + held

    def run(self) -> Report:
        """Tell the story.

        Raises:
            Violation: a promise was broken.
        """
        for index in range(self.story.hosts):
            self.boot(index)
        first = self.lives[0]
        first.crash_at = self.story.crash_first_at or first.crash_at
        first.hold_at = self.story.hold_first_at or first.hold_at
        self.loop.create_task(self._sweep(), context=self.sweeper.context)
        if self.story.suspends:
            self.loop.create_task(self._suspend_now_and_then(), context=NETWORK)
        for number, workflow in enumerate(self.story.workflows):
            self.replica.spawn(self.replica.client(number, workflow))
        self.loop.call_later(0.5, self._look, context=NETWORK)
        with _errors_reported(self.fail):
            self.loop.run()
        if self.failure is None:
            self._check_end()
        self.report.callbacks = self.loop.count
        self.loop.bury()
        if self.failure is not None:
            raise Violation(self._describe())
        return self.report

    def _check_audit(self) -> None:
        """Every event that matters has one entry, and the chains are whole."""
        rows = sorted(self.database.audit, key=lambda row: (row.chain, row.position))
        problem = check_log(TENANT, (), rows).problem
        if problem is not None:
            self.fail(f"the audit log: {problem}")
        said = sorted(
            (row.execution_id or "", row.sequence, row.event_digest) for row in rows if row.sequence
        )
        happened = sorted(
            (execution_id, event.sequence, event_digest(event.data))
            for execution_id, log in self.database.events.items()
            for event in log
            if event.type in AUDITED_TYPES
        )
        if said != happened:
            self.fail(f"the audit log says {said}, the events {happened}")

    def _check_end(self) -> None:
        self._check_audit()
        replica = self.replica
        for number, execution_id in replica.started.items():
            if execution_id not in self.database.executions:
                self.fail(f"{execution_id} was acknowledged and does not exist")
            present = [tried for tried in replica.tried[number] if tried in self.database.executions]
            if present != [execution_id]:
                self.fail(f"the start {number} made {present}, and {execution_id} was told")
        for signal_id, execution_id in replica.acknowledged.items():
            if self.logs[execution_id].signals[signal_id] != 1:
                self.fail(f"{signal_id} was accepted and is not in the log")
        for signal_id, execution_id in replica.refused.items():
            if self.logs[execution_id].signals[signal_id] and signal_id not in replica.repeated:
                self.fail(f"{signal_id} was refused and is in the log")
        for execution_id in self.database.executions:
            self._check_status(self.logs[execution_id])

    def _check_status(self, log: Log) -> None:
        status = status_of(log.state)
        last = [event for event in log.failures() if event.outcome is not None]
        if status == "cancelled" and log.execution_id not in self.replica.cancelled:
            self.fail(f"{log.execution_id} was cancelled by nobody")
        if status == "failed":
            allowed = {"crashed"} if self.story.crashes or self.story.hold_first_at else set()
            allowed |= {"io_error"} if log.workflow == "retry" else set()
            allowed |= {"rejected"} if log.execution_id in self.replica.rejected else set()
            if not last or last[-1].error_class not in allowed:
                self.fail(f"{log.execution_id} failed without a reason: {last}")
        if status == "completed" and log.state.data.get("n") not in _counts(log):
            self.fail(f"{log.execution_id} completed with {log.state.data}")
        if status not in ("cancelled", "failed", "completed"):
            self.fail(f"{log.execution_id} ended as {status}")

    def _describe(self) -> str:
        story = "" if self.story == random_story(self.seed) else f" {self.story!r}"
        head = f"seed {self.seed}{story}: {self.failure}"
        command = f"python tests/unit/simulation.py {self.seed}{f' {story.strip()!r}' if story else ''}"
        tail = "\n  ".join(self.report.trace[-60:])
        return f"{head}\nrepeat it with: {command}\n  {tail}"


def _counts(log: Log) -> range:
    """What ``n`` may count to.

    Branches that run side by side see the same ``n``, unless one was lost and made its attempt anew.
    """
    least = {"linear": 3, "approval": 2, "retry": 3, "event": 2, "nap": 2, "sleep": 2, "loop": 3, "fan": 2}
    again = [event for event in log.events if isinstance(event, ev.NodeStarted) and event.attempt > 1]
    most = 4 if log.workflow == "fan" and again else least[log.workflow]
    return range(least[log.workflow], most + 1)


def _answer(answer: asyncio.Future[Any], result: Any) -> None:
    if not answer.done():
        answer.set_result(result)


def _refuse(answer: asyncio.Future[Any], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
        answer.exception()


class _Errors(logging.Handler):
    """What a host logs as an error is a bug in it."""

    def __init__(self, fail: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._fail = fail

    def emit(self, record: logging.LogRecord) -> None:
        self._fail(f"logged: {record.getMessage()} {record.exc_info and record.exc_info[1]!r}")


@contextmanager
def _errors_reported(fail: Callable[[str], None]) -> Iterator[None]:
    logger = logging.getLogger("jamjet.host")
    level, propagate = logger.level, logger.propagate
    handler = _Errors(fail)
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def simulate(seed: int, story: Story | None = None, **classes: Any) -> Report:
    """Tell one story to its end.

    Raises:
        Violation: a promise was broken.
    """
    world = World(seed, story or random_story(seed), **classes)
    return world.run()


def main(arguments: list[str]) -> int:
    seed = int(arguments[0])
    story = eval(arguments[1], {"Story": Story}) if len(arguments) > 1 else None
    world = World(seed, story or random_story(seed))
    try:
        world.run()
    except Violation as violation:
        sys.stdout.write("\n".join(world.report.trace) + "\n\n" + str(violation).splitlines()[0] + "\n")
        return 1
    sys.stdout.write("\n".join(world.report.trace) + "\n")
    return 0


if __name__ == "__main__":
    gc.disable()
    sys.exit(main(sys.argv[1:]))
