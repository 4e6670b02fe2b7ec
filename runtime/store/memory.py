"""A store in memory, with the SQL stores' behaviour and a clock that is given: for simulation.

No thread, no file, no randomness: the order of ``await`` is all that decides. At
each step it awaits a hook, where a simulation can delay, raise or crash.
"""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from msgspec.structs import asdict, replace

from runtime.audit import admin
from runtime.audit.entries import SYSTEM, AuditEntry, AuditRow, Chains, Origin, audit_row, moved_heads
from runtime.audit.seals import Head, Seal, SigningKey
from runtime.errors import Conflict, NotFound, Unavailable, ValueRejected
from runtime.ids import DEFAULT_TENANT
from runtime.store.admission import refusal, slots_for_queue, total_usage
from runtime.store.agent_port import AllAgents
from runtime.store.limits import (
    DEAD_KEPT_MS,
    DEAD_SHOWN_MS,
    MESSAGE_KEPT_MS,
    MESSAGE_LATE_MS,
    SILENT_KEPT_MS,
)
from runtime.store.memory_agents import MemoryAgents, MemoryAgentStore, MemoryAllAgents
from runtime.store.port import (
    BEGUN_STATUSES,
    HELD_STATUSES,
    OPEN_STATUSES,
    OWNER_GONE_MS,
    TERMINAL_STATUSES,
    Credential,
    EventRow,
    ExecutionRow,
    ExecutorRow,
    Fence,
    IdempotencyRecord,
    InboxMessage,
    Journal,
    Load,
    NewExecution,
    Outcome,
    StoredExecution,
    SweepRow,
    SystemStore,
    TenantRow,
    TenantStatus,
    TokenRow,
    Turn,
    Usage,
    Use,
    WorkflowRow,
    check_workflow_limit,
    decode_limits,
    month_of,
    tenant_taken,
    version_taken,
)
from runtime.store.sealing import ChainState, prune_log, seal_log
from runtime.store.values import check_row, check_texts, check_turn

Clock = Callable[[], int]
Step = Callable[[str], Awaitable[None]]
SweepReason = Literal["unowned", "owner_gone", "timer_due", "inbox", "resumed", "slot_free"]
K = TypeVar("K")
V = TypeVar("V")


async def no_step(name: str) -> None:
    """The hook of a store that is not being simulated."""


@dataclass
class _Message:
    tenant_id: str
    message: InboxMessage
    created_at: int
    consumed_at: int | None = None


