"""Signals: what the world tells an execution, in the imperative. One is decided at a time."""

from typing import Literal

import msgspec

from runtime.events import HoldReason
from runtime.jsonvalue import JsonValue


class StartExecution(msgspec.Struct, frozen=True, kw_only=True):
    """Begin. ``only_record`` commits the start and leaves the first step to whoever activates it.

    ``queue``: where there is no slot, wait for one; ``held``: there is none, so wait.
    """

    input: dict[str, JsonValue]
    isolation: Literal["shared", "dedicated"] = "shared"
    only_record: bool = False
    queue: bool = False
    held: bool = False


class Recover(msgspec.Struct, frozen=True, kw_only=True):
    """A new owner took over: what was running is attempted again, what was due is done."""


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """Begin nothing new: the tenant is suspended."""


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """Go on: what it was held for is over."""

    reason: HoldReason


class Tick(msgspec.Struct, frozen=True, kw_only=True):
    """Time has passed: whatever is due takes effect."""


class Approve(msgspec.Struct, frozen=True, kw_only=True, tag="approve"):
    """A person's decision. Without ``node_id`` it goes to the one node that waits for one."""

    signal_id: str
    decision: Literal["approved", "rejected"]
    node_id: str | None = None
    user_id: str
    actor: str | None = None
    comment: str | None = None
    state_patch: dict[str, JsonValue] | None = None


class SendEvent(msgspec.Struct, frozen=True, kw_only=True, tag="send_event"):
    """An external event, for all nodes that wait for its key, else buffered."""

    signal_id: str
    correlation_key: str
    payload: JsonValue = None
    size: int = 0
    """Bytes of the payload as JSON."""


class Cancel(msgspec.Struct, frozen=True, kw_only=True, tag="cancel"):
    signal_id: str
    reason: str = "user request"


class NodeSucceeded(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt's result. Dropped unless this very attempt is the one that runs."""

    node_id: str
    visit: int
    attempt: int
    output: JsonValue = None
    state_patch: dict[str, JsonValue] | None = None
    duration_ms: int = 0
    gen_ai_system: str | None = None
    gen_ai_model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    finish_reason: str | None = None
    cost_usd: float | None = None


class NodeErrored(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt's failure. ``worker_lost`` means that nobody knows how far it got."""

    node_id: str
    visit: int
    attempt: int
    error: str
    error_class: str
    retryable: bool | None = None
    """None: the retry policy decides by the class; False: never again."""
    retry_after_ms: int = 0
    duration_ms: int = 0


Signal = (
    StartExecution
    | Recover
    | Hold
    | Release
    | Tick
    | Approve
    | SendEvent
    | Cancel
    | NodeSucceeded
    | NodeErrored
)
