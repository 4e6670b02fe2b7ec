"""The JSON answers, for the OpenAPI document: shapes are made by ``api.render``."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

Status = Literal["running", "paused", "completed", "failed", "cancelled", "limit_exceeded"]


class ErrorAnswer(BaseModel):
    """Every error. The fields after ``request_id`` are there where they say something."""

    error: str
    code: str
    request_id: str
    problems: list[str] = []
    node_id: str = ""
    retry_after_s: float = 1
    limit: str = ""


class Health(BaseModel):
    status: str
    version: str


class WorkflowRegistered(BaseModel):
    workflow_id: str
    version: str
    warnings: list[str] = []


class Workflow(BaseModel):
    """``ir`` and ``graph`` are left out of lists; the last two are there where they are asked for."""

    workflow_id: str
    version: str
    created_at: str
    exposed: list[Literal["a2a", "mcp"]]
    ir: dict[str, Any] | None = None
    graph: dict[str, Any] | None = None
    description: str | None = None
    input_schema: dict[str, Any] = {}


class WorkflowList(BaseModel):
    workflows: list[Workflow]
    total: int
    limit: int
    offset: int


class ExecutionStarted(BaseModel):
    execution_id: str


class ExecutionSummary(BaseModel):
    execution_id: str
    workflow_id: str
    workflow_version: str
    status: Status
    isolation: str
    created_at: str
    started_at: str
    updated_at: str
    completed_at: str | None
    error: str | None


class Wait(BaseModel):
    """Why an execution does not go on by itself. Without a node: it waits to be taken up."""

    node_id: str | None
    type: str
    since: str
    correlation_key: str | None = None
    due_at: str | None = None
    reason: str | None = None
    """Of a wait for resources: what no node has, or has free."""


class Actor(BaseModel):
    """The process that runs an execution."""

    name: str
    incarnation: str
    node: str
    pid: int
    isolation: str


class Execution(ExecutionSummary):
    state: dict[str, Any]
    current_state: dict[str, Any]
    initial_input: dict[str, Any]
    output: dict[str, Any] | None
    steps_executed: int
    sequence: int
    labels: dict[str, str]
    waiting_on: list[Wait]
    actor: Actor | None


class StartAnswer(RootModel[ExecutionStarted | Execution]):
    """The id, or the whole execution where the client waits for it."""


class ExecutionList(BaseModel):
    executions: list[ExecutionSummary]
    total: int
    limit: int
    offset: int


class Event(BaseModel):
    """Flat: ``kind`` is the name, and ``data`` the rest. Typed: ``kind`` is an object with all of it."""

    id: str
    execution_id: str
    sequence: int
    kind: str | dict[str, Any]
    name: str | None = None
    type: str
    node_id: str | None
    created_at: str
    data: dict[str, Any] | None = None


class EventList(BaseModel):
    events: list[Event]


class Cancelled(BaseModel):
    execution_id: str
    status: Literal["cancelled"]


class Accepted(BaseModel):
    execution_id: str
    accepted: bool
    node_id: str | None = None


class PendingApproval(BaseModel):
    node_id: str
    tool_name: str | None
    approver: str
    context: dict[str, Any]
    due_at: str | None
    sequence: int


class DecidedApproval(BaseModel):
    node_id: str
    status: Literal["approved", "rejected"]
    user_id: str
    comment: str | None
    sequence: int


class ApprovalList(BaseModel):
    pending: list[PendingApproval]
    decided: list[DecidedApproval]


class Worker(BaseModel):
    id: str
    name: str
    node: str
    pid: int
    status: str
    isolation: str
    capacity: int
    live: int
    queue_types: list[str]
    started_at: str
    last_heartbeat: str


class WorkerList(BaseModel):
    workers: list[Worker]


class ClusterNode(BaseModel):
    """A node that is alive. ``runs``: executions may be placed on it; ``proxy``: how its HTTP proxy is."""

    id: str
    address: str
    head: bool
    draining: bool
    runs: bool
    cpus: float
    cpus_free: float
    actors: int
    spares: int
    live: int
    proxy: Literal["healthy", "starting", "unhealthy", "draining"] | None


class ClusterExecutions(BaseModel):
    """Of all tenants: by status, held by an actor (``live``), rows alone (``parked``), to be taken up."""

    by_status: dict[str, int]
    live: int
    parked: int
    backlog: int


class ClusterSupervisor(BaseModel):
    node: str
    pid: int
    idle_ms: int


class ClusterLag(BaseModel):
    """How late the first due timer of a parked execution is, and how long the first of the backlog waits."""

    timers_ms: int
    sweep_ms: int


class Cluster(BaseModel):
    release: str
    ray: str | None
    database: Literal["sqlite", "postgresql"]
    nodes: list[ClusterNode]
    supervisor: ClusterSupervisor | None
    executions: ClusterExecutions
    lag: ClusterLag
    problems: list[str]


class Token(BaseModel):
    id: str
    tenant_id: str
    name: str
    role: str
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    last_used_at: str | None
    agent_id: str | None


class TokenCreated(Token):
    token: str


class TokenList(BaseModel):
    tokens: list[Token]


class TokenRevoked(BaseModel):
    id: str
    revoked: bool


class Tenant(BaseModel):
    id: str
    name: str
    status: Literal["active", "suspended", "archived"]
    policy: dict[str, Any]
    limits: dict[str, float]
    created_at: str
    updated_at: str


class TenantUse(BaseModel):
    month: str
    tokens: int
    cost_usd: float
    executions: int
    queued: int


class TenantShown(Tenant):
    usage: TenantUse


class TenantList(BaseModel):
    tenants: list[Tenant]
    total: int
    limit: int
    offset: int


class TenantCreated(BaseModel):
    tenant_id: str


class TenantUpdated(BaseModel):
    tenant_id: str
    updated: bool


AgentStatus = Literal["registered", "active", "paused", "deactivated", "archived"]


class Agent(BaseModel):
    """The fields of its card stand at the top, and the card as it was given in ``card``.

    Cards have fields of their own beside these.
    """

    model_config = ConfigDict(extra="allow")

    id: str
    agent_id: str
    uri: str
    name: str
    description: str
    version: str
    capabilities: dict[str, Any]
    autonomy: Any
    auth: Any
    labels: dict[str, str]
    status: AgentStatus
    stale: bool
    registered_at: str
    updated_at: str
    last_heartbeat: str | None
    found_at: str | None
    card: dict[str, Any]


class AgentList(BaseModel):
    agents: list[Agent]
    total: int
    limit: int
    offset: int


class AgentRegistered(BaseModel):
    agent_id: str


class AgentMoved(BaseModel):
    agent_id: str
    status: AgentStatus


class AgentHeard(BaseModel):
    agent_id: str
    ok: bool


class AgentCall(BaseModel):
    """A call to the agent (``in``), or one that was made with its token (``out``)."""

    timestamp: str
    direction: Literal["in", "out"]
    event_type: str
    summary: str
    execution_id: str | None
    node_id: str | None


class AgentTrace(BaseModel):
    events: list[AgentCall]


class DidDocument(BaseModel):
    """W3C DID document."""

    model_config = ConfigDict(populate_by_name=True)

    context: list[str] = Field(alias="@context")
    id: str
    verificationMethod: list[dict[str, Any]]
    authentication: list[str]
    assertionMethod: list[str]
    service: list[dict[str, str]]


class AgentCardDocument(BaseModel):
    """The card of the runtime: the fields of A2A's cards beside these."""

    model_config = ConfigDict(extra="allow")

    id: str
    uri: str
    name: str
    description: str
    version: str
    url: str
    supportedInterfaces: list[dict[str, Any]]
    skills: list[dict[str, Any]]
    capabilities: dict[str, Any]


class AuditEntry(BaseModel):
    id: str
    execution_id: str | None
    event_type: str
    actor_id: str
    created_at: str
    actor_type: Literal["human", "agent", "system"]
    event_id: str | None
    sequence: int | None
    event_digest: str | None
    node_id: str | None
    tool_call_hash: str | None
    policy_decision: Literal["allow", "block", "require_approval"] | None
    http_request_id: str | None
    http_method: str | None
    http_path: str | None
    ip_address: str | None
    details: dict[str, Any] | None
    redacted: bool
    tenant_id: str
    entry_hash: str


class AuditList(BaseModel):
    items: list[AuditEntry]
    total: int
    limit: int
    offset: int
