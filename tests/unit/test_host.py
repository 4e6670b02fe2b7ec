"""The host on a store in memory: what its senders are told, and when."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from actors.host import ExecutionHost, Redirect
from actors.observer import Attempt, HostObserver
from actors.plans import PlanCache
from actors.port import SignalRequest, StartRequest
from actors.seat import Seat
from runtime import jsonvalue
from runtime import signals as sg
from runtime.effects import RunNode
from runtime.errors import (
    BadRequest,
    Conflict,
    JamjetError,
    NotFound,
    OutcomeUnknown,
    Unavailable,
    ValueRejected,
)
from runtime.graph import encode_graph
from runtime.ir import RegistrationPolicy, compile_ir
from runtime.store.memory import MemoryStore
from runtime.store.port import OWNER_GONE_MS, ExecutorRow, Outcome, Turn, WorkflowRow
from tests.fixtures.workflows import APPROVE

NOW = 1_700_000_000_000


class Clock:
    def now(self) -> int:
        return NOW


class Runner:
    """Every attempt succeeds at once, with the node's name."""

    async def run(self, effect: RunNode, *, tenant_id: str) -> sg.NodeSucceeded:
        return sg.NodeSucceeded(
            node_id=effect.node.id, visit=effect.visit, attempt=effect.attempt, output=effect.node.id
        )


class Journal:
    """After ``passes`` commits refuses so many, then passes them on."""

    def __init__(self, store: MemoryStore) -> None:
        self._real = store.journal
        self.passes = 0
        self.refusals = 0
        self.error: JamjetError = Unavailable("no disk")
        self.at_commit: asyncio.Event | None = None

    async def commit(self, turn: Turn) -> Outcome:
        if self.at_commit is not None:
            await self.at_commit.wait()
        if self.passes:
            self.passes -= 1
        elif self.refusals:
            self.refusals -= 1
            raise self.error
        return await self._real.commit(turn)


class World:
    """One host over one database."""

    def __init__(self) -> None:
        self.now = NOW
        self.store = MemoryStore(lambda: self.now)
        self.database = self.store.database
        self.journal = self.store.journal = Journal(self.store)  # type: ignore[assignment]
        self.host = self.another("a#1")

    def another(self, incarnation: str, *, runs_dedicated: bool = True) -> ExecutionHost:
        host = ExecutionHost(
            incarnation=incarnation,
            store=self.store,
            plans=PlanCache(self.store.system),
            runner=Runner(),
            clock=Clock(),
            chance=lambda: 0.0,
            runs_dedicated=runs_dedicated,
        )
        host.beat(1e12)
        return host

    async def open(self) -> None:
        await self.registered("a")
        graph = compile_ir(APPROVE, RegistrationPolicy(("steps",), frozenset())).graph
        row = WorkflowRow(
            workflow_id="approve",
            version="1.0.0",
            digest="d",
            ir="{}",
            graph=encode_graph(graph),
            created_at=0,
        )
        await self.store.tenant("t").register_workflow(row)

    async def registered(self, name: str) -> None:
        """An actor of this name, in its first life, has beaten just now."""
        await self.store.system.register_executor(
            ExecutorRow(
                incarnation=f"{name}#1", name=name, node="n", pid=1, isolation="shared", capacity=9, live=0,
                state="active", started_at=0, heartbeat_at=0,
            )
        )  # fmt: skip

    async def start(self, isolation: str = "shared", *, deadline: int = 0) -> None:
        await self.host.start(
            StartRequest(
                tenant_id="t",
                execution_id="exec_1",
                workflow_id="approve",
                workflow_version="1.0.0",
                input={"n": 1},
                isolation=isolation,
                deadline=deadline,
            )
        )

    async def until(self, status: str) -> None:
        async with asyncio.timeout(5):
            while self.database.executions["exec_1"].status != status:  # noqa: ASYNC110
                await asyncio.sleep(0)

    async def paused(self) -> None:
        """``exec_1`` waits for its approval."""
        await self.start()
        await self.until("paused")

    async def paused_dedicated(self) -> None:
        """``exec_1`` waits for its approval, and its own actor has left; ``host`` is a shared one now."""
        await self.start("dedicated")
        assert self.database.executions["exec_1"].owner is None
        await self.host.activate(["exec_1"])
        await self.until("paused")
        await self.host.close()
        self.host = self.another("b#1", runs_dedicated=False)

    def approve(self, name: str, **fields: Any) -> asyncio.Task[dict[str, Any]]:
        signal = sg.Approve(
            **{"signal_id": name, "decision": "approved", "user_id": name, "node_id": "gate", **fields}
        )
        request = SignalRequest(tenant_id=fields.pop("tenant_id", "t"), execution_id="exec_1", signal=signal)
        return asyncio.create_task(self.host.signal(request))


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.open()
    yield made
    await made.host.close()


