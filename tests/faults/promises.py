"""What must hold of every execution in a database, whatever happened to the processes that ran it."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from actors.plans import PlanCache
from runtime import events as ev
from runtime.events import decode_event
from runtime.state import encode_state, fold, new_state
from runtime.store import open_store
from runtime.store.history import fold_stored
from runtime.store.port import TERMINAL_STATUSES, ExecutionRow, Store

PAGE = 500
ENDS = (ev.WorkflowCompleted, ev.WorkflowFailed, ev.WorkflowCancelled, ev.WorkflowLimitExceeded)


@dataclass
class Seen:
    """What was looked at."""

    statuses: Counter[str] = field(default_factory=Counter)
    timers: int = 0
    decisions: int = 0


def check_promises(url: str) -> Seen:
    """Look at every execution of the default tenant; returns what there was.

    Raises:
        AssertionError: with the promise (of ARCHITECTURE.md), the execution, and its events.
    """
    return asyncio.run(_check(url))


async def _check(url: str) -> Seen:
    store = await open_store(url, migrate=False)
    seen = Seen()
    try:
        plans = PlanCache(store.system)
        offset = 0
        while rows := (await store.tenant("default").executions(limit=PAGE, offset=offset))[0]:
            for row in rows:
                await _check_one(store, plans, row, seen)
            offset += len(rows)
    finally:
        await store.close()
    return seen


async def _check_one(store: Store, plans: PlanCache, row: ExecutionRow, seen: Seen) -> None:
    tenant = store.tenant("default")
    rows = await tenant.events(row.execution_id)
    told = f"{row.execution_id}: {[(one.sequence, one.type, one.node_id) for one in rows]}"
    assert [one.sequence for one in rows] == list(range(1, len(rows) + 1)), f"G2 a gap: {told}"
    stored = await tenant.stored_execution(row.execution_id)
    assert stored is not None
    plan = await plans.get(row.tenant_id, row.workflow_id, row.workflow_version)
    history = [(decode_event(one.type, one.data), one.created_at) for one in rows]
    whole = fold(new_state(row.execution_id, plan), plan, history)
    assert encode_state(whole) == encode_state(fold_stored(stored, plan)), f"G3 another state: {told}"
    ends = [index for index, (event, _) in enumerate(history) if isinstance(event, ENDS)]
    assert ends == ([len(rows) - 1] if row.status in TERMINAL_STATUSES else []), f"G7 ends: {told}"
    seen.statuses[row.status] += 1
    seen.timers += _check_timers(history, told)
    seen.decisions += _check_visits(history, told)


def _check_visits(history: list[tuple[ev.Event, int]], told: str) -> int:
    completed: set[tuple[str, int]] = set()
    decided: set[tuple[str, int]] = set()
    for event, _ in history:
        if isinstance(event, ev.NodeStarted):
            assert (event.node_id, event.visit) not in completed, f"G4 started again: {told}"
        elif isinstance(event, ev.NodeCompleted):
            assert (event.node_id, event.visit) not in completed, f"G4 completed twice: {told}"
            completed.add((event.node_id, event.visit))
        elif isinstance(event, ev.ApprovalReceived):
            assert (event.node_id, event.visit) not in decided, f"G6 two decisions: {told}"
            decided.add((event.node_id, event.visit))
    return len(decided)


def _check_timers(history: list[tuple[ev.Event, int]], told: str) -> int:
    due: dict[tuple[str | None, int], int] = {}
    fired = 0
    for event, at in history:
        if isinstance(event, ev.TimerCreated):
            due[event.node_id, event.visit] = event.fire_at
        elif isinstance(event, ev.TimerFired) and event.node_id is not None:
            fire_at = due.pop((event.node_id, event.visit), None)
            assert fire_at is not None, f"G8 fired twice: {told}"
            assert at >= fire_at, f"G8 fired {fire_at - at} ms early: {told}"
            fired += 1
    return fired
