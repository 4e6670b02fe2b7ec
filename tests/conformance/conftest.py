"""Stores of every kind. Each test has a database of its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime.store import Store
from tests.conformance.store_cases import Database, InMemory, Postgres, Sql, Sqlite
from tests.fixtures.api import api, bare_api, copied, prepared, prepared_postgres
from tests.fixtures.postgres import postgres_server, postgres_url

__all__ = ["api", "bare_api", "copied", "postgres_server", "postgres_url", "prepared", "prepared_postgres"]


def _database(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    if kind == "memory":
        return InMemory()
    if kind == "sqlite":
        return Sqlite(tmp_path / "runtime.db")
    return Postgres(request.getfixturevalue("postgres_url"))


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """A database of every kind in turn."""
    made = _database(request.param, request, tmp_path)
    yield made
    await made.close()


@pytest.fixture(params=["sqlite", "postgresql"])
async def sql_database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Sql]:
    """A durable database of every kind in turn."""
    made = _database(request.param, request, tmp_path)
    assert isinstance(made, Sql)
    yield made
    await made.close()


@pytest.fixture
async def store(database: Database) -> Store:
    """One store on ``database``."""
    return await database.open()
