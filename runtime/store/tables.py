"""The tables, for SQLite and PostgreSQL alike.

Times are milliseconds since the epoch, JSON is TEXT, and every table names its
tenant. Identifiers compare by byte on both databases. The partial indexes keep
what is swept once a second apart from the many executions that have ended.
"""

from typing import Any, ClassVar

from sqlalchemy import BigInteger, Double, Index, MetaData, Text, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from runtime.ids import DEFAULT_TENANT

OPEN = "status IN ('running', 'paused')"
"""Condition of an open execution. Queries repeat it literally: SQLite matches a partial index by its text."""

UNDRIVEN = f"owner IS NULL AND {OPEN}"
RUNNABLE = f"{UNDRIVEN} AND runnable"
DORMANT = f"{UNDRIVEN} AND NOT runnable"
WAKING = f"{DORMANT} AND wake_at IS NOT NULL"
OWNED = f"owner IS NOT NULL AND {OPEN}"
HELD = "status IN ('queued', 'suspended')"
ENDED = "status IN ('completed', 'failed', 'cancelled', 'limit_exceeded')"
UNREAD = "consumed_at IS NULL"
SILENCED = "status = 'paused' AND silenced"
"""Condition of an agent that is paused for its silence."""
EXPOSED = "exposed <> ''"
"""Condition of a workflow that other protocols than REST may start."""

metadata = MetaData()

_Id: Any = Text().with_variant(Text(collation="C"), "postgresql")


def _partial(name: str, *columns: str, where: str) -> Index:
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


class Table(SQLModel):
    """Base of all tables."""

    metadata: ClassVar[MetaData] = metadata


class Workflow(Table, table=True):
    """One registered version of a workflow."""

    __tablename__ = "workflows"
    __table_args__ = (
        UniqueConstraint("tenant_id", "position", name="uq_workflows_position"),
        Index("ix_workflows_latest", "tenant_id", "workflow_id", "position"),
        _partial("ix_workflows_exposed", "tenant_id", "position", where=EXPOSED),
    )

    tenant_id: str = Field(primary_key=True, sa_type=_Id)
    workflow_id: str = Field(primary_key=True, sa_type=_Id)
    version: str = Field(primary_key=True, sa_type=_Id)
    position: int = Field(sa_type=BigInteger)
    """Counts registrations of one tenant: the highest is the latest."""
    digest: str = Field(sa_type=Text)
    ir: str = Field(sa_type=Text)
    graph: str = Field(sa_type=Text)
    created_at: int = Field(sa_type=BigInteger)
    exposed: str = Field(default="", sa_type=Text)
    """Protocols, in their order and with commas."""


class Execution(Table, table=True):
    """One execution: its fence, and what lists and sweeps need to know of it.

    It keeps SQLite's rowid, so that executions of one time share pages and the
    many updates of young rows touch few of them.
    """

    __tablename__ = "executions"
    __table_args__ = (
        Index("ix_executions_newest", "tenant_id", "created_at", "execution_id"),
        Index("ix_executions_status", "tenant_id", "status", "created_at", "execution_id"),
        Index("ix_executions_workflow", "tenant_id", "workflow_id", "created_at", "execution_id"),
        _partial("ix_executions_runnable", "created_at", "execution_id", where=RUNNABLE),
        _partial("ix_executions_waking", "wake_at", where=WAKING),
        _partial("ix_executions_owned", "owner", where=OWNED),
        _partial("ix_executions_held", "tenant_id", "status", "created_at", "execution_id", where=HELD),
    )

    execution_id: str = Field(primary_key=True, sa_type=_Id)
    tenant_id: str = Field(sa_type=_Id)
    workflow_id: str = Field(sa_type=_Id)
    workflow_version: str = Field(sa_type=_Id)
    status: str = Field(sa_type=Text)
    isolation: str = Field(sa_type=Text)
    resources: str | None = Field(default=None, sa_type=Text)
    owner: str | None = Field(default=None, sa_type=_Id)
    owner_epoch: int = Field(sa_type=BigInteger)
    sequence: int = Field(sa_type=BigInteger)
    runnable: bool
    wake_at: int | None = Field(default=None, sa_type=BigInteger)
    steps: int = Field(sa_type=BigInteger)
    error: str | None = Field(default=None, sa_type=Text)
    created_at: int = Field(sa_type=BigInteger)
    updated_at: int = Field(sa_type=BigInteger)
    completed_at: int | None = Field(default=None, sa_type=BigInteger)