@dataclass
class MemoryDatabase:
    """The rows. Several stores on one database are several processes."""

    clock: Clock
    executions: dict[str, ExecutionRow] = field(default_factory=dict)
    events: dict[str, list[EventRow]] = field(default_factory=dict)
    snapshots: dict[str, tuple[int, str]] = field(default_factory=dict)
    idempotency: dict[tuple[str, str, str], IdempotencyRecord] = field(default_factory=dict)
    inbox: dict[tuple[str, str], _Message] = field(default_factory=dict)
    workflows: dict[tuple[str, str, str], WorkflowRow] = field(default_factory=dict)
    """In order of registration."""
    tokens: dict[str, TokenRow] = field(default_factory=dict)
    tenants: dict[str, TenantRow] = field(default_factory=dict)
    executors: dict[str, tuple[ExecutorRow, int | None]] = field(default_factory=dict)
    """The row, and when it was marked dead."""
    usage: dict[tuple[str, str], Usage] = field(default_factory=dict)
    audit: list[AuditRow] = field(default_factory=list)
    audit_chains: dict[tuple[str, str], ChainState] = field(default_factory=dict)
    seals: dict[str, list[Seal]] = field(default_factory=dict)
    agents: MemoryAgents = field(default_factory=MemoryAgents)
    keys: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tenants[DEFAULT_TENANT] = _new_tenant(DEFAULT_TENANT, DEFAULT_TENANT, "{}", "{}", self.clock())

    def commit(self, turn: Turn) -> Outcome:
        """All of one turn, or nothing of it."""
        record = turn.idempotency
        if record is not None and self.kept(turn.tenant_id, record.route, record.key) is not None:
            return Outcome.KEY_TAKEN
        row = self.executions.get(turn.execution_id)
        if turn.new is not None:
            if row is not None:
                return Outcome.FENCED
        elif (
            row is None
            or row.tenant_id != turn.tenant_id
            or (row.owner_epoch, row.sequence) != (turn.expected_epoch, turn.expected_sequence)
        ):
            return Outcome.FENCED
        refused = self._refusal(turn)
        if refused is not None:
            return refused
        log = self.events.get(turn.execution_id, [])
        sequences = [event.sequence for event in (*log, *turn.events)]
        if len(set(sequences)) != len(sequences):
            raise ValueRejected(f"an event of {turn.execution_id!r} has the sequence of another")
        self.executions[turn.execution_id] = _after(turn, row)
        if turn.events:
            self.events[turn.execution_id] = sorted((*log, *turn.events), key=lambda event: event.sequence)
        if turn.snapshot is not None:
            self.snapshots[turn.execution_id] = (turn.sequence, turn.snapshot)
        if record is not None:
            self.idempotency[turn.tenant_id, record.route, record.key] = record
        self._exchange(turn)
        self._use(turn)
        return Outcome.COMMITTED

    def _use(self, turn: Turn) -> None:
        for tenant_id, used in total_usage([turn]):
            before = self.usage.get((tenant_id, used.month), Usage(month=used.month, tokens=0, cost_usd=0.0))
            self.usage[tenant_id, used.month] = Usage(
                month=used.month,
                tokens=before.tokens + used.tokens,
                cost_usd=before.cost_usd + used.cost_usd,
            )

    def _refusal(self, turn: Turn) -> Outcome | None:
        tenant = self.tenants.get(turn.tenant_id)
        if turn.admission is None or tenant is None:
            return None
        use = self.use_of(turn.tenant_id, month_of(turn.updated_at))
        return refusal(turn.admission, tenant.status, decode_limits(tenant.limits), use)

    def use_of(self, tenant_id: str, month: str) -> Use:
        statuses = [row.status for row in self.executions.values() if row.tenant_id == tenant_id]
        used = self.usage.get((tenant_id, month))
        return Use(
            executions=sum(status in BEGUN_STATUSES for status in statuses),
            queued=statuses.count("queued"),
            tokens=0 if used is None else used.tokens,
            cost_usd=0.0 if used is None else used.cost_usd,
        )

    def append(self, chains: Chains, tenant_id: str, *entries: AuditEntry) -> None:
        """Append to the audit log of a tenant."""
        now = self.clock()
        dated = [entry if entry.created_at else replace(entry, created_at=now) for entry in entries]
        rows = chains.propose((tenant_id, entry) for entry in dated)
        self.audit += [audit_row(row) for row in rows]
        for tenant_id, chain, position in moved_heads(rows):
            known = self.audit_chains.get((tenant_id, chain), ChainState(chain, 0, 0, 0, 0))
            self.audit_chains[tenant_id, chain] = known._replace(position=position)
        chains.committed()

    def kept(self, tenant_id: str, route: str, key: str) -> IdempotencyRecord | None:
        """The unexpired record of a key."""
        record = self.idempotency.get((tenant_id, route, key))
        return record if record is not None and record.expires_at > self.clock() else None

    def send(self, tenant_id: str, message: InboxMessage, now: int) -> None:
        self.inbox.setdefault(
            (message.execution_id, message.message_id), _Message(tenant_id, message, created_at=now)
        )

    def unread(self, row: ExecutionRow) -> list[_Message]:
        """Oldest first: a stable sort keeps the order in which one turn sent them."""
        waiting = (
            found
            for found in self.inbox.values()
            if found.message.execution_id == row.execution_id
            and found.tenant_id == row.tenant_id
            and found.consumed_at is None
        )
        return sorted(waiting, key=lambda found: found.created_at)

    def stored(self, row: ExecutionRow) -> StoredExecution:
        sequence, snapshot = self.snapshots.get(row.execution_id, (0, None))
        log = self.events.get(row.execution_id, [])
        return StoredExecution(
            row=row,
            snapshot=snapshot,
            snapshot_sequence=sequence,
            tail=tuple(event for event in log if event.sequence > sequence),
            inbox=tuple(found.message for found in self.unread(row)),
        )

    def living(self) -> set[str]:
        """Incarnations that others must respect as owners."""
        since = self.clock() - OWNER_GONE_MS
        return {
            row.incarnation
            for row, _ in self.executors.values()
            if row.state != "dead" and row.heartbeat_at >= since
        }

    def _exchange(self, turn: Turn) -> None:
        for message_id in turn.inbox_consumed:
            found = self.inbox.get((turn.execution_id, message_id))
            if found is not None and found.tenant_id == turn.tenant_id:
                found.consumed_at = turn.updated_at
        for message in turn.inbox_sent:
            self.send(turn.tenant_id, message, turn.updated_at)


