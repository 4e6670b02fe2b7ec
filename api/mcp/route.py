"""The route ``/mcp``: the Model Context Protocol over Streamable HTTP, without sessions.

Who may come in is decided here, as on every route. What a caller may do is decided by the routes of the REST
API that the tools ask, so any message to any replica is as good as another.
"""

import asyncio
import importlib
import ipaddress
import sys
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from api.requests import read_json
from api.routing import declared, router
from runtime.errors import Forbidden

routes = router("mcp")

_SERVER = "api.mcp.server"
_SET = {b"accept": b"application/json, text/event-stream", b"content-type": b"application/json"}


@routes.post("/mcp", include_in_schema=False, openapi_extra=declared("read", while_suspended=True))
async def exchange(request: Request) -> Response:
    """One JSON-RPC message, and its answer as JSON; 202 without one for a notification.

    Who asks for progress gets it as Server-Sent Events, with the answer as the last one. There is no other
    stream to open and no session to end, so GET and DELETE are 405.
    """
    _check_origin(request)
    data, message = await read_json(request)
    if _SERVER not in sys.modules:
        await asyncio.to_thread(importlib.import_module, _SERVER)
    from api.mcp.server import serve

    if _asks_for_progress(message) and _takes_events(request):
        return _Stream(request, data)
    answer = _Answer()
    await serve(_scope(request), _Body(request, data).receive, answer.send)
    return answer.response()


def _scope(request: Request) -> Scope:
    """The request as the library wants it, which refuses clients that do not say what they accept."""
    kept = [header for header in request.scope["headers"] if header[0] not in _SET]
    return {**request.scope, "headers": [*kept, *_SET.items()]}


def _asks_for_progress(message: Any) -> bool:
    params = message.get("params") if isinstance(message, dict) else None
    meta = params.get("_meta") if isinstance(params, dict) else None
    return isinstance(meta, dict) and meta.get("progressToken") is not None


def _takes_events(request: Request) -> bool:
    return "text/event-stream" in request.headers.get("accept", "")


class _Stream(Response):
    """What the library answers, passed on as it comes."""

    def __init__(self, request: Request, data: bytes) -> None:
        super().__init__()
        self._request = request
        self._data = data

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from api.mcp.server import serve

        body = _Body(self._request, self._data)
        await serve(_scope(self._request), body.receive, send, streams=True)


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