async def test_a_start_that_the_store_cannot_hold_leaves_nothing_behind(world: World) -> None:
    world.journal.error = ValueRejected("the database refused the values")
    world.journal.refusals = 1
    with pytest.raises(BadRequest):
        await world.start()
    assert world.host.live == 0


async def test_a_start_that_comes_too_late_is_not_taken(world: World) -> None:
    with pytest.raises(OutcomeUnknown, match="too late"):
        await world.start(deadline=NOW - 1)
    assert world.host.live == 0
    assert not world.database.executions
    await world.start(deadline=NOW)
    await world.until("paused")


async def test_a_start_with_an_unknown_outcome_is_tried_again_until_its_deadline(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.journal.error = OutcomeUnknown("the connection was lost during a commit")
    world.journal.refusals = 3
    await world.start(deadline=NOW)
    await world.until("paused")
    await world.host.close()

    world.host = world.another("a#2")
    world.database.executions.clear()
    world.journal.refusals = 3
    monkeypatch.setattr(world.host._clock, "now", iter([NOW, NOW, NOW, NOW + 1]).__next__)
    with pytest.raises(OutcomeUnknown, match="connection was lost"):
        await world.start(deadline=NOW)
    assert world.host.live == 0
    assert not world.database.executions
    assert world.journal.refusals == 2


@pytest.mark.parametrize(
    ("error", "clock"),
    [(None, [NOW, NOW + 1, NOW + 1]), (Unavailable("no disk"), [])],
    ids=["too late", "store away"],
)
async def test_what_comes_for_a_start_that_is_refused_makes_no_execution(
    world: World, error: JamjetError | None, clock: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tenant is suspended before the first turn, and active again before that is committed."""
    await world.store.system.create_tenant("t", "T")
    await world.store.system.update_tenant("t", status="suspended")
    if error is not None:
        world.journal.error, world.journal.refusals = error, 1
    if clock:
        monkeypatch.setattr(world.host._clock, "now", itertools.chain(clock, itertools.repeat(NOW)).__next__)
    async with asyncio.timeout(5):
        start = asyncio.create_task(world.start(deadline=NOW))
        heed = asyncio.create_task(world.host.heed_tenants())
        while not world.host.live:  # noqa: ASYNC110
            await asyncio.sleep(0)
        (seat,) = world.host._seats.values()
        while len(seat.mailbox) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await world.store.system.update_tenant("t", status="active")
        with pytest.raises(OutcomeUnknown if error is None else Unavailable):
            await start
        await heed
        while world.host.live:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert not world.database.executions


async def test_a_turn_that_the_store_cannot_hold_is_not_waited_for_for_ever(world: World) -> None:
    """The store may refuse what it should take; when it takes it again, the execution goes on."""
    world.journal.error = ValueRejected("the database refused the values")
    world.journal.passes, world.journal.refusals = 1, 2
    await world.start()
    async with asyncio.timeout(5):
        while world.host.live:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert not world.journal.refusals, "the result, then its failure, were both refused"
    await world.host.reconcile()
    await world.until("paused")


class BreaksOnce(HostObserver):
    """The first attempt that it is to look at breaks it."""

    def __init__(self) -> None:
        super().__init__()
        self.has_broken = False

    def attempt(self, seat: Seat, effect: RunNode) -> Attempt:
        if not self.has_broken:
            self.has_broken = True
            raise RuntimeError("a bug")
        return super().attempt(seat, effect)


async def test_an_attempt_that_breaks_is_made_again(world: World) -> None:
    world.host._observer = BreaksOnce()
    await world.start()
    async with asyncio.timeout(5):
        while world.host.live:  # noqa: ASYNC110
            await asyncio.sleep(0)
    row = world.database.executions["exec_1"]
    assert (row.status, row.owner) == ("running", "a#1"), "nobody else would take it up"
    await world.host.reconcile()
    await world.until("paused")


async def told(tasks: list[asyncio.Task[dict[str, Any]]]) -> list[Any]:
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_of_many_approvals_in_one_turn_one_wins(world: World) -> None:
    await world.paused()
    answers = await told([world.approve(f"user-{n}") for n in range(5)])
    assert [type(answer) for answer in answers] == [dict, *[Conflict] * 4]


async def test_nobody_is_refused_on_the_ground_of_a_decision_that_was_not_committed(world: World) -> None:
    await world.paused()
    world.journal.refusals = 1
    answers = await told([world.approve(f"user-{n}") for n in range(5)])
    assert {type(answer) for answer in answers} == {Unavailable}
    assert world.database.executions["exec_1"].status == "paused"
    assert (await world.approve("user-9"))["accepted"]


async def test_a_refusal_waits_for_the_commit_as_an_answer_does(world: World) -> None:
    await world.paused()
    world.journal.at_commit = asyncio.Event()
    tasks = [world.approve("ann"), world.approve("bob")]
    for _ in range(20):
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)
    world.journal.at_commit.set()
    assert [type(answer) for answer in await told(tasks)] == [dict, Conflict]


async def test_a_patch_that_is_too_large_is_the_senders_mistake(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.paused()
    monkeypatch.setattr(jsonvalue, "STATE_BYTES_MAX", 200)
    monkeypatch.setattr(jsonvalue.encode, "__kwdefaults__", {"what": "value", "bytes_max": 200})
    (answer,) = await told([world.approve("ann", state_patch={"text": "x" * 300})])
    assert "over the limit of 200" in str(answer)
    assert world.database.executions["exec_1"].status == "paused"
    assert (await world.approve("ann-again"))["accepted"]


async def test_another_tenants_execution_is_unknown(world: World) -> None:
    await world.paused()
    request = SignalRequest(tenant_id="other", execution_id="exec_1", signal=sg.Cancel(signal_id="c"))
    with pytest.raises(NotFound):
        await world.host.signal(request)
    assert world.database.executions["exec_1"].status == "paused"


async def owned_by_another(world: World) -> None:
    """``b#1`` owns ``exec_1``, and nobody has beaten for so long that all look gone."""
    await world.paused()
    await world.registered("b")
    world.host._parked.clear()
    rows = world.database.executions
    rows["exec_1"] = msgspec.structs.replace(rows["exec_1"], owner="b#1")
    world.now += OWNER_GONE_MS + 1_000


async def state_of_the_other(world: World) -> str:
    return next(row.state for row in await world.store.system.executors() if row.incarnation == "b#1")


async def test_a_silent_owner_is_taken_over_by_one_that_has_beaten_all_the_while(world: World) -> None:
    await owned_by_another(world)
    assert (await world.approve("user-1"))["accepted"]
    assert await state_of_the_other(world) == "dead"


async def test_after_an_outage_of_the_store_others_may_beat_before_they_are_taken_over(world: World) -> None:
    await owned_by_another(world)
    now = asyncio.get_running_loop().time()
    world.host._beat_at = now - 60
    for _ in ("while it cannot beat itself", "just after it could"):
        with pytest.raises(Redirect):
            await world.approve("user-1")
        assert await state_of_the_other(world) == "active"
        world.host.beat(now)
    world.host._trusts_silence_at = now
    assert (await world.approve("user-1"))["accepted"]


async def test_who_was_declared_dead_is_taken_over_after_an_outage_too(world: World) -> None:
    await owned_by_another(world)
    await world.store.system.mark_dead(("b#1",))
    world.host._beat_at = asyncio.get_running_loop().time() - 60
    assert (await world.approve("user-1"))["accepted"]


async def test_a_signal_to_a_dedicated_execution_is_decided_here_and_run_by_its_own_actor(
    world: World,
) -> None:
    await world.paused_dedicated()
    assert (await world.approve("ann"))["accepted"]
    row = world.database.executions["exec_1"]
    assert (row.owner, row.runnable, row.status) == (None, True, "running")
    assert world.host.live == 0
    events = await world.store.tenant("t").events("exec_1")
    assert [e.node_id for e in events if e.type == "node_completed"] == ["draft", "gate"], "nothing ran here"

    own = world.another("execution:exec_1#1")
    await own.activate(["exec_1"])
    await world.until("completed")
    events = await world.store.tenant("t").events("exec_1")
    assert [e.sequence for e in events] == list(range(1, len(events) + 1))
    await own.close()


async def test_a_dedicated_execution_that_never_ran_can_be_cancelled(world: World) -> None:
    await world.paused_dedicated()
    request = SignalRequest(tenant_id="t", execution_id="exec_1", signal=sg.Cancel(signal_id="c"))
    assert (await world.host.signal(request))["status"] == "cancelled"
    assert world.database.executions["exec_1"].status == "cancelled"
    assert world.host.live == 0


async def test_a_refused_signal_to_a_dedicated_execution_leaves_nothing_behind(world: World) -> None:
    await world.paused_dedicated()
    before = world.database.executions["exec_1"]
    (answer,) = await told([world.approve("ann", node_id="draft")])
    assert isinstance(answer, Conflict | NotFound)
    assert world.database.executions["exec_1"] == before
    assert world.host.live == 0