class Event(Table, table=True):
    """One event of one execution's log, stored in the order of its key."""

    __tablename__ = "events"
    __table_args__: ClassVar[dict[str, Any]] = {"sqlite_with_rowid": False}

    execution_id: str = Field(primary_key=True, sa_type=_Id)
    sequence: int = Field(primary_key=True, sa_type=BigInteger)
    tenant_id: str = Field(sa_type=_Id)
    type: str = Field(sa_type=Text)
    node_id: str | None = Field(default=None, sa_type=Text)
    data: str = Field(sa_type=Text)
    created_at: int = Field(sa_type=BigInteger)


class Snapshot(Table, table=True):
    """The latest fold of one execution, at ``sequence``."""

    __tablename__ = "snapshots"

    execution_id: str = Field(primary_key=True, sa_type=_Id)
    tenant_id: str = Field(sa_type=_Id)
    sequence: int = Field(sa_type=BigInteger)
    data: str = Field(sa_type=Text)


class Idempotency(Table, table=True):
    """The answer kept for one Idempotency-Key of one route."""

    __tablename__ = "idempotency"
    __table_args__ = (Index("ix_idempotency_expiry", "expires_at"),)

    tenant_id: str = Field(primary_key=True, sa_type=_Id)
    route: str = Field(primary_key=True, sa_type=_Id)
    key: str = Field(primary_key=True, sa_type=_Id)
    fingerprint: str = Field(sa_type=Text)
    status: int
    body: str = Field(sa_type=Text)
    expires_at: int = Field(sa_type=BigInteger)


class Inbox(Table, table=True):
    """A message to an execution. A consumed one stays a day, so that its id is known when it comes again."""

    __tablename__ = "inbox"
    __table_args__ = (
        _partial("ix_inbox_unread", "execution_id", where=UNREAD),
        _partial("ix_inbox_consumed", "consumed_at", where="consumed_at IS NOT NULL"),
    )

    execution_id: str = Field(primary_key=True, sa_type=_Id)
    message_id: str = Field(primary_key=True, sa_type=_Id)
    tenant_id: str = Field(sa_type=_Id)
    body: str = Field(sa_type=Text)
    created_at: int = Field(sa_type=BigInteger)
    ordinal: int
    """Its place among the messages of the turn that sent it."""
    consumed_at: int | None = Field(default=None, sa_type=BigInteger)


class ApiToken(Table, table=True):
    """One bearer token, known by the SHA-256 of its text."""

    __tablename__ = "api_tokens"
    __table_args__ = (
        UniqueConstraint("token_hash", name="uq_api_tokens_hash"),
        Index("ix_api_tokens_tenant", "tenant_id"),
    )

    id: str = Field(primary_key=True, sa_type=_Id)
    tenant_id: str = Field(sa_type=_Id)
    name: str = Field(sa_type=Text)
    role: str = Field(sa_type=Text)
    token_hash: str = Field(sa_type=_Id)
    created_at: int = Field(sa_type=BigInteger)
    expires_at: int | None = Field(default=None, sa_type=BigInteger)
    revoked_at: int | None = Field(default=None, sa_type=BigInteger)
    last_used_at: int | None = Field(default=None, sa_type=BigInteger)
    """At most a minute or so behind: it is written now and then, not at each use."""
    agent_id: str | None = Field(default=None, sa_type=_Id)
    """The agent that it was made for."""


