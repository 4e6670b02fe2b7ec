"""The route ``/mcp``: the Model Context Protocol over Streamable HTTP, without sessions.

Who may come in is decided here, as on every route. What a caller may do is decided by the routes of the REST
API that the tools ask, so any message to any replica is as good as another.
"""

import asyncio
import importlib
import ipaddress
import sys
from urllib.parse import urlsplit

from fastapi import Request
from starlette.responses import Response
from starlette.types import Message, Scope

from api.requests import read_json, request_id
from api.routing import declared, router
from runtime.errors import Forbidden

routes = router("mcp")

_SERVER = "api.mcp.server"
_SET = {b"accept": b"application/json, text/event-stream", b"content-type": b"application/json"}


@routes.post("/mcp", include_in_schema=False, openapi_extra=declared("read", while_suspended=True))
async def exchange(request: Request) -> Response:
    """One JSON-RPC message, and its answer as JSON; 202 without one for a notification.

    There is no stream to open and no session to end, so GET and DELETE are 405.
    """
    _check_origin(request)
    data, _ = await read_json(request)
    if _SERVER not in sys.modules:
        await asyncio.to_thread(importlib.import_module, _SERVER)
    from api.mcp.server import serve

    answer = _Answer()
    await serve(_scope(request), _Body(request, data).receive, answer.send)
    return answer.response()


def _scope(request: Request) -> Scope:
    """The request as the library wants it, which refuses clients that do not say what they accept.

    It has our own id, too, so that what is asked from within has the same.
    """
    own = {**_SET, b"x-request-id": request_id(request).encode()}
    kept = [header for header in request.scope["headers"] if header[0] not in own]
    return {**request.scope, "headers": [*kept, *own.items()]}


class _Body:
    """A body that is read already, once more."""

    def __init__(self, request: Request, data: bytes) -> None:
        self._request = request
        self._data: bytes | None = data

    async def receive(self) -> Message:
        if self._data is None:
            return await self._request.receive()
        data, self._data = self._data, None
        return {"type": "http.request", "body": data, "more_body": False}


class _Answer:
    """What the library answers, kept until it is whole: a failure on the way is answered as any other."""

    def __init__(self) -> None:
        self._status = 500
        self._type: str | None = None
        self._body = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._type = dict(message["headers"]).get(b"content-type", b"").decode() or None
        else:
            self._body += message.get("body", b"")

    def response(self) -> Response:
        media_type = self._type if self._body else None
        return Response(self._body, self._status, {"Cache-Control": "no-store"}, media_type)


def _check_origin(request: Request) -> None:
    """Against DNS rebinding: a page may call only the host that it comes from.

    Raises:
        Forbidden: the page comes from elsewhere.
    """
    origin = request.headers.get("origin")
    if origin is None:
        return
    page, here = _host_of(origin), _host_of(f"//{request.headers.get('host', '')}")
    if page is None or here is None or not (page == here or (_is_loopback(page) and _is_loopback(here))):
        raise Forbidden(f"a page of {origin[:100]!r} may not call this host")


def _host_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
