"""The SQL stores: a tenant's rows, the few queries across tenants, and what holds them together."""

import time
from collections.abc import Callable
from typing import Any

import msgspec

from runtime.audit import admin
from runtime.audit.entries import SYSTEM, AuditEntry, AuditRow, Origin, audit_row
from runtime.audit.seals import Seal, SigningKey
from runtime.errors import Conflict, NotFound, ValueRejected
from runtime.ids import DEFAULT_TENANT
from runtime.store.admission import slots_for_queue
from runtime.store.agent_port import AllAgents
from runtime.store.agents import SqlAgentStore, SqlAllAgents
from runtime.store.audit_queries import FILTERS, SqlAuditTables, seal_of
from runtime.store.journal import CommitObserver, GroupCommitJournal
from runtime.store.port import (
    HELD_STATUSES,
    OPEN_STATUSES,
    Credential,
    EventRow,
    ExecutionRow,
    ExecutorRow,
    Fence,
    IdempotencyRecord,
    InboxMessage,
    Journal,
    Load,
    StoredExecution,
    SweepRow,
    SystemStore,
    TenantRow,
    TenantStatus,
    TokenRow,
    Use,
    WorkflowRow,
    check_workflow_limit,
    decode_limits,
    month_of,
    tenant_taken,
    version_taken,
)
from runtime.store.queries import Queries
from runtime.store.sealing import AuditTables, prune_log, seal_log
from runtime.store.sql import Database, Query, Session, Statement, T
from runtime.store.threads import Readers
from runtime.store.values import check_row, check_texts

READ_THREADS = 4
PRUNE_ROWS_MAX = 5_000
PRUNE_EXECUTIONS_MAX = 200
TOTAL_EXACT_MAX = 10_000
TOTAL_AGE_S = 1.0

_NOTHING: tuple[list[Any], int] = ([], 0)

_tail = msgspec.json.Decoder(tuple[EventRow, ...])
_messages = msgspec.json.Decoder(tuple[InboxMessage, ...])


class SqlStore:
    """One opened SQL database: reads on a few threads, writes on the journal's."""

    def __init__(self, database: Database, on_commit: CommitObserver | None = None) -> None:
        self._database = database
        self._queries = Queries(database.dialect)
        self._readers = Readers(database, READ_THREADS)
        self._totals = _Totals()
        self._writes = GroupCommitJournal(database, on_commit)
        self.journal: Journal = self._writes
        self.system: SystemStore = SqlSystemStore(self._queries, self._readers, self._writes)
        self.all_agents: AllAgents = SqlAllAgents(self._queries.agents, self._readers, self._writes)

    def tenant(self, tenant_id: str, by: Origin = SYSTEM) -> "SqlTenantStore":
        return SqlTenantStore(tenant_id, by, self._queries, self._readers, self._writes, self._totals)

    def agents(self, tenant_id: str, by: Origin = SYSTEM) -> SqlAgentStore:
        queries, total = self._queries.agents, self._totals.get
        return SqlAgentStore(tenant_id, by, queries, self._readers, self._writes, total)

    async def send(self, tenant_id: str, message: InboxMessage) -> None:
        check_row(message, message.execution_id)
        values = msgspec.structs.asdict(message)
        await self._writes.run(
            lambda session: session.execute(self._queries.send, tenant_id=tenant_id, **values)
        )

    async def ping(self) -> None:
        await self.system.now()
        await self._writes.run(lambda session: session.connection.execute(self._database.probe))

    async def close(self) -> None:
        # The writer last: of SQLite's connections, the last one to close empties the write-ahead log.
        await self._readers.close()
        await self._writes.close()


