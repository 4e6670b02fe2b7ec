"""API tokens of the caller's tenant. Operators only."""

import secrets
import time
import uuid

from fastapi import Request
from starlette.responses import Response

from api import render
from api.auth import token_hash
from api.requests import read_json, validated
from api.resources import resources, tenant
from api.routing import answers, declared, router
from api.schemas import TokenBody, TokenCreated, TokenList, TokenRevoked
from runtime.errors import NotFound
from runtime.store.port import TokenRow

routes = router("tokens")


@routes.post(
    "/tokens",
    status_code=201,
    responses=answers(TokenCreated, status=201, refusals=(413, 415)),
    openapi_extra=declared("operate", TokenBody),
)
async def create_token(request: Request) -> Response:
    """Create a token. It is shown once, here, and never again. With ``agent_id`` it is that agent's."""
    _, value = await read_json(request)
    body = validated(TokenBody, value)
    token = f"jj_{secrets.token_hex(32)}"
    now = int(time.time() * 1_000)
    store = tenant(request)
    if body.agent_id is not None:
        await _require_agent(request, body.agent_id)
    row = TokenRow(
        id=f"tok_{uuid.uuid4().hex}",
        tenant_id=store.tenant_id,
        name=body.name,
        role=body.role,
        token_hash=token_hash(token),
        created_at=now,
        expires_at=None if body.expires_in_s is None else now + body.expires_in_s * 1_000,
        agent_id=body.agent_id,
    )
    await store.create_token(row)
    return render.answer({**render.token(row), "token": token}, 201, {"Location": f"/tokens/{row.id}"})


async def _require_agent(request: Request, agent_id: str) -> None:
    if await resources(request).agents.find(tenant(request).tenant_id, agent_id) is None:
        raise NotFound(f"agent {agent_id}")


@routes.get("/tokens", responses=answers(TokenList), openapi_extra=declared("operate"))
async def list_tokens(request: Request) -> Response:
    """The tenant's tokens, without their secrets."""
    return render.answer({"tokens": [render.token(row) for row in await tenant(request).tokens()]})


@routes.delete(
    "/tokens/{token_id}",
    responses=answers(TokenRevoked, refusals=(404,)),
    openapi_extra=declared("operate", while_suspended=True),
)
async def revoke_token(request: Request, token_id: str) -> Response:
    """Revoke a token; it is refused everywhere within 5 s."""
    if not await tenant(request).revoke_token(token_id):
        raise NotFound(f"token {token_id}")
    return render.answer({"id": token_id, "revoked": True})
