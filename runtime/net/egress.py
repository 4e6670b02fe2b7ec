"""The way out. A name is resolved once, every address it has is checked, and a checked one is connected to.

No proxy of the environment is used, and no redirect followed here. Bodies are bounded after they
are decoded, so that a small compressed one cannot become a large one; a deadline bounds the whole exchange.
"""

import asyncio
import contextlib
import functools
import socket
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import httpcore2
import httpx2

from runtime.net.errors import EgressError
from runtime.net.policy import EgressPolicy

BYTES_MAX = 1024 * 1024
CONNECT_S = 10.0
CONNECTIONS_MAX = 512
CONNECTIONS_OF_ONE_HOST_MAX = 256
"""One that hangs must not keep all others from being asked."""
LOOKUPS_MAX = 64
"""Names that are looked up at once."""
_HEADER_BYTES_MAX = 256
"""Of one header's value in an error message."""

Resolve = Callable[[str, int], Awaitable[list[str]]]


@dataclass(frozen=True)
class Answer:
    """A whole response. Header names are in lower case; of repeated ones the last counts."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class OpenAnswer:
    """A response whose body is still to be read."""

    status: int
    headers: dict[str, str]
    _read: Callable[[int], AsyncIterator[bytes]] = field(repr=False)

    def chunks(self, bytes_max: int = BYTES_MAX) -> AsyncIterator[bytes]:
        """The decoded body in parts.

        Raises:
            EgressError: it is larger than ``bytes_max``, or was cut off.
        """
        return self._read(bytes_max)

    async def whole(self, bytes_max: int = BYTES_MAX) -> Answer:
        """The body in one piece; raises as ``chunks``."""
        return Answer(self.status, self.headers, b"".join([part async for part in self.chunks(bytes_max)]))


class SystemNames:
    """Looks hosts up as the system does, in threads of its own: a name server may take its time."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(LOOKUPS_MAX, thread_name_prefix="lookup")

    async def __call__(self, host: str, port: int) -> list[str]:
        """The addresses of a host, in the system's order."""
        ask = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Egress:
    """Sends requests under a policy. It belongs to one event loop."""

    def __init__(self, policy: EgressPolicy, *, resolve: Resolve | None = None) -> None:
        self._backend = _GuardedBackend(policy, resolve or SystemNames())
        self._pool: httpcore2.AsyncConnectionPool | None = None
        self._rooms: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        """By host, while anybody asks it."""

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes = b"",
        timeout_s: float | None,
        bytes_max: int = BYTES_MAX,
    ) -> Answer:
        """One exchange.

        Raises:
            EgressError: no answer came, or none that may be read.
        """
        async with self.open(method, url, headers=headers, content=content, timeout_s=timeout_s) as answer:
            return await answer.whole(bytes_max)

    @contextlib.asynccontextmanager
    async def open(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes = b"",
        timeout_s: float | None,
    ) -> AsyncIterator[OpenAnswer]:
        """One exchange whose body is read in the block; ``timeout_s`` is for all of it.

        Raises:
            EgressError: no answer came, or none that may be read.
        """
        target = parse_url(url)
        sent = [(b"Host", target.netloc), (b"Accept-Encoding", b"gzip")]
        sent += [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        if content or method in ("POST", "PUT", "PATCH"):
            sent.append((b"Content-Length", str(len(content)).encode()))
        core_url = httpcore2.URL(
            scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path
        )
        with _errors_named(target.host):
            async with (
                asyncio.timeout(timeout_s),
                self._room(target.host),
                self._connections().stream(
                    method,
                    core_url,
                    headers=sent,
                    content=content,
                    extensions={"timeout": {"connect": CONNECT_S, "pool": timeout_s}},
                ) as response,
            ):
                yield _opened(response, target.host)

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.aclose()

    def _room(self, host: str) -> asyncio.Semaphore:
        return self._rooms.setdefault(host, asyncio.Semaphore(CONNECTIONS_OF_ONE_HOST_MAX))

    def _connections(self) -> httpcore2.AsyncConnectionPool:
        if self._pool is None:
            self._pool = httpcore2.AsyncConnectionPool(
                ssl_context=httpx2.create_ssl_context(),
                max_connections=CONNECTIONS_MAX,
                max_keepalive_connections=32,
                keepalive_expiry=15.0,
                network_backend=self._backend,
            )
        return self._pool


def parse_url(url: str) -> httpx2.URL:
    """A URL that may be requested.

    Raises:
        EgressError: it is none, or has a user's name in it.
    """
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError) as error:
        raise EgressError(f"not a url: {error}", "bad_url") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise EgressError("the url must begin with http:// or https:// and name a host", "bad_url")
    if parsed.port is not None and not 0 < parsed.port < 2**16:
        raise EgressError("the url's port must be from 1 to 65535", "bad_url")
    if parsed.userinfo:
        raise EgressError("the url must not have a user name or password in it", "bad_url")
    return parsed


