"""Turns: the fence, groups, Idempotency-Keys, and the values that are refused."""

import asyncio
from typing import Any

import pytest

from runtime.errors import Unavailable, ValueRejected
from runtime.store import EventRow, Fence, InboxMessage, Outcome, Store, open_store
from tests.conformance.store_cases import Database, Sql, events, first_turn, next_turn, record, workflow


async def test_a_first_turn_makes_the_execution(store: Store) -> None:
    turn = first_turn("exec_1", resources='{"num_gpus":1}', wake_at=7, steps=2, error="e", completed_at=9)

    assert await store.journal.commit(turn) is Outcome.COMMITTED

    row = await store.tenant("default").execution("exec_1")
    assert row is not None
    assert (row.workflow_id, row.workflow_version, row.isolation) == ("greet", "1.0.0", "shared")
    assert (row.resources, row.wake_at, row.steps, row.error) == ('{"num_gpus":1}', 7, 2, "e")
    assert (row.created_at, row.updated_at, row.completed_at) == (1_000, 1_000, 9)
    assert (row.status, row.runnable, row.owner) == ("running", True, "actor#1")
    assert await store.system.fence("exec_1") == Fence("actor#1", 1, 1)
    assert await store.tenant("default").events("exec_1") == list(events(1))


async def test_a_first_turn_commits_once(store: Store) -> None:
    await store.journal.commit(first_turn("exec_1"))

    assert await store.journal.commit(first_turn("exec_1", owner="actor#2")) is Outcome.FENCED
    assert await store.system.fence("exec_1") == Fence("actor#1", 1, 1)


async def test_a_turn_moves_the_row(store: Store) -> None:
    await store.journal.commit(first_turn("exec_1"))
    turn = next_turn(
        "exec_1", 1, count=2, owner=None, owner_epoch=2, status="paused", runnable=False, wake_at=77, steps=1
    )

    assert await store.journal.commit(turn) is Outcome.COMMITTED

    row = await store.tenant("default").execution("exec_1")
    assert row is not None
    assert (row.owner, row.owner_epoch, row.sequence) == (None, 2, 3)
    assert (row.status, row.runnable, row.wake_at, row.steps) == ("paused", False, 77, 1)
    assert (row.created_at, row.updated_at) == (1_000, 2_000)
    assert [event.sequence for event in await store.tenant("default").events("exec_1")] == [1, 2, 3]


@pytest.mark.parametrize(
    "changes",
    [
        {"expected_epoch": 2},
        {"expected_epoch": 0},
        {"expected_sequence": 0},
        {"expected_sequence": 2},
        {"tenant_id": "other"},
        {"execution_id": "exec_unknown"},
    ],
    ids=lambda changes: "-".join(f"{name}={value}" for name, value in changes.items()),
)
async def test_a_turn_past_the_fence_contributes_nothing(store: Store, changes: dict[str, Any]) -> None:
    await store.journal.commit(first_turn("exec_1"))
    named: dict[str, Any] = {"execution_id": "exec_1", "after": 1, "owner": "actor#2"}
    turn = next_turn(
        **named | changes,
        snapshot="{}",
        idempotency=record(),
        inbox_sent=(InboxMessage(execution_id="exec_1", message_id="m1", body="{}"),),
    )

    assert await store.journal.commit(turn) is Outcome.FENCED

    stored = await store.system.stored_execution("exec_1")
    assert stored is not None
    assert (stored.row.owner, stored.row.sequence, stored.snapshot) == ("actor#1", 1, None)
    assert stored.tail == events(1)
    assert stored.inbox == ()
    for tenant_id in ("default", "other"):
        assert await store.tenant(tenant_id).idempotency("key-1", "POST /executions") is None


async def test_of_two_stores_one_passes_the_fence(database: Database) -> None:
    """G2: no two writers can fork an execution's log."""
    stores = [await database.open(), await database.open()]
    await stores[0].journal.commit(first_turn("exec_1"))

    for after in range(1, 101):
        turns = [next_turn("exec_1", after, owner=f"actor#{number}") for number in (1, 2)]
        outcomes = await asyncio.gather(
            *(store.journal.commit(turn) for store, turn in zip(stores, turns, strict=True))
        )
        assert sorted(outcomes) == [Outcome.COMMITTED, Outcome.FENCED]
        winner = turns[outcomes.index(Outcome.COMMITTED)]
        assert await stores[after % 2].system.fence("exec_1") == Fence(winner.owner, 1, after + 1)
    sequences = [event.sequence for event in await stores[0].tenant("default").events("exec_1")]
    assert sequences == list(range(1, 102))


