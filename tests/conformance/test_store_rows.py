"""What is read: executions, workflows and tokens, tenant by tenant."""

import asyncio

import pytest

from runtime.errors import Conflict, NotFound, ValueRejected
from runtime.store import Credential, EventRow, InboxMessage, Outcome, Store, WorkflowRow
from tests.conformance.store_cases import (
    Database,
    Sql,
    events,
    first_turn,
    next_turn,
    record,
    token,
    workflow,
)

# --- executions -------------------------------------------------------------------------------------


async def test_stored_execution_is_snapshot_and_tail(store: Store) -> None:
    """G3: what is folded is the snapshot, and exactly the events after it."""
    await store.journal.commit(first_turn("exec_1", snapshot='{"at": 1}'))
    await store.journal.commit(next_turn("exec_1", 1, count=2, snapshot='{"at": 3}'))
    await store.journal.commit(next_turn("exec_1", 3, count=12))

    for stored in (
        await store.tenant("default").stored_execution("exec_1"),
        await store.system.stored_execution("exec_1"),
    ):
        assert stored is not None
        assert stored.row == await store.tenant("default").execution("exec_1")
        assert (stored.snapshot, stored.snapshot_sequence) == ('{"at": 3}', 3)
        assert stored.tail == events(4, 12)
        assert stored.inbox == ()


async def test_stored_execution_without_a_snapshot_is_the_whole_log(store: Store) -> None:
    await store.journal.commit(first_turn("exec_1", sequence=3, events=events(1, 3)))

    stored = await store.system.stored_execution("exec_1")

    assert stored is not None
    assert (stored.snapshot, stored.snapshot_sequence, stored.tail) == (None, 0, events(1, 3))


async def test_stored_execution_is_read_at_one_moment(sql_database: Sql) -> None:
    """Row, snapshot and tail fit each other, however fast the log grows meanwhile."""
    store = await sql_database.open()
    await store.journal.commit(first_turn("exec_1"))
    writing = asyncio.ensure_future(_grow(store, 150))

    while not writing.done():
        stored = await store.system.stored_execution("exec_1")
        assert stored is not None
        last = stored.tail[-1].sequence if stored.tail else stored.snapshot_sequence
        assert last == stored.row.sequence
        sequences = [event.sequence for event in stored.tail]
        assert sequences == list(range(stored.snapshot_sequence + 1, stored.row.sequence + 1))
    await writing


async def _grow(store: Store, turns: int) -> None:
    for after in range(1, turns):
        snapshot = "{}" if after % 7 == 0 else None
        outcome = await store.journal.commit(next_turn("exec_1", after, snapshot=snapshot))
        assert outcome is Outcome.COMMITTED


async def test_events_are_read_by_pages(store: Store) -> None:
    await store.journal.commit(first_turn("exec_1", sequence=9, events=events(1, 9)))
    tenant = store.tenant("default")

    assert await tenant.events("exec_1") == list(events(1, 9))
    assert await tenant.events("exec_1", after=7) == list(events(8, 2))
    assert await tenant.events("exec_1", after=2, limit=3) == list(events(3, 3))
    assert await tenant.events("exec_1", after=9) == []
    assert await tenant.events("exec_2") == []


async def test_an_event_may_have_no_node(store: Store) -> None:
    started = EventRow(1, "WorkflowStarted", None, '{"input": {}}', 5)
    await store.journal.commit(first_turn("exec_1", events=(started,)))

    assert await store.tenant("default").events("exec_1") == [started]


async def test_executions_are_listed_newest_first(store: Store) -> None:
    for number, created_at in enumerate((30, 10, 20, 20, 40)):
        await store.journal.commit(first_turn(f"exec_{number}", created_at=created_at))
    tenant = store.tenant("default")

    rows, total = await tenant.executions()
    assert [row.execution_id for row in rows] == ["exec_4", "exec_0", "exec_3", "exec_2", "exec_1"]
    assert total == 5
    rows, total = await tenant.executions(limit=2, offset=1)
    assert [row.execution_id for row in rows] == ["exec_0", "exec_3"]
    assert total == 5
    assert await tenant.executions(limit=10, offset=5) == ([], 5)
    assert await tenant.executions(limit=0) == ([], 5)


