"""Tenants: who shares this server. For operators of tenant ``default``."""

from typing import Any
from urllib.parse import quote

import msgspec
from fastapi import Request
from starlette.responses import Response

from api import render
from api.origin import origin_of
from api.requests import page, read_json, validated
from api.resources import principal, resources
from api.routing import answers, declared, router
from api.schemas import (
    TenantBody,
    TenantChangeBody,
    TenantCreated,
    TenantLimitsBody,
    TenantList,
    TenantShown,
    TenantUpdated,
)
from runtime.errors import BadRequest, NotFound
from runtime.ids import DEFAULT_TENANT
from runtime.policy import encode_tenant_policy, parse_tenant_policy
from runtime.store.port import TenantLimits, month_of

routes = router("tenants")


@routes.post(
    "/tenants",
    status_code=201,
    responses=answers(TenantCreated, status=201, refusals=(409, 413, 415)),
    openapi_extra=declared("administer", TenantBody),
)
async def create_tenant(request: Request) -> Response:
    """Create a tenant. Its first token is made with ``POST /tokens`` and ``X-Tenant-Id``."""
    _, value = await read_json(request)
    body = validated(TenantBody, value)
    row = await resources(request).store.system.create_tenant(
        body.id,
        body.name,
        policy=_policy(body.policy) or "{}",
        limits=_limits(body.limits) or "{}",
        by=origin_of(request, principal(request)),
    )
    location = f"/tenants/{quote(row.tenant_id, safe='')}"
    return render.answer({"tenant_id": row.tenant_id}, 201, {"Location": location})


@routes.get(
    "/tenants",
    responses=answers(TenantList),
    openapi_extra=declared("administer", limit="1 to 500, default 50", offset="how many to leave out"),
)
async def list_tenants(request: Request) -> Response:
    """All tenants, in the order of their ids."""
    limit, offset = page(request)
    rows, total = await resources(request).store.system.tenants(limit=limit, offset=offset)
    shown = [render.tenant(row) for row in rows]
    return render.answer({"tenants": shown, "total": total, "limit": limit, "offset": offset})


@routes.get("/tenants/{tenant_id}", responses=answers(TenantShown), openapi_extra=declared("administer"))
async def get_tenant(request: Request, tenant_id: str) -> Response:
    """One tenant, and what it has of what its limits are about, in this month of UTC."""
    system = resources(request).store.system
    row = await system.tenant_row(tenant_id)
    if row is None:
        raise NotFound(f"tenant {tenant_id}")
    month = month_of(await system.now())
    use = await system.use_of(tenant_id, month)
    return render.answer({**render.tenant(row), "usage": {"month": month, **msgspec.structs.asdict(use)}})


@routes.put(
    "/tenants/{tenant_id}",
    responses=answers(TenantUpdated, refusals=(413, 415)),
    openapi_extra=declared("administer", TenantChangeBody),
)
async def update_tenant(request: Request, tenant_id: str) -> Response:
    """Change what is given, effective everywhere within 5 s. What runs in a suspended tenant is held."""
    _, value = await read_json(request)
    body = validated(TenantChangeBody, value)
    if tenant_id == DEFAULT_TENANT and body.status not in (None, "active"):
        raise BadRequest(f"status: tenant {DEFAULT_TENANT} stays active, as its operators manage the others")
    row = await resources(request).store.system.update_tenant(
        tenant_id,
        name=body.name,
        status=body.status,
        policy=_policy(body.policy),
        limits=_limits(body.limits),
        by=origin_of(request, principal(request)),
    )
    if row is None:
        raise NotFound(f"tenant {tenant_id}")
    return render.answer({"tenant_id": tenant_id, "updated": True})


def _policy(given: dict[str, Any] | None) -> str | None:
    """A policy as the row keeps it; None: none was given."""
    return None if given is None else encode_tenant_policy(parse_tenant_policy(given))


def _limits(given: TenantLimitsBody | None) -> str | None:
    """Limits as the row keeps them; None: none were given.

    Raises:
        BadRequest: naming a limit that nothing would hold.
    """
    if given is None:
        return None
    for name in given.model_extra or ():
        known = ", ".join(TenantLimits.__struct_fields__)
        raise BadRequest(f"limit {name[:40]} is not supported: there are {known}")
    return msgspec.json.encode(TenantLimits(**given.model_dump())).decode()