def _new_tenant(tenant_id: str, name: str, policy: str, limits: str, now: int) -> TenantRow:
    return TenantRow(
        tenant_id=tenant_id,
        name=name,
        status="active",
        policy=policy,
        limits=limits,
        created_at=now,
        updated_at=now,
    )


def _after(turn: Turn, row: ExecutionRow | None) -> ExecutionRow:
    """The row as the turn leaves it."""
    born = NewExecution.__struct_fields__
    kept = turn.new if row is None else row
    values = {name: getattr(kept, name) for name in born}
    values |= {name: getattr(turn, name) for name in ExecutionRow.__struct_fields__ if name not in born}
    return ExecutionRow(**values)


class MemoryStore:
    """One process's view of a ``MemoryDatabase``.

    Args:
        clock: the database's clock, in milliseconds since the epoch.
        step: awaited with ``"commit:before"`` before a turn or another write, with
            ``"commit:after"`` when it is committed and not yet answered, and with
            ``"read"`` before a read. What it raises, the caller gets.
        database: the rows to share with other stores; new ones otherwise.
    """

    def __init__(self, clock: Clock, *, step: Step = no_step, database: MemoryDatabase | None = None) -> None:
        self.database = MemoryDatabase(clock) if database is None else database
        self._gate = _Gate(step)
        self._chains = Chains()
        self.journal: Journal = MemoryJournal(self.database, self._gate, self._chains)
        self.system: SystemStore = MemorySystemStore(self.database, self._gate, self._chains)
        self.all_agents: AllAgents = MemoryAllAgents(self.database, self._gate, self._chains)

    def tenant(self, tenant_id: str, by: Origin = SYSTEM) -> "MemoryTenantStore":
        return MemoryTenantStore(tenant_id, by, self.database, self._gate, self._chains)

    def agents(self, tenant_id: str, by: Origin = SYSTEM) -> MemoryAgentStore:
        return MemoryAgentStore(tenant_id, by, self.database, self._gate, self._chains)

    async def send(self, tenant_id: str, message: InboxMessage) -> None:
        check_row(message, message.execution_id)
        await self._gate.before()
        self.database.send(tenant_id, message, self.database.clock())
        await self._gate.after()

    async def ping(self) -> None:
        await self._gate.read()

    async def close(self) -> None:
        self._gate.closed = True