async def test_of_two_stores_one_starts_an_execution(database: Database) -> None:
    stores = [await database.open(), await database.open()]

    for number in range(50):
        turn = first_turn(f"exec_{number}", idempotency=record(f"key-{number}"))
        outcomes = await asyncio.gather(*(store.journal.commit(turn) for store in stores))
        assert outcomes.count(Outcome.COMMITTED) == 1, outcomes
        assert await stores[0].tenant("default").idempotency(f"key-{number}", "POST /executions")


async def test_of_two_executions_one_takes_a_key(database: Database) -> None:
    stores = [await database.open(), await database.open()]

    for number in range(50):
        turns = [
            first_turn(f"exec_{number}_{side}", idempotency=record(f"key-{number}")) for side in ("a", "b")
        ]
        outcomes = await asyncio.gather(
            *(store.journal.commit(turn) for store, turn in zip(stores, turns, strict=True))
        )
        assert sorted(outcomes) == [Outcome.COMMITTED, Outcome.KEY_TAKEN]
    _, total = await stores[0].tenant("default").executions()
    assert total == 50


async def test_many_turns_at_once_keep_their_own_outcomes(store: Store) -> None:
    await asyncio.gather(*(store.journal.commit(first_turn(f"exec_{n:03}")) for n in range(300)))
    turns = [next_turn(f"exec_{n:03}", 1 if n % 3 else 9, idempotency=record(f"k{n}")) for n in range(300)]

    outcomes = await asyncio.gather(*(store.journal.commit(turn) for turn in turns))

    assert outcomes == [Outcome.COMMITTED if n % 3 else Outcome.FENCED for n in range(300)]
    _, total = await store.tenant("default").executions()
    assert total == 300
    for number in (0, 1, 298, 299):
        found = await store.tenant("default").events(f"exec_{number:03}")
        assert [event.sequence for event in found] == ([1, 2] if number % 3 else [1])
        kept = await store.tenant("default").idempotency(f"k{number}", "POST /executions")
        assert (kept is not None) == bool(number % 3)


async def test_turns_of_one_execution_sent_together_commit_in_order(store: Store) -> None:
    turns = [first_turn("exec_1"), *(next_turn("exec_1", after) for after in range(1, 20))]

    outcomes = await asyncio.gather(*(store.journal.commit(turn) for turn in turns))

    assert set(outcomes) == {Outcome.COMMITTED}
    assert await store.system.fence("exec_1") == Fence("actor#1", 1, 20)


async def test_a_member_that_the_database_refuses_leaves_the_others(store: Store) -> None:
    """An event's sequence that is taken already breaks its own turn, not the group."""
    good = [store.journal.commit(first_turn(f"exec_good_{number}")) for number in range(20)]
    twice = (*events(1), EventRow(1, "NodeFailed", None, "{}", 1))
    bad = store.journal.commit(first_turn("exec_bad", events=twice))

    outcomes = await asyncio.gather(*good[:10], bad, *good[10:], return_exceptions=True)

    assert isinstance(outcomes.pop(10), ValueRejected)
    assert outcomes == [Outcome.COMMITTED] * 20
    assert await store.system.fence("exec_bad") is None
    _, total = await store.tenant("default").executions()
    assert total == 20


