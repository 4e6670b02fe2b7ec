"""The REST API asked from within: how the A2A and MCP servers do what their callers ask for.

A call goes through the app with its caller's own token, so it can do nothing that the caller could not do
by REST, and is limited, audited and answered as REST is. No socket is involved.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from urllib.parse import unquote

import orjson
from fastapi import Request
from starlette.types import Message

from api.requests import VIA, request_id
from api.streaming import MEDIA_TYPE, read_frame

_CARRIED = frozenset((b"authorization", b"x-tenant-id", b"x-jamjet-client-address", b"traceparent", b"host"))


class InnerAnswer(NamedTuple):
    """What a route answered. ``body`` is the JSON value; ``{"error", "code", ...}`` of a refusal."""

    status: int
    body: Any

    @property
    def refused(self) -> bool:
        return self.status >= 400


class Frame(NamedTuple):
    """One Server-Sent Event."""

    event: str
    data: Any


async def ask(
    outer: Request, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None
) -> InnerAnswer:
    """Ask a route as the caller of ``outer``. ``path`` may have a query."""
    exchange = _Exchange(outer, method, path, body, headers or {})
    await exchange.run()
    return InnerAnswer(exchange.status, orjson.loads(exchange.content or b"null"))


@contextlib.asynccontextmanager
async def following(outer: Request, path: str) -> AsyncIterator[AsyncIterator[Frame]]:
    """The frames of a route that answers with Server-Sent Events; a refusal is one frame, ``refused``."""
    exchange = _Exchange(outer, "GET", path, None, {})
    running = asyncio.get_running_loop().create_task(exchange.run())
    running.add_done_callback(lambda _: exchange.parts.put_nowait(None))
    try:
        yield exchange.frames()
    finally:
        exchange.left.set()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


class _Exchange:
    """One inner request and its answer."""

    def __init__(self, outer: Request, method: str, path: str, body: Any, headers: dict[str, str]) -> None:
        self.status = 0
        self.content = b""
        self.parts: asyncio.Queue[bytes | None] = asyncio.Queue()
        """The body as it comes; None: it is over."""
        self.left = asyncio.Event()
        self._app = outer.app
        self._body = b"" if body is None else orjson.dumps(body)
        self._is_stream = False
        self._sent = False
        self._scope = _scope(outer, method, path, body is not None, headers)

    async def run(self) -> None:
        await self._app(self._scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if self._sent:
            await self.left.wait()
            return {"type": "http.disconnect"}
        self._sent = True
        return {"type": "http.request", "body": self._body, "more_body": False}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            media_type = dict(message["headers"]).get(b"content-type", b"")
            self._is_stream = media_type.startswith(MEDIA_TYPE.encode())
        elif message["type"] == "http.response.body" and self._is_stream:
            self.parts.put_nowait(message["body"])
        elif message["type"] == "http.response.body":
            self.content += message["body"]

    async def frames(self) -> AsyncIterator[Frame]:
        while (part := await self.parts.get()) is not None:
            found = read_frame(part)
            if found is not None:
                yield Frame(*found)
        if not self._is_stream:
            yield Frame("refused", orjson.loads(self.content))


def _scope(outer: Request, method: str, path: str, has_body: bool, headers: dict[str, str]) -> dict[str, Any]:
    plain, _, query = path.partition("?")
    sent = [(name, value) for name, value in outer.scope["headers"] if name in _CARRIED]
    # The same id as the outer request's: it is what the caller is told, and what the audit log names.
    sent.append((b"x-request-id", request_id(outer).encode()))
    sent += [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    if has_body:
        sent.append((b"content-type", b"application/json"))
    kept = {name: outer.scope[name] for name in ("client", "server", "scheme", "http_version", "asgi")}
    return {
        **kept,
        "type": "http",
        "method": method,
        # A slash within a segment stays quoted: an id that has one must not become the path of another route.
        "path": unquote(plain.replace("%2F", "%252F")),
        "raw_path": plain.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": sent,
        VIA: outer.scope["path"],
    }
