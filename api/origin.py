"""Who a request comes from, as the audit log has it."""

from fastapi import Request

from api.address import client_address
from api.auth import Principal
from api.requests import VIA, request_id
from runtime.audit.entries import Origin

PATH_MAX = 500


def origin_of(request: Request, caller: Principal) -> Origin:
    """The caller, and the request that asks for a change: where one is asked from within, the outer one."""
    path: str = request.scope.get(VIA, request.scope["path"])
    return Origin(
        actor_id=f"token:{caller.id}",
        actor_type="human",
        request_id=request_id(request),
        http_method="POST" if VIA in request.scope else request.method,
        http_path=path[:PATH_MAX],
        ip_address=client_address(request),
    )