async def test_ids_sort_by_byte(store: Store) -> None:
    for name in ("exec_b", "exec_B", "exec_a", "exec_é", "exec_-"):
        await store.journal.commit(first_turn(name))

    rows, _ = await store.tenant("default").executions()

    assert [row.execution_id for row in rows] == ["exec_é", "exec_b", "exec_a", "exec_B", "exec_-"]


async def test_executions_are_filtered(store: Store) -> None:
    for number, status in enumerate(("running", "paused", "completed", "failed", "completed")):
        workflow_id = "greet" if number % 2 else "other"
        turn = first_turn(f"exec_{number}", created_at=number, status=status, workflow_id=workflow_id)
        await store.journal.commit(turn)
    tenant = store.tenant("default")

    async def listed(**filters: object) -> tuple[list[int], int]:
        rows, total = await tenant.executions(**filters)  # type: ignore[arg-type]
        return [row.created_at for row in rows], total

    assert await listed(statuses=("completed",)) == ([4, 2], 2)
    assert await listed(statuses=("completed", "running", "completed")) == ([4, 2, 0], 3)
    assert await listed(statuses=("cancelled",)) == ([], 0)
    assert await listed(statuses=()) == ([], 0)
    assert await listed(workflow_id="greet") == ([3, 1], 2)
    assert await listed(workflow_id="greet", statuses=("failed", "running")) == ([3], 1)
    assert await listed(statuses=("completed",), limit=1, offset=1) == ([2], 2)


# --- tenants ----------------------------------------------------------------------------------------


async def test_two_tenants_never_see_each_other(store: Store) -> None:
    """G9: every read of one tenant is blind to the other's rows."""
    message = InboxMessage(execution_id="exec_1", message_id="m1", body="{}")
    await store.journal.commit(first_turn("exec_1", tenant_id="a", idempotency=record(), snapshot="{}"))
    await store.tenant("a").register_workflow(workflow())
    await store.system.create_tenant("a", "A")
    await store.tenant("a").create_token(token("t1", "a"))
    await store.send("b", message)
    other = store.tenant("b")

    assert await other.execution("exec_1") is None
    assert await other.stored_execution("exec_1") is None
    assert await other.events("exec_1") == []
    assert await other.executions() == ([], 0)
    assert await other.executions(statuses=("running",), workflow_id="greet") == ([], 0)
    assert await other.idempotency("key-1", "POST /executions") is None
    assert await other.workflow("greet") is None
    assert await other.workflow("greet", "1.0.0") is None
    assert await other.workflows() == ([], 0)
    assert await other.tokens() == []
    assert await other.revoke_token("t1") is False
    stored = await store.tenant("a").stored_execution("exec_1")
    assert stored is not None
    assert stored.inbox == (), "another tenant's message is not read"
    assert await store.system.workflow("b", "greet", "1.0.0") is None


# --- workflows --------------------------------------------------------------------------------------


async def test_a_workflow_is_registered_once(store: Store) -> None:
    tenant = store.tenant("default")
    row = workflow()

    assert await tenant.register_workflow(row) == row
    later = WorkflowRow(workflow_id="greet", version="1.0.0", digest="d1", ir="{}", graph="{}", created_at=99)
    assert await tenant.register_workflow(later) == row
    assert await tenant.workflow("greet", "1.0.0") == row
    assert await store.system.workflow("default", "greet", "1.0.0") == row
    assert (await tenant.workflows())[1] == 1


async def test_a_version_with_another_content_is_a_conflict(store: Store) -> None:
    tenant = store.tenant("default")
    await tenant.register_workflow(workflow())

    with pytest.raises(Conflict, match=r"'greet' version '1\.0\.0'"):
        await tenant.register_workflow(workflow(digest="d2"))
    assert await tenant.workflow("greet", "1.0.0") == workflow()


async def test_the_latest_workflow_is_the_last_registered(store: Store) -> None:
    """Not the highest version, nor the one with the newest clock."""
    tenant = store.tenant("default")
    for version in ("2.0.0", "10.0.0", "1.0.0"):
        await tenant.register_workflow(workflow(version=version, digest=version))
    await tenant.register_workflow(workflow("zebra", "7"))
    await tenant.register_workflow(workflow(version="2.0.0", digest="2.0.0"))

    latest = await tenant.workflow("greet")

    assert latest is not None
    assert latest.version == "1.0.0"
    assert await tenant.workflow("unknown") is None
    assert await tenant.workflow("greet", "3.0.0") is None


