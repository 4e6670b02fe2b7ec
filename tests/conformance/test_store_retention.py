"""Retention: what has ended long ago goes, whole, and nothing else."""

from actors.retention import DAY_MS, retain
from actors.tenants import Tenants
from runtime.audit.seals import SigningKey
from runtime.store import InboxMessage, Store
from tests.conformance.store_cases import Database, first_turn, next_turn
from tests.conformance.test_store_audit import audited, entry, report_of

KEY = SigningKey.generate()


async def end(store: Store, execution_id: str, at: int, tenant_id: str = "default") -> None:
    turn = first_turn(execution_id, tenant_id=tenant_id, created_at=at, snapshot="{}")
    await store.journal.commit(audited(turn, entry(1, created_at=at)))
    done = {"status": "completed", "owner": None, "runnable": False, "completed_at": at, "updated_at": at}
    await store.journal.commit(next_turn(execution_id, 1, tenant_id=tenant_id, **done))


async def test_what_ended_before_goes_with_all_its_rows(store: Store) -> None:
    now = await store.system.now()
    await end(store, "exec_old", now - 10 * DAY_MS)
    await end(store, "exec_new", now - 1 * DAY_MS)
    await store.journal.commit(first_turn("exec_open", created_at=now - 20 * DAY_MS))
    await end(store, "exec_theirs", now - 10 * DAY_MS, "acme")
    await store.send("default", InboxMessage(execution_id="exec_old", message_id="m", body="{}"))

    assert await store.system.prune_executions("default", before=now - 5 * DAY_MS) == 1
    assert await store.system.prune_executions("default", before=now - 5 * DAY_MS) == 0

    default, acme = store.tenant("default"), store.tenant("acme")
    assert {row.execution_id for row in (await default.executions())[0]} == {"exec_new", "exec_open"}
    assert (await acme.executions())[1] == 1
    assert await default.events("exec_old") == []
    assert await store.system.stored_execution("exec_old") is None
    (row,), _ = await default.audit(event_type="executions_pruned")
    assert row.details is not None
    assert '"count":1' in row.details


async def test_each_tenant_forgets_by_its_own_policy(database: Database) -> None:
    """Only the beginnings of chains go, so what is old here is another process's."""
    store, system = await database.open(), (await database.open()).system
    now = await system.now()
    for tenant_id, policy in (("acme", '{"data_policy":{"retention_days":5}}'), ("globex", "{}")):
        await system.create_tenant(tenant_id, tenant_id, policy=policy)
        await end(store, f"exec_{tenant_id}", now - 10 * DAY_MS, tenant_id)
    await system.seal_audit(KEY)
    tenants = Tenants()
    await tenants.refresh(system)

    await retain(system, tenants, KEY)
    await retain(system, tenants, KEY)

    assert (await store.tenant("acme").executions())[1] == 0
    assert (await store.tenant("globex").executions())[1] == 1
    assert (await store.tenant("acme").audit(event_type="node_completed"))[1] == 0
    assert (await store.tenant("globex").audit(event_type="node_completed"))[1] == 1
    for tenant_id in ("acme", "globex"):
        assert (await report_of(store, tenant_id, KEY)).problem is None
