"""The JSON bodies of requests."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from runtime.ir.models import Resources


class _Body(BaseModel):
    """Unknown keys are ignored, as JamJet's clients of other versions may send some; types are not bent."""

    model_config = ConfigDict(extra="ignore", strict=True)


class WorkflowBody(_Body):
    """A definition: compiled IR, or YAML as text."""

    ir: dict[str, Any] | None = None
    yaml: str | None = None


class StartBody(_Body):
    """A start. Without a version, the latest registered one runs.

    With ``queue`` it waits in order where the tenant runs as many executions as it may; else that is 429.
    """

    workflow_id: str = Field(min_length=1)
    workflow_version: str | None = None
    input: dict[str, Any] = {}
    isolation: Literal["shared", "dedicated"] | None = None
    resources: Resources | None = None
    queue: bool = False


class ApproveBody(_Body):
    """A decision: ``approved`` or ``rejected``."""

    decision: str
    node_id: str | None = None
    user_id: str | None = None
    comment: str | None = None
    state_patch: dict[str, Any] | None = None


class EventBody(_Body):
    """An external event."""

    correlation_key: str = Field(min_length=1, max_length=1024)
    payload: Any = Field(default=...)


class TokenBody(_Body):
    """A token to create, in the caller's tenant."""

    role: Literal["operator", "developer", "reviewer", "viewer"]
    name: str = Field(default="", max_length=200)
    agent_id: str | None = Field(default=None, min_length=1, max_length=256)
    expires_in_s: int | None = Field(default=None, ge=1, le=10 * 366 * 86_400)


class CardBody(_Body):
    """An agent card: JamJet's, or one of A2A 0.2, 0.3 or 1.0, all of whose fields are kept."""

    model_config = ConfigDict(extra="allow")

    id: str | None = None
    name: str | None = None


class DiscoverBody(_Body):
    """Where an agent is to be discovered."""

    url: str = Field(min_length=1, max_length=2_048)


class TenantLimitsBody(_Body):
    """What a tenant may have at most; null or left out: no limit. Other limits are refused."""

    model_config = ConfigDict(extra="allow", strict=True)

    max_workflows: int | None = Field(default=None, ge=0, le=1_000_000_000)
    max_concurrent_executions: int | None = Field(default=None, ge=0, le=1_000_000_000)
    requests_per_minute: int | None = Field(default=None, ge=1, le=1_000_000_000)
    max_tokens_per_month: int | None = Field(default=None, ge=0, le=10**15)
    max_cost_per_month_usd: float | None = Field(default=None, ge=0, le=1e12)


class TenantBody(_Body):
    """A tenant to create."""

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    name: str = Field(min_length=1, max_length=200)
    policy: dict[str, Any] | None = None
    limits: TenantLimitsBody | None = None


class TenantChangeBody(_Body):
    """What to change of a tenant. What is null or left out stays; ``policy`` and ``limits`` are replaced."""

    name: str | None = Field(default=None, min_length=1, max_length=200)
    status: Literal["active", "suspended", "archived"] | None = None
    policy: dict[str, Any] | None = None
    limits: TenantLimitsBody | None = None
