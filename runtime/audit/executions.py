"""Which events of an execution are audited, and what the entry says of each."""

from collections.abc import Iterable
from typing import Any

import msgspec

from runtime import events as ev
from runtime.audit.entries import AuditEntry, Origin, PolicyDecision, event_digest
from runtime.events import Event
from runtime.store.port import EventRow

REQUESTED = (ev.WorkflowStarted, ev.ApprovalReceived, ev.ExternalEventReceived, ev.WorkflowCancelled)
"""What somebody asked for: the actor is who sent the request. The rest the workflow does itself."""

AUDITED = (
    *REQUESTED,
    ev.NodeCompleted,
    ev.NodeFailed,
    ev.ToolCallCompleted,
    ev.AgentCallCompleted,
    ev.WorkflowCompleted,
    ev.WorkflowFailed,
    ev.WorkflowLimitExceeded,
    ev.PolicyViolation,
    ev.ToolApprovalRequired,
)
AUDITED_TYPES = tuple(str(kind.__struct_config__.tag) for kind in AUDITED)


def audited(
    execution_id: str,
    workflow_id: str,
    happened: Iterable[tuple[Event, EventRow]],
    origin: Origin | None,
) -> list[AuditEntry]:
    """The entries for some events of an execution, in their order.

    Args:
        happened: each event with the row that is stored of it.
        origin: who sent the signal that these follow from; None: the runtime itself.
    """
    agent = Origin(actor_id=f"agent:{workflow_id}", actor_type="agent")
    entries: list[AuditEntry] = []
    for event, row in happened:
        if isinstance(event, AUDITED):
            by = origin if origin is not None and isinstance(event, REQUESTED) else agent
            if isinstance(event, ev.AgentCallCompleted):
                by = Origin(actor_id=f"agent:{event.agent}", actor_type="agent")
            entries.append(_entry(execution_id, event, row, by))
    return entries


def _entry(execution_id: str, event: Event, row: EventRow, by: Origin) -> AuditEntry:
    return by.entry(
        row.type,
        execution_id=execution_id,
        created_at=row.created_at,
        sequence=row.sequence,
        event_digest=event_digest(row.data),
        node_id=row.node_id,
        tool_call_hash=getattr(event, "tool_call_hash", None),
        policy_decision=_DECISIONS.get(type(event)),
        details=_details(event),
    )


_DECISIONS: dict[type, PolicyDecision] = {
    ev.PolicyViolation: "block",
    ev.ToolApprovalRequired: "require_approval",
}


def _details(event: Event) -> str | None:
    """What a reader of the log wants to know without looking up the event."""
    said: dict[str, Any]
    match event:
        case ev.ApprovalReceived():
            said = {"decision": event.decision, "user_id": event.user_id, "comment": event.comment}
        case ev.WorkflowCancelled():
            said = {"reason": event.reason}
        case ev.PolicyViolation() | ev.ToolApprovalRequired():
            said = {"tool": event.tool, "rule": event.rule, "policy_scope": event.policy_scope}
        case ev.AgentCallCompleted():
            said = {"skill": event.skill, "duration_ms": event.duration_ms, "is_error": event.is_error}
        case ev.NodeFailed() | ev.WorkflowFailed():
            said = {"error_class": event.error_class}
        case _:
            return None
    return msgspec.json.encode(said).decode()
