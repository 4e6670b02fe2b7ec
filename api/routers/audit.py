"""The audit log of the caller's tenant: who did what, and by which request."""

from fastapi import Request
from starlette.responses import Response

from api import render
from api.requests import page
from api.resources import tenant
from api.routing import answers, declared, router
from api.schemas import AuditList
from api.withheld import audit_redactor
from runtime.audit.admin import ADMIN_EVENTS
from runtime.audit.executions import AUDITED_TYPES
from runtime.errors import BadRequest
from runtime.ids import parse_execution_id

routes = router("audit")

LIMIT_MAX = 200
EVENT_TYPES = (*AUDITED_TYPES, *ADMIN_EVENTS)


@routes.get(
    "/audit",
    responses=answers(AuditList),
    openapi_extra=declared(
        "read",
        execution_id="of this execution only",
        actor_id="of this actor only, as in ``token:tok_...`` or ``agent:my-workflow``",
        event_type="of this type only, as in ``node_completed`` or ``token_created``",
        limit=f"default 50; more than {LIMIT_MAX} is taken for {LIMIT_MAX}",
        offset="how many to leave out",
    ),
)
async def list_audit(request: Request) -> Response:
    """Audit entries, the newest first."""
    limit, offset = page(request, limit_max=2**31)
    limit = min(limit, LIMIT_MAX)
    query = request.query_params
    event_type = query.get("event_type")
    if event_type is not None and event_type not in EVENT_TYPES:
        raise BadRequest(f"event_type: must be one of {', '.join(EVENT_TYPES)}, not {event_type[:40]!r}")
    execution_id = query.get("execution_id")
    rows, total = await tenant(request).audit(
        execution_id=None if execution_id is None else parse_execution_id(execution_id),
        actor_id=query.get("actor_id"),
        event_type=event_type,
        limit=limit,
        offset=offset,
    )
    redactor = audit_redactor(tenant(request).tenant_id, request.state.policy)
    items = [render.audit_entry(row, redactor) for row in rows]
    return render.answer({"items": items, "total": total, "limit": limit, "offset": offset})
