"""Events: what has happened to an execution, in the past tense, and kept forever.

An event is everything the fold needs: which edges fired, what was rendered,
which delay was drawn. Old histories must stay readable: a changed event gets an
entry in ``UPCASTERS``, and the golden histories in the tests hold us to it.
"""

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from runtime.jsonvalue import JsonValue

HoldReason = Literal["slot", "tenant"]


class _Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """Base of all events. ``node_id`` is None where no node is concerned."""


class WorkflowStarted(_Event, frozen=True, kw_only=True, tag="workflow_started"):
    """Always the first event. ``timeout_at`` is the whole execution's deadline."""

    workflow_id: str
    workflow_version: str
    initial_input: dict[str, JsonValue] = {}
    isolation: str = "shared"
    timeout_at: int | None = None
    node_id: None = None


class WorkflowCompleted(_Event, frozen=True, kw_only=True, tag="workflow_completed"):
    """Nothing is left to run or to wait for. The final state is the fold of what came before."""

    node_id: None = None


class WorkflowFailing(_Event, frozen=True, kw_only=True, tag="workflow_failing"):
    """A failure was not caught: nothing new starts; running nodes may settle until ``deadline``."""

    error: str
    error_class: str
    deadline: int
    node_id: str | None = None


class WorkflowFailed(_Event, frozen=True, kw_only=True, tag="workflow_failed"):
    error: str
    error_class: str
    node_id: str | None = None


class WorkflowCancelled(_Event, frozen=True, kw_only=True, tag="workflow_cancelled"):
    reason: str
    signal_id: str | None = None
    node_id: None = None


class WorkflowLimitExceeded(_Event, frozen=True, kw_only=True, tag="workflow_limit_exceeded"):
    limit_type: str
    limit_value: float | None = None
    actual_value: float | None = None
    description: str | None = None
    node_id: str | None = None


class ExecutionHeld(_Event, frozen=True, kw_only=True, tag="execution_held"):
    """Nothing new begins until it is released: it waits for a slot, or its tenant is suspended."""

    reason: HoldReason
    node_id: None = None


class ExecutionReleased(_Event, frozen=True, kw_only=True, tag="execution_released"):
    """It goes on. A start that waited has its deadline, ``timeout_at``, from here."""

    reason: HoldReason
    timeout_at: int | None = None
    node_id: None = None


class NodeScheduled(_Event, frozen=True, kw_only=True, tag="node_scheduled"):
    """A node's next visit begins."""

    node_id: str
    visit: int
    queue_type: str


class NodeStarted(_Event, frozen=True, kw_only=True, tag="node_started"):
    """An attempt is about to be made; committed before the call (G5).

    ``input`` is what was rendered for this visit, on its first attempt only.
    """

    node_id: str
    visit: int
    attempt: int
    reason: Literal["first", "retry", "recovered"] = "first"
    input: JsonValue = None
    warnings: tuple[str, ...] = ()


class NodeCompleted(_Event, frozen=True, kw_only=True, tag="node_completed"):
    """A visit ended well.

    ``state_patch`` is merged (RFC 7396), then ``output`` is set under ``output_key``.
    ``fired`` and ``held`` are indexes of edges: fired now, or to fire when the loop
    that they leave has ended. Every other edge of the node is dead.
    """

    node_id: str
    visit: int
    output: JsonValue = None
    output_key: str | None = None
    state_patch: dict[str, JsonValue] | None = None
    outcome: str = "ok"
    fired: tuple[int, ...] = ()
    held: tuple[int, ...] = ()
    consumed_key: str | None = None
    """The correlation key of a buffered external event that this wait consumed."""
    duration_ms: int = 0
    gen_ai_system: str | None = None
    gen_ai_model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    finish_reason: str | None = None
    cost_usd: float | None = None
    warnings: tuple[str, ...] = ()


class ToolCallCompleted(_Event, frozen=True, kw_only=True, tag="tool_call_completed"):
    """A call to a tool has ended, well or not; the event that follows says what came of its node."""

    node_id: str
    visit: int
    tool: str
    protocol: str
    duration_ms: int = 0
    is_error: bool = False


class AgentCallCompleted(_Event, frozen=True, kw_only=True, tag="agent_call_completed"):
    """A call to a remote agent has ended, well or not; the event that follows says what came of its node."""

    node_id: str
    visit: int
    agent: str
    skill: str | None = None
    protocol: str = "a2a"
    duration_ms: int = 0
    is_error: bool = False
    task_ended: bool = False
    """The agent's task has ended without a result, so that a retry must ask for another one."""


class NodeFailed(_Event, frozen=True, kw_only=True, tag="node_failed"):
    """An attempt failed. ``outcome`` is None while another attempt is to come."""

    node_id: str
    visit: int
    attempt: int
    error: str
    error_class: str
    retryable: bool = False
    outcome: str | None = None
    fired: tuple[int, ...] = ()
    held: tuple[int, ...] = ()
    consumed_key: str | None = None
    """As in ``NodeCompleted``: what was consumed is gone, though it was of no use."""
    duration_ms: int = 0


