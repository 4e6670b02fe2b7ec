"""Tenants: made once, changed field by field, and held to their limits."""

import asyncio

import pytest

from runtime.errors import Conflict, LimitReached, ValueRejected
from runtime.store import Store
from tests.conformance.store_cases import Database, Sql, token, workflow


async def test_the_default_tenant_is_there_from_the_start(store: Store) -> None:
    rows, total = await store.system.tenants()

    assert total == 1
    [row] = rows
    assert (row.tenant_id, row.name, row.status) == ("default", "default", "active")
    assert (row.policy, row.limits) == ("{}", "{}")
    now = await store.system.now()
    assert now - 3_600_000 <= row.created_at == row.updated_at <= now


async def test_a_tenant_is_made_active_and_found(store: Store) -> None:
    made = await store.system.create_tenant("acme", "Acme Corp", limits='{"max_workflows": 2}')

    assert (made.name, made.status, made.limits) == ("Acme Corp", "active", '{"max_workflows": 2}')
    assert await store.system.tenant_row("acme") == made
    assert await store.system.tenant_row("ACME") is None


@pytest.mark.parametrize("tenant_id", ["acme", "default"])
async def test_a_second_tenant_of_one_id_is_a_conflict(store: Store, tenant_id: str) -> None:
    if tenant_id != "default":
        await store.system.create_tenant(tenant_id, "the first")
    kept = await store.system.tenant_row(tenant_id)

    with pytest.raises(Conflict, match=f"tenant '{tenant_id}' exists already"):
        await store.system.create_tenant(tenant_id, "the second")
    assert await store.system.tenant_row(tenant_id) == kept


async def test_of_many_who_make_one_tenant_one_does(database: Database) -> None:
    stores = [await database.open() for _ in range(3)]

    made = await asyncio.gather(
        *(store.system.create_tenant("acme", f"by {number}") for number, store in enumerate(stores)),
        return_exceptions=True,
    )

    assert sum(isinstance(one, Conflict) for one in made) == 2


async def test_tenants_are_listed_by_id_and_by_pages(store: Store) -> None:
    for tenant_id in ("b", "Z", "a"):
        await store.system.create_tenant(tenant_id, tenant_id)

    rows, total = await store.system.tenants()
    assert ([row.tenant_id for row in rows], total) == (["Z", "a", "b", "default"], 4)
    rows, total = await store.system.tenants(limit=2, offset=1)
    assert ([row.tenant_id for row in rows], total) == (["a", "b"], 4)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "Other"),
        ("status", "suspended"),
        ("policy", '{"a": 1}'),
        ("limits", '{"max_workflows": 1}'),
    ],
)
async def test_a_change_changes_what_is_given_and_nothing_else(
    database: Database, field: str, value: str
) -> None:
    store = await database.open()
    before = await store.system.create_tenant("acme", "Acme")
    await database.pass_time(5_000)

    after = await store.system.update_tenant("acme", **{field: value})  # type: ignore[arg-type]

    assert after == await store.system.tenant_row("acme")
    assert after is not None
    changed = {name for name in before.__struct_fields__ if getattr(after, name) != getattr(before, name)} - {
        "updated_at",
        "created_at",
    }
    assert changed == {field}
    assert getattr(after, field) == value
    assert after.updated_at >= after.created_at + 5_000
    default = await store.system.tenant_row("default")
    assert default is not None
    assert default.name == "default"


async def test_a_change_of_an_unknown_tenant_is_none(store: Store) -> None:
    assert await store.system.update_tenant("acme", name="x") is None
    assert await store.system.tenant_row("acme") is None


@pytest.mark.parametrize("text", ["a\x00b", "a\ud800b"])
async def test_a_text_that_not_every_database_holds_is_refused(store: Store, text: str) -> None:
    with pytest.raises(ValueRejected):
        await store.system.create_tenant("acme", text)
    with pytest.raises(ValueRejected):
        await store.system.update_tenant("default", name=text)
    assert await store.system.tenant_row(text) is None


async def test_a_credential_says_how_its_tenant_stands(store: Store) -> None:
    await store.system.create_tenant("acme", "Acme")
    await store.tenant("acme").create_token(token("t1", "acme"))

    for status in ("suspended", "archived", "active"):
        await store.system.update_tenant("acme", status=status)  # type: ignore[arg-type]
        found = await store.system.credential("hash of t1")
        assert found is not None
        assert (found.token, found.tenant.status) == (token("t1", "acme"), status)


# --- limits -----------------------------------------------------------------------------------------


async def test_max_workflows_counts_ids_and_not_versions(store: Store) -> None:
    await store.system.create_tenant("acme", "Acme", limits='{"max_workflows": 2}')
    tenant = store.tenant("acme")
    for name, version in (("a", "1"), ("a", "2"), ("b", "1")):
        await tenant.register_workflow(workflow(name, version))

    with pytest.raises(LimitReached, match="'acme' has reached max_workflows, which is 2"):
        await tenant.register_workflow(workflow("c"))
    await tenant.register_workflow(workflow("b", "2"))
    await tenant.register_workflow(workflow("a", "1"))
    assert (await tenant.workflows())[1] == 4


async def test_max_workflows_is_one_tenants(store: Store) -> None:
    await store.system.create_tenant("acme", "Acme", limits='{"max_workflows": 0}')
    await store.tenant("default").register_workflow(workflow("a"))

    with pytest.raises(LimitReached) as refused:
        await store.tenant("acme").register_workflow(workflow("a"))
    assert refused.value.fields == {"limit": "max_workflows", "retry_after_s": 60}


async def test_a_limit_below_what_is_there_takes_nothing_away(store: Store) -> None:
    tenant = store.tenant("default")
    for name in ("a", "b"):
        await tenant.register_workflow(workflow(name))
    await store.system.update_tenant("default", limits='{"max_workflows": 1}')

    with pytest.raises(LimitReached):
        await tenant.register_workflow(workflow("c"))
    await tenant.register_workflow(workflow("a", "2"))
    await store.system.update_tenant("default", limits="{}")
    await tenant.register_workflow(workflow("c"))


async def test_registrations_from_two_stores_at_once_hold_the_limit(sql_database: Sql) -> None:
    stores = [await sql_database.open(), await sql_database.open()]
    await stores[0].system.update_tenant("default", limits='{"max_workflows": 5}')

    done = await asyncio.gather(
        *(
            store.tenant("default").register_workflow(workflow(f"w{side}-{number}"))
            for number in range(10)
            for side, store in enumerate(stores)
        ),
        return_exceptions=True,
    )

    assert sum(isinstance(one, LimitReached) for one in done) == 15
    assert (await stores[0].tenant("default").workflows())[1] == 5