class SqlTenantStore:
    """One tenant's rows: every statement has the tenant in its condition."""

    def __init__(
        self,
        tenant_id: str,
        by: Origin,
        queries: Queries,
        readers: Readers,
        journal: GroupCommitJournal,
        totals: "_Totals",
    ) -> None:
        self.tenant_id = tenant_id
        self.by = by
        self._queries = queries
        self._readers = readers
        self._journal = journal
        self._totals = totals

    async def register_workflow(self, row: WorkflowRow) -> WorkflowRow:
        check_row(row, row.workflow_id)
        queries, tenant_id = self._queries, self.tenant_id
        name = {"tenant_id": tenant_id, "workflow_id": row.workflow_id, "version": row.version}

        def register(session: Session) -> WorkflowRow:
            if queries.lock is not None:
                session.execute(queries.lock, name=f"workflows:{tenant_id}")
            stored = session.row(queries.workflow, **name)
            if stored is None:
                self._check_limit(session, row.workflow_id)
                session.execute(queries.register_workflow, tenant_id=tenant_id, **msgspec.structs.asdict(row))
                session.record(tenant_id, admin.workflow_registered(self.by, row))
                return row
            found = WorkflowRow(**dict(zip(WorkflowRow.__struct_fields__, stored, strict=True)))
            if found.digest != row.digest:
                raise version_taken(row)
            return found

        return await self._journal.run(register)

    def _check_limit(self, session: Session, workflow_id: str) -> None:
        """Raise LimitReached where another id is one too many; a version more of a known id never is."""
        own = {"tenant_id": self.tenant_id}
        tenant = _struct(TenantRow, session.row(self._queries.tenant, **own))
        if tenant is None or tenant.limits == "{}":
            return
        if session.row(self._queries.latest_workflow, workflow_id=workflow_id, **own) is None:
            count = session.scalar(self._queries.workflow_ids, **own)
            check_workflow_limit(self.tenant_id, tenant.limits, count)

    async def workflow(self, workflow_id: str, version: str | None = None) -> WorkflowRow | None:
        if version is None:
            statement, values = self._queries.latest_workflow, {}
        else:
            statement, values = self._queries.workflow, {"version": version}
        found = await _row(
            self._readers, statement, tenant_id=self.tenant_id, workflow_id=workflow_id, **values
        )
        return _struct(WorkflowRow, found)

    async def workflows(
        self, *, workflow_id: str | None = None, limit: int = 50, offset: int = 0
    ) -> tuple[list[WorkflowRow], int]:
        named = workflow_id is not None
        values = {"tenant_id": self.tenant_id} | ({"workflow_id": workflow_id} if named else {})

        def page(session: Session) -> tuple[list[Any], int]:
            rows = session.rows(self._queries.workflow_page[named], limit=limit, offset=offset, **values)
            return rows, session.scalar(self._queries.workflow_count[named], **values)

        rows, total = await _known(self._readers, page, _NOTHING)
        return [_made(WorkflowRow, row) for row in rows], total

    async def exposed_workflows(self, protocol: str) -> list[WorkflowRow]:
        rows = await self._readers.read(
            lambda session: session.rows(self._queries.exposed_workflows, tenant_id=self.tenant_id)
        )
        found = [_made(WorkflowRow, row) for row in rows]
        return [row for row in found if protocol in row.exposed.split(",")]

    async def execution(self, execution_id: str) -> ExecutionRow | None:
        found = await _row(
            self._readers, self._queries.execution, tenant_id=self.tenant_id, execution_id=execution_id
        )
        return None if found is None else _execution(found)

    async def executions(
        self,
        *,
        statuses: tuple[str, ...] | None = None,
        workflow_id: str | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> tuple[list[ExecutionRow], int]:
        if statuses == ():
            return [], 0
        wanted = tuple(sorted(set(statuses or ())))
        named = workflow_id is not None
        values: dict[str, Any] = {f"status_{number}": status for number, status in enumerate(wanted)}
        values |= {"tenant_id": self.tenant_id} | ({"workflow_id": workflow_id} if named else {})

        def page(session: Session) -> tuple[list[Any], int]:
            rows = session.rows(
                self._queries.execution_page(len(wanted), named), limit=limit, offset=offset, **values
            )
            count = self._queries.execution_count(len(wanted), named)
            key = (self.tenant_id, wanted, workflow_id)
            return rows, self._totals.get(key, lambda: session.scalar(count, **values))

        rows, total = await _known(self._readers, page, _NOTHING)
        return [_execution(row) for row in rows], total

    async def stored_execution(self, execution_id: str) -> StoredExecution | None:
        return _stored(
            await _row(
                self._readers,
                self._queries.stored_execution[True],
                tenant_id=self.tenant_id,
                execution_id=execution_id,
            )
        )

    async def events(self, execution_id: str, *, after: int = 0, limit: int | None = None) -> list[EventRow]:
        values: dict[str, Any] = {"tenant_id": self.tenant_id, "execution_id": execution_id, "after": after}
        if limit is not None:
            values["limit"] = limit
        statement = self._queries.events[limit is not None]
        rows: list[Any] = await _known(self._readers, lambda session: session.rows(statement, **values), [])
        return [EventRow(*row) for row in rows]

    async def idempotency(self, key: str, route: str) -> IdempotencyRecord | None:
        found = await _row(
            self._readers, self._queries.idempotency, tenant_id=self.tenant_id, key=key, route=route
        )
        return _struct(IdempotencyRecord, found)

    async def create_token(self, row: TokenRow) -> None:
        check_row(row, row.id)
        if row.tenant_id != self.tenant_id:
            raise ValueError(f"token {row.id!r} belongs to {row.tenant_id!r}, not to {self.tenant_id!r}")
        values = msgspec.structs.asdict(row)

        def create(session: Session) -> int:
            if session.row(self._queries.tenant, tenant_id=self.tenant_id) is None:
                raise NotFound(f"tenant {self.tenant_id}")
            created = session.execute(self._queries.create_token, **values).rowcount
            if created:
                session.record(self.tenant_id, admin.token_created(self.by, row))
            return created

        if await self._journal.run(create) == 0:
            raise Conflict(f"token {row.id!r} exists already")

    async def tokens(self) -> list[TokenRow]:
        rows = await self._readers.read(
            lambda session: session.rows(self._queries.tokens, tenant_id=self.tenant_id)
        )
        return [_made(TokenRow, row) for row in rows]

    async def revoke_token(self, token_id: str) -> bool:
        def revoke(session: Session) -> int:
            values = {"tenant_id": self.tenant_id, "name": token_id}
            revoked = session.execute(self._queries.revoke_token, **values).rowcount
            if revoked:
                session.record(self.tenant_id, admin.token_revoked(self.by, token_id))
            return revoked

        return await self._journal.run(revoke) > 0

    async def audit(
        self,
        *,
        execution_id: str | None = None,
        actor_id: str | None = None,
        event_type: str | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> tuple[list[AuditRow], int]:
        given = dict(zip(FILTERS, (execution_id, actor_id, event_type), strict=True))
        wanted = {name: value for name, value in given.items() if value is not None}
        filters, values = tuple(wanted), {"tenant_id": self.tenant_id, **wanted}
        queries = self._queries.audit

        def page(session: Session) -> tuple[list[Any], int]:
            rows = session.rows(queries.page(filters), limit=limit, offset=offset, **values)
            count = queries.count(filters)
            key = ("audit", *values.items())
            return rows, self._totals.get(key, lambda: session.scalar(count, **values))

        rows, total = await _known(self._readers, page, _NOTHING)
        return [audit_row(row) for row in rows], total

    async def audit_rows(self, *, after: tuple[str, int] | None = None, limit: int) -> list[AuditRow]:
        queries = self._queries.audit
        values: dict[str, Any] = {"tenant_id": self.tenant_id, "limit": limit}
        if after is not None:
            values |= {"chain": after[0], "position": after[1]}
        statement = queries.first_rows if after is None else queries.rows_after
        rows = await self._readers.read(lambda session: session.rows(statement, **values))
        return [audit_row(row) for row in rows]

    async def seals(self, *, after: int = 0, limit: int) -> list[Seal]:
        values = {"tenant_id": self.tenant_id, "number": after, "limit": limit}
        rows = await self._readers.read(lambda session: session.rows(self._queries.audit.seals, **values))
        return [seal_of(row) for row in rows]

    async def record(self, *entries: AuditEntry) -> None:
        for entry in entries:
            check_row(entry, entry.event_type)

        def record(session: Session) -> None:
            for entry in entries:
                session.record(self.tenant_id, entry)

        await self._journal.run(record)


class SqlSystemStore:
    """The queries across tenants."""

    def __init__(self, queries: Queries, readers: Readers, journal: GroupCommitJournal) -> None:
        self._queries = queries
        self._readers = readers
        self._journal = journal

    async def now(self) -> int:
        now: int = await self._readers.read(lambda session: session.scalar(self._queries.now))
        return now

    async def installation_key(self, name: str, fresh: str) -> str:
        def keep(session: Session) -> str:
            session.execute(self._queries.insert_key, name=name, pem=fresh)
            pem: str = session.scalar(self._queries.key, name=name)
            return pem

        return await self._journal.run(keep)

    async def credential(self, token_hash: str) -> Credential | None:
        found = await _row(self._readers, self._queries.credential, token_hash=token_hash)
        if found is None:
            return None
        fields = len(TokenRow.__struct_fields__)
        return Credential(token=_made(TokenRow, found[:fields]), tenant=_made(TenantRow, found[fields:]))

    async def mark_tokens_used(self, token_ids: tuple[str, ...]) -> None:
        def mark(session: Session) -> None:
            for token_id in sorted(token_ids):
                session.execute(self._queries.mark_token_used, id=token_id)

        await self._journal.run(mark)

    async def create_tenant(
        self, tenant_id: str, name: str, *, policy: str = "{}", limits: str = "{}", by: Origin = SYSTEM
    ) -> TenantRow:
        check_texts((tenant_id, name, policy, limits), "a text", tenant_id)
        values = {"tenant_id": tenant_id, "name": name, "policy": policy, "limits": limits}

        def create(session: Session) -> TenantRow:
            made = session.row(self._queries.create_tenant, **values)
            if made is None:
                raise tenant_taken(tenant_id)
            row = _made(TenantRow, made)
            session.record(tenant_id, admin.tenant_created(by, row))
            return row

        return await self._journal.run(create)

    async def tenant_row(self, tenant_id: str) -> TenantRow | None:
        return _struct(TenantRow, await _row(self._readers, self._queries.tenant, tenant_id=tenant_id))

    async def tenants(self, *, limit: int = 50, offset: int = 0) -> tuple[list[TenantRow], int]:
        def page(session: Session) -> tuple[list[Any], int]:
            rows = session.rows(self._queries.tenant_page, limit=limit, offset=offset)
            return rows, session.scalar(self._queries.tenant_count)

        rows, total = await self._readers.read(page)
        return [_made(TenantRow, row) for row in rows], total

    async def update_tenant(
        self,
        tenant_id: str,
        *,
        name: str | None = None,
        status: TenantStatus | None = None,
        policy: str | None = None,
        limits: str | None = None,
        by: Origin = SYSTEM,
    ) -> TenantRow | None:
        check_texts((tenant_id, name, policy, limits), "a text", tenant_id)
        values = {"name": name, "status": status, "policy": policy, "limits": limits}

        def change(session: Session) -> TenantRow | None:
            row = _struct(TenantRow, session.row(self._queries.update_tenant, tenant_id=tenant_id, **values))
            if row is not None:
                session.record(tenant_id, admin.tenant_updated(by, values))
            return row

        return await self._journal.run(change)

    async def fence(self, execution_id: str) -> Fence | None:
        found = await _row(self._readers, self._queries.fence, execution_id=execution_id)
        return None if found is None else Fence(*found)

    async def stored_execution(self, execution_id: str) -> StoredExecution | None:
        statement = self._queries.stored_execution[False]
        return _stored(await _row(self._readers, statement, execution_id=execution_id))

    async def workflow(self, tenant_id: str, workflow_id: str, version: str) -> WorkflowRow | None:
        found = await _row(
            self._readers,
            self._queries.workflow,
            tenant_id=tenant_id,
            workflow_id=workflow_id,
            version=version,
        )
        return _struct(WorkflowRow, found)

    async def register_executor(self, row: ExecutorRow) -> int:
        check_row(row, row.incarnation)
        queries = self._queries
        values = {name: getattr(row, name) for name in row.__struct_fields__ if not name.endswith("_at")}
        del values["gone"]

        def register(session: Session) -> int:
            if queries.lock is not None:
                session.execute(queries.lock, name=f"executors:{row.name}")
            session.execute(queries.bury_namesakes, name=row.name, incarnation=row.incarnation)
            session.execute(queries.insert_executor, tenant_id=DEFAULT_TENANT, **values)
            now: int = session.scalar(queries.now)
            return now

        return await self._journal.run(register)

    async def heartbeat(self, incarnation: str, *, live: int, state: str) -> int | None:
        def beat(session: Session) -> Any | None:
            return session.row(self._queries.heartbeat, incarnation=incarnation, live=live, state=state)

        found = await self._journal.run(beat)
        return None if found is None else found[0]

    async def mark_dead(self, incarnations: tuple[str, ...]) -> None:
        def mark(session: Session) -> None:
            for incarnation in sorted(incarnations):
                session.execute(self._queries.mark_dead, incarnation=incarnation)

        await self._journal.run(mark)

    async def executors(self) -> list[ExecutorRow]:
        rows = await self._readers.read(lambda session: session.rows(self._queries.executors))
        fields = ExecutorRow.__struct_fields__
        return [ExecutorRow(**dict(zip(fields, (*row[:-1], bool(row[-1])), strict=True))) for row in rows]

    async def owned_by(self, incarnation: str) -> dict[str, Fence]:
        rows = await self._readers.read(
            lambda session: session.rows(self._queries.owned_by, owner=incarnation)
        )
        return {execution_id: Fence(*fence) for execution_id, *fence in rows}

    async def sweep(self, *, limit: int) -> list[SweepRow]:
        rows = await self._readers.read(lambda session: session.rows(self._queries.sweep, limit=limit))
        return [_made(SweepRow, row) for row in rows]

    async def dequeue(self, tenant_id: str | None = None, *, limit: int) -> list[SweepRow]:
        queries = self._queries

        def find(session: Session) -> list[SweepRow]:
            now: int = session.scalar(queries.now)
            found: list[SweepRow] = []
            for name, status, limits in session.rows(queries.tenants_queued):
                if status != "active" or tenant_id not in (None, name):
                    continue
                use = queries.admission.use_of(session, name, month_of(now))
                count = slots_for_queue(decode_limits(limits), use, limit - len(found))
                if count > 0:
                    rows = session.rows(queries.queued, tenant_id=name, limit=count)
                    found += [_made(SweepRow, row[:-1]) for row in rows]
            return found

        return await self._readers.read(find)

    async def use_of(self, tenant_id: str, month: str) -> Use:
        return await self._readers.read(
            lambda session: self._queries.admission.use_of(session, tenant_id, month)
        )

    async def tenants_changed(self, since: int) -> list[TenantRow]:
        rows = await self._readers.read(
            lambda session: session.rows(self._queries.tenants_changed, since=since)
        )
        return [_made(TenantRow, row) for row in rows]

    async def backlog(self) -> int:
        count: int = await self._readers.read(lambda session: session.scalar(self._queries.backlog))
        return count

    async def load(self) -> Load:
        def measure(session: Session) -> Load:
            backlog, waited_ms, overdue_ms = session.rows(self._queries.load)[0]
            statuses = dict(session.rows(self._queries.open_counts))
            return Load(
                backlog=backlog,
                waited_ms=max(0, waited_ms or 0),
                overdue_ms=max(0, overdue_ms or 0),
                open={status: statuses.get(status, 0) for status in (*OPEN_STATUSES, *HELD_STATUSES)},
            )

        return await self._readers.read(measure)

    async def prune_executions(self, tenant_id: str, *, before: int) -> int:
        queries = self._queries

        def delete(session: Session) -> int:
            values = {"tenant_id": tenant_id, "before": before, "limit": PRUNE_EXECUTIONS_MAX}
            rows = session.rows(queries.ended_before, **values)
            for (execution_id,) in rows:
                for statement in queries.delete_execution:
                    session.execute(statement, execution_id=execution_id)
            if rows:
                session.record(tenant_id, admin.executions_pruned(len(rows), before))
            return len(rows)

        return await self._journal.run(delete)

    async def audited_tenants(self) -> list[str]:
        rows = await self._readers.read(lambda session: session.rows(self._queries.audit.tenants_logged))
        return [tenant_id for (tenant_id,) in rows]

    async def seal_audit(self, key: SigningKey | None) -> int:
        queries = self._queries.audit
        rows = await self._readers.read(lambda session: session.rows(queries.tenants_to_seal))
        count = 0
        for (tenant_id,) in rows:
            count += await self._on_log(tenant_id, lambda tables: seal_log(tables, key))
        return count

    async def prune_audit(self, tenant_id: str, *, before: int, key: SigningKey | None) -> int:
        return await self._on_log(tenant_id, lambda tables: prune_log(tables, before, key))

    async def _on_log(self, tenant_id: str, work: Callable[[AuditTables], int]) -> int:
        queries = self._queries.audit
        try:
            return await self._journal.run(lambda session: work(SqlAuditTables(session, queries, tenant_id)))
        except ValueRejected:
            # Another Supervisor has sealed or pruned meanwhile, and so taken the next seal's number.
            return 0

    async def prune(self) -> dict[str, int]:
        return {table: await self._prune(statement) for table, statement in self._queries.prunes.items()}

    async def _prune(self, statement: Statement) -> int:
        def delete(session: Session) -> int:
            return session.execute(statement, limit=PRUNE_ROWS_MAX).rowcount

        total = deleted = await self._journal.run(delete)
        while deleted == PRUNE_ROWS_MAX:
            deleted = await self._journal.run(delete)
            total += deleted
        return total


class _Totals:
    """Counts of long lists, kept for a second: counting a hundred thousand rows costs more than a page."""

    def __init__(self) -> None:
        self._kept: dict[Any, tuple[int, float]] = {}

    def get(self, key: Any, count: Any) -> int:
        kept = self._kept.get(key)
        if kept is not None and time.monotonic() - kept[1] < TOTAL_AGE_S:
            return kept[0]
        total: int = count()
        if total > TOTAL_EXACT_MAX:
            if len(self._kept) > 1_000:
                self._kept.clear()
            self._kept[key] = (total, time.monotonic())
        else:
            self._kept.pop(key, None)
        return total


# --- rows into structs ------------------------------------------------------------------------------


async def _known(readers: Readers, query: Query[T], unknown: T) -> T:
    """Read; a name that no row could have names nothing."""
    try:
        return await readers.read(query)
    except ValueRejected:
        return unknown


async def _row(readers: Readers, statement: Statement, **values: Any) -> Any | None:
    return await _known(readers, lambda session: session.row(statement, **values), None)


def _made(kind: type[T], row: Any) -> T:
    fields = kind.__struct_fields__  # type: ignore[attr-defined]
    return kind(**dict(zip(fields, row, strict=True)))


def _struct(kind: type[T], row: Any | None) -> T | None:
    return None if row is None else _made(kind, row)


_RUNNABLE = ExecutionRow.__struct_fields__.index("runnable")


def _execution(row: Any) -> ExecutionRow:
    values = list(row)
    values[_RUNNABLE] = bool(values[_RUNNABLE])  # SQLite has no booleans
    return _made(ExecutionRow, values)


def _stored(row: Any | None) -> StoredExecution | None:
    if row is None:
        return None
    *execution, snapshot, sequence, tail, unread = row
    return StoredExecution(
        row=_execution(execution),
        snapshot=snapshot,
        snapshot_sequence=sequence or 0,
        tail=_tail.decode(tail),
        inbox=_messages.decode(unread),
    )
