"""Discovery's way out: attempts to have it reach the inside, and to hold it for longer than its limit."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from runtime.errors import BadRequest, JamjetError, Overloaded, Unreachable
from runtime.net import cards
from runtime.net.cards import CardFetcher
from runtime.net.egress import SystemNames
from runtime.net.policy import EgressPolicy
from tests.fixtures.http_server import Asked, HttpServer, http_server, reply, response
from tests.unit.test_net_egress import HOSTS

CARD = {"name": "A Card"}
OUTSIDE = "outside.example"
"""A host that the operator lists, though it is on this machine."""
TIME_OF_A_TEST_S = 20


@pytest.fixture
async def inside() -> AsyncIterator[HttpServer]:
    """A service with a card that discovery may not reach."""
    async with http_server(reply(200, CARD)) as server:
        yield server
        assert server.connections == 0, "somebody got inside"


async def names(host: str, port: int) -> list[str]:
    """The system's, and two of our own."""
    if host in (OUTSIDE, "inside.example"):
        return ["127.0.0.1"]
    return await SystemNames()(host, port)


def strangers() -> CardFetcher:
    """As in an installation that lists nothing but one host."""
    return CardFetcher.of_strangers(EgressPolicy(hosts=(OUTSIDE,)), resolve=names)


async def refused(url: str, fetcher: CardFetcher | None = None) -> JamjetError:
    """The error of a discovery that must fail, within the time of a test."""
    made = fetcher or strangers()
    try:
        async with asyncio.timeout(TIME_OF_A_TEST_S):
            with pytest.raises(JamjetError) as error:
                await made.fetch(url)
    finally:
        await made.close()
    assert isinstance(error.value, BadRequest | Unreachable)
    return error.value


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", [*HOSTS, "inside.example"])
async def test_a_way_of_writing_an_inside_address(inside: HttpServer, scheme: str, host: str) -> None:
    await refused(f"{scheme}://{host}:{inside.port}/")


@pytest.mark.parametrize(
    "url",
    [
        "http://user@127.0.0.1:{port}/",
        "http://outside.example@127.0.0.1:{port}/",
        "https://outside.example:x@127.0.0.1:{port}/",
        "http://127.0.0.1:{port}\\@outside.example/",
        "http://outside.example:80#@127.0.0.1:{port}/",
        "file:///etc/passwd",
        "gopher://127.0.0.1:{port}/x",
        "ftp://127.0.0.1:{port}/",
        "//127.0.0.1:{port}/",
        "http:///127.0.0.1:{port}/",
        "http://127.0.0.1:{port}/\r\nHost: x",
        "http://outside.example.127.0.0.1.nip.invalid:{port}/",
        "http://[::1",
        "unix:///run/docker.sock",
        "data:application/json,{{}}",
        "did:web:127.0.0.1",
    ],
)
async def test_a_url_that_means_to_confuse(inside: HttpServer, url: str) -> None:
    await refused(url.format(port=inside.port))


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:{port}/",
        "https://127.0.0.1:{port}/",
        "//127.0.0.1:{port}/",
        "http://2130706433:{port}/",
        "http://0x7f000001:{port}/",
        "http://017700000001:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
        "http://inside.example:{port}/",
        "http://user@127.0.0.1:{port}/",
        "http://169.254.169.254/latest/meta-data/",
        "http://100.64.0.1/",
        "file:///etc/passwd",
        "gopher://127.0.0.1:{port}/",
        "http://[",
        "/.well-known/agent.json",
    ],
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_no_way_in(inside: HttpServer, target: str, status: int) -> None:
    async with http_server(reply(status, location=target.format(port=inside.port))) as outside:
        await refused(f"http://{OUTSIDE}:{outside.port}/")


async def test_a_few_redirects_among_allowed_hosts_are_followed() -> None:
    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.path == "/moved":
            writer.write(response(200, CARD))
        else:
            writer.write(response(302, location="/moved"))

    async with http_server(answer) as outside:
        fetcher = strangers()
        found = await fetcher.fetch(f"http://{OUTSIDE}:{outside.port}")
        await fetcher.close()
    assert (found.card.name, found.value) == ("A Card", CARD)
    assert found.found_at == f"http://{OUTSIDE}:{outside.port}"


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_name_that_is_rebound_between_the_check_and_the_connection(
    inside: HttpServer, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its first look-up it is public, and from then on inside."""
    monkeypatch.setattr(cards, "WITHIN_S", 1.0)
    asked = 0

    async def rebinding(host: str, port: int) -> list[str]:
        nonlocal asked
        asked += 1
        return ["203.0.113.9" if asked == 1 else "127.0.0.1"]

    policy = EgressPolicy.parse(["203.0.113.0/24"])
    error = await refused(
        f"{scheme}://rebind.example:{inside.port}/", CardFetcher.of_strangers(policy, resolve=rebinding)
    )
    assert isinstance(error, Unreachable)
    assert asked == 1, "it was looked up twice for one connection"


async def test_a_public_host_is_asked_by_https_alone() -> None:
    async def public(host: str, port: int) -> list[str]:
        return ["93.184.216.34"]

    fetcher = CardFetcher.of_strangers(EgressPolicy(), resolve=public)
    error = await refused("http://public.example/", fetcher)
    assert error.detail == "url: public.example is a public address: it is to be asked by https"


# --- holding it -----------------------------------------------------------------------------------


async def _nothing(asked: Asked, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def _slow_headers(asked: Asked, writer: asyncio.StreamWriter) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 1_000:
        writer.write(bytes((byte,)))
        await writer.drain()
        await asyncio.sleep(0.2)


async def _slow_body(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.1)


async def _endless_headers(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-More: " + b"x" * 1_000 + b"\r\n")
        await writer.drain()


async def _endless_body(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while True:
        writer.write(b"[" * 65_536)
        await writer.drain()


async def _redirects_for_ever(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(response(302, location=f"{asked.path}x"))


BOMB = gzip.compress(bytes(64 * 1024 * 1024), 9)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (_nothing, Unreachable),
        (_slow_headers, Unreachable),
        (_slow_body, Unreachable),
        (_endless_headers, Unreachable),
        (_endless_body, BadRequest),
        (_redirects_for_ever, Unreachable),
        (reply(200, BOMB, content_encoding="gzip"), BadRequest),
        (reply(200, b"[" * 100_000), BadRequest),
        (reply(200, b"x", content_encoding="br"), Unreachable),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_an_answer_that_means_to_hold_it(
    answer: Callable[..., Any], kind: type[JamjetError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cards, "WITHIN_S", 1.0)
    async with http_server(answer) as outside:
        assert type(await refused(f"http://{OUTSIDE}:{outside.port}/")) is kind


async def test_a_name_server_that_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "WITHIN_S", 0.5)

    async def slow(host: str, port: int) -> list[str]:
        await asyncio.sleep(60)
        return []

    error = await refused("https://slow.example/", CardFetcher.of_strangers(EgressPolicy(), resolve=slow))
    assert error.detail == "slow.example did not answer within 0.5 s"


async def test_only_so_many_are_fetched_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "AT_ONCE_MAX", 2)
    async with http_server(_nothing) as outside:
        fetcher = strangers()
        url = f"http://{OUTSIDE}:{outside.port}/"
        held = [asyncio.create_task(fetcher.fetch(url)) for _ in range(2)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await fetcher.fetch(url)
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        await fetcher.close()
