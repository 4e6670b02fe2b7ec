"""SQLite: one file, in WAL mode, every commit synced to the disk.

SQLite's own busy timeout backs off, and so starves one of two writing
processes; here a writer asks for the lock again every half millisecond. The lock
is held for SQL alone: everything is prepared before BEGIN.
"""

import sqlite3
import time
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.pool import NullPool

from runtime.errors import JamjetError, OutcomeUnknown, Unavailable, ValueRejected
from runtime.store.admission import AdmissionQueries, Gate, total_usage
from runtime.store.audit_log import AuditLog
from runtime.store.port import Outcome, Turn
from runtime.store.sql import Query, Session, Statement, T, clock_ms, describe, param
from runtime.store.tables import events, executions, idempotency, inbox, snapshots

LOCK_WAIT_MS = 10_000
LOCK_RETRY_S = 0.0005
READ_WAIT_S = 10.0

_DIALECT: sa.Dialect = sqlite.dialect()

_REFUSED_PARAMETERS = (OverflowError, UnicodeEncodeError, sqlite3.InterfaceError, sqlite3.ProgrammingError)
_REFUSED_VALUES = frozenset(
    (sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE)
)


class SqliteDatabase:
    """One SQLite file."""

    dialect = _DIALECT
    probe = "PRAGMA user_version = 0"

    def __init__(self, path: Path) -> None:
        self.path = path

    def reader(self) -> Session:
        connection = self._connect()
        connection.execute("PRAGMA query_only = ON")
        return Session(connection)

    def writer(self) -> "SqliteWriter":
        connection = self._connect()
        connection.execute("PRAGMA busy_timeout = 0")
        return SqliteWriter(connection)

    def engine(self) -> sa.Engine:
        engine = sa.create_engine("sqlite://", creator=self._connect, poolclass=NullPool)

        @sa.event.listens_for(engine, "begin")
        def begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

        return engine

    def failure(self, error: Exception) -> Exception:
        return _failure(error)

    def is_lost(self, session: Session) -> bool:
        return False

    def _connect(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(
                self.path, timeout=READ_WAIT_S, isolation_level=None, check_same_thread=False
            )
            # Another process that creates the file holds it meanwhile, and SQLite does not wait for that.
            _when_unlocked(connection, "PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = OFF")
            connection.execute("PRAGMA journal_size_limit = 67108864")
        except (OSError, sqlite3.Error) as error:
            raise Unavailable(
                f"database file {str(self.path)!r} cannot be opened: {describe(error)}"
            ) from error
        return connection


class SqliteWriter:
    """The writing connection of one process."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._audit = AuditLog(_DIALECT)
        self._admission = AdmissionQueries(_DIALECT)

    def commit(self, turns: Sequence[Turn]) -> list[Outcome]:
        return self._transaction(lambda session: _commit_group(session, turns, self._admission))

    def run(self, query: Query[T]) -> T:
        return self._transaction(query)

    def close(self) -> None:
        self._connection.close()

    def _transaction(self, query: Query[T]) -> T:
        try:
            _when_unlocked(self._connection, "BEGIN IMMEDIATE")
            session = Session(self._connection)
            result = query(session)
            self._audit.append(self._connection.cursor(), session.audited)
        except JamjetError:
            self._rollback()
            raise
        except Exception as error:
            self._rollback()
            raise _failure(error) from error
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._rollback()
            if _primary_code(error) == sqlite3.SQLITE_IOERR:
                # The frames may have reached the file although syncing them failed.
                self._audit.chains.begin_anew()
                raise OutcomeUnknown(f"the commit may have failed: {describe(error)}") from error
            raise _failure(error) from error
        self._audit.chains.committed()
        return result

    def _rollback(self) -> None:
        # Some errors, a full disk among them, have rolled back already.
        if self._connection.in_transaction:
            self._connection.rollback()


def _when_unlocked(connection: sqlite3.Connection, sql: str) -> None:
    """Run ``sql`` as soon as no other process holds the lock that it needs."""
    deadline = time.monotonic() + LOCK_WAIT_MS / 1_000
    while True:
        try:
            connection.execute(sql)
            return
        except sqlite3.OperationalError as error:
            if _primary_code(error) != sqlite3.SQLITE_BUSY:
                raise
            if time.monotonic() >= deadline:
                raise Unavailable(
                    f"the database was locked by another process for {LOCK_WAIT_MS} ms"
                ) from error
        time.sleep(LOCK_RETRY_S)


def _failure(error: Exception) -> Exception:
    if isinstance(
        error, OverflowError | UnicodeEncodeError | sqlite3.InterfaceError | sqlite3.ProgrammingError
    ):
        return ValueRejected(f"the database refused a value: {describe(error)}")
    if not isinstance(error, sqlite3.Error):
        return error
    if _primary_code(error) in _REFUSED_VALUES:
        return ValueRejected(f"the database refused the values: {describe(error)}")
    return Unavailable(f"the database is unavailable: {describe(error)}")


def _primary_code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


# --- one group --------------------------------------------------------------------------------------


def _paths(statement: Statement) -> Any:
    """Reads a turn's values in the order of the statement; ``new__x`` is ``turn.new.x``."""
    return attrgetter(*(name.replace("__", ".") for name in statement.names))


def _statement(clause: Any) -> Statement:
    return Statement(clause, _DIALECT)


_MOVED = ("owner", "owner_epoch", "sequence", "status", "runnable", "wake_at", "steps", "error", "updated_at",
          "completed_at")  # fmt: skip
_BORN = ("workflow_id", "workflow_version", "isolation", "resources", "created_at")

_START = _statement(
    sqlite.insert(executions)
    .values(
        {name: param(name) for name in ("execution_id", "tenant_id", *_MOVED)}
        | {name: param(f"new__{name}") for name in _BORN}
    )
    .on_conflict_do_nothing()
)
_MOVE = _statement(
    sa.update(executions)
    .values({name: param(name) for name in _MOVED})
    .where(
        executions.c.execution_id == param("execution_id"),
        executions.c.tenant_id == param("tenant_id"),
        executions.c.owner_epoch == param("expected_epoch"),
        executions.c.sequence == param("expected_sequence"),
    )
)
_TAKEN = _statement(
    sa.select(sa.literal_column("1")).where(
        idempotency.c.tenant_id == param("tenant_id"),
        idempotency.c.route == param("idempotency__route"),
        idempotency.c.key == param("idempotency__key"),
        idempotency.c.expires_at > clock_ms(),
    )
)
_start_values = _paths(_START)
_move_values = _paths(_MOVE)
_taken_values = _paths(_TAKEN)


_APPEND = _statement(sqlite.insert(events))
_SNAP = _statement(sqlite.insert(snapshots).prefix_with("OR REPLACE"))
_REMEMBER = _statement(sqlite.insert(idempotency).prefix_with("OR REPLACE"))
_SEND = _statement(
    sqlite.insert(inbox)
    .values({c.name: param(c.name) for c in inbox.c if c.name != "consumed_at"})
    .on_conflict_do_nothing()
)
_CONSUME = _statement(
    sa.update(inbox)
    .values(consumed_at=param("now"))
    .where(
        inbox.c.execution_id == param("execution_id"),
        inbox.c.message_id == param("message_id"),
        inbox.c.tenant_id == param("tenant_id"),
    )
)


def _commit_group(session: Session, turns: Sequence[Turn], admission: AdmissionQueries) -> list[Outcome]:
    cursor = session.connection.cursor()
    gate = Gate(session, admission)
    outcomes = [gate.refusal(turn) or _admit(cursor, turn) for turn in turns]
    won = [turn for turn, outcome in zip(turns, outcomes, strict=True) if outcome is Outcome.COMMITTED]
    cursor.executemany(
        _APPEND.sql,
        [
            (turn.execution_id, event.sequence, turn.tenant_id, event.type, event.node_id, event.data,
             event.created_at)
            for turn in won for event in turn.events
        ],
    )  # fmt: skip
    snapshots = [(t.execution_id, t.tenant_id, t.sequence, t.snapshot) for t in won if t.snapshot is not None]
    if snapshots:
        cursor.executemany(_SNAP.sql, snapshots)
    for turn in won:
        if turn.inbox_sent or turn.inbox_consumed:
            _exchange(cursor, turn)
    for tenant_id, usage in total_usage(won):
        session.execute(admission.use, tenant_id=tenant_id, **msgspec.structs.asdict(usage))
    session.audited = [(turn.tenant_id, entry) for turn in won for entry in turn.audit]
    return outcomes


def _admit(cursor: sqlite3.Cursor, turn: Turn) -> Outcome:
    """Pass the fence, or say what stopped it. BEGIN IMMEDIATE has shut every other writer out."""
    record = turn.idempotency
    if record is not None and cursor.execute(_TAKEN.sql, _taken_values(turn)).fetchall():
        return Outcome.KEY_TAKEN
    if turn.new is None:
        cursor.execute(_MOVE.sql, _move_values(turn))
    else:
        cursor.execute(_START.sql, _start_values(turn))
    if cursor.rowcount != 1:
        return Outcome.FENCED
    if record is not None:
        cursor.execute(
            _REMEMBER.sql,
            (turn.tenant_id, record.route, record.key, record.fingerprint, record.status, record.body,
             record.expires_at),
        )  # fmt: skip
    return Outcome.COMMITTED


def _exchange(cursor: sqlite3.Cursor, turn: Turn) -> None:
    cursor.executemany(
        _CONSUME.sql,
        [(turn.updated_at, turn.execution_id, name, turn.tenant_id) for name in turn.inbox_consumed],
    )
    cursor.executemany(
        _SEND.sql,
        [
            (message.execution_id, message.message_id, turn.tenant_id, message.body, turn.updated_at, ordinal)
            for ordinal, message in enumerate(turn.inbox_sent)
        ],
    )