class _Gate:
    """Where every call passes the hook."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self.closed = False

    async def before(self) -> None:
        await self._pass("commit:before")

    async def after(self) -> None:
        await self._step("commit:after")

    async def read(self) -> None:
        await self._pass("read")

    async def _pass(self, name: str) -> None:
        await self._step(name)
        if self.closed:
            raise Unavailable("the store is closed")


class MemoryJournal:
    """Commits each turn at once: without threads nothing ever waits for a group."""

    def __init__(self, database: MemoryDatabase, gate: _Gate, chains: Chains) -> None:
        self._database = database
        self._gate = gate
        self._chains = chains

    async def commit(self, turn: Turn) -> Outcome:
        check_turn(turn)
        await self._gate.before()
        outcome = self._database.commit(turn)
        if outcome is Outcome.COMMITTED:
            self._database.append(self._chains, turn.tenant_id, *turn.audit)
        await self._gate.after()
        return outcome

    async def close(self) -> None:
        self._gate.closed = True


class MemoryTenantStore:
    """One tenant's rows."""

    def __init__(
        self, tenant_id: str, by: Origin, database: MemoryDatabase, gate: _Gate, chains: Chains
    ) -> None:
        self.tenant_id = tenant_id
        self.by = by
        self._database = database
        self._gate = gate
        self._chains = chains

    def _audit(self, *entries: AuditEntry) -> None:
        self._database.append(self._chains, self.tenant_id, *entries)

    async def register_workflow(self, row: WorkflowRow) -> WorkflowRow:
        check_row(row, row.workflow_id)
        await self._gate.before()
        key = (self.tenant_id, row.workflow_id, row.version)
        if key not in self._database.workflows:
            self._check_limit(row.workflow_id)
            self._audit(admin.workflow_registered(self.by, row))
        stored = self._database.workflows.setdefault(key, row)
        if stored.digest != row.digest:
            raise version_taken(row)
        await self._gate.after()
        return stored

    def _check_limit(self, workflow_id: str) -> None:
        tenant = self._database.tenants.get(self.tenant_id)
        known = {name for owner, name, _ in self._database.workflows if owner == self.tenant_id}
        if tenant is not None and workflow_id not in known:
            check_workflow_limit(self.tenant_id, tenant.limits, len(known))

    async def workflow(self, workflow_id: str, version: str | None = None) -> WorkflowRow | None:
        await self._gate.read()
        if version is not None:
            return self._database.workflows.get((self.tenant_id, workflow_id, version))
        return next(iter(self._newest_workflows(workflow_id)), None)

    async def workflows(
        self, *, workflow_id: str | None = None, limit: int = 50, offset: int = 0
    ) -> tuple[list[WorkflowRow], int]:
        await self._gate.read()
        rows = self._newest_workflows(workflow_id)
        return [replace(row, ir="", graph="") for row in rows[offset : offset + limit]], len(rows)

    async def exposed_workflows(self, protocol: str) -> list[WorkflowRow]:
        await self._gate.read()
        latest: dict[str, WorkflowRow] = {}
        for row in self._newest_workflows(None):
            latest.setdefault(row.workflow_id, row)
        return [row for row in latest.values() if protocol in row.exposed.split(",")]

    def _newest_workflows(self, workflow_id: str | None) -> list[WorkflowRow]:
        return [
            row
            for (tenant_id, name, _), row in reversed(self._database.workflows.items())
            if tenant_id == self.tenant_id and workflow_id in (None, name)
        ]

    async def execution(self, execution_id: str) -> ExecutionRow | None:
        await self._gate.read()
        return self._own(execution_id)

    def _own(self, execution_id: str) -> ExecutionRow | None:
        row = self._database.executions.get(execution_id)
        return row if row is not None and row.tenant_id == self.tenant_id else None

    async def executions(
        self,
        *,
        statuses: tuple[str, ...] | None = None,
        workflow_id: str | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> tuple[list[ExecutionRow], int]:
        await self._gate.read()
        rows = [
            row
            for row in self._database.executions.values()
            if row.tenant_id == self.tenant_id
            and (statuses is None or row.status in statuses)
            and workflow_id in (None, row.workflow_id)
        ]
        rows.sort(key=lambda row: (row.created_at, row.execution_id), reverse=True)
        return rows[offset : offset + limit], len(rows)

    async def stored_execution(self, execution_id: str) -> StoredExecution | None:
        await self._gate.read()
        row = self._own(execution_id)
        return None if row is None else self._database.stored(row)

    async def events(self, execution_id: str, *, after: int = 0, limit: int | None = None) -> list[EventRow]:
        await self._gate.read()
        if self._own(execution_id) is None:
            return []
        log = self._database.events.get(execution_id, [])
        return [event for event in log if event.sequence > after][:limit]

    async def idempotency(self, key: str, route: str) -> IdempotencyRecord | None:
        await self._gate.read()
        return self._database.kept(self.tenant_id, route, key)

    async def create_token(self, row: TokenRow) -> None:
        check_row(row, row.id)
        if row.tenant_id != self.tenant_id:
            raise ValueError(f"token {row.id!r} belongs to {row.tenant_id!r}, not to {self.tenant_id!r}")
        await self._gate.before()
        if self.tenant_id not in self._database.tenants:
            raise NotFound(f"tenant {self.tenant_id}")
        for other in self._database.tokens.values():
            if other.id == row.id or other.token_hash == row.token_hash:
                raise Conflict(f"token {row.id!r} exists already")
        self._database.tokens[row.id] = row
        self._audit(admin.token_created(self.by, row))
        await self._gate.after()

    async def tokens(self) -> list[TokenRow]:
        await self._gate.read()
        rows = (row for row in self._database.tokens.values() if row.tenant_id == self.tenant_id)
        return sorted(rows, key=lambda row: (row.created_at, row.id))

    async def revoke_token(self, token_id: str) -> bool:
        await self._gate.before()
        found = [
            row
            for row in self._database.tokens.values()
            if row.tenant_id == self.tenant_id and token_id in (row.id, row.name) and row.revoked_at is None
        ]
        for row in found:
            self._database.tokens[row.id] = replace(row, revoked_at=self._database.clock())
        if found:
            self._audit(admin.token_revoked(self.by, token_id))
        await self._gate.after()
        return bool(found)

    async def audit(
        self,
        *,
        execution_id: str | None = None,
        actor_id: str | None = None,
        event_type: str | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> tuple[list[AuditRow], int]:
        await self._gate.read()
        rows = [
            row
            for row in self._own_entries()
            if execution_id in (None, row.execution_id)
            and actor_id in (None, row.actor_id)
            and event_type in (None, row.event_type)
        ]
        rows.sort(key=lambda row: (row.created_at, row.chain, row.position), reverse=True)
        return rows[offset : offset + limit], len(rows)

    async def audit_rows(self, *, after: tuple[str, int] | None = None, limit: int) -> list[AuditRow]:
        await self._gate.read()
        rows = [row for row in self._own_entries() if after is None or (row.chain, row.position) > after]
        return sorted(rows, key=lambda row: (row.chain, row.position))[:limit]

    def _own_entries(self) -> Iterator[AuditRow]:
        return (row for row in self._database.audit if row.tenant_id == self.tenant_id)

    async def seals(self, *, after: int = 0, limit: int) -> list[Seal]:
        await self._gate.read()
        return [seal for seal in self._database.seals.get(self.tenant_id, ()) if seal.number > after][:limit]

    async def record(self, *entries: AuditEntry) -> None:
        for entry in entries:
            check_row(entry, entry.event_type)
        await self._gate.before()
        self._audit(*entries)
        await self._gate.after()


class MemorySystemStore:
    """The queries across tenants."""

    def __init__(self, database: MemoryDatabase, gate: _Gate, chains: Chains) -> None:
        self._database = database
        self._gate = gate
        self._chains = chains

    async def now(self) -> int:
        await self._gate.read()
        return self._database.clock()

    async def installation_key(self, name: str, fresh: str) -> str:
        await self._gate.before()
        pem = self._database.keys.setdefault(name, fresh)
        await self._gate.after()
        return pem

    async def credential(self, token_hash: str) -> Credential | None:
        await self._gate.read()
        for row in self._database.tokens.values():
            if row.token_hash == token_hash:
                return Credential(token=row, tenant=self._database.tenants[row.tenant_id])
        return None

    async def mark_tokens_used(self, token_ids: tuple[str, ...]) -> None:
        await self._gate.before()
        rows = self._database.tokens
        for token_id in token_ids:
            if token_id in rows:
                rows[token_id] = replace(rows[token_id], last_used_at=self._database.clock())
        await self._gate.after()

    async def create_tenant(
        self, tenant_id: str, name: str, *, policy: str = "{}", limits: str = "{}", by: Origin = SYSTEM
    ) -> TenantRow:
        check_texts((tenant_id, name, policy, limits), "a text", tenant_id)
        await self._gate.before()
        if tenant_id in self._database.tenants:
            raise tenant_taken(tenant_id)
        made = _new_tenant(tenant_id, name, policy, limits, self._database.clock())
        self._database.tenants[tenant_id] = made
        self._database.append(self._chains, tenant_id, admin.tenant_created(by, made))
        await self._gate.after()
        return made

    async def tenant_row(self, tenant_id: str) -> TenantRow | None:
        await self._gate.read()
        return self._database.tenants.get(tenant_id)

    async def tenants(self, *, limit: int = 50, offset: int = 0) -> tuple[list[TenantRow], int]:
        await self._gate.read()
        rows = [row for _, row in sorted(self._database.tenants.items())]
        return rows[offset : offset + limit], len(rows)

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
        await self._gate.before()
        row = self._database.tenants.get(tenant_id)
        if row is not None:
            values = {"name": name, "status": status, "policy": policy, "limits": limits}
            given = {field: value for field, value in values.items() if value is not None}
            row = replace(row, **given, updated_at=self._database.clock())
            self._database.tenants[tenant_id] = row
            self._database.append(self._chains, tenant_id, admin.tenant_updated(by, values))
        await self._gate.after()
        return row

    async def fence(self, execution_id: str) -> Fence | None:
        await self._gate.read()
        row = self._database.executions.get(execution_id)
        return None if row is None else _fence(row)

    async def stored_execution(self, execution_id: str) -> StoredExecution | None:
        await self._gate.read()
        row = self._database.executions.get(execution_id)
        return None if row is None else self._database.stored(row)

    async def workflow(self, tenant_id: str, workflow_id: str, version: str) -> WorkflowRow | None:
        await self._gate.read()
        return self._database.workflows.get((tenant_id, workflow_id, version))

    async def register_executor(self, row: ExecutorRow) -> int:
        check_row(row, row.incarnation)
        await self._gate.before()
        now = self._database.clock()
        lives = self._database.executors
        namesakes = [
            other.incarnation
            for other, _ in lives.values()
            if other.name == row.name and other.incarnation != row.incarnation
        ]
        self._bury(namesakes)
        lives.setdefault(row.incarnation, (replace(row, started_at=now, heartbeat_at=now), None))
        await self._gate.after()
        return now

    async def heartbeat(self, incarnation: str, *, live: int, state: str) -> int | None:
        await self._gate.before()
        now = self._database.clock()
        found = self._database.executors.get(incarnation)
        beating = found is not None and found[0].state != "dead"
        if found is not None and beating:
            values = asdict(found[0]) | {"live": live, "state": state, "heartbeat_at": now}
            self._database.executors[incarnation] = (
                ExecutorRow(**values),
                now if state == "dead" else None,
            )
        await self._gate.after()
        return now if beating else None

    async def mark_dead(self, incarnations: tuple[str, ...]) -> None:
        await self._gate.before()
        self._bury(list(incarnations))
        await self._gate.after()

    def _bury(self, incarnations: list[str]) -> None:
        lives = self._database.executors
        for incarnation in incarnations:
            if incarnation in lives and lives[incarnation][0].state != "dead":
                lives[incarnation] = (replace(lives[incarnation][0], state="dead"), self._database.clock())

    async def executors(self) -> list[ExecutorRow]:
        await self._gate.read()
        living = self._database.living()
        since = self._database.clock() - DEAD_SHOWN_MS
        rows = [
            replace(row, gone=row.incarnation not in living)
            for row, dead_at in self._database.executors.values()
            if dead_at is None or dead_at >= since
        ]
        return sorted(rows, key=lambda row: (row.started_at, row.incarnation))

    async def owned_by(self, incarnation: str) -> dict[str, Fence]:
        await self._gate.read()
        return {row.execution_id: _fence(row) for row in self._open() if row.owner == incarnation}

    async def sweep(self, *, limit: int) -> list[SweepRow]:
        await self._gate.read()
        living = self._database.living()
        swept = []
        for row in self._oldest_first():
            reason = self._reason(row, living)
            if reason is not None:
                swept.append(_swept(row, reason))
        return swept[:limit]

    def _oldest_first(self) -> list[ExecutionRow]:
        return sorted(self._database.executions.values(), key=lambda row: (row.created_at, row.execution_id))

    async def dequeue(self, tenant_id: str | None = None, *, limit: int) -> list[SweepRow]:
        await self._gate.read()
        found: list[SweepRow] = []
        for name, tenant in sorted(self._database.tenants.items()):
            if tenant.status != "active" or tenant_id not in (None, name):
                continue
            queued = [row for row in self._oldest_first() if (row.tenant_id, row.status) == (name, "queued")]
            use = self._database.use_of(name, month_of(self._database.clock()))
            count = slots_for_queue(decode_limits(tenant.limits), use, limit - len(found))
            found += [_swept(row, "slot_free") for row in queued[:count]]
        return found

    async def use_of(self, tenant_id: str, month: str) -> Use:
        await self._gate.read()
        return self._database.use_of(tenant_id, month)

    async def tenants_changed(self, since: int) -> list[TenantRow]:
        await self._gate.read()
        rows = [row for row in self._database.tenants.values() if row.updated_at >= since]
        return sorted(rows, key=lambda row: row.updated_at)

    def _reason(self, row: ExecutionRow, living: set[str]) -> SweepReason | None:
        now = self._database.clock()
        if row.status not in OPEN_STATUSES:
            tenant = self._database.tenants.get(row.tenant_id)
            resumed = row.status == "suspended" and tenant is not None and tenant.status == "active"
            return "resumed" if resumed else None
        unread = self._database.unread(row)
        if row.owner is not None:
            if row.owner not in living:
                return "owner_gone"
            late = any(found.created_at <= now - MESSAGE_LATE_MS for found in unread)
            return "inbox" if late else None
        if row.runnable:
            return "unowned"
        if row.wake_at is not None and row.wake_at <= now:
            return "timer_due"
        return "inbox" if unread else None

    async def backlog(self) -> int:
        await self._gate.read()
        return sum(1 for row in self._open() if row.owner is None and row.runnable)

    async def load(self) -> Load:
        await self._gate.read()
        rows, now = list(self._open()), self._database.clock()
        statuses = [row.status for row in self._database.executions.values()]
        undriven = [row for row in rows if row.owner is None]
        waiting = [row.updated_at for row in undriven if row.runnable]
        due = [row.wake_at for row in undriven if not row.runnable and row.wake_at is not None]
        return Load(
            backlog=len(waiting),
            waited_ms=max(0, now - min(waiting, default=now)),
            overdue_ms=max(0, now - min(due, default=now)),
            open={status: statuses.count(status) for status in (*OPEN_STATUSES, *HELD_STATUSES)},
        )

    async def prune(self) -> dict[str, int]:
        await self._gate.before()
        database, now = self._database, self._database.clock()
        counts = {
            "idempotency": _drop(database.idempotency, lambda record: record.expires_at <= now),
            "executors": _drop(
                database.executors,
                lambda life: (
                    (life[1] is not None and life[1] < now - DEAD_KEPT_MS)
                    or life[0].heartbeat_at < now - SILENT_KEPT_MS
                ),
            ),
            "inbox": _drop(database.inbox, lambda found: self._is_old(found, now - MESSAGE_KEPT_MS)),
        }
        await self._gate.after()
        return counts

    async def prune_executions(self, tenant_id: str, *, before: int) -> int:
        await self._gate.before()
        database = self._database
        gone = [
            row.execution_id
            for row in database.executions.values()
            if row.tenant_id == tenant_id and row.completed_at is not None and row.completed_at < before
        ]
        for execution_id in gone:
            del database.executions[execution_id]
            database.events.pop(execution_id, None)
            database.snapshots.pop(execution_id, None)
        _drop(database.inbox, lambda found: found.message.execution_id in gone)
        if gone:
            database.append(self._chains, tenant_id, admin.executions_pruned(len(gone), before))
        await self._gate.after()
        return len(gone)

    async def audited_tenants(self) -> list[str]:
        await self._gate.read()
        return sorted({row.tenant_id for row in self._database.audit} | self._database.seals.keys())

    async def seal_audit(self, key: SigningKey | None) -> int:
        await self._gate.before()
        tenants = sorted({tenant_id for tenant_id, _ in self._database.audit_chains})
        count = sum(seal_log(_AuditTables(self._database, tenant_id), key) for tenant_id in tenants)
        await self._gate.after()
        return count

    async def prune_audit(self, tenant_id: str, *, before: int, key: SigningKey | None) -> int:
        await self._gate.before()
        count = prune_log(_AuditTables(self._database, tenant_id), before, key)
        await self._gate.after()
        return count

    def _is_old(self, found: _Message, before: int) -> bool:
        if found.consumed_at is not None:
            return found.consumed_at < before
        row = self._database.executions.get(found.message.execution_id)
        return found.created_at < before and row is not None and row.status in TERMINAL_STATUSES

    def _open(self) -> Iterator[ExecutionRow]:
        return (row for row in self._database.executions.values() if row.status in OPEN_STATUSES)


class _AuditTables:
    """The ``AuditTables`` of one tenant."""

    def __init__(self, database: MemoryDatabase, tenant_id: str) -> None:
        self.tenant_id = tenant_id
        self._database = database

    def now(self) -> int:
        return self._database.clock()

    def last_seal(self) -> Seal | None:
        return next(reversed(self._seals()), None)

    def last_pruning(self) -> Seal | None:
        return next((seal for seal in reversed(self._seals()) if seal.kept_from), None)

    def _seals(self) -> list[Seal]:
        return self._database.seals.setdefault(self.tenant_id, [])

    def chains(self) -> list[ChainState]:
        states = sorted(self._database.audit_chains.items())
        return [state for (tenant_id, _), state in states if tenant_id == self.tenant_id]

    def _entries(self, chain: str) -> list[AuditRow]:
        own = (self.tenant_id, chain)
        return [row for row in self._database.audit if (row.tenant_id, row.chain) == own]

    def hash_at(self, chain: str, position: int) -> str | None:
        return next((row.hash for row in self._entries(chain) if row.position == position), None)

    def first_since(self, chain: str, since: int) -> int | None:
        return min((row.position for row in self._entries(chain) if row.created_at >= since), default=None)

    def first_seal_since(self, since: int) -> int | None:
        return min((seal.number for seal in self._seals() if seal.created_at >= since), default=None)

    def seal_hash(self, number: int) -> str | None:
        return next((seal.hash for seal in self._seals() if seal.number == number), None)

    def insert_seal(self, seal: Seal) -> None:
        self._seals().append(seal)

    def mark_sealed(self, head: Head, number: int) -> None:
        self._change(head.chain, sealed=head.position, sealed_by=number)

    def mark_pruned(self, chain: str, position: int) -> None:
        self._change(chain, pruned=position)

    def _change(self, chain: str, **values: Any) -> None:
        states = self._database.audit_chains
        states[self.tenant_id, chain] = states[self.tenant_id, chain]._replace(**values)

    def forget_chain(self, chain: str) -> None:
        del self._database.audit_chains[self.tenant_id, chain]

    def delete_entries(self, chain: str, up_to: int) -> None:
        gone = {row.position for row in self._entries(chain) if row.position <= up_to}
        own = (self.tenant_id, chain)
        self._database.audit = [
            row
            for row in self._database.audit
            if (row.tenant_id, row.chain) != own or row.position not in gone
        ]

    def delete_seals(self, below: int) -> None:
        self._database.seals[self.tenant_id] = [seal for seal in self._seals() if seal.number >= below]


def _swept(row: ExecutionRow, reason: SweepReason) -> SweepRow:
    return SweepRow(
        tenant_id=row.tenant_id,
        execution_id=row.execution_id,
        isolation=row.isolation,
        resources=row.resources,
        owner=row.owner,
        reason=reason,
    )


def _fence(row: ExecutionRow) -> Fence:
    return Fence(row.owner, row.owner_epoch, row.sequence)


def _drop(rows: dict[K, V], is_old: Callable[[V], bool]) -> int:
    old = [key for key, row in rows.items() if is_old(row)]
    for key in old:
        del rows[key]
    return len(old)
