"""The way out: what it reaches, what it refuses, and what it bounds."""

import asyncio
import gzip
import ipaddress
import socket
import threading
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from runtime.errors import BadRequest
from runtime.net import egress as egress_module
from runtime.net.egress import Egress, SystemNames
from runtime.net.errors import EgressError
from runtime.net.policy import EgressPolicy, is_public
from tests.fixtures.http_server import Asked, HttpServer, http_server, reply, response

LOOPBACK = EgressPolicy.parse(["127.0.0.0/8"])

INSIDE = [
    "127.0.0.1",
    "127.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "172.16.0.1",
    "172.31.255.254",
    "192.168.1.1",
    "169.254.169.254",
    "169.254.0.1",
    "100.64.0.1",
    "100.127.255.254",
    "0.0.0.0",
    "0.1.2.3",
    "192.0.0.8",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1",
    "fc00::1",
    "fd12:3456::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "64:ff9b:1::a00:1",
    "64:ff9b:1:7f00:0:100:808:808",
    "::ffff:0:127.0.0.1",
    "100:0:0:1::1",
    "3fff::1",
    "4000::1",
    "2002:7f00:1::",
    "2002:a00:1::",
    "2001:0:7f00:1::f5ff:fffe",
    "2001:db8::1",
    "fec0::1",
]
OUTSIDE = [
    "93.184.216.34",
    "1.1.1.1",
    "8.8.8.8",
    "2606:4700:4700::1111",
    "2a00:1450:4001:800::200e",
    "::ffff:8.8.8.8",
]


@pytest.mark.parametrize("address", INSIDE)
def test_an_inside_address_is_refused(address: str) -> None:
    assert not EgressPolicy().allows("example.com", address)


@pytest.mark.parametrize("address", OUTSIDE)
def test_a_public_address_is_allowed(address: str) -> None:
    assert EgressPolicy().allows("example.com", address)


def test_public_is_what_the_registries_say() -> None:
    assert not is_public(ipaddress.ip_address("192.88.99.1"))
    assert is_public(ipaddress.ip_address("9.9.9.9"))


def test_what_the_operator_lists_is_allowed() -> None:
    policy = EgressPolicy.parse(["10.1.0.0/16", "::1", "*.internal.example", "fd00::/8"])
    assert policy.allows("a", "10.1.2.3")
    assert not policy.allows("a", "10.2.0.1")
    assert policy.allows("a", "::1")
    assert policy.allows("Db.Internal.Example", "192.168.0.9")
    assert not policy.allows("internal.example.evil.com", "192.168.0.9")
    assert policy.allows("a", "fd00::5%eth0")
    assert not policy.allows("a", "no address")


@pytest.mark.parametrize("entry", ["10.0.0.0/33", "::/200", "*", "", "..", "a:b"])
def test_an_entry_that_means_nothing_is_refused(entry: str) -> None:
    with pytest.raises(BadRequest):
        EgressPolicy.parse([entry])


# --- attempts to get inside -----------------------------------------------------------------------

HOSTS = [
    "127.0.0.1",
    "localhost",
    "127.1",
    "0",
    "0.0.0.0",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "017700000001",
    "0177.0.0.1",
    "127.000.000.001",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "169.254.169.254",
    "[::ffff:169.254.169.254]",
    "100.64.0.1",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "198.18.0.1",
    "[fe80::1]",
    "[fd00::1]",
    "0xa9fea9fe",
    "2852039166",
    "LOCALHOST",
    "127.0.0.1.",
    "①②⑦.⓪.⓪.①",
    "127。0。0。1",
]


@pytest_asyncio.fixture
async def inside() -> AsyncIterator[HttpServer]:
    """A service that no workflow may reach."""
    async with http_server(reply(200, "secret")) as server:
        yield server
        assert server.connections == 0, "somebody got inside"


@pytest_asyncio.fixture
async def near() -> AsyncIterator[Egress]:
    """It may reach this machine."""
    made = Egress(LOOPBACK)
    yield made
    await made.close()


@pytest_asyncio.fixture
async def egress() -> AsyncIterator[Egress]:
    made = Egress(EgressPolicy())
    yield made
    await made.close()


@pytest.mark.parametrize("host", HOSTS)
async def test_a_way_of_writing_an_inside_address(inside: HttpServer, egress: Egress, host: str) -> None:
    with pytest.raises(EgressError) as refused:
        await egress.request("GET", f"http://{host}:{inside.port}/", timeout_s=5)
    assert refused.value.error_class in ("address_refused", "bad_url", "io_error")


