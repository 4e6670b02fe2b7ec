"""Events of one execution as Server-Sent Events, and between them what models say, as they say it.

A frame of an event has its sequence as ``id``, so a client that comes back with ``Last-Event-ID``, to any
replica, goes on where it was. Pieces of a model's answer (``event: token``) are not stored and have no id.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from actors.listener import Listener, Token
from runtime.errors import JamjetError, Overloaded
from runtime.events import kind_name
from runtime.store.port import EventRow, ExecutionRow

PAGE = 500
"""Events that are read at once."""
LOOK_S = 5.0
"""How long a stream trusts that nothing moved without its being told, and that its token is still good."""
PING_S = 15.0
STREAMS_MAX = 800
"""In one replica, so that other requests find room beside them."""
STREAMS_OF_ONE_MAX = 400
"""Of one token in one replica."""
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
MEDIA_TYPE = "text/event-stream"
LAST_TYPES = ("workflow_completed", "workflow_failed", "workflow_cancelled", "workflow_limit_exceeded")

Read = Callable[[int], Awaitable[list[EventRow]]]
Render = Callable[[EventRow], Awaitable[dict[str, Any]]]


class Streams:
    """How many streams a replica serves, and for whom."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    def admitted(self, principal_id: str) -> Callable[[], None]:
        """Count one stream in; returns what counts it out.

        Raises:
            Overloaded: there are as many as there may be.
        """
        if self._open.total() >= STREAMS_MAX or self._open[principal_id] >= STREAMS_OF_ONE_MAX:
            raise Overloaded("too many event streams are open", retry_after_s=5)
        self._open[principal_id] += 1
        return lambda: self._leave(principal_id)

    def _leave(self, principal_id: str) -> None:
        self._open[principal_id] -= 1
        if not self._open[principal_id]:
            del self._open[principal_id]


class EventStream(StreamingResponse):
    """A stream that is counted out when it is over, also when its client left before it began.

    Its body is closed then too: left to the garbage collector, it would go on listening for a while.
    """

    def __init__(self, body: AsyncGenerator[bytes], leave: Callable[[], None]) -> None:
        super().__init__(body, media_type=MEDIA_TYPE, headers=HEADERS)
        self._body = body
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._leave()
            await self._body.aclose()


class Stream:
    """One client's stream of one execution.

    Args:
        listener: what is known of the execution as it goes on.
        after: the sequence that the client has seen, or says that it has.
        read: the events after a sequence, at most ``PAGE``.
        show: one event as the client sees it.
        tells_tokens: whether models' words may be shown as they come, before anything is withheld of them.
        still_allowed: raises when the client may not read any more.
    """

    def __init__(
        self,
        listener: Listener,
        *,
        after: int,
        read: Read,
        show: Render,
        tells_tokens: bool,
        still_allowed: Callable[[], Awaitable[Any]],
    ) -> None:
        self._listener = listener
        self._after = self._read_to = after
        self._read = read
        self._show = show
        self._tells_tokens = tells_tokens
        self._still_allowed = still_allowed
        self._last: bytes | None = None
        """The frame after which there is none."""
        self._checked_at = self._pinged_at = asyncio.get_running_loop().time()

    async def frames(self, found: ExecutionRow) -> AsyncIterator[bytes]:
        """The frames, until the execution's last event, or until the client's token is refused.

        When this process is to end the stream just ends: clients go on at another replica where they were.

        ``found``: the execution as it stood before.
        """
        # A client may say more than there is: its stream ends with the execution nevertheless.
        self._read_to = min(self._after, found.sequence)
        if found.completed_at is not None and self._after >= found.sequence:
            self._last = _end(found.status)
        must_look = True
        while self._last is None and not self._listener.draining:
            tokens = self._listener.take()
            for token in tokens if self._tells_tokens else ():
                yield _frame("token", _token(token))
            if must_look or self._listener.sequence > self._read_to:
                async for frame in self._stored():
                    yield frame
            async for frame in self._upkeep():
                yield frame
            must_look = self._last is None and not await self._listener.wait(LOOK_S)
        if self._last is not None:
            yield self._last

    async def _stored(self) -> AsyncIterator[bytes]:
        """Every event that the client has not seen."""
        rows = await self._read(self._read_to)
        while rows:
            for row in rows:
                self._read_to = row.sequence
                if row.sequence > self._after:
                    yield _frame(kind_name(row.type), await self._show(row), row.sequence)
                if row.type in LAST_TYPES:
                    self._last = _end(row.type.removeprefix("workflow_"))
            rows = await self._read(self._read_to) if len(rows) == PAGE else []

    async def _upkeep(self) -> AsyncIterator[bytes]:
        """Now and then: look whether the token is still good, and keep the connection open."""
        now = asyncio.get_running_loop().time()
        if now - self._checked_at >= LOOK_S:
            self._checked_at = now
            try:
                await self._still_allowed()
            except JamjetError as error:
                self._last = self._last or _frame("error", {"error": error.detail, "code": error.code})
        if now - self._pinged_at >= PING_S:
            self._pinged_at = now
            yield b": ping\n\n"


def _end(status: str) -> bytes:
    return _frame("end", {"status": status})


def _frame(name: str, data: dict[str, Any], sequence: int | None = None) -> bytes:
    head = f"id: {sequence}\n" if sequence is not None else ""
    return f"{head}event: {name}\ndata: ".encode() + orjson.dumps(data, default=str) + b"\n\n"


def read_frame(data: bytes) -> tuple[str, Any] | None:
    """The name and the data of one frame as it was sent; None: it has none."""
    fields = dict(
        line.split(": ", 1) for line in data.decode().split("\n") if line and not line.startswith(":")
    )
    return (fields["event"], orjson.loads(fields["data"])) if "event" in fields else None


def _token(token: Token) -> dict[str, Any]:
    return {"node_id": token.node_id, "visit": token.visit, "attempt": token.attempt, "text": token.text}
