"""What the store tests are made of: databases of every kind, and turns."""

import asyncio
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from runtime.store import (
    EventRow,
    ExecutorRow,
    IdempotencyRecord,
    NewExecution,
    Store,
    TokenRow,
    Turn,
    WorkflowRow,
    open_store,
)
from runtime.store.memory import MemoryDatabase, MemoryStore

FAR = 2**50
"""A time that never comes."""

_SHIFTED = {
    "executors": ("started_at", "heartbeat_at", "dead_at"),
    "idempotency": ("expires_at",),
    "inbox": ("created_at", "consumed_at"),
    "executions": ("wake_at",),
    "tenants": ("created_at", "updated_at"),
}


class Database(ABC):
    """One database, which any number of stores may open."""

    def __init__(self) -> None:
        self._stores: list[Store] = []

    async def open(self) -> Store:
        """Another store on it, as another process would have."""
        store = await self._open()
        self._stores.append(store)
        return store

    async def close(self) -> None:
        for store in self._stores:
            await store.close()

    @abstractmethod
    async def _open(self) -> Store: ...

    @abstractmethod
    async def pass_time(self, ms: int) -> None:
        """What was written so far becomes ``ms`` older."""


class InMemory(Database):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1_700_000_000_000
        self.rows = MemoryDatabase(lambda: self.now)

    async def _open(self) -> Store:
        return MemoryStore(lambda: self.now, database=self.rows)

    async def pass_time(self, ms: int) -> None:
        self.now += ms


class Sql(Database):
    """A database with a URL; time passes in it by making its rows older."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url

    async def _open(self) -> Store:
        return await open_store(self.url)

    async def pass_time(self, ms: int) -> None:
        for table, columns in _SHIFTED.items():
            changes = ", ".join(f"{column} = {column} - {ms}" for column in columns)
            await asyncio.to_thread(self.execute, f"UPDATE {table} SET {changes}")

    @abstractmethod
    def execute(self, statement: str) -> list[Any]:
        """Run one statement beside the stores; returns its rows."""


class Sqlite(Sql):
    def __init__(self, path: Path) -> None:
        super().__init__(str(path))

    def execute(self, statement: str) -> list[Any]:
        connection = sqlite3.connect(self.url, isolation_level=None, timeout=10)
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()


class Postgres(Sql):
    def execute(self, statement: str) -> list[Any]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


Make = Callable[[], Database]


def first_turn(execution_id: str, **changes: Any) -> Turn:
    """A start: one event, owned and running."""
    created_at = changes.pop("created_at", 1_000)
    new = {
        "workflow_id": changes.pop("workflow_id", "greet"),
        "workflow_version": "1.0.0",
        "isolation": "shared",
        "resources": changes.pop("resources", None),
        "created_at": created_at,
    }
    values: dict[str, Any] = {
        "tenant_id": "default",
        "execution_id": execution_id,
        "new": NewExecution(**new),
        "owner": "actor#1",
        "owner_epoch": 1,
        "sequence": 1,
        "status": "running",
        "runnable": True,
        "updated_at": created_at,
        "events": events(1),
    }
    return Turn(**(values | changes))


def next_turn(execution_id: str, after: int, *, count: int = 1, **changes: Any) -> Turn:
    """A turn that appends ``count`` events after the sequence ``after``."""
    values: dict[str, Any] = {
        "tenant_id": "default",
        "execution_id": execution_id,
        "expected_epoch": 1,
        "expected_sequence": after,
        "owner": "actor#1",
        "owner_epoch": 1,
        "sequence": after + count,
        "status": "running",
        "runnable": True,
        "updated_at": 2_000,
        "events": events(after + 1, count),
    }
    return Turn(**(values | changes))


def events(first: int, count: int = 1, data: str = "{}") -> tuple[EventRow, ...]:
    return tuple(
        EventRow(number, "NodeCompleted", f"node-{number}", data, 1_000 + number)
        for number in range(first, first + count)
    )


def record(key: str = "key-1", **changes: Any) -> IdempotencyRecord:
    values: dict[str, Any] = {
        "key": key,
        "route": "POST /executions",
        "fingerprint": "f",
        "status": 201,
        "body": '{"execution_id": "exec_1"}',
        "expires_at": FAR,
    }
    return IdempotencyRecord(**(values | changes))


def workflow(
    workflow_id: str = "greet", version: str = "1.0.0", digest: str = "d1", exposed: str = ""
) -> WorkflowRow:
    return WorkflowRow(
        workflow_id=workflow_id,
        version=version,
        digest=digest,
        ir='{"ir": 1}',
        graph='{"g": 1}',
        created_at=5,
        exposed=exposed,
    )


def executor(incarnation: str, **changes: Any) -> ExecutorRow:
    values: dict[str, Any] = {
        "incarnation": incarnation,
        "name": incarnation.partition("#")[0],
        "node": "node-1",
        "pid": 4711,
        "isolation": "shared",
        "capacity": 100,
        "live": 0,
        "state": "active",
        "started_at": 0,
        "heartbeat_at": 0,
    }
    return ExecutorRow(**(values | changes))


def token(token_id: str, tenant_id: str = "default", **changes: Any) -> TokenRow:
    values: dict[str, Any] = {
        "id": token_id,
        "tenant_id": tenant_id,
        "name": f"name of {token_id}",
        "role": "operator",
        "token_hash": f"hash of {token_id}",
        "created_at": 5,
    }
    return TokenRow(**(values | changes))