@pytest.mark.parametrize(
    "url",
    [
        "http://user@127.0.0.1:{port}/",
        "http://example.com@127.0.0.1:{port}/",
        "http://127.0.0.1:{port}\\@example.com/",
        "http://example.com:80#@127.0.0.1:{port}/",
        "file:///etc/passwd",
        "gopher://127.0.0.1:{port}/x",
        "ftp://127.0.0.1:{port}/",
        "//127.0.0.1:{port}/",
        "http:///127.0.0.1:{port}/",
        "http://",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:{port}/\r\nHost: x",
        "",
        "http://[::1",
        "unix:///run/docker.sock",
    ],
)
async def test_a_url_that_means_to_confuse(
    inside: HttpServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    egress = Egress(EgressPolicy(), resolve=nowhere)
    with pytest.raises(EgressError):
        await egress.request("GET", url.format(port=inside.port), timeout_s=5)


async def nowhere(host: str, port: int) -> list[str]:
    """Of names, ``example.com`` is the only one that exists, and nothing listens there."""
    if host == "example.com":
        return ["127.0.0.1"]
    return await SystemNames()(host, port)


async def test_a_name_that_is_rebound_between_the_check_and_the_connection(inside: HttpServer) -> None:
    """It is asked for its address once; what it says afterwards does not matter."""
    answers = iter([["203.0.113.9"], ["127.0.0.1"]])

    async def rebinding(host: str, port: int) -> list[str]:
        return next(answers)

    egress = Egress(EgressPolicy(), resolve=rebinding)
    with pytest.raises(EgressError):
        await egress.request("GET", f"http://rebind.example:{inside.port}/", timeout_s=1)
    assert next(answers) == ["127.0.0.1"], "it was asked twice"


@pytest.mark.parametrize("addresses", [["1.1.1.1", "127.0.0.1"], ["127.0.0.1", "1.1.1.1"], ["::1"]])
async def test_a_name_with_any_inside_address_is_refused_whole(
    inside: HttpServer, addresses: list[str]
) -> None:
    async def mixed(host: str, port: int) -> list[str]:
        return addresses

    egress = Egress(EgressPolicy(), resolve=mixed)
    with pytest.raises(EgressError) as refused:
        await egress.request("GET", f"http://mixed.example:{inside.port}/", timeout_s=5)
    assert refused.value.error_class == "address_refused"


async def test_a_proxy_of_the_environment_is_not_used(
    inside: HttpServer, egress: Egress, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, inside.url)
    with pytest.raises(EgressError):
        await egress.request("GET", "http://10.0.0.1/", timeout_s=5)


async def test_a_redirect_is_an_answer_and_is_not_followed(near: Egress) -> None:
    async with http_server(reply(302, location="http://169.254.169.254/")) as server:
        answer = await near.request("GET", server.url, timeout_s=5)
        assert (answer.status, answer.headers["location"]) == (302, "http://169.254.169.254/")


# --- exchanges ------------------------------------------------------------------------------------


async def test_an_exchange(near: Egress) -> None:
    async with http_server(reply(201, {"a": 1}, x_two="2")) as server:
        for _ in range(2):
            answer = await near.request(
                "POST", f"{server.url}/p?q=a%20b", headers={"X-One": "1"}, content=b"hello", timeout_s=5
            )
        assert (answer.status, answer.body) == (201, b'{"a": 1}')
        assert answer.headers["x-two"] == "2"
        asked = server.asked[0]
        assert (asked.method, asked.path, asked.body) == ("POST", "/p?q=a%20b", b"hello")
        assert asked.headers["host"] == f"127.0.0.1:{server.port}"
        assert asked.headers["x-one"] == "1"
        assert server.connections == 1, "the connection was not kept"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_compressed_body_is_decoded(near: Egress, encoding: str) -> None:
    packed = gzip.compress(b"hello" * 100) if encoding == "gzip" else zlib.compress(b"hello" * 100)
    async with http_server(reply(200, packed, content_encoding=encoding)) as server:
        answer = await near.request("GET", server.url, timeout_s=5)
        assert answer.body == b"hello" * 100


async def test_a_bomb_is_refused_before_it_is_large(near: Egress) -> None:
    bomb = gzip.compress(gzip.compress(bytes(200 * 1024 * 1024), 9)[:0] + bytes(64 * 1024 * 1024), 9)
    async with http_server(reply(200, bomb, content_encoding="gzip")) as server:
        with pytest.raises(EgressError, match="larger than 1048576") as refused:
            await near.request("GET", server.url, timeout_s=20)
        assert refused.value.error_class == "too_large"


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "zstd"])
async def test_an_encoding_that_was_not_asked_for_is_refused(near: Egress, encoding: str) -> None:
    async with http_server(reply(200, b"x", content_encoding=encoding)) as server:
        with pytest.raises(EgressError, match="content encoding"):
            await near.request("GET", server.url, timeout_s=5)


async def test_damaged_bytes_are_refused(near: Egress) -> None:
    async with http_server(reply(200, b"no gzip", content_encoding="gzip")) as server:
        with pytest.raises(EgressError, match="damaged"):
            await near.request("GET", server.url, timeout_s=5)


async def test_a_compressed_body_of_several_members_is_whole(near: Egress) -> None:
    body = gzip.compress(b"first ") + gzip.compress(b"second")
    async with http_server(reply(200, body, content_encoding="gzip")) as server:
        answer = await near.request("GET", server.url, timeout_s=5)
    assert answer.body == b"first second"


