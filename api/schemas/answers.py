"""The JSON answers, for the OpenAPI document: shapes are made by ``api.render``."""

from typing import Any, Literal

from pydantic import BaseModel

Status = Literal["running", "paused", "completed", "failed", "cancelled", "limit_exceeded"]


class ErrorAnswer(BaseModel):
    error: str
    code: str
    request_id: str


class Health(BaseModel):
    status: str
    version: str


class WorkflowRegistered(BaseModel):
    workflow_id: str
    version: str
    warnings: list[str] = []


class Workflow(BaseModel):
    workflow_id: str
    version: str
    created_at: str
    ir: dict[str, Any] | None = None
    graph: dict[str, Any] | None = None


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
    updated_at: str
    completed_at: str | None
    error: str | None


class Execution(ExecutionSummary):
    state: dict[str, Any]
    steps_executed: int
    sequence: int
    initial_input: dict[str, Any]
    output: dict[str, Any] | None
    waiting_on: list[dict[str, Any]]
    actor: dict[str, Any] | None


class ExecutionList(BaseModel):
    executions: list[ExecutionSummary]
    total: int
    limit: int
    offset: int


class Event(BaseModel):
    id: str
    execution_id: str
    sequence: int
    kind: str | dict[str, Any]
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


class ApprovalList(BaseModel):
    pending: list[dict[str, Any]]
    decided: list[dict[str, Any]]


class WorkerList(BaseModel):
    workers: list[dict[str, Any]]


class TokenCreated(BaseModel):
    id: str
    token: str
    name: str
    role: str
    tenant_id: str
    created_at: str
    expires_at: str | None


class TokenList(BaseModel):
    tokens: list[dict[str, Any]]


class TokenRevoked(BaseModel):
    id: str
    revoked: bool
