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
    """A start. Without a version, the latest registered one runs."""

    workflow_id: str = Field(min_length=1)
    workflow_version: str | None = None
    input: dict[str, Any] = {}
    isolation: Literal["shared", "dedicated"] | None = None
    resources: Resources | None = None


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
    expires_in_s: int | None = Field(default=None, ge=1, le=10 * 366 * 86_400)
