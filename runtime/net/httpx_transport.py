"""The guarded way out as a transport of httpx, for libraries that bring their own client."""

import contextlib
from collections.abc import AsyncIterator

import httpx

from runtime.net.egress import Egress, OpenAnswer
from runtime.net.errors import EgressError

BYTES_MAX = 4 * 1024 * 1024
"""Of one response, a stream's events together included."""
_OWN = frozenset(("host", "content-length", "accept-encoding", "connection", "transfer-encoding"))
"""Headers that the way out sets itself."""
_DECODED = frozenset(("content-encoding", "content-length", "transfer-encoding"))


class EgressTransport(httpx.AsyncBaseTransport):
    """Sends each request through an ``Egress``, which checks where it goes. Deadlines are the caller's."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        content = await request.aread()
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _OWN}
        stack = contextlib.AsyncExitStack()
        try:
            opened = await stack.enter_async_context(
                self._egress.open(
                    request.method, str(request.url), headers=headers, content=content, timeout_s=None
                )
            )
        except EgressError as error:
            raise httpx.ConnectError(str(error), request=request) from error
        shown = [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in opened.headers.items()
            if name not in _DECODED
        ]
        return httpx.Response(opened.status, headers=shown, stream=_Body(opened, stack), request=request)


class _Body(httpx.AsyncByteStream):
    """A response's body, already decoded."""

    def __init__(self, opened: OpenAnswer, stack: contextlib.AsyncExitStack) -> None:
        self._opened = opened
        self._stack = stack

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._opened.chunks(BYTES_MAX):
                yield part
        except EgressError as error:
            raise httpx.ReadError(str(error)) from error

    async def aclose(self) -> None:
        await self._stack.aclose()
