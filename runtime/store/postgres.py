"""PostgreSQL through psycopg 3: a group commits as one statement, in one round trip.

A single statement outside of a transaction block is a transaction by itself, so
no lock is held while this process thinks, or is stopped. Only a group with
Idempotency-Keys takes a second round trip for its COMMIT: two such groups that
race may have to be rolled back and tried again.
"""

import select
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, LiteralString

import msgspec
import psycopg
import sqlalchemy as sa
from psycopg import errors
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.pool import NullPool

from runtime.audit.entries import ROW_FIELDS
from runtime.errors import JamjetError, OutcomeUnknown, Unavailable, ValueRejected
from runtime.store.admission import NO_LIMITS, AdmissionQueries, Gate
from runtime.store.audit_log import Audited, AuditLog
from runtime.store.backoff import Backoff
from runtime.store.port import Outcome, Turn
from runtime.store.sql import POSTGRES_CLOCK, Contended, Query, Session, T, describe

CONNECT_TIMEOUT_S = 5
SETTINGS = {
    "lock_timeout": "2s",
    "statement_timeout": "10s",
    "idle_in_transaction_session_timeout": "5s",
    "client_encoding": "UTF8",
}
READING = "SET default_transaction_read_only = on"
WRITING = (
    "SELECT set_config('synchronous_commit', 'on', false)"
    " WHERE current_setting('synchronous_commit') IN ('off', 'local')"
)
USAGE_SHARDS = 16
"""Rows that a tenant's use of a month is spread over."""
TRIES_MAX = 5
"""How often a group that lost a race to another writer's is tried again."""

_SOME_LOST: dict[str, str] = {}
"""Not every member of a group got through, so nothing was written."""

_TRANSIENT = (errors.DeadlockDetected, errors.SerializationFailure)
_LAST_WORDS = (
    errors.AdminShutdown,
    errors.CrashShutdown,
    errors.CannotConnectNow,
    errors.IdleInTransactionSessionTimeout,
    errors.IdleSessionTimeout,
)
_REFUSED_VALUES = (errors.DataError, errors.IntegrityError, UnicodeEncodeError, OverflowError)


class PostgresDatabase:
    """One PostgreSQL database."""

    dialect: sa.Dialect = PGDialect_psycopg(paramstyle="format")  # type: ignore[no-untyped-call]
    probe = "SELECT txid_current()"

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._reading = Backoff()

    def reader(self) -> Session:
        return Session(self._reading.attempt(lambda: self._connect(READING)))

    def writer(self) -> "PostgresWriter":
        return PostgresWriter(self)

    def engine(self) -> sa.Engine:
        def connect() -> Any:
            connection = self._connect()
            connection.autocommit = False
            return connection

        return sa.create_engine("postgresql+psycopg://", creator=connect, poolclass=NullPool)

    def failure(self, error: Exception) -> Exception:
        return _failure(error)

    def is_lost(self, session: Session) -> bool:
        return is_stale(session.connection)

    def connect_writer(self) -> psycopg.Connection[Any]:
        """A connection whose commits reach the disk before they are acknowledged."""
        return self._connect(WRITING)

    def _connect(self, prepared: LiteralString = "") -> psycopg.Connection[Any]:
        """A new connection on which ``prepared`` has run.

        Raises:
            Unavailable: the database cannot be reached, or hung up at once.
        """
        names = ", ".join(["set_config(%s, %s, false)"] * len(SETTINGS))
        try:
            connection = psycopg.connect(
                self._conninfo,
                autocommit=True,
                connect_timeout=CONNECT_TIMEOUT_S,
                tcp_user_timeout=10_000,
                application_name="jamjet",
            )
            with _closed_on_error(connection):
                connection.execute(
                    f"SELECT {names}".encode(), [part for pair in SETTINGS.items() for part in pair]
                )
                if prepared:
                    connection.execute(prepared)
        except psycopg.Error as error:
            raise Unavailable(f"the database cannot be reached: {describe(error)}") from error
        return connection