@pytest.mark.parametrize(
    "changes",
    [
        {"events": (EventRow(1, "NodeCompleted", "n", "a\x00b", 1),)},
        {"events": (EventRow(1, "NodeCompleted", "n\x00", "{}", 1),)},
        {"events": (EventRow(1, "NodeCompleted", "n", "\ud800", 1),)},
        {"snapshot": "\x00"},
        {"error": "\udfff"},
        {"wake_at": 2**63},
        {"workflow_id": "a\x00"},
        {"idempotency": record("key\x00")},
        {"idempotency": record(body="\ud800")},
        {"inbox_sent": (InboxMessage(execution_id="e", message_id="m", body="\x00"),)},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_a_value_that_not_every_database_holds_is_refused(
    store: Store, changes: dict[str, Any]
) -> None:
    with pytest.raises(ValueRejected):
        await store.journal.commit(first_turn("exec_1", **changes))
    assert await store.system.fence("exec_1") is None


async def test_text_of_every_plane_is_kept(store: Store) -> None:
    data = '{"text": "\\u0000 in an escape, \\"quoted\\", \U0001f600 é 中 \u2028 \x1f"}'
    await store.journal.commit(first_turn("exec_1", events=events(1, data=data), snapshot=None))
    await store.journal.commit(next_turn("exec_1", 1, events=events(2, data=data), snapshot=data))
    await store.journal.commit(next_turn("exec_1", 2, events=events(3, data=data)))

    stored = await store.system.stored_execution("exec_1")

    assert stored is not None
    assert stored.snapshot == data
    assert [event.data for event in stored.tail] == [data]
    assert [event.data for event in await store.tenant("default").events("exec_1")] == [data] * 3


@pytest.mark.parametrize("name", ["a\x00b", "\ud800", "", "' OR 1=1 --", "%s"])
async def test_a_name_that_no_row_can_have_is_unknown(store: Store, name: str) -> None:
    await store.journal.commit(first_turn("exec_1"))
    tenant = store.tenant("default")

    assert await tenant.execution(name) is None
    assert await tenant.stored_execution(name) is None
    assert await tenant.events(name) == []
    assert await tenant.idempotency(name, name) is None
    assert await tenant.workflow(name) is None
    assert await tenant.executions(workflow_id=name) == ([], 0)
    assert await tenant.workflows(workflow_id=name) == ([], 0)
    assert await store.system.credential(name) is None
    assert await store.system.fence(name) is None


async def test_a_key_is_taken_until_it_expires(database: Database) -> None:
    store = await database.open()
    now = await store.system.now()
    kept = record(expires_at=now + 60_000)
    assert await store.journal.commit(first_turn("exec_1", idempotency=kept)) is Outcome.COMMITTED
    tenant = store.tenant("default")

    assert await tenant.idempotency("key-1", "POST /executions") == kept
    again = first_turn("exec_2", idempotency=record(fingerprint="other", expires_at=now + 120_000))
    assert await store.journal.commit(again) is Outcome.KEY_TAKEN
    assert await tenant.execution("exec_2") is None
    assert await tenant.idempotency("key-1", "POST /executions") == kept

    await database.pass_time(60_001)
    assert await tenant.idempotency("key-1", "POST /executions") is None
    assert await store.journal.commit(again) is Outcome.COMMITTED
    replaced = await tenant.idempotency("key-1", "POST /executions")
    assert replaced is not None
    assert replaced.fingerprint == "other"


async def test_a_key_belongs_to_its_tenant_and_route(store: Store) -> None:
    turns = [
        first_turn("exec_1", idempotency=record()),
        first_turn("exec_2", idempotency=record(route="POST /other")),
        first_turn("exec_3", idempotency=record(), tenant_id="other"),
        first_turn("exec_4", idempotency=record()),
    ]

    outcomes = [await store.journal.commit(turn) for turn in turns]

    assert outcomes == [Outcome.COMMITTED] * 3 + [Outcome.KEY_TAKEN]


async def test_a_taken_key_comes_before_the_fence(store: Store) -> None:
    """A repeated request is answered from the record, whatever its execution did since."""
    await store.journal.commit(first_turn("exec_1", idempotency=record()))

    assert await store.journal.commit(first_turn("exec_1", idempotency=record())) is Outcome.KEY_TAKEN
    assert await store.journal.commit(next_turn("exec_1", 9, idempotency=record())) is Outcome.KEY_TAKEN


async def test_keys_in_one_group_exclude_each_other(store: Store) -> None:
    turns = [first_turn(f"exec_{number}", idempotency=record()) for number in range(10)]

    outcomes = await asyncio.gather(*(store.journal.commit(turn) for turn in turns))

    assert sorted(outcomes) == [Outcome.COMMITTED] + [Outcome.KEY_TAKEN] * 9


async def test_a_closed_store_refuses(store: Store) -> None:
    await store.close()

    with pytest.raises(Unavailable, match="closed"):
        await store.journal.commit(first_turn("exec_1"))
    with pytest.raises(Unavailable, match="closed"):
        await store.system.now()
    with pytest.raises(Unavailable, match="closed"):
        await store.tenant("default").register_workflow(workflow())


async def test_closing_commits_what_waits(sql_database: Sql) -> None:
    store = await sql_database.open()
    waiting = [asyncio.ensure_future(store.journal.commit(first_turn(f"exec_{n}"))) for n in range(50)]
    await asyncio.sleep(0)

    await store.close()

    assert await asyncio.gather(*waiting) == [Outcome.COMMITTED] * 50
    reopened = await open_store(sql_database.url)
    assert (await reopened.tenant("default").executions())[1] == 50
    await reopened.close()


async def test_a_caller_that_gives_up_does_not_undo_its_turn(sql_database: Sql) -> None:
    store = await sql_database.open()
    caller = asyncio.ensure_future(store.journal.commit(first_turn("exec_1")))
    await asyncio.sleep(0)
    caller.cancel()

    with pytest.raises(asyncio.CancelledError):
        await caller
    assert await store.journal.commit(next_turn("exec_1", 1)) is Outcome.COMMITTED
