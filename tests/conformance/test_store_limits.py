"""Who may begin: status and limits of tenants, decided with the turn itself, on every store."""

import asyncio
from typing import Any

import msgspec
import pytest

from runtime.store import Outcome, Store, Turn
from runtime.store.port import Admission, TenantLimits, Usage, month_of
from tests.conformance.store_cases import Database, first_turn, next_turn, record

NOW = 1_700_000_000_000
MONTH = month_of(NOW)


def start(number: int, **changes: Any) -> Turn:
    """A start of tenant ``acme`` that must be let in."""
    changes = {"tenant_id": "acme", "admission": Admission.START, "updated_at": NOW, **changes}
    return first_turn(f"exec_{number}", created_at=changes.pop("created_at", number), **changes)


def queued(number: int, **changes: Any) -> Turn:
    """A start that waits for a slot."""
    return start(
        number,
        admission=Admission.QUEUE,
        owner=None,
        owner_epoch=0,
        status="queued",
        runnable=False,
        **changes,
    )


def dequeued(number: int, **changes: Any) -> Turn:
    values = {"tenant_id": "acme", "expected_epoch": 0, "admission": Admission.DEQUEUE, "updated_at": NOW}
    return next_turn(f"exec_{number}", 1, **(values | changes))


def ended(number: int) -> Turn:
    return next_turn(
        f"exec_{number}",
        1,
        tenant_id="acme",
        owner=None,
        status="completed",
        runnable=False,
        completed_at=NOW,
    )


async def limited(store: Store, **limits: Any) -> None:
    """Make ``acme``, or change its limits."""
    text = "{}" if not limits else _text(**limits)
    if await store.system.update_tenant("acme", limits=text) is None:
        await store.system.create_tenant("acme", "Acme", limits=text)


def _text(**limits: Any) -> str:
    return msgspec.json.encode(TenantLimits(**limits)).decode()


async def test_so_many_begin_and_no_more_until_one_has_ended(store: Store) -> None:
    await limited(store, max_concurrent_executions=2)

    outcomes = [await store.journal.commit(start(number)) for number in range(3)]
    assert outcomes == [Outcome.COMMITTED, Outcome.COMMITTED, Outcome.NO_SLOT]
    assert await store.tenant("acme").execution("exec_2") is None
    assert await store.tenant("acme").events("exec_2") == []

    assert await store.journal.commit(ended(0)) is Outcome.COMMITTED
    assert await store.journal.commit(start(3)) is Outcome.COMMITTED


async def test_a_group_of_starts_takes_no_more_slots_than_there_are(store: Store) -> None:
    await limited(store, max_concurrent_executions=3)

    outcomes = await asyncio.gather(*(store.journal.commit(start(number)) for number in range(40)))

    assert sorted(outcomes) == [Outcome.COMMITTED] * 3 + [Outcome.NO_SLOT] * 37
    use = await store.system.use_of("acme", MONTH)
    assert (use.executions, use.queued) == (3, 0)


async def test_many_processes_take_no_more_slots_than_there_are(database: Database) -> None:
    stores = [await database.open() for _ in range(4)]
    await limited(stores[0], max_concurrent_executions=5)

    turns = [stores[number % 4].journal.commit(start(number)) for number in range(80)]
    outcomes = await asyncio.gather(*turns)

    assert outcomes.count(Outcome.COMMITTED) == 5
    assert outcomes.count(Outcome.NO_SLOT) == 75


async def test_other_tenants_in_the_group_are_not_held_up(store: Store) -> None:
    await limited(store, max_concurrent_executions=0)

    turns = [start(0), start(1, tenant_id="default"), first_turn("exec_2")]
    outcomes = await asyncio.gather(*(store.journal.commit(turn) for turn in turns))

    assert outcomes == [Outcome.NO_SLOT, Outcome.COMMITTED, Outcome.COMMITTED]


async def test_who_waits_takes_no_slot_and_goes_first(store: Store) -> None:
    await limited(store, max_concurrent_executions=1)
    await store.journal.commit(start(0))
    assert await store.journal.commit(queued(1)) is Outcome.COMMITTED
    assert await store.journal.commit(queued(2)) is Outcome.COMMITTED
    assert await store.system.dequeue(limit=10) == []
    assert await store.journal.commit(dequeued(1)) is Outcome.NO_SLOT

    await store.journal.commit(ended(0))

    assert await store.journal.commit(start(3)) is Outcome.NO_SLOT, "it does not go before those that wait"
    found = await store.system.dequeue(limit=10)
    assert [(row.execution_id, row.reason) for row in found] == [("exec_1", "slot_free")]
    assert await store.system.dequeue("acme", limit=10) == found
    assert await store.system.dequeue("default", limit=10) == []
    assert await store.journal.commit(dequeued(1)) is Outcome.COMMITTED
    assert await store.journal.commit(dequeued(2)) is Outcome.NO_SLOT


