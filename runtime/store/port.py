"""What the store is to its callers: the records that pass, and the protocols that serve them.

Rows, sessions and SQL never leave ``runtime.store``. Three implementations keep
these promises, and one behavioural suite (``tests/conformance``) holds them to
it: SQLite, PostgreSQL, and an in-memory one for simulation.

Times are milliseconds since the epoch *by the database's clock*. Every protocol
method may raise ``Unavailable`` (nothing was written) and, where it writes,
``OutcomeUnknown`` (the error came after COMMIT was sent).
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal, Protocol

import msgspec

from runtime.audit.entries import SYSTEM, AuditEntry, AuditRow, Origin
from runtime.audit.seals import Seal, SigningKey
from runtime.errors import Conflict, LimitReached
from runtime.store.agent_port import AgentStore, AllAgents

OWNER_GONE_MS = 5_000
"""An owner whose last heartbeat is older than this is gone (by the database's clock)."""

IDEMPOTENCY_KEPT_MS = 24 * 3_600 * 1_000


# --- what a turn commits -------------------------------------------------------------------------


class EventRow(msgspec.Struct, frozen=True):
    """One event of one execution. ``data`` is JSON text of what the type carries."""

    sequence: int
    type: str
    node_id: str | None
    data: str
    created_at: int


class NewExecution(msgspec.Struct, frozen=True, kw_only=True):
    """The columns that only a first turn writes."""

    workflow_id: str
    workflow_version: str
    isolation: Literal["shared", "dedicated"]
    resources: str | None = None
    """JSON text, or None."""
    created_at: int


class IdempotencyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to the request that carried a key, replayed to its repeats."""

    key: str
    route: str
    fingerprint: str
    status: int
    body: str
    expires_at: int


class InboxMessage(msgspec.Struct, frozen=True, kw_only=True):
    """Something one execution's turn tells another. ``body`` is JSON text."""

    execution_id: str
    message_id: str
    body: str


class Admission(StrEnum):
    """What a turn must be let in for, by the status and the limits of its tenant."""

    START = "start"
    """It begins, and takes a slot."""
    QUEUE = "queue"
    """It is recorded, and waits for a slot."""
    DEQUEUE = "dequeue"
    """It has waited, and takes a slot."""
    RESUME = "resume"
    """It goes on after its tenant was suspended, on the slot that it kept."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What models used up in one turn. ``month`` is ``YYYY-MM``, in UTC."""

    month: str
    tokens: int
    cost_usd: float


def month_of(time_ms: int) -> str:
    """The month, in UTC, of a time in milliseconds since the epoch."""
    return datetime.fromtimestamp(time_ms / 1_000, UTC).strftime("%Y-%m")


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One member of a group commit: all of it is committed, or none.

    A first turn (``new`` given) inserts the execution; any other turn matches the
    row by ``(expected_epoch, expected_sequence)`` or is fenced. The remaining
    columns are the row's values after the turn.
    """

    tenant_id: str
    execution_id: str
    expected_epoch: int = 0
    expected_sequence: int = 0
    new: NewExecution | None = None
    owner: str | None
    owner_epoch: int
    sequence: int
    status: str
    runnable: bool
    """True: something is to be done now, so an unowned row must be activated."""
    wake_at: int | None = None
    steps: int = 0
    error: str | None = None
    updated_at: int
    completed_at: int | None = None
    events: tuple[EventRow, ...] = ()
    snapshot: str | None = None
    """JSON text of machine and state at ``sequence``; replaces the previous one."""
    idempotency: IdempotencyRecord | None = None
    inbox_consumed: tuple[str, ...] = ()
    inbox_sent: tuple[InboxMessage, ...] = ()
    audit: tuple[AuditEntry, ...] = ()
    admission: Admission | None = None
    """Given where the turn must be let in; it is decided in its own transaction."""
    usage: Usage | None = None


class Outcome(StrEnum):
    """What became of one member of a group."""

    COMMITTED = "committed"
    FENCED = "fenced"
    """The row moved on, has another epoch, or (first turn) exists already."""
    KEY_TAKEN = "key_taken"
    """Its Idempotency-Key is recorded already for this route."""
    NO_SLOT = "no_slot"
    """The tenant runs as many executions as it may."""
    SPENT = "spent"
    """The tenant has used up a limit of this month."""
    SUSPENDED = "suspended"
    """The tenant is suspended or archived."""


class Journal(Protocol):
    """Group commit: whatever waits while one transaction runs goes into the next."""

    async def commit(self, turn: Turn) -> Outcome:
        """Commit one turn, in a group with whatever else waits.

        On COMMITTED the turn is durable. FENCED and KEY_TAKEN members contribute
        nothing to their group. A group that fails is retried member by member.

        Raises:
            Unavailable: the store refused; nothing of this turn was written.
            OutcomeUnknown: the error came after COMMIT was sent: read the fence.
            ValueRejected: the store cannot hold this turn's values; other members are unaffected.
        """

    async def close(self) -> None:
        """Commit what waits, then stop."""


# --- what is read -------------------------------------------------------------------------------


class Fence(msgspec.Struct, frozen=True):
    """Who may append, and after what."""

    owner: str | None
    owner_epoch: int
    sequence: int


class ExecutionRow(msgspec.Struct, frozen=True, kw_only=True):
    """One execution as its row says. ``resources`` is JSON text."""

    tenant_id: str
    execution_id: str
    workflow_id: str
    workflow_version: str
    status: str
    isolation: str
    resources: str | None
    owner: str | None
    owner_epoch: int
    sequence: int
    runnable: bool
    wake_at: int | None
    steps: int
    error: str | None
    created_at: int
    updated_at: int
    completed_at: int | None


class StoredExecution(msgspec.Struct, frozen=True, kw_only=True):
    """All that is needed to fold one execution, read in one snapshot of the database."""

    row: ExecutionRow
    snapshot: str | None
    snapshot_sequence: int
    tail: tuple[EventRow, ...]
    """The events after ``snapshot_sequence``, in order."""
    inbox: tuple[InboxMessage, ...] = ()
    """Unread messages to it, oldest first."""


class WorkflowRow(msgspec.Struct, frozen=True, kw_only=True):
    """One registered version. ``ir`` and ``graph`` are JSON text; ``digest`` names the content."""

    workflow_id: str
    version: str
    digest: str
    ir: str
    graph: str
    created_at: int
    exposed: str = ""
    """Protocols other than REST that may start it, in their order and with commas: ``a2a,mcp``."""


def version_taken(row: WorkflowRow) -> Conflict:
    """The refusal of another content for a version that exists."""
    return Conflict(
        f"workflow {row.workflow_id!r} version {row.version!r} is registered with another content:"
        " give the new one another version"
    )


class TokenRow(msgspec.Struct, frozen=True, kw_only=True):
    """One API token; the token itself is never stored, only its SHA-256."""

    id: str
    tenant_id: str
    name: str
    role: str
    token_hash: str
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None
    last_used_at: int | None = None
    agent_id: str | None = None
    """The agent that it was made for, whose calls these are."""


TenantStatus = Literal["active", "suspended", "archived"]


class TenantLimits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one tenant may have at most. None: no limit."""

    max_workflows: int | None = None
    """Ids of workflows; their versions do not count."""
    max_concurrent_executions: int | None = None
    """Executions that have begun and not ended."""
    requests_per_minute: int | None = None
    max_tokens_per_month: int | None = None
    """Input and output tokens of models. A month is one of UTC; starts are refused when it is used up."""
    max_cost_per_month_usd: float | None = None


class TenantRow(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant. ``policy`` and ``limits`` are JSON text."""

    tenant_id: str
    name: str
    status: TenantStatus
    policy: str
    limits: str
    created_at: int
    updated_at: int


decode_limits = msgspec.json.Decoder(TenantLimits).decode


def tenant_taken(tenant_id: str) -> Conflict:
    """The refusal of a second tenant under one id."""
    return Conflict(f"tenant {tenant_id!r} exists already")


def check_workflow_limit(tenant_id: str, limits: str, count: int) -> None:
    """Raise LimitReached where a tenant with so many workflow ids may have no other one."""
    most = decode_limits(limits).max_workflows
    if most is not None and count >= most:
        raise LimitReached(
            f"tenant {tenant_id!r} has reached max_workflows, which is {most}",
            limit="max_workflows",
            retry_after_s=60,
        )


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """A token, and its tenant."""

    token: TokenRow
    tenant: TenantRow


class ExecutorRow(msgspec.Struct, frozen=True, kw_only=True):
    """One life of one ExecutionActor process."""

    incarnation: str
    name: str
    node: str
    pid: int
    isolation: str
    capacity: int
    live: int
    state: Literal["active", "spare", "draining", "dead"]
    started_at: int
    heartbeat_at: int
    gone: bool = False
    """True: no longer an owner that others must respect (dead, or silent for OWNER_GONE_MS)."""


class SweepRow(msgspec.Struct, frozen=True, kw_only=True):
    """An execution that somebody ought to activate now."""

    tenant_id: str
    execution_id: str
    isolation: str
    resources: str | None
    owner: str | None
    reason: Literal["unowned", "owner_gone", "timer_due", "inbox", "resumed", "slot_free"]


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What waits in the whole database."""

    backlog: int
    """Open executions that are runnable and unowned."""
    waited_ms: int
    """How long the one of these has waited that is swept first, or nearly so; 0 without any."""
    overdue_ms: int
    """How late the first due timer of an unowned execution is; 0: none is due."""
    open: dict[str, int]
    """How many executions have each open or held status."""


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """What a tenant has of what its limits are about."""

    executions: int
    """That have begun and not ended."""
    queued: int
    tokens: int
    """Of the month that was asked for, as is the cost."""
    cost_usd: float


class TenantStore(Protocol):
    """One tenant's rows. It cannot be made without a tenant, and sees no other's.

    What it changes is audited, in the same transaction, as done ``by`` its caller.
    """

    tenant_id: str
    by: Origin

    async def register_workflow(self, row: WorkflowRow) -> WorkflowRow:
        """Insert a version, or return the stored one when its digest is the same.

        Raises:
            Conflict: that version exists with another content.
            LimitReached: its id is new, and the tenant has as many as it may have.
        """

    async def workflow(self, workflow_id: str, version: str | None = None) -> WorkflowRow | None:
        """One version; None for ``version`` means the latest registered."""

    async def workflows(
        self, *, workflow_id: str | None = None, limit: int = 50, offset: int = 0
    ) -> tuple[list[WorkflowRow], int]:
        """Versions, newest registration first, and how many there are. ``ir`` and ``graph`` are ''."""

    async def exposed_workflows(self, protocol: str) -> list[WorkflowRow]:
        """The latest version of each workflow, where that one is exposed to a protocol; newest first."""

    async def execution(self, execution_id: str) -> ExecutionRow | None: ...

    async def executions(
        self,
        *,
        statuses: tuple[str, ...] | None = None,
        workflow_id: str | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> tuple[list[ExecutionRow], int]:
        """Executions, newest first (created_at desc, execution_id desc), and how many match."""

    async def stored_execution(self, execution_id: str) -> StoredExecution | None: ...

    async def events(self, execution_id: str, *, after: int = 0, limit: int | None = None) -> list[EventRow]:
        """Events with a sequence over ``after``, in order; [] for an unknown execution."""

    async def idempotency(self, key: str, route: str) -> IdempotencyRecord | None:
        """The unexpired record of a key, or None."""

    async def create_token(self, row: TokenRow) -> None:
        """Insert a token.

        Raises:
            Conflict: there is a token with that id or hash.
            NotFound: there is no such tenant.
        """

    async def tokens(self) -> list[TokenRow]: ...

    async def revoke_token(self, token_id: str) -> bool:
        """Revoke by id or by name; False if there is no such live token."""

    async def audit(
        self,
        *,
        execution_id: str | None = None,
        actor_id: str | None = None,
        event_type: str | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> tuple[list[AuditRow], int]:
        """Entries that match all that is given, the newest first, and how many there are."""

    async def audit_rows(self, *, after: tuple[str, int] | None = None, limit: int) -> list[AuditRow]:
        """Entries after (chain, position), in that order: for verification and export."""

    async def seals(self, *, after: int = 0, limit: int) -> list[Seal]:
        """Seals with a number over ``after``, in order."""

    async def record(self, *entries: AuditEntry) -> None:
        """Audit what changed no other row."""


class SystemStore(Protocol):
    """The few queries across tenants, and those on tenants: for owners, the Supervisor, the token check."""

    async def now(self) -> int:
        """The database's clock."""

    async def installation_key(self, name: str, fresh: str) -> str:
        """The private key of that name, as PEM; ``fresh`` becomes it where there is none yet."""

    async def credential(self, token_hash: str) -> Credential | None:
        """The token with this hash, and its tenant; one query. None: no such token."""

    async def mark_tokens_used(self, token_ids: tuple[str, ...]) -> None:
        """Set ``last_used_at`` of these tokens to the database's now, in one transaction."""

    async def create_tenant(
        self, tenant_id: str, name: str, *, policy: str = "{}", limits: str = "{}", by: Origin = SYSTEM
    ) -> TenantRow:
        """Insert an active tenant, and audit that in its log.

        Raises:
            Conflict: there is one with that id.
        """

    async def tenant_row(self, tenant_id: str) -> TenantRow | None: ...

    async def tenants(self, *, limit: int = 50, offset: int = 0) -> tuple[list[TenantRow], int]:
        """Tenants in the order of their ids, and how many there are."""

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
        """Change what is given, audit that, and return the row as it is then; None: no such tenant."""

    async def fence(self, execution_id: str) -> Fence | None: ...

    async def stored_execution(self, execution_id: str) -> StoredExecution | None: ...

    async def workflow(self, tenant_id: str, workflow_id: str, version: str) -> WorkflowRow | None: ...

    async def register_executor(self, row: ExecutorRow) -> int:
        """Insert a new life (times are taken from the database); returns the database's now.

        Earlier lives under the same name are marked dead in the same transaction:
        Ray never runs two actors of one name, and the fence holds if it did.
        """

    async def heartbeat(self, incarnation: str, *, live: int, state: str) -> int | None:
        """Beat once. Returns the database's now, or None if this life is marked dead or unknown."""

    async def mark_dead(self, incarnations: tuple[str, ...]) -> None: ...

    async def executors(self) -> list[ExecutorRow]:
        """Every life not dead for over a minute, with ``gone`` computed by the database's clock."""

    async def owned_by(self, incarnation: str) -> dict[str, Fence]:
        """execution_id -> fence, for all rows it owns."""

    async def sweep(self, *, limit: int) -> list[SweepRow]:
        """Executions that nobody drives: runnable and unowned, owner gone, timer due, unread inbox, and
        those whose tenant is not suspended any more.

        Oldest first, so that starts run in order.
        """

    async def dequeue(self, tenant_id: str | None = None, *, limit: int) -> list[SweepRow]:
        """Executions that wait for a slot of which there is one, oldest first: of all tenants, or of one."""

    async def tenants_changed(self, since: int) -> list[TenantRow]:
        """Tenants that were changed at or after a time, in the order of that."""

    async def use_of(self, tenant_id: str, month: str) -> Use: ...

    async def backlog(self) -> int:
        """How many open executions are runnable and unowned."""

    async def load(self) -> Load:
        """What waits. Its cost grows with the open executions, not with those that have ended."""

    async def prune(self) -> dict[str, int]:
        """Delete expired idempotency records and old dead executors; counts by table."""

    async def prune_executions(self, tenant_id: str, *, before: int) -> int:
        """Delete executions that ended before a time, with their logs, a few hundred at most: how many.

        How many it were is audited.
        """

    async def audited_tenants(self) -> list[str]:
        """Tenants that have an audit log, in the order of their ids."""

    async def seal_audit(self, key: SigningKey | None) -> int:
        """Seal every tenant's log that has moved, each in a transaction of its own; how many were sealed.

        Two that seal at once do no harm: one of them finds its seal taken.
        """

    async def prune_audit(self, tenant_id: str, *, before: int, key: SigningKey | None) -> int:
        """Delete sealed entries older than ``before``, at most a few thousand; returns how many.

        0 also where somebody else seals or prunes at this moment.
        """


class Store(Protocol):
    """One opened database."""

    journal: Journal
    system: SystemStore
    all_agents: AllAgents

    def tenant(self, tenant_id: str, by: Origin = SYSTEM) -> TenantStore: ...

    def agents(self, tenant_id: str, by: Origin = SYSTEM) -> AgentStore: ...

    async def send(self, tenant_id: str, message: InboxMessage) -> None:
        """Put a message into an inbox outside of any turn (idempotent by message id)."""

    async def ping(self) -> None:
        """Raises Unavailable when the store cannot be read and written."""

    async def close(self) -> None: ...


OPEN_STATUSES = ("running", "paused")
HELD_STATUSES = ("queued", "suspended")
"""Of rows alone: to the world these executions are running, and say in ``waiting_on`` what they wait for."""
BEGUN_STATUSES = ("running", "paused", "suspended")
"""Those of executions that take a slot."""
TERMINAL_STATUSES = ("completed", "failed", "cancelled", "limit_exceeded")
STATUSES = OPEN_STATUSES + TERMINAL_STATUSES


def shown_status(status: str) -> str:
    """A row's status as the world sees it."""
    return "running" if status in HELD_STATUSES else status


def encode_resources(resources: dict[str, Any] | None) -> str | None:
    """Resources as the row keeps them."""
    return None if not resources else msgspec.json.encode(resources, order="sorted").decode()
