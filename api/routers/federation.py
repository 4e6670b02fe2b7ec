"""Federation: the documents by which others find this runtime, and its A2A server."""

import asyncio
from importlib import import_module
from typing import Any

from fastapi import Request
from starlette.responses import Response
from starlette.types import Message

from api import render
from api.requests import read_body, require_json
from api.resources import resources
from api.routing import answers, declared, router
from api.schemas import AgentCardDocument, DidDocument

routes = router("federation")


@routes.get("/.well-known/did.json", responses=answers(DidDocument), openapi_extra=declared("public"))
async def get_did_document(request: Request) -> Response:
    """The W3C DID document: the runtime's key, and a service for each active agent that is published."""
    document = await resources(request).published.did_document()
    return _public(document, "application/did+json" if _wants_did(request) else None)


@routes.get("/.well-known/agent.json", responses=answers(AgentCardDocument), openapi_extra=declared("public"))
async def get_agent_card(request: Request) -> Response:
    """The runtime's own card: a skill for each workflow that is exposed to A2A by tenants that publish."""
    return await _card(request)


@routes.get(
    "/.well-known/agent-card.json", responses=answers(AgentCardDocument), openapi_extra=declared("public")
)
async def get_a2a_agent_card(request: Request) -> Response:
    """The same card, where A2A has it since 0.3."""
    return await _card(request)


@routes.post("/a2a", include_in_schema=False, openapi_extra=declared("read", while_suspended=True))
async def a2a(request: Request) -> Response:
    """A2A over JSON-RPC, 1.0 and 0.3: a task is an execution. What a call may do, its token may do by REST.

    Streaming methods answer with Server-Sent Events.
    """
    require_json(request)
    body = await read_body(request)
    server = await _imported("api.federation.a2a_server")
    here = resources(request)
    if here.lazy.a2a is None:
        here.lazy.a2a = server.dispatcher(here.settings)
    answer: Response = await here.lazy.a2a.handle_requests(_again(request, body))
    return answer


async def _card(request: Request) -> Response:
    here = resources(request)
    workflows = await here.published.workflows()
    card = await _imported("api.federation.card")
    return _public(card.card_document(here.settings, workflows))


async def _imported(module: str) -> Any:
    """A module with the A2A SDK, which takes a third of a second to import, and not all replicas need it."""
    return await asyncio.to_thread(import_module, module)


def _again(request: Request, body: bytes) -> Request:
    """The request with a body that can be read once more; after that it tells when its client has left."""
    left = [body]

    async def receive() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await request.receive()

    return Request(request.scope, receive)


def _public(document: dict[str, Any], media_type: str | None = None) -> Response:
    headers = {"Cache-Control": "public, max-age=5"}
    if media_type is not None:
        headers["Content-Type"] = media_type
    return render.answer(document, headers=headers)


def _wants_did(request: Request) -> bool:
    return "application/did+json" in request.headers.get("accept", "")