class Agent(Table, table=True):
    """One registered agent."""

    __tablename__ = "agents"
    __table_args__ = (
        Index("ix_agents_newest", "tenant_id", "registered_at", "agent_id"),
        Index("ix_agents_status", "tenant_id", "status", "registered_at", "agent_id"),
        _partial("ix_agents_silenced", "tenant_id", "agent_id", where=SILENCED),
    )

    tenant_id: str = Field(primary_key=True, sa_type=_Id)
    agent_id: str = Field(primary_key=True, sa_type=_Id)
    status: str = Field(sa_type=Text)
    silenced: bool
    card: str = Field(sa_type=Text)
    digest: str = Field(sa_type=Text)
    uri: str = Field(sa_type=Text)
    found_at: str | None = Field(default=None, sa_type=Text)
    registered_at: int = Field(sa_type=BigInteger)
    updated_at: int = Field(sa_type=BigInteger)


class AgentTrait(Table, table=True):
    """What an agent can be found by: a skill, a protocol, a trust domain."""

    __tablename__ = "agent_traits"
    __table_args__ = (Index("ix_agent_traits_agent", "tenant_id", "agent_id"), {"sqlite_with_rowid": False})

    tenant_id: str = Field(primary_key=True, sa_type=_Id)
    trait: str = Field(primary_key=True, sa_type=_Id)
    agent_id: str = Field(primary_key=True, sa_type=_Id)


class AgentHeartbeat(Table, table=True):
    """An agent's last sign of life: apart from its card, as a thousand of them are written in a second."""

    __tablename__ = "agent_heartbeats"
    __table_args__: ClassVar[dict[str, Any]] = {"sqlite_with_rowid": False}

    tenant_id: str = Field(primary_key=True, sa_type=_Id)
    agent_id: str = Field(primary_key=True, sa_type=_Id)
    beat_at: int = Field(sa_type=BigInteger)


class InstallationKey(Table, table=True):
    """A private key that all replicas share. It is the installation's, so its row is the default tenant's."""

    __tablename__ = "installation_keys"

    name: str = Field(primary_key=True, sa_type=_Id)
    tenant_id: str = Field(default=DEFAULT_TENANT, sa_type=_Id)
    pem: str = Field(sa_type=Text)
    created_at: int = Field(sa_type=BigInteger)


class Tenant(Table, table=True):
    """One tenant. It is never deleted, so what names it never dangles."""

    __tablename__ = "tenants"

    tenant_id: str = Field(primary_key=True, sa_type=_Id)
    name: str = Field(sa_type=Text)
    status: str = Field(sa_type=Text)
    policy: str = Field(sa_type=Text)
    limits: str = Field(sa_type=Text)
    created_at: int = Field(sa_type=BigInteger)
    updated_at: int = Field(sa_type=BigInteger)


class Executor(Table, table=True):
    """One life of one ExecutionActor. Such a process serves every tenant, so its row is the default one's."""

    __tablename__ = "executors"
    __table_args__ = (Index("ix_executors_name", "name"),)

    incarnation: str = Field(primary_key=True, sa_type=_Id)
    tenant_id: str = Field(default=DEFAULT_TENANT, sa_type=_Id)
    name: str = Field(sa_type=_Id)
    node: str = Field(sa_type=Text)
    pid: int = Field(sa_type=BigInteger)
    isolation: str = Field(sa_type=Text)
    capacity: int
    live: int
    state: str = Field(sa_type=Text)
    started_at: int = Field(sa_type=BigInteger)
    heartbeat_at: int = Field(sa_type=BigInteger)
    dead_at: int | None = Field(default=None, sa_type=BigInteger)


class TenantUsage(Table, table=True):
    """What a tenant's models used in a month, in a few rows, so that writers do not wait for each other."""

    __tablename__ = "tenant_usage"

    tenant_id: str = Field(primary_key=True, sa_type=_Id)
    month: str = Field(primary_key=True, sa_type=_Id)
    shard: int = Field(primary_key=True)
    tokens: int = Field(sa_type=BigInteger)
    cost_usd: float = Field(sa_type=Double)