class NodeSkipped(_Event, frozen=True, kw_only=True, tag="node_skipped"):
    node_id: str
    reason: str = "branch not taken"


class NodeCancelled(_Event, frozen=True, kw_only=True, tag="node_cancelled"):
    node_id: str
    visit: int
    reason: str


class LoopEnded(_Event, frozen=True, kw_only=True, tag="loop_ended"):
    """No node of the loop is active any more: the edges that leave it are decided."""

    node_id: str
    """The loop's header."""
    fired: tuple[int, ...] = ()


class RetryScheduled(_Event, frozen=True, kw_only=True, tag="retry_scheduled"):
    """The next attempt starts at ``due_at``; ``delay_ms`` was drawn once, here."""

    node_id: str
    visit: int
    attempt: int
    delay_ms: int
    due_at: int


class InterruptRaised(_Event, frozen=True, kw_only=True, tag="interrupt_raised"):
    """A node waits for a person (``approval``) or for an event, at most until ``due_at``."""

    node_id: str
    visit: int
    reason: Literal["approval", "external_event", "either"]
    description: str | None = None
    correlation_key: str | None = None
    due_at: int | None = None
    warnings: tuple[str, ...] = ()


class PolicyViolation(_Event, frozen=True, kw_only=True, tag="policy_violation"):
    """A policy forbids what the node calls; ``rule`` is a sentence. The node's failure follows."""

    node_id: str
    visit: int
    tool: str
    rule: str
    policy_scope: Literal["tenant", "workflow", "node"]
    decision: Literal["blocked"] = "blocked"


class ToolApprovalRequired(_Event, frozen=True, kw_only=True, tag="tool_approval_required"):
    """A policy asks for a person's approval of this call, whose rendered input this is.

    ``tool_call_hash`` is the SHA-256 of ``{tool}:`` and the input as JSON with sorted keys.
    """

    node_id: str
    visit: int
    tool: str
    rule: str
    policy_scope: Literal["tenant", "workflow", "node"]
    tool_call_hash: str
    input: JsonValue = None
    warnings: tuple[str, ...] = ()


class TimerCreated(_Event, frozen=True, kw_only=True, tag="timer_created"):
    node_id: str
    visit: int
    fire_at: int


class TimerFired(_Event, frozen=True, kw_only=True, tag="timer_fired"):
    """A due time took effect, once. Without a node: the execution's own deadline."""

    node_id: str | None = None
    visit: int = 0


class ApprovalReceived(_Event, frozen=True, kw_only=True, tag="approval_received"):
    """A person decided. ``user_id`` is as claimed; ``actor`` is the token that sent it."""

    node_id: str
    visit: int
    decision: Literal["approved", "rejected"]
    user_id: str
    actor: str | None = None
    comment: str | None = None
    state_patch: dict[str, JsonValue] | None = None
    signal_id: str


class ExternalEventReceived(_Event, frozen=True, kw_only=True, tag="external_event_received"):
    """An event came. Delivered to nobody, it is buffered for the next wait on its key."""

    correlation_key: str
    payload: JsonValue = None
    delivered: tuple[str, ...] = ()
    signal_id: str
    node_id: None = None


Event = (
    WorkflowStarted
    | WorkflowCompleted
    | WorkflowFailing
    | WorkflowFailed
    | WorkflowCancelled
    | WorkflowLimitExceeded
    | ExecutionHeld
    | ExecutionReleased
    | NodeScheduled
    | NodeStarted
    | NodeCompleted
    | ToolCallCompleted
    | AgentCallCompleted
    | NodeFailed
    | NodeSkipped
    | NodeCancelled
    | LoopEnded
    | RetryScheduled
    | InterruptRaised
    | PolicyViolation
    | ToolApprovalRequired
    | TimerCreated
    | TimerFired
    | ApprovalReceived
    | ExternalEventReceived
)

UPCASTERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""By type: turns the fields of an older version of an event into today's."""

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Event)


def event_type(event: Event) -> str:
    """The snake_case name under which an event is stored."""
    tag = event.__struct_config__.tag
    assert isinstance(tag, str)
    return tag


def kind_name(type_name: str) -> str:
    """The CamelCase name under which the REST API shows it: ``node_completed`` -> ``NodeCompleted``."""
    return "".join(part.capitalize() for part in type_name.split("_"))


def encode_event(event: Event) -> str:
    """The JSON text that is stored."""
    return _encoder.encode(event).decode()


def decode_event(type_name: str, data: str) -> Event:
    """Read a stored event of this or any earlier version."""
    upcast = UPCASTERS.get(type_name)
    if upcast is None:
        event: Event = _decoder.decode(data)
    else:
        event = msgspec.convert(upcast(msgspec.json.decode(data)), type=Event)
    return event