async def test_without_its_limit_a_queue_is_let_in(store: Store) -> None:
    await limited(store, max_concurrent_executions=0)
    for number in range(3):
        await store.journal.commit(queued(number))

    await limited(store)

    assert [row.execution_id for row in await store.system.dequeue(limit=2)] == ["exec_0", "exec_1"]


async def test_what_waits_is_swept_for_no_other_reason(store: Store) -> None:
    await limited(store, max_concurrent_executions=0)
    await store.journal.commit(queued(0))

    assert await store.system.sweep(limit=10) == []
    assert (await store.system.load()).open["queued"] == 1


async def test_a_repeat_is_told_so_and_not_that_there_is_no_slot(store: Store) -> None:
    await limited(store, max_concurrent_executions=1)
    await store.journal.commit(start(0, idempotency=record()))

    assert await store.journal.commit(start(0, idempotency=record("key-2"))) is Outcome.FENCED
    assert await store.journal.commit(start(1, idempotency=record())) is Outcome.KEY_TAKEN
    assert await store.journal.commit(start(1, idempotency=record("key-2"))) is Outcome.NO_SLOT
    assert await store.tenant("acme").idempotency("key-2", "POST /executions") is None


@pytest.mark.parametrize("status", ["suspended", "archived"])
async def test_nothing_begins_in_a_tenant_that_is_not_active(store: Store, status: Any) -> None:
    await limited(store)
    await store.journal.commit(start(0))
    await store.system.update_tenant("acme", status=status)

    assert await store.journal.commit(start(1)) is Outcome.SUSPENDED
    assert await store.journal.commit(queued(2)) is Outcome.SUSPENDED
    resumed = next_turn("exec_0", 1, tenant_id="acme", admission=Admission.RESUME)
    assert await store.journal.commit(resumed) is Outcome.SUSPENDED
    assert await store.journal.commit(next_turn("exec_0", 1, tenant_id="acme")) is Outcome.COMMITTED


async def test_what_was_suspended_keeps_its_slot_and_is_swept_when_its_tenant_is_active(store: Store) -> None:
    await limited(store, max_concurrent_executions=1)
    await store.journal.commit(start(0))
    await store.system.update_tenant("acme", status="suspended")
    rest = {"tenant_id": "acme", "owner": None, "status": "suspended", "runnable": False}
    await store.journal.commit(next_turn("exec_0", 1, **rest))
    assert await store.system.sweep(limit=10) == []

    await store.system.update_tenant("acme", status="active")

    assert await store.journal.commit(start(1)) is Outcome.NO_SLOT
    assert [(row.execution_id, row.reason) for row in await store.system.sweep(limit=10)] == [
        ("exec_0", "resumed")
    ]
    resumed = next_turn("exec_0", 2, tenant_id="acme", admission=Admission.RESUME)
    assert await store.journal.commit(resumed) is Outcome.COMMITTED


@pytest.mark.parametrize(
    "limits", [{"max_tokens_per_month": 100}, {"max_cost_per_month_usd": 0.5}], ids=["tokens", "cost"]
)
async def test_starts_are_refused_when_the_month_is_used_up(store: Store, limits: Any) -> None:
    await limited(store, **limits)
    await store.journal.commit(start(0, usage=Usage(month=MONTH, tokens=60, cost_usd=0.25)))
    assert await store.journal.commit(start(1)) is Outcome.COMMITTED

    used = Usage(month=MONTH, tokens=40, cost_usd=0.25)
    await store.journal.commit(next_turn("exec_0", 1, tenant_id="acme", usage=used))

    assert await store.journal.commit(start(2)) is Outcome.SPENT
    assert await store.journal.commit(queued(3)) is Outcome.SPENT
    assert await store.journal.commit(start(4, tenant_id="default")) is Outcome.COMMITTED
    a_month_later = NOW + 31 * 24 * 3_600 * 1_000
    assert await store.journal.commit(start(5, updated_at=a_month_later)) is Outcome.COMMITTED


async def test_use_is_added_up_over_turns_groups_and_processes(database: Database) -> None:
    stores = [await database.open() for _ in range(2)]
    await limited(stores[0])
    used = Usage(month=MONTH, tokens=10, cost_usd=0.125)

    turns = [stores[number % 2].journal.commit(start(number, usage=used)) for number in range(20)]
    await asyncio.gather(*turns)
    fenced = next_turn("exec_0", 7, tenant_id="acme", usage=used)
    assert await stores[0].journal.commit(fenced) is Outcome.FENCED

    use = await stores[1].system.use_of("acme", MONTH)
    assert (use.tokens, use.cost_usd, use.executions) == (200, 2.5, 20)
    assert (await stores[1].system.use_of("acme", "1999-12")).tokens == 0


async def test_tenants_that_changed_are_told_in_order(store: Store) -> None:
    await limited(store)
    rows = await store.system.tenants_changed(0)
    assert {row.tenant_id for row in rows} == {"acme", "default"}
    assert await store.system.tenants_changed(max(row.updated_at for row in rows) + 1) == []
