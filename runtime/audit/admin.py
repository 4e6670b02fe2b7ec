"""Audit entries of what people and services change outside of executions."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from runtime.audit.entries import SYSTEM, AuditEntry, Origin

if TYPE_CHECKING:
    from runtime.store.port import TenantRow, TokenRow, WorkflowRow


def workflow_registered(by: Origin, row: "WorkflowRow") -> AuditEntry:
    return _entry(
        by, "workflow_registered", workflow_id=row.workflow_id, version=row.version, digest=row.digest
    )


def token_created(by: Origin, row: "TokenRow") -> AuditEntry:
    return _entry(
        by, "token_created", token_id=row.id, name=row.name, role=row.role, expires_at=row.expires_at
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


ADMIN_EVENTS = (
    "workflow_registered",
    "token_created",
    "token_revoked",
    "tenant_created",
    "tenant_updated",
    "request_refused",
    "executions_pruned",
)


def _documents(**texts: str) -> dict[str, Any]:
    return {name: msgspec.Raw(text.encode()) for name, text in texts.items()}


def _entry(by: Origin, event_type: str, **details: Any) -> AuditEntry:
    return by.entry(event_type, details=msgspec.json.encode(details).decode())
