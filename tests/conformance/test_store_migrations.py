"""The schema: made by the migrations, equal to the tables, and made once."""

import asyncio
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from runtime.errors import Unavailable
from runtime.store import Outcome, open_store
from runtime.store.migrations import HEAD, KNOWN, config
from runtime.store.postgres import PostgresDatabase
from runtime.store.sql import Database
from runtime.store.sqlite import SqliteDatabase
from runtime.store.tables import metadata
from tests.conformance.store_cases import Postgres, Sql, Sqlite, first_turn
from tests.fixtures.postgres import PostgresServer


def _database(found: Sql) -> Database:
    return SqliteDatabase(Path(found.url)) if isinstance(found, Sqlite) else PostgresDatabase(found.url)


async def test_migrations_make_the_tables_that_are_declared(sql_database: Sql) -> None:
    await sql_database.open()
    engine = _database(sql_database).engine()

    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


async def test_partial_indexes_are_as_declared(sql_database: Sql) -> None:
    """Autogenerate does not compare their conditions."""
    await sql_database.open()
    declared = {
        index.name for table in metadata.tables.values() for index in table.indexes if _is_partial(index)
    }
    if isinstance(sql_database, Sqlite):
        found = sql_database.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'index'")
    else:
        found = sql_database.execute("SELECT indexname, indexdef FROM pg_indexes")

    partial = {name: sql for name, sql in found if sql is not None and " WHERE " in sql}
    assert {name for name in partial if name.startswith("ix_")} == declared
    if isinstance(sql_database, Sqlite):
        for table in metadata.tables.values():
            for index in table.indexes:
                if _is_partial(index):
                    where = str(index.dialect_options["sqlite"]["where"])
                    assert partial[str(index.name)].endswith(f"WHERE {where}")


def _is_partial(index: object) -> bool:
    options = index.dialect_options  # type: ignore[attr-defined]
    return options["sqlite"]["where"] is not None


def test_every_revision_is_known() -> None:
    scripts = ScriptDirectory.from_config(config())

    assert scripts.get_current_head() == HEAD
    assert {script.revision for script in scripts.walk_revisions()} == set(KNOWN)


async def test_an_empty_database_is_migrated_by_one_of_many(
    sql_database: Sql, postgres_server: PostgresServer
) -> None:
    url = sql_database.url
    if not isinstance(sql_database, Sqlite):
        url = postgres_server.create_database(migrated=False)

    stores = await asyncio.gather(*(open_store(url) for _ in range(4)))

    outcomes = [await store.journal.commit(first_turn("exec_1")) for store in stores]
    assert outcomes == [Outcome.COMMITTED] + [Outcome.FENCED] * 3
    for store in stores:
        await store.close()
    if not isinstance(sql_database, Sqlite):
        postgres_server.drop_database(url)


async def test_opening_without_migrating_wants_the_newest_schema(tmp_path: Path) -> None:
    url = str(tmp_path / "runtime.db")
    with pytest.raises(Unavailable, match=f"revision None, this release needs '{HEAD}'"):
        await open_store(url, migrate=False)

    await (await open_store(url)).close()
    store = await open_store(url, migrate=False)
    await store.ping()
    await store.close()


@pytest.mark.parametrize("migrate", [True, False])
async def test_a_newer_releases_database_is_left_alone(sql_database: Sql, migrate: bool) -> None:
    await (await open_store(sql_database.url)).close()
    sql_database.execute("UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(Unavailable, match=r"'9999', of a newer release"):
        await open_store(sql_database.url, migrate=migrate)


async def test_whoever_had_tokens_or_workflows_before_tenants_were_rows_is_a_tenant(
    sql_database: Sql, postgres_server: PostgresServer
) -> None:
    old = sql_database
    if not isinstance(old, Sqlite):
        old = Postgres(postgres_server.create_database(migrated=False))
    _upgrade(_database(old), "0001")
    old.execute("INSERT INTO api_tokens VALUES ('t1', 'acme', 'ci', 'viewer', 'h1', 5, NULL, NULL)")
    old.execute("INSERT INTO workflows VALUES ('globex', 'w', '1', 1, 'd', '{}', '{}', 5)")

    store = await open_store(old.url)

    rows, _ = await store.system.tenants()
    assert [(row.tenant_id, row.status) for row in rows] == [
        ("acme", "active"),
        ("default", "active"),
        ("globex", "active"),
    ]
    found = await store.system.credential("h1")
    assert found is not None
    assert (found.token.name, found.token.last_used_at) == ("ci", None)
    await store.close()
    if old is not sql_database:
        postgres_server.drop_database(old.url)


def _upgrade(database: Database, revision: str) -> None:
    engine = database.engine()
    with engine.begin() as connection:
        configuration = config()
        configuration.attributes["connection"] = connection
        command.upgrade(configuration, revision)
    engine.dispose()