@contextmanager
def _closed_on_error(connection: psycopg.Connection[Any]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        raise


def server_settings(conninfo: str) -> dict[str, str]:
    """What the server is set to for us: its version, and what the durability of commits goes by.

    Raises:
        Unavailable: it cannot be reached.
    """
    connection = PostgresDatabase(conninfo)._connect()
    try:
        rows = connection.execute(
            "SELECT name, setting FROM pg_settings WHERE name IN"
            " ('server_version_num', 'fsync', 'full_page_writes', 'synchronous_commit')"
        ).fetchall()
    except psycopg.Error as error:
        raise Unavailable(f"the database cannot be asked: {describe(error)}") from error
    finally:
        connection.close()
    return dict(rows)


def is_stale(connection: psycopg.Connection[Any]) -> bool:
    """True: the server has hung up, or has said something unasked, which is that it is about to."""
    if connection.closed or connection.broken:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


class PostgresWriter:
    """The writing connection of one process, opened again when it is lost."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._connection: psycopg.Connection[Any] | None = None
        self._backoff = Backoff()
        self._audit = AuditLog(database.dialect)
        self._admission = AdmissionQueries(database.dialect)
        self._gated: set[str] = set()
        """Tenants that had limits when last seen: one statement is not enough for their starts."""

    def commit(self, turns: Sequence[Turn]) -> list[Outcome]:
        in_steps = self._is_gated(turns) or any(turn.idempotency is not None for turn in turns)
        for _ in range(TRIES_MAX):
            found = None
            if not in_steps:
                found = self._commit_at_once(turns)
                # Some member lost, and with it the hashes of what comes after it.
                in_steps = found is _SOME_LOST
            if in_steps:
                found = self._commit_in_steps(turns)
            if found is not None:
                return [Outcome(found[turn.execution_id]) for turn in turns]
        raise Contended("the group lost its race to other writers too often")

    def run(self, query: Query[T]) -> T:
        connection = self._ready()
        try:
            connection.execute("BEGIN")
            session = Session(connection)
            result = query(session)
        except JamjetError:
            self._rollback(connection)
            raise
        except Exception as error:
            self._rollback(connection)
            raise _failure(error) from error
        self._send_commit(connection, session.audited)
        return result

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _ready(self) -> psycopg.Connection[Any]:
        connection = self._connection
        if connection is not None and not is_stale(connection):
            return connection
        if connection is not None:
            connection.close()
            self._connection = None
        self._connection = self._backoff.attempt(self._database.connect_writer)
        return self._connection

    def _is_gated(self, turns: Sequence[Turn]) -> bool:
        return any(turn.admission is not None and turn.tenant_id in self._gated for turn in turns)

    def _commit_at_once(self, turns: Sequence[Turn]) -> dict[str, str] | None:
        """One statement. None: it is to be tried again; ``_SOME_LOST``: in steps."""
        connection = self._ready()
        document = _encode(turns)
        chains = self._audit.chains
        entries = msgspec.json.encode(chains.propose(_audited(turns))).decode()
        try:
            rows = connection.execute(GROUP_AND_AUDIT, (document, entries), prepare=True).fetchall()
        except _TRANSIENT:
            return None
        except errors.DivisionByZero:
            return _SOME_LOST
        except Exception as error:
            if _is_lost(connection, error):
                chains.begin_anew()
                raise _unknown(error) from error
            if _is_taken_place(error):
                chains.begin_anew()
                return None
            raise _failure(error) from error
        chains.committed()
        return {row[0]: row[1] for row in rows}

    def _commit_in_steps(self, turns: Sequence[Turn]) -> dict[str, str] | None:
        """The turns, then the entries of those that won, and COMMIT. None: it is to be tried again.

        Two round trips, unless a tenant has limits: then its turns are let in first, one by one.
        """
        connection = self._ready()
        wanted = sorted({turn.tenant_id for turn in turns if turn.admission is not None})
        is_gated = self._is_gated(turns)
        try:
            with connection.pipeline():
                connection.execute("BEGIN")
                lock = connection.execute(LOCK_TENANTS, (wanted,)) if wanted else None
                group = None if is_gated else connection.execute(GROUP, (_encode(turns),), prepare=True)
            locked = set() if lock is None else {row[0] for row in lock.fetchall()}
            self._gated = self._gated.difference(wanted) | locked
            if group is not None and locked:
                # Its turns were not let in: once more, now that it is known to have limits.
                self._rollback(connection)
                return None
            found: dict[str, str] = {}
            if group is None:
                found = self._refusals(connection, turns, locked)
                left = [turn for turn in turns if turn.execution_id not in found]
                group = connection.execute(GROUP, (_encode(left),), prepare=True)
            rows = group.fetchall()
        except _TRANSIENT:
            self._rollback(connection)
            return None
        except Exception as error:
            self._rollback(connection)
            raise _failure(error) from error
        if any(is_orphan for _, _, is_orphan in rows):
            self._rollback(connection)
            return None
        found |= {row[0]: row[1] for row in rows}
        won = [turn for turn in turns if found[turn.execution_id] == Outcome.COMMITTED]
        self._send_commit(connection, _audited(won))
        return found

    def _refusals(
        self, connection: psycopg.Connection[Any], turns: Sequence[Turn], locked: set[str]
    ) -> dict[str, str]:
        """Which turns of tenants that are locked are not let in, and why."""
        gate = Gate(Session(connection), self._admission)
        refused: dict[str, str] = {}
        for turn in turns:
            outcome = gate.refusal(turn) if turn.tenant_id in locked else None
            if outcome is None:
                gate.takes_slot(turn)
            else:
                refused[turn.execution_id] = outcome
        return refused

    def _send_commit(self, connection: psycopg.Connection[Any], entries: Sequence[Audited]) -> None:
        """The audit entries and COMMIT, in one round trip."""
        try:
            with connection.pipeline():
                self._audit.append(connection.cursor(), entries)
                connection.execute("COMMIT")
        except Exception as error:
            if _is_lost(connection, error):
                self._audit.chains.begin_anew()
                raise _unknown(error) from error
            self._rollback(connection)
            if _is_taken_place(error):
                self._audit.chains.begin_anew()
                raise Contended("a chain of audit entries is not where it was") from error
            raise _failure(error) from error
        self._audit.chains.committed()

    def _rollback(self, connection: psycopg.Connection[Any]) -> None:
        with suppress(psycopg.Error):
            connection.execute("ROLLBACK")


def _is_lost(connection: psycopg.Connection[Any], error: Exception) -> bool:
    """Whether the server may have committed, and could only not say so.

    Its last words on a connection that it ends may come in place of an answer, before psycopg sees the end.
    """
    if connection.broken or connection.closed or isinstance(error, _LAST_WORDS):
        return True
    return isinstance(error, psycopg.OperationalError) and error.sqlstate is None


def _is_taken_place(error: Exception) -> bool:
    """Whether an audit entry's place is taken: a chain of ours is not where we believe it is."""
    return isinstance(error, errors.UniqueViolation) and error.diag.table_name == "audit"


def _audited(turns: Sequence[Turn]) -> list[Audited]:
    return [(turn.tenant_id, entry) for turn in turns for entry in turn.audit]


def _encode(turns: Sequence[Turn]) -> str:
    try:
        return msgspec.json.encode(turns).decode()
    except (UnicodeEncodeError, OverflowError) as error:
        raise ValueRejected(f"the turn cannot be encoded: {describe(error)}") from error


def _unknown(error: Exception) -> OutcomeUnknown:
    return OutcomeUnknown(f"the connection was lost during a commit: {describe(error)}")


def _failure(error: Exception) -> Exception:
    if isinstance(error, errors.LockNotAvailable):
        return Contended(f"the database kept a row locked: {describe(error)}")
    if isinstance(error, _REFUSED_VALUES):
        return ValueRejected(f"the database refused the values: {describe(error)}")
    if isinstance(error, psycopg.Error):
        return Unavailable(f"the database is unavailable: {describe(error)}")
    return error


_GROUP = """
WITH turn AS MATERIALIZED (
    SELECT *, idempotency ->> 'route' AS route, idempotency ->> 'key' AS key
    FROM json_to_recordset(%s::json) AS member(
        tenant_id text, execution_id text, expected_epoch bigint, expected_sequence bigint, new json,
        owner text, owner_epoch bigint, sequence bigint, status text, runnable boolean, wake_at bigint,
        steps bigint, error text, updated_at bigint, completed_at bigint, events json, snapshot text,
        idempotency json, inbox_consumed json, inbox_sent json, admission text, usage json
    )
),
-- Locks the rows in one order for every writer, and reads them as they are now.
fence AS MATERIALIZED (
    SELECT row.execution_id, row.tenant_id, row.owner_epoch, row.sequence
    FROM executions AS row JOIN turn USING (execution_id)
    ORDER BY row.execution_id
    FOR UPDATE OF row
),
taken AS MATERIALIZED (
    SELECT turn.execution_id
    FROM turn JOIN idempotency AS kept USING (tenant_id, route, key)
    WHERE kept.expires_at > {now}
),
admitted AS MATERIALIZED (
    SELECT turn.*
    FROM turn LEFT JOIN fence USING (execution_id)
    WHERE turn.execution_id NOT IN (SELECT execution_id FROM taken)
    AND CASE WHEN turn.new IS NULL
        THEN (fence.tenant_id, fence.owner_epoch, fence.sequence)
            = (turn.tenant_id, turn.expected_epoch, turn.expected_sequence)
        ELSE fence.execution_id IS NULL
        END
),
claimed AS (
    INSERT INTO idempotency AS kept (tenant_id, route, key, fingerprint, status, body, expires_at)
    SELECT tenant_id, route, key, idempotency ->> 'fingerprint', (idempotency ->> 'status')::integer,
        idempotency ->> 'body', (idempotency ->> 'expires_at')::bigint
    FROM admitted
    WHERE idempotency IS NOT NULL
    ORDER BY tenant_id, route, key
    ON CONFLICT (tenant_id, route, key) DO UPDATE SET
        fingerprint = excluded.fingerprint, status = excluded.status, body = excluded.body,
        expires_at = excluded.expires_at
    WHERE kept.expires_at <= {now}
    RETURNING tenant_id, route, key
),
ready AS MATERIALIZED (
    SELECT admitted.*, claimed.key IS NOT NULL AS is_claimed
    FROM admitted LEFT JOIN claimed USING (tenant_id, route, key)
    WHERE admitted.idempotency IS NULL OR claimed.key IS NOT NULL
),
started AS (
    INSERT INTO executions (
        execution_id, tenant_id, workflow_id, workflow_version, status, isolation, resources, owner,
        owner_epoch, sequence, runnable, wake_at, steps, error, created_at, updated_at, completed_at
    )
    SELECT execution_id, tenant_id, new ->> 'workflow_id', new ->> 'workflow_version', status,
        new ->> 'isolation', new ->> 'resources', owner, owner_epoch, sequence, runnable, wake_at, steps,
        error, (new ->> 'created_at')::bigint, updated_at, completed_at
    FROM ready
    WHERE new IS NOT NULL
    ORDER BY execution_id
    ON CONFLICT (execution_id) DO NOTHING
    RETURNING execution_id
),
moved AS (
    UPDATE executions AS row SET
        owner = ready.owner, owner_epoch = ready.owner_epoch, sequence = ready.sequence,
        status = ready.status, runnable = ready.runnable, wake_at = ready.wake_at, steps = ready.steps,
        error = ready.error, updated_at = ready.updated_at, completed_at = ready.completed_at
    FROM ready
    WHERE ready.new IS NULL
    AND row.execution_id = ready.execution_id AND row.tenant_id = ready.tenant_id
    AND row.owner_epoch = ready.expected_epoch AND row.sequence = ready.expected_sequence
    RETURNING row.execution_id
),
won AS MATERIALIZED (
    SELECT ready.*
    FROM ready JOIN (SELECT execution_id FROM started UNION ALL SELECT execution_id FROM moved) AS passed
        USING (execution_id)
),
appended AS (
    INSERT INTO events (execution_id, sequence, tenant_id, type, node_id, data, created_at)
    SELECT won.execution_id, event.sequence, won.tenant_id, event.type, event.node_id, event.data,
        event.created_at
    FROM won CROSS JOIN LATERAL json_to_recordset(won.events) AS event(
        sequence bigint, type text, node_id text, data text, created_at bigint
    )
),
used AS (
    INSERT INTO tenant_usage AS kept (tenant_id, month, shard, tokens, cost_usd)
    SELECT tenant_id, usage ->> 'month', mod(pg_backend_pid(), {shards}), sum((usage ->> 'tokens')::bigint),
        sum((usage ->> 'cost_usd')::double precision)
    FROM won
    WHERE usage IS NOT NULL
    GROUP BY 1, 2
    ORDER BY 1, 2
    ON CONFLICT (tenant_id, month, shard) DO UPDATE SET
        tokens = kept.tokens + excluded.tokens, cost_usd = kept.cost_usd + excluded.cost_usd
),
kept AS (
    INSERT INTO snapshots (execution_id, tenant_id, sequence, data)
    SELECT execution_id, tenant_id, sequence, snapshot
    FROM won
    WHERE snapshot IS NOT NULL
    ON CONFLICT (execution_id) DO UPDATE SET
        tenant_id = excluded.tenant_id, sequence = excluded.sequence, data = excluded.data
),
consumed AS (
    UPDATE inbox SET consumed_at = won.updated_at
    FROM won CROSS JOIN LATERAL json_array_elements_text(won.inbox_consumed) AS message(id)
    WHERE inbox.execution_id = won.execution_id AND inbox.message_id = message.id
    AND inbox.tenant_id = won.tenant_id
),
sent AS (
    INSERT INTO inbox (execution_id, message_id, tenant_id, body, created_at, ordinal)
    SELECT message.value ->> 'execution_id', message.value ->> 'message_id', won.tenant_id,
        message.value ->> 'body', won.updated_at, message.place - 1
    FROM won CROSS JOIN LATERAL json_array_elements(won.inbox_sent) WITH ORDINALITY AS message(value, place)
    ORDER BY 1, 2
    ON CONFLICT (execution_id, message_id) DO NOTHING
){audit}
SELECT turn.execution_id,
    CASE
        WHEN won.execution_id IS NOT NULL THEN 'committed'
        WHEN taken.execution_id IS NOT NULL THEN 'key_taken'
        WHEN admitted.execution_id IS NOT NULL AND ready.execution_id IS NULL THEN 'key_taken'
        ELSE 'fenced'
    END,
    -- Its key was recorded, and then its fence did not hold: nothing of the group may stay.
    won.execution_id IS NULL AND ready.is_claimed IS TRUE{guard}
FROM turn
    LEFT JOIN taken USING (execution_id)
    LEFT JOIN admitted USING (execution_id)
    LEFT JOIN ready USING (execution_id)
    LEFT JOIN won USING (execution_id)
""".replace("{now}", POSTGRES_CLOCK)

_AUDIT = """,
gated AS MATERIALIZED (
    SELECT 1 FROM turn JOIN tenants USING (tenant_id)
    WHERE turn.admission IS NOT NULL AND (tenants.status <> 'active' OR tenants.limits <> '{{}}')
),
entry AS MATERIALIZED (
    SELECT {values}
    FROM json_array_elements(%s::json) AS entry(value)
),
audited AS (
    INSERT INTO audit ({columns}) SELECT {columns} FROM entry
),
chained AS (
    INSERT INTO audit_chains (tenant_id, chain, position, sealed, sealed_by, pruned)
    SELECT tenant_id, chain, max(position), 0, 0, 0 FROM entry GROUP BY tenant_id, chain ORDER BY tenant_id
    ON CONFLICT (tenant_id, chain) DO UPDATE SET position = excluded.position
)"""
_IS_INTEGER = ("position", "created_at", "sequence")
_VALUES = ", ".join(
    f"(value ->> {place}){'::bigint' if name in _IS_INTEGER else ''} AS {name}"
    for place, name in enumerate(ROW_FIELDS)
)
# Hashes were made as if all would get through, and no limit is heeded: where one did not get through, or
# there is a limit, the statement fails.
_GUARD = """,
    1 / (CASE
        WHEN won.execution_id IS NULL AND EXISTS (SELECT 1 FROM entry) THEN 0
        WHEN EXISTS (SELECT 1 FROM gated) THEN 0
        ELSE 1
    END)"""

# Locks those that have limits, so that nobody else lets executions of theirs begin meanwhile.
LOCK_TENANTS = """
SELECT tenant_id FROM tenants
WHERE tenant_id = ANY(%s) AND (limits <> '{}' OR status <> 'active')
ORDER BY tenant_id
FOR NO KEY UPDATE
"""
_GROUP = _GROUP.replace("{shards}", str(USAGE_SHARDS))
GROUP = _GROUP.replace("{audit}", "").replace("{guard}", "")
GROUP_AND_AUDIT = (
    _GROUP.replace("{audit}", _AUDIT)
    .replace("{guard}", _GUARD)
    .replace("{{}}", NO_LIMITS)
    .replace("{values}", _VALUES)
    .replace("{columns}", ", ".join(ROW_FIELDS))
)
