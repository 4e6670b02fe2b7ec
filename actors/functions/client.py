"""The owner's end of a child's socket: calls out, answers in, in any order."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, cast

import msgspec

from actors.functions.call import FunctionCall, FunctionResult, failure

IN_FLIGHT_MAX = 128
"""Calls. More wait here, by tenant, so that one tenant's burst cannot fill the child's queue."""
WRITE_BUFFER_MAX = 1024 * 1024
"""Bytes that the kernel has not taken yet; over it calls wait here too."""
FRAME_BYTES_MAX = 16 * 1024 * 1024
GREETING_S = 30.0
CANCEL_S = 1.0
"""How long a cancelled call may take to end before its worker counts as stuck."""


class WorkerLost(Exception):
    """The child ended, or was given up, with this call unanswered. ``sent``: it may have run."""

    def __init__(self, *, sent: bool) -> None:
        super().__init__("the process for functions has ended")
        self.sent = sent


class _Request(msgspec.Struct, omit_defaults=True):
    id: int
    module: str
    function: str
    key: str
    mode: str
    state: Any = None
    args: list[Any] | None = None
    kwargs: dict[str, Any] | None = None
    timed: bool = False


class _Reply(msgspec.Struct):
    id: int = 0
    ready: int | None = None
    event: str | None = None
    ok: bool = False
    result: Any = None
    patch: dict[str, Any] | None = None
    duration_ms: int = 0
    error_class: str | None = None
    error: str | None = None
    traceback: str | None = None


class _Entry:
    """A call on its way."""

    __slots__ = ("abandoned", "call", "future", "id", "timeout_ms", "timer")

    def __init__(self, call: FunctionCall, timeout_ms: int | None, future: "asyncio.Future[FunctionResult]"):
        self.id = 0
        self.call = call
        self.timeout_ms = timeout_ms
        self.future = future
        self.timer: asyncio.TimerHandle | None = None
        self.abandoned = False


class FunctionClient(asyncio.Protocol):
    """Calls functions in one child.

    Args:
        on_stuck: told when a call that nobody waits for any more cannot be stopped in the child.
        on_lost: told once when the child is gone.
    """

    def __init__(self, *, on_stuck: Callable[[], None], on_lost: Callable[[], None]) -> None:
        self._on_stuck = on_stuck
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._transport: asyncio.WriteTransport | None = None
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(_Reply)
        self._received = bytearray()
        self._outgoing: list[bytes] = []
        self._outgoing_bytes = 0
        self._writable = True
        self._waiting = 0
        self._last_id = 0
        self._sent: dict[int, _Entry] = {}
        self._queues: OrderedDict[str, deque[_Entry]] = OrderedDict()
        self._idle = asyncio.Event()
        self._idle.set()
        self._lost = False
        self._refusing = False

    async def connect(self, path: str, *, timeout_s: float = GREETING_S) -> None:
        """Connect, and wait for the child's greeting.

        Raises:
            OSError: nothing listens there, or it ended before it greeted.
            TimeoutError: it did not greet in time.
        """
        async with asyncio.timeout(timeout_s):
            await self._loop.create_unix_connection(lambda: self, path)
            await self._ready

    @property
    def pending(self) -> int:
        """Calls that somebody waits for."""
        return self._waiting

    async def call(self, call: FunctionCall, timeout_ms: int | None = None) -> FunctionResult:
        """Run a function. The timeout counts from when it starts in the child, not from here.

        Cancelling the awaiting task cancels the call in the child.

        Raises:
            WorkerLost: the child is gone.
        """
        if self._lost or self._refusing:
            raise WorkerLost(sent=False)
        entry = _Entry(call, timeout_ms, self._loop.create_future())
        self._queues.setdefault(call.tenant_id, deque()).append(entry)
        self._waiting += 1
        self._idle.clear()
        self._pump()
        try:
            return await entry.future
        except asyncio.CancelledError:
            self._abandon(entry)
            raise
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._idle.set()

    def refuse(self) -> None:
        """Take no more calls, and give back those that have not been sent."""
        self._refusing = True
        for entry in self._drain_queues():
            _fail(entry, WorkerLost(sent=False))

    async def wait_idle(self) -> None:
        """Wait until nobody waits for a call any more, or the child is gone."""
        await self._idle.wait()

    def close(self) -> None:
        """Hang up. Calls without an answer raise ``WorkerLost``."""
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asserted: uvloop's transports have the methods without being of asyncio's classes.
        self._transport = cast(asyncio.WriteTransport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_MAX)

    def data_received(self, data: bytes) -> None:
        buffer = self._received
        buffer += data
        position = 0
        while len(buffer) - position >= 4:
            length = int.from_bytes(buffer[position : position + 4], "big")
            if length > FRAME_BYTES_MAX:
                return self.close()
            end = position + 4 + length
            if len(buffer) < end:
                break
            with memoryview(buffer) as view:
                try:
                    reply = self._decoder.decode(view[position + 4 : end])
                except msgspec.DecodeError:
                    return self.close()
            position = end
            self._take(reply)
        del buffer[:position]
        self._pump()
        return None

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._pump()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        if not self._ready.done():
            self._ready.set_exception(ConnectionResetError("the process for functions ended as it started"))
        for entry in self._drain_queues():
            _fail(entry, WorkerLost(sent=False))
        for entry in self._sent.values():
            _fail(entry, WorkerLost(sent=True))
        self._sent.clear()
        self._on_lost()

    # --- out

    def _pump(self) -> None:
        """Send what may be sent, one call of each tenant in turn."""
        while self._queues and self._may_send():
            tenant_id, queue = self._queues.popitem(last=False)
            entry = queue.popleft()
            if queue:
                self._queues[tenant_id] = queue
            self._send(entry)

    def _may_send(self) -> bool:
        has_room = self._outgoing_bytes < WRITE_BUFFER_MAX and len(self._sent) < IN_FLIGHT_MAX
        return has_room and self._writable and not self._lost

    def _send(self, entry: _Entry) -> None:
        self._last_id += 1
        entry.id = self._last_id
        call = entry.call
        try:
            self._write(
                _Request(
                    id=entry.id,
                    module=call.module,
                    function=call.function,
                    key=call.key,
                    mode=call.mode,
                    state=call.state,
                    args=call.args,
                    kwargs=call.kwargs,
                    timed=entry.timeout_ms is not None,
                )
            )
        except (TypeError, ValueError) as error:
            entry.future.set_result(failure("value_rejected", f"the arguments are not JSON: {error}"))
            return
        self._sent[entry.id] = entry

    def _write(self, message: Any) -> None:
        data = self._encoder.encode(message)
        self._outgoing.append(len(data).to_bytes(4, "big"))
        self._outgoing.append(data)
        self._outgoing_bytes += len(data)
        if len(self._outgoing) == 2:
            # What one turn of the loop produces goes out in one write.
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        self._outgoing_bytes = 0
        if self._transport is not None and not self._lost:
            self._transport.write(data)
            self._pump()

    # --- in

    def _take(self, reply: _Reply) -> None:
        if reply.ready is not None:
            if not self._ready.done():
                self._ready.set_result(None)
        elif reply.event == "started":
            self._start_timer(reply.id)
        elif reply.event == "stuck":
            if reply.id in self._sent:
                self._on_stuck()
        elif entry := self._sent.pop(reply.id, None):
            self._settle(entry, reply)

    def _settle(self, entry: _Entry, reply: _Reply) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
        if not entry.future.done():
            entry.future.set_result(
                FunctionResult(
                    ok=reply.ok,
                    result=reply.result,
                    patch=reply.patch,
                    duration_ms=reply.duration_ms,
                    error_class=reply.error_class,
                    error=reply.error,
                    traceback=reply.traceback,
                )
            )

    def _start_timer(self, call_id: int) -> None:
        entry = self._sent.get(call_id)
        if entry is not None and not entry.abandoned and entry.timeout_ms is not None:
            entry.timer = self._loop.call_later(entry.timeout_ms / 1000, self._expire, entry)

    def _expire(self, entry: _Entry) -> None:
        if not entry.future.done():
            spent = f"{entry.call.module}.{entry.call.function} did not finish in {entry.timeout_ms} ms"
            entry.future.set_result(failure("timeout", spent))
        self._abandon(entry)

    def _abandon(self, entry: _Entry) -> None:
        """Nobody waits for this call any more: have it stopped, or the worker found to be stuck."""
        if entry.abandoned:
            return
        entry.abandoned = True
        if entry.timer is not None:
            entry.timer.cancel()
        if entry.id in self._sent:
            self._write({"cancel": entry.id})
            entry.timer = self._loop.call_later(CANCEL_S, self._check_stopped, entry)
        elif (queue := self._queues.get(entry.call.tenant_id)) and entry in queue:
            queue.remove(entry)
            if not queue:
                del self._queues[entry.call.tenant_id]

    def _check_stopped(self, entry: _Entry) -> None:
        if entry.id in self._sent:
            self._on_stuck()

    def _drain_queues(self) -> list[_Entry]:
        entries = [entry for queue in self._queues.values() for entry in queue]
        self._queues.clear()
        return entries


def _fail(entry: _Entry, error: WorkerLost) -> None:
    if entry.timer is not None:
        entry.timer.cancel()
    if not entry.future.done():
        entry.future.set_exception(error)
