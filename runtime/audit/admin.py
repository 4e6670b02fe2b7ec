"""Audit entries of what people and services change outside of executions."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from runtime.audit.entries import SYSTEM, AuditEntry, Origin

if TYPE_CHECKING:
    from runtime.agents.lifecycle import AgentStatus
    from runtime.store.agent_port import NewAgent
    from runtime.store.port import TenantRow, TokenRow, WorkflowRow


def workflow_registered(by: Origin, row: "WorkflowRow") -> AuditEntry:
    return _entry(
        by, "workflow_registered", workflow_id=row.workflow_id, version=row.version, digest=row.digest
    )


def token_created(by: Origin, row: "TokenRow") -> AuditEntry:
    return _entry(
        by,
        "token_created",
        token_id=row.id,
        name=row.name,
        role=row.role,
        expires_at=row.expires_at,
        **({} if row.agent_id is None else {"agent_id": row.agent_id}),
    )


def token_revoked(by: Origin, token: str) -> AuditEntry:
    """``token`` is the id or the name under which it was asked for."""
    return _entry(by, "token_revoked", token=token)


def tenant_created(by: Origin, row: "TenantRow") -> AuditEntry:
    return _entry(by, "tenant_created", name=row.name, **_documents(policy=row.policy, limits=row.limits))


def tenant_updated(by: Origin, changes: Mapping[str, str | None]) -> AuditEntry:
    """``changes`` by column; None: left as it was."""
    given = {name: value for name, value in changes.items() if value is not None}
    documents = {name: given.pop(name) for name in ("policy", "limits") if name in given}
    return _entry(by, "tenant_updated", **given, **_documents(**documents))


def executions_pruned(count: int, before: int) -> AuditEntry:
    """``before``: they had ended before this time."""
    return _entry(SYSTEM, "executions_pruned", count=count, before=before)


def requests_refused(by: Origin, *, status: int, count: int, **facts: Any) -> AuditEntry:
    """Refusals of one caller within a minute."""
    return _entry(by, "request_refused", status=status, count=count, **facts)


def agent_registered(by: Origin, agent: "NewAgent") -> AuditEntry:
    return _entry(by, "agent_registered", **_named_card(agent))


def agent_card_replaced(by: Origin, agent: "NewAgent") -> AuditEntry:
    return _entry(by, "agent_card_replaced", **_named_card(agent))


def agent_moved(by: Origin, agent_id: str, status: "AgentStatus") -> AuditEntry:
    """It was activated, paused, deactivated or archived."""
    return _entry(by, _MOVES[status], agent_id=agent_id)


_MOVES: dict["AgentStatus", str] = {
    "active": "agent_activated",
    "paused": "agent_paused",
    "deactivated": "agent_deactivated",
    "archived": "agent_archived",
}


def _named_card(agent: "NewAgent") -> dict[str, Any]:
    return {"agent_id": agent.agent_id, "uri": agent.uri, "digest": agent.digest, "found_at": agent.found_at}


ADMIN_EVENTS = (
    "workflow_registered",
    "token_created",
    "token_revoked",
    "tenant_created",
    "tenant_updated",
    "request_refused",
    "executions_pruned",
    "agent_registered",
    "agent_card_replaced",
    *_MOVES.values(),
)


def _documents(**texts: str) -> dict[str, Any]:
    return {name: msgspec.Raw(text.encode()) for name, text in texts.items()}


def _entry(by: Origin, event_type: str, **details: Any) -> AuditEntry:
    return by.entry(event_type, details=msgspec.json.encode(details).decode())