@pytest.mark.parametrize("kept", [5, 20, -1])
async def test_a_compressed_body_that_ends_too_early_is_refused(near: Egress, kept: int) -> None:
    body = gzip.compress(bytes(range(256)))[:kept]
    async with http_server(reply(200, body, content_encoding="gzip")) as server:
        with pytest.raises(EgressError, match="ends too early") as failed:
            await near.request("GET", server.url, timeout_s=5)
    assert failed.value.error_class == "io_error"


async def test_an_endless_body_that_decodes_to_nothing_is_cut(near: Egress) -> None:
    async def endless(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n")
        while True:
            writer.write(gzip.compress(b"") * 100)
            await writer.drain()

    async with http_server(endless) as server:
        with pytest.raises(EgressError, match="larger than 10000 bytes") as failed:
            await near.request("GET", server.url, timeout_s=5, bytes_max=10_000)
    assert failed.value.error_class == "too_large"


async def test_no_body_needs_no_decoding(near: Egress) -> None:
    async with http_server(reply(200, b"", content_encoding="gzip")) as server:
        answer = await near.request("HEAD", server.url, timeout_s=5)
    assert answer.body == b""


@pytest.mark.parametrize("port", ["65536", "99999", "-1"])
async def test_a_port_that_is_none_is_refused(near: Egress, port: str) -> None:
    with pytest.raises(EgressError) as failed:
        await near.request("GET", f"http://127.0.0.1:{port}/", timeout_s=5)
    assert failed.value.error_class == "bad_url"


async def test_an_endless_body_is_cut_at_its_limit(near: Egress) -> None:
    async def endless(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()

    async with http_server(endless) as server:
        with pytest.raises(EgressError) as refused:
            await near.request("GET", server.url, timeout_s=20)
        assert refused.value.error_class == "too_large"


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"])
async def test_a_slow_body_is_cut_at_its_deadline(near: Egress, sent: bytes) -> None:
    async def slow(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await writer.drain()
        await asyncio.sleep(30)

    async with http_server(slow) as server:
        with pytest.raises(EgressError) as refused:
            await near.request("GET", server.url, timeout_s=0.2)
        assert refused.value.error_class == "timeout"


async def test_a_connection_that_breaks_is_said(near: Egress) -> None:
    async def breaks(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(response(200, b"12345")[:-2])
        writer.close()

    async with http_server(breaks) as server:
        with pytest.raises(EgressError) as refused:
            await near.request("GET", server.url, timeout_s=5)
        assert refused.value.error_class == "connection_reset"


async def test_nobody_listens(near: Egress) -> None:
    with pytest.raises(EgressError) as refused:
        await near.request("GET", "http://127.0.0.1:1/", timeout_s=5)
    assert refused.value.error_class == "io_error"


async def test_a_stream_is_read_as_it_comes(near: Egress) -> None:
    async def streaming(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for part in (b"one", b"two"):
            writer.write(b"3\r\n" + part + b"\r\n")
            await writer.drain()
            await release.wait()
        writer.write(b"0\r\n\r\n")

    release = asyncio.Event()
    async with (
        http_server(streaming) as server,
        near.open("GET", server.url, timeout_s=5) as answer,
    ):
        parts = answer.chunks()
        assert await anext(parts) == b"one"
        release.set()
        assert [part async for part in parts] == [b"two"]


async def test_a_host_that_hangs_leaves_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress_module, "CONNECTIONS_MAX", 4)
    monkeypatch.setattr(egress_module, "CONNECTIONS_OF_ONE_HOST_MAX", 2)

    async def here(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    egress = Egress(LOOPBACK, resolve=here)

    async def hang(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    async with http_server(hang) as slow, http_server(reply(200, "here")) as other:
        asking = [asyncio.create_task(egress.request("GET", slow.url, timeout_s=60)) for _ in range(9)]
        await asyncio.sleep(0.1)
        elsewhere = other.url.replace("127.0.0.1", "other.test")
        assert (await egress.request("GET", elsewhere, timeout_s=2)).body == b"here"
        assert slow.connections == 2
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        assert (await egress.request("GET", other.url, timeout_s=2)).body == b"here"
    await egress.close()


async def test_names_that_are_long_looked_up_hold_up_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    look_up = socket.getaddrinfo

    def slow(host: str, *args: Any, **kwargs: Any) -> Any:
        if host == "slow.test":
            answered.wait(10)
        return look_up("127.0.0.1", *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    egress, other = Egress(LOOPBACK), Egress(LOOPBACK)
    asking = [
        asyncio.create_task(egress.request("GET", "http://slow.test:1/", timeout_s=60)) for _ in range(40)
    ]
    await asyncio.sleep(0.1)
    try:
        async with http_server(reply(200, "here")) as server:
            url = server.url.replace("127.0.0.1", "fast.test")
            for one in (egress, other):
                assert (await one.request("GET", url, timeout_s=2)).body == b"here"
            # Nor what else a process does in threads.
            await asyncio.wait_for(asyncio.to_thread(int), 2)
    finally:
        answered.set()
        await asyncio.gather(*asking, return_exceptions=True)
        await egress.close()
        await other.close()
