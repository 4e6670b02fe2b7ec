"""What every HTTP request leaves behind: figures, a span where it is traced, and a line in the log.

It stands around the whole app, within ``CompatPrefix`` only, so that answers which no route made
are seen too. Routes are named by their templates: a path has ids in it.
"""

import logging
import time
import uuid
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actors import logs, tracing
from actors.metrics import Metrics

log = logging.getLogger("jamjet.http")

HEADER = b"x-request-id"
UNMATCHED = "unmatched"
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
REFUSALS = (401, 403, 429)
"""Told at ``info``: an operator wants to see them. Bugs are warnings, and all else is ``debug``."""
ID_LENGTH_MAX = 128


class Observed:
    """ASGI middleware around the app's routes."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send, self._metrics)
        logs.about(request_id=exchange.request_id)
        with tracing.request_span(exchange.method, scope["path"], exchange.header(b"traceparent")) as span:
            try:
                await self._app(scope, receive, exchange.send)
            finally:
                exchange.ended()
                if span is not None:
                    tracing.request_ended(
                        span, exchange.method, exchange.route, exchange.status, logs.subject()
                    )


class _Exchange:
    """One request and its answer."""

    __slots__ = ("_began", "_metrics", "_scope", "_send", "method", "request_id", "status")

    def __init__(self, scope: Scope, send: Send, metrics: Metrics) -> None:
        self._scope = scope
        self._send = send
        self._metrics = metrics
        self._began = time.monotonic()
        self.method: str = scope["method"] if scope["method"] in METHODS else "other"
        self.status = 0
        """0 until the answer begins."""
        self.request_id = self._given_id() or uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = self.request_id

    @property
    def route(self) -> str:
        """The template of the route that was found. Not to be asked before the answer begins."""
        return getattr(self._scope.get("route"), "path", UNMATCHED)

    def header(self, name: bytes) -> str | None:
        """A header of the request."""
        for found, value in self._scope["headers"]:
            if found == name:
                return str(value.decode("latin-1"))
        return None

    async def send(self, message: Message) -> None:
        """Pass the answer on, and note how it begins."""
        if message["type"] == "http.response.start":
            self._begins(message["status"])
            headers = message.get("headers", ())
            message = {**message, "headers": [*headers, (HEADER, self.request_id.encode("latin-1"))]}
        await self._send(message)

    def ended(self) -> None:
        """The answer is sent, or will never be."""
        if not self.status:
            self._begins(500)
        if not self._scope["path"].startswith("/health"):
            self._log()

    def _begins(self, status: int) -> None:
        self.status = status
        route = self.route
        self._metrics.http_requests.add(route, self.method, str(status))
        self._metrics.http_request_seconds.observe(time.monotonic() - self._began, route, self.method)

    def _log(self) -> None:
        level = logging.DEBUG
        if self.status >= 500:
            level = logging.WARNING
        elif self.status in REFUSALS:
            level = logging.INFO
        if log.isEnabledFor(level):
            log.log(level, "request", extra=self._fields())

    def _fields(self) -> dict[str, Any]:
        caller = self._scope["state"].get("principal")
        return {
            "method": self.method,
            "route": self.route,
            "status": self.status,
            "duration_ms": round((time.monotonic() - self._began) * 1_000, 1),
            "token_id": None if caller is None else caller.id,
        }

    def _given_id(self) -> str | None:
        """The id that the ingress or the client gave, if it can stand in a header and in a log."""
        given = self.header(HEADER)
        usable = given is not None and len(given) <= ID_LENGTH_MAX and given.isascii() and given.isprintable()
        return given if usable else None