async def test_workflows_are_listed_by_registration_without_content(store: Store) -> None:
    tenant = store.tenant("default")
    for number in range(4):
        await tenant.register_workflow(workflow(f"w{number % 2}", str(number)))

    rows, total = await tenant.workflows(limit=3)
    assert [(row.workflow_id, row.version) for row in rows] == [("w1", "3"), ("w0", "2"), ("w1", "1")]
    assert {(row.ir, row.graph) for row in rows} == {("", "")}
    assert total == 4
    rows, total = await tenant.workflows(workflow_id="w0", offset=1)
    assert [row.version for row in rows] == ["0"]
    assert total == 2


async def test_registrations_from_two_stores_at_once_all_count(database: Database) -> None:
    stores = [await database.open(), await database.open()]

    await asyncio.gather(
        *(
            store.tenant("default").register_workflow(workflow("greet", f"{side}.{number}"))
            for number in range(25)
            for side, store in enumerate(stores)
        )
    )

    rows, total = await stores[0].tenant("default").workflows(limit=100)
    assert total == len({row.version for row in rows}) == 50


async def test_a_workflow_with_a_value_that_not_every_database_holds_is_refused(store: Store) -> None:
    with pytest.raises(ValueRejected, match=r"U\+0000"):
        await store.tenant("default").register_workflow(workflow("greet\x00"))


# --- tokens -----------------------------------------------------------------------------------------


async def test_a_token_is_found_by_its_hash(store: Store) -> None:
    kept = token("t1", expires_at=77)
    await store.tenant("default").create_token(kept)

    tenant = await store.system.tenant_row("default")
    assert tenant is not None
    assert await store.system.credential("hash of t1") == Credential(token=kept, tenant=tenant)
    assert await store.system.credential("hash of t2") is None
    assert await store.tenant("default").tokens() == [kept]


async def test_tokens_are_listed_in_order_of_making(store: Store) -> None:
    tenant = store.tenant("default")
    for name, created_at in (("b", 2), ("c", 1), ("a", 2)):
        await tenant.create_token(token(name, created_at=created_at))

    assert [row.id for row in await tenant.tokens()] == ["c", "a", "b"]


@pytest.mark.parametrize("name", ["t1", "name of t1"])
async def test_a_revoked_token_is_kept_and_marked(store: Store, name: str) -> None:
    tenant = store.tenant("default")
    await tenant.create_token(token("t1", expires_at=77))
    await tenant.create_token(token("t2"))

    assert await tenant.revoke_token(name) is True
    assert await tenant.revoke_token(name) is False
    assert await tenant.revoke_token("unknown") is False

    [revoked, live] = await tenant.tokens()
    assert revoked.expires_at == 77
    now = await store.system.now()
    assert revoked.revoked_at is not None
    assert now - 60_000 <= revoked.revoked_at <= now
    assert live.revoked_at is None


@pytest.mark.parametrize(
    "changes", [{"token_hash": "other"}, {"token_id": "other"}], ids=["same-id", "same-hash"]
)
async def test_a_token_is_made_once(store: Store, changes: dict[str, str]) -> None:
    await store.tenant("default").create_token(token("t1"))

    with pytest.raises(Conflict):
        await store.tenant("default").create_token(
            token(**{"token_id": "t1", "token_hash": "hash of t1"} | changes)
        )
    assert len(await store.tenant("default").tokens()) == 1


async def test_a_token_of_another_tenant_is_not_made(store: Store) -> None:
    with pytest.raises(ValueError, match="belongs to 'other'"):
        await store.tenant("default").create_token(token("t1", "other"))


async def test_a_token_of_no_tenant_is_not_made(store: Store) -> None:
    with pytest.raises(NotFound, match="tenant other"):
        await store.tenant("other").create_token(token("t1", "other"))


async def test_the_last_use_of_tokens_is_dated_by_the_database(store: Store) -> None:
    tenant = store.tenant("default")
    for name in ("t1", "t2", "t3"):
        await tenant.create_token(token(name))

    await store.system.mark_tokens_used(("t3", "t1", "unknown"))

    used = {row.id: row.last_used_at for row in await tenant.tokens()}
    now = await store.system.now()
    assert used["t2"] is None
    assert all(now - 60_000 <= (used[name] or 0) <= now for name in ("t1", "t3"))