class _GuardedBackend(httpcore2.AsyncNetworkBackend):
    """Connects to addresses that the policy allows; a host with any other address is refused whole."""

    def __init__(self, policy: EgressPolicy, resolve: Resolve) -> None:
        self._policy = policy
        self._resolve = resolve
        self._inner = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (the library's signature)
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        addresses = await self._checked(host.strip("[]"), port)
        problem: Exception | None = None
        for address in addresses:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except httpcore2.ConnectError as error:
                problem = error
        raise httpcore2.ConnectError(f"no address of {host} can be connected to: {problem}")

    async def _checked(self, host: str, port: int) -> list[str]:
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError(f"{host} has no address: {error}") from error
        if not addresses:
            raise httpcore2.ConnectError(f"{host} has no address")
        for address in addresses:
            refusal = self._policy.refusal(host, address)
            if refusal is not None:
                raise EgressError(f"{host} is {refusal}", "address_refused")
        return addresses

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@contextlib.contextmanager
def _errors_named(host: str) -> Any:
    """What went wrong on the way, as an ``EgressError``."""
    try:
        yield
    except TimeoutError as error:
        raise EgressError(f"{host} did not answer in time", "timeout") from error
    except httpcore2.TimeoutException as error:
        raise EgressError(f"{host} could not be connected to in time", "timeout") from error
    except (httpcore2.ReadError, httpcore2.WriteError, httpcore2.RemoteProtocolError) as error:
        raise EgressError(f"the connection to {host} was lost: {error}", "connection_reset") from error
    except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.UnsupportedProtocol) as error:
        raise EgressError(f"{host}: {error}", "io_error") from error


def _opened(response: httpcore2.Response, host: str) -> OpenAnswer:
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
    encoding = headers.get("content-encoding", "identity").strip().lower()

    async def read(bytes_max: int) -> AsyncIterator[bytes]:
        decoder = _Decoder(encoding, bytes_max)
        parts = response.aiter_stream()
        while True:
            # Named here too: whoever reads need not do so in the block that opened it.
            with _errors_named(host):
                part = await anext(parts, None)
            if part is None:
                break
            for decoded in decoder.feed(part):
                yield decoded
        decoder.end()

    return OpenAnswer(response.status, headers, read)


class _Decoder:
    """Undoes a content encoding, a bounded part at a time."""

    _PART_MAX = 64 * 1024

    def __init__(self, encoding: str, bytes_max: int) -> None:
        if encoding not in ("identity", "", "gzip", "x-gzip", "deflate"):
            shown = encoding[:_HEADER_BYTES_MAX]
            raise EgressError(
                f"the answer has the content encoding {shown!r}, which was not asked for", "io_error"
            )
        self._is_compressed = encoding not in ("identity", "")
        self._inflate: Any = None
        self._bytes_max = bytes_max
        self._left = bytes_max
        self._encoded_left = 2 * bytes_max
        """What is compressed may outgrow what it decodes to, but only a little, where it is flushed often."""

    def feed(self, data: bytes) -> Iterable[bytes]:
        if not self._is_compressed:
            yield self._counted(data)
            return
        self._encoded_left -= len(data)
        if self._encoded_left < 0:
            raise self._too_large()
        while data:
            # Several compressed bodies one behind the other are one body.
            if self._inflate is None or self._inflate.eof:
                self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)
            try:
                part = self._inflate.decompress(data, self._PART_MAX)
            except zlib.error as error:
                raise EgressError(f"the answer's body is damaged: {error}", "io_error") from error
            data = self._inflate.unconsumed_tail or self._inflate.unused_data
            if part:
                yield self._counted(part)

    def end(self) -> None:
        """No more will come.

        Raises:
            EgressError: more should have.
        """
        if self._inflate is not None and not self._inflate.eof:
            raise EgressError("the answer's compressed body ends too early", "io_error")

    def _counted(self, part: bytes) -> bytes:
        self._left -= len(part)
        if self._left < 0:
            raise self._too_large()
        return part

    def _too_large(self) -> EgressError:
        return EgressError(f"the answer is larger than {self._bytes_max} bytes", "too_large")