class Audit(Table, table=True):
    """One audit entry in its chain. Triggers refuse to change it, and to delete it before it is pruned."""

    __tablename__ = "audit"
    __table_args__ = (
        Index("ix_audit_newest", "tenant_id", "created_at", "chain", "position"),
        Index("ix_audit_execution", "tenant_id", "execution_id", "created_at", "chain", "position"),
        Index("ix_audit_actor", "tenant_id", "actor_id", "created_at", "chain", "position", "event_type"),
        Index("ix_audit_type", "tenant_id", "event_type", "created_at", "chain", "position"),
        {"sqlite_with_rowid": False},
    )

    tenant_id: str = Field(primary_key=True, sa_type=_Id)
    chain: str = Field(primary_key=True, sa_type=_Id)
    position: int = Field(primary_key=True, sa_type=BigInteger)
    execution_id: str | None = Field(default=None, sa_type=_Id)
    event_type: str = Field(sa_type=_Id)
    actor_id: str = Field(sa_type=_Id)
    actor_type: str = Field(sa_type=Text)
    created_at: int = Field(sa_type=BigInteger)
    sequence: int | None = Field(default=None, sa_type=BigInteger)
    event_digest: str | None = Field(default=None, sa_type=Text)
    node_id: str | None = Field(default=None, sa_type=Text)
    tool_call_hash: str | None = Field(default=None, sa_type=Text)
    policy_decision: str | None = Field(default=None, sa_type=Text)
    request_id: str | None = Field(default=None, sa_type=Text)
    http_method: str | None = Field(default=None, sa_type=Text)
    http_path: str | None = Field(default=None, sa_type=Text)
    ip_address: str | None = Field(default=None, sa_type=Text)
    details: str | None = Field(default=None, sa_type=Text)
    hash: str = Field(sa_type=Text)


class AuditChain(Table, table=True):
    """How far a chain goes, is sealed, and is pruned: a guide for sealing, not for verification."""

    __tablename__ = "audit_chains"

    tenant_id: str = Field(primary_key=True, sa_type=_Id)
    chain: str = Field(primary_key=True, sa_type=_Id)
    position: int = Field(sa_type=BigInteger)
    sealed: int = Field(default=0, sa_type=BigInteger)
    sealed_by: int = Field(default=0, sa_type=BigInteger)
    """The last seal that names it."""
    pruned: int = Field(default=0, sa_type=BigInteger)


class AuditSeal(Table, table=True):
    """One seal of a tenant. Triggers keep it as they keep the entries."""

    __tablename__ = "audit_seals"

    tenant_id: str = Field(primary_key=True, sa_type=_Id)
    number: int = Field(primary_key=True, sa_type=BigInteger)
    heads: str = Field(sa_type=Text)
    pruned: str = Field(sa_type=Text)
    kept_from: int = Field(sa_type=BigInteger)
    """The first seal that is kept; 0: this one prunes none."""
    kept_after: str = Field(sa_type=Text)
    created_at: int = Field(sa_type=BigInteger)
    hash: str = Field(sa_type=Text)
    key_id: str | None = Field(default=None, sa_type=Text)
    signature: str | None = Field(default=None, sa_type=Text)


workflows = metadata.tables["workflows"]
executions = metadata.tables["executions"]
events = metadata.tables["events"]
snapshots = metadata.tables["snapshots"]
idempotency = metadata.tables["idempotency"]
inbox = metadata.tables["inbox"]
api_tokens = metadata.tables["api_tokens"]
tenants = metadata.tables["tenants"]
executors = metadata.tables["executors"]
tenant_usage = metadata.tables["tenant_usage"]
agents = metadata.tables["agents"]
agent_traits = metadata.tables["agent_traits"]
agent_heartbeats = metadata.tables["agent_heartbeats"]
installation_keys = metadata.tables["installation_keys"]
audit = metadata.tables["audit"]
audit_chains = metadata.tables["audit_chains"]
audit_seals = metadata.tables["audit_seals"]
