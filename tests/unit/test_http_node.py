"""``http`` nodes: how they are written, what they send, and what becomes of the answer."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from runtime.errors import BadRequest, InvalidWorkflow
from runtime.graph import HttpNode
from runtime.ir import RegistrationPolicy, compile_ir, compile_yaml
from runtime.net.egress import Egress
from runtime.net.errors import EgressError
from runtime.net.policy import EgressPolicy
from runtime.net.secrets import Secrets
from runtime.net.status import retry_after_ms, status_class
from runtime.nodes.http import HttpExecutor, HttpFailed
from tests.fixtures.http_server import Asked, HttpServer, http_server, reply, response
from tests.unit.machine_driver import Driver, graph_of

POLICY = RegistrationPolicy((), frozenset({"TOKEN"}))
KEY = "exec_1:fetch:1"
HEADERS = {"Authorization": "Bearer {{ env.TOKEN }}"}


def compiled(**kind: Any) -> HttpNode:
    ir = {
        "workflow_id": "w",
        "version": "1",
        "nodes": {"fetch": {"kind": {"type": "http", "url": "https://example.com", **kind}}},
        "edges": [{"from": "fetch", "to": "end"}],
    }
    node = compile_ir(ir, POLICY).graph.nodes["fetch"]
    assert isinstance(node, HttpNode)
    return node


# --- how it is written ----------------------------------------------------------------------------


def test_defaults() -> None:
    node = compiled()
    assert (node.method, node.output_key, node.timeout_ms, node.response) == ("GET", "fetch", 60_000, "body")
    assert node.accepts(204)
    assert not node.accepts(301)


def test_it_is_written_in_yaml() -> None:
    graph = compile_yaml(
        """
workflow: {id: w, version: 1.0.0}
nodes:
  fetch:
    type: http
    method: post
    url: "https://api.example.test/{{ state.id }}"
    headers: {Authorization: "Bearer {{ env.TOKEN }}"}
    query: {page: "{{ state.page }}"}
    body: {n: "{{ state.n }}"}
    accept_status: [200, 404]
    response: full
    timeout: 30s
    output_key: raw
""",
        POLICY,
    ).graph
    node = graph.nodes["fetch"]
    assert isinstance(node, HttpNode)
    assert (node.method, node.timeout_ms, node.output_key, node.response) == ("POST", 30_000, "raw", "full")
    assert node.accept == ("200", "404")
    assert node.body == {"n": "{{ state.n }}"}


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ({"url": None}, "url is required"),
        ({"method": "STEAL"}, "method: 'STEAL' is none of"),
        ({"url": "https://{{ state.x"}, "url does not parse"),
        ({"headers": {"A": "{{ env.OTHER }}"}}, "headers reads env.OTHER, which is not allowed"),
        ({"accept_status": ["6xx"]}, "accept_status: must be statuses such as 200"),
        ({"accept_status": []}, "accept_status: must be statuses such as 200"),
        ({"response": "half"}, "response"),
        ({"headers": {"Host": "other.example"}}, "header 'Host' is set by the server: leave it out"),
        ({"headers": {"A B": "x"}}, "header 'A B' has characters that no header may have"),
    ],
)
def test_what_is_wrong_is_said_at_registration(kind: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidWorkflow) as caught:
        compiled(**kind)
    assert sentence in caught.value.fields["problems"][0]


def test_a_secret_where_no_request_is_told_it_is_warned_of() -> None:
    ir = {
        "workflow_id": "w",
        "version": "1",
        "nodes": {
            "fetch": {"kind": {"type": "http", "url": "https://x.test/{{ env.TOKEN }}", "headers": HEADERS}}
        },
    }
    policy = RegistrationPolicy((), frozenset({"TOKEN"}), frozenset({"TOKEN"}))
    (warning,) = compile_ir(ir, policy).warnings
    assert warning.startswith("node 'fetch': url reads env.TOKEN, a secret")


def test_a_secret_stands_in_the_log_as_a_reference_only() -> None:
    node = HttpNode(
        id="fetch", url="https://example.com", headers={"Authorization": "Bearer {{ env.TOKEN }}"}
    )
    drive = Driver(graph_of("fetch>end", nodes=(node,)), env={"TOKEN": "${TOKEN}"})
    drive.start()
    assert drive.state.node("fetch").input["headers"] == {"Authorization": "Bearer ${TOKEN}"}
    assert drive.ok("fetch")[0] == "ToolCallCompleted fetch"


# --- what it sends --------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def executor() -> AsyncIterator[HttpExecutor]:
    egress = Egress(EgressPolicy.parse(["127.0.0.0/8"]))
    secrets = Secrets.parse(
        ["TOKEN@127.0.0.1", "OTHER@api.example.com|*.example.org", "UNSET@127.0.0.1"],
        {"TOKEN": "s3cret", "OTHER": "o"},
    )
    yield HttpExecutor(egress, secrets)
    await egress.close()


async def run(executor: HttpExecutor, server: HttpServer, path: str = "/", **fields: Any) -> Any:
    rendered = {name: fields.pop(name) for name in ("headers", "query", "body") if name in fields}
    node = HttpNode(id="fetch", url="", timeout_ms=fields.pop("timeout_ms", 5_000), **fields)
    return await executor.run(node, {"url": server.url + path, **rendered}, key=KEY)


async def test_a_get(executor: HttpExecutor) -> None:
    async with http_server(reply(200, {"a": [1, None]})) as server:
        query = {"q": "a b", "n": 3, "none": None, "many": ["x", "y"]}
        assert await run(executor, server, "/p?old=1", query=query) == {"a": [1, None]}
        asked = server.asked[0]
        assert (asked.method, asked.path) == ("GET", "/p?old=1&q=a+b&n=3&many=x&many=y")
        assert asked.headers["user-agent"] == "jamjet-ray"
        assert "idempotency-key" not in asked.headers


async def test_a_post_of_json_carries_its_key(executor: HttpExecutor) -> None:
    async with http_server(reply(201)) as server:
        assert await run(executor, server, method="POST", body={"n": 1}) is None
        asked = server.asked[0]
        assert asked.json() == {"n": 1}
        assert asked.headers["content-type"] == "application/json"
        assert asked.headers["idempotency-key"] == KEY


async def test_a_post_of_text_with_a_key_and_type_of_its_own(executor: HttpExecutor) -> None:
    async with http_server(reply(200)) as server:
        headers = {"content-type": "text/csv", "Idempotency-Key": "mine"}
        await run(executor, server, method="POST", body="a;b", headers=headers)
        asked = server.asked[0]
        assert asked.body == b"a;b"
        assert (asked.headers["content-type"], asked.headers["idempotency-key"]) == ("text/csv", "mine")


async def test_a_secret_goes_to_its_host(executor: HttpExecutor) -> None:
    async with http_server(reply(200)) as server:
        headers = {"Authorization": "Bearer ${TOKEN}", "X-Literal": "${NOT_A_SECRET}"}
        await run(executor, server, headers=headers, query={"k": "${TOKEN}"})
        asked = server.asked[0]
        assert asked.headers["authorization"] == "Bearer s3cret"
        assert asked.headers["x-literal"] == "${NOT_A_SECRET}"
        assert asked.path == "/?k=s3cret"


@pytest.mark.parametrize(("name", "error_class"), [("OTHER", "secret_refused"), ("UNSET", "secret_missing")])
async def test_a_secret_goes_nowhere_else(executor: HttpExecutor, name: str, error_class: str) -> None:
    async with http_server(reply(200)) as server:
        with pytest.raises(HttpFailed) as failed:
            await run(executor, server, headers={"A": f"${{{name}}}"})
        assert failed.value.error_class == error_class
        assert server.asked == []


async def test_a_reference_in_a_body_is_text(executor: HttpExecutor) -> None:
    """What a caller puts into the state must not be able to name a secret."""
    async with http_server(reply(200)) as server:
        await run(executor, server, method="POST", body={"text": "${TOKEN}"})
        assert server.asked[0].json() == {"text": "${TOKEN}"}


@pytest.mark.parametrize("header", [{"A": "x\r\nB: y"}, {"A\r\nB": "x"}, {"Ä": "x"}])
async def test_a_header_cannot_smuggle_another(executor: HttpExecutor, header: dict[str, str]) -> None:
    async with http_server(reply(200)) as server:
        with pytest.raises(HttpFailed) as failed:
            await run(executor, server, headers=header)
        assert failed.value.error_class == "bad_header"
        assert server.asked == []


@pytest.mark.parametrize(
    "name", ["Host", "content-length", "Transfer-Encoding", "Connection", "A B", "A:", ""]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_header_cannot_say_where_the_request_goes_or_ends(
    executor: HttpExecutor, method: str, name: str
) -> None:
    async with http_server(reply(200)) as server:
        with pytest.raises(HttpFailed) as failed:
            await run(executor, server, method=method, headers={name: "1"})
        assert (failed.value.error_class, failed.value.retryable) == ("bad_header", False)
        assert server.asked == []


async def test_blanks_around_a_headers_value_mean_nothing(executor: HttpExecutor) -> None:
    async with http_server(reply(200)) as server:
        await run(executor, server, headers={"A": " x y\t"})
        assert server.asked[0].headers["a"] == "x y"


@pytest.mark.parametrize("entry", ["TOKEN", "@host", "A B@host", "TOKEN@", "TOKEN@|"])
def test_a_secret_needs_its_hosts(entry: str) -> None:
    with pytest.raises(BadRequest):
        Secrets.parse([entry], {})


def test_a_secret_is_not_shown() -> None:
    secrets = Secrets.parse(["TOKEN@host"], {"TOKEN": "s3cret"})
    assert "s3cret" not in repr(secrets)
    with pytest.raises(EgressError) as refused:
        secrets.expand("${TOKEN}", "evil.example")
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("status", [200, 500])
async def test_a_secret_that_comes_back_is_withheld(executor: HttpExecutor, status: int) -> None:
    async def echo(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(response(status, {"you": asked.headers["authorization"]}, x_echo="s3cret"))

    async with http_server(echo) as server:
        headers = {"Authorization": "Bearer ${TOKEN}"}
        if status == 200:
            whole = await run(executor, server, headers=headers, response="full")
            assert whole["body"] == {"you": "Bearer ${TOKEN}"}
            assert whole["headers"]["x-echo"] == "${TOKEN}"
            return
        with pytest.raises(HttpFailed) as failed:
            await run(executor, server, headers=headers)
        assert "Bearer ${TOKEN}" in str(failed.value)
        assert "s3cret" not in str(failed.value)


async def echo(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(response(200, {"path": asked.path, "header": asked.headers.get("a")}))


@pytest.mark.parametrize(
    "secret",
    ["s3cret ", "s3cret\n", "pässwörd", "s3/cr+t?&= x", 'qu"ote\\d', "snow\u2603man"],
)
@pytest.mark.parametrize("place", ["headers", "query"])
async def test_a_secret_is_withheld_however_it_is_written(secret: str, place: str) -> None:
    """Services repeat a request's URL as it was sent, and headers within JSON."""
    egress = Egress(EgressPolicy.parse(["127.0.0.0/8"]))
    executor = HttpExecutor(egress, Secrets.parse(["TOKEN@127.0.0.1"], {"TOKEN": secret}))
    async with http_server(echo) as server:
        said = await run(executor, server, **{place: {"a": "x${TOKEN}y"}})
    await egress.close()
    if place == "query":
        assert said["path"] == "/?a=x${TOKEN}y"
    else:
        assert said["header"] == "x${TOKEN}y"


async def test_a_secret_that_begins_like_another_is_withheld_whole() -> None:
    environ = {"SHORT": "abcdef", "LONG": "abcdefGHIJK"}
    egress = Egress(EgressPolicy.parse(["127.0.0.0/8"]))
    executor = HttpExecutor(egress, Secrets.parse(["SHORT@127.0.0.1", "LONG@127.0.0.1"], environ))
    async with http_server(echo) as server:
        said = await run(executor, server, headers={"a": "${LONG}"})
    await egress.close()
    assert said["header"] == "${LONG}"


async def test_a_secret_in_a_redirect_stands_in_no_error(executor: HttpExecutor) -> None:
    async with http_server(reply(302, location="http://s3cret.invalid/")) as server:
        with pytest.raises(HttpFailed) as failed:
            await run(executor, server)
        assert "s3cret" not in str(failed.value)


# --- what becomes of the answer -------------------------------------------------------------------


async def test_the_whole_answer(executor: HttpExecutor) -> None:
    async with http_server(reply(404, "no\0thing", content_type="text/plain", x_a="1")) as server:
        whole = await run(executor, server, response="full", accept=("4xx",))
        assert (whole["status"], whole["body"]) == (404, "no\ufffdthing")
        assert whole["headers"]["x-a"] == "1"
        assert await run(executor, server, response="status", accept=("404",)) == 404


@pytest.mark.parametrize(
    ("status", "error_class", "retryable"),
    [
        (429, "rate_limit", None),
        (408, "timeout", None),
        (503, "server_error", None),
        (404, "client_error", False),
    ],
)
async def test_a_status_that_is_no_success(
    executor: HttpExecutor, status: int, error_class: str, retryable: bool | None
) -> None:
    async with http_server(reply(status, "because", retry_after="2.5")) as server:
        with pytest.raises(HttpFailed, match=f"GET was answered {status}: because") as failed:
            await run(executor, server)
        assert (failed.value.error_class, failed.value.retryable) == (error_class, retryable)
        assert failed.value.retry_after_ms == 2_500


async def test_json_that_is_none(executor: HttpExecutor) -> None:
    async with http_server(reply(200, "{", content_type="application/json")) as server:
        with pytest.raises(HttpFailed) as failed:
            await run(executor, server)
        assert failed.value.error_class == "bad_answer"


async def test_redirects_are_followed_within_bounds_and_lose_what_was_for_another_host(
    executor: HttpExecutor,
) -> None:
    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.path == "/loop":
            writer.write(response(302, location="/loop"))
        elif asked.path == "/away":
            writer.write(response(302, location=f"http://127.0.0.2:{server.port}/there"))
        else:
            writer.write(response(200, asked.headers.get("authorization", "none")))

    async with http_server(answer) as server:
        with pytest.raises(HttpFailed, match="more than 5 redirects"):
            await run(executor, server, "/loop")
        # Nothing listens at the other address; what counts is what would have been sent there.
        with pytest.raises(HttpFailed) as failed:
            await run(executor, server, "/away", headers={"Authorization": "${TOKEN}"})
        assert failed.value.error_class == "io_error"
        with pytest.raises(HttpFailed, match="answered 302"):
            await run(executor, server, "/loop", method="POST")


async def test_a_redirect_to_another_host_loses_the_body_too(executor: HttpExecutor) -> None:
    async def move(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(response(307, location=other.url))

    async with http_server(reply(200)) as other, http_server(move) as server:
        await run(executor, server, body={"private": 1})
        assert server.asked[0].body == b'{"private":1}'
        assert (other.asked[0].body, "content-type" in other.asked[0].headers) == (b"", False)


async def test_a_redirect_into_the_inside_is_refused() -> None:
    async with http_server(reply(302, location="http://169.254.169.254/latest")) as server:
        egress = Egress(EgressPolicy.parse(["127.0.0.1"]))
        with pytest.raises(HttpFailed) as failed:
            await run(HttpExecutor(egress, Secrets()), server)
        assert (failed.value.error_class, failed.value.retryable) == ("address_refused", False)
        await egress.close()


async def test_a_timeout(executor: HttpExecutor) -> None:
    async def never(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    async with http_server(never) as server:
        with pytest.raises(HttpFailed) as failed:
            await run(executor, server, timeout_ms=100)
        assert failed.value.error_class == "timeout"


async def test_a_timeout_is_for_all_redirects_together(executor: HttpExecutor) -> None:
    async def slowly(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.15)
        writer.write(response(302, location="/on"))

    async with http_server(slowly) as server:
        with pytest.raises(HttpFailed) as failed:
            await run(executor, server, timeout_ms=250)
        assert failed.value.error_class == "timeout"
        assert len(server.asked) == 2


def test_classes_of_statuses() -> None:
    assert [status_class(status) for status in (400, 401, 409, 425, 500, 502, 504)] == [
        *["client_error"] * 4,
        *["server_error"] * 2,
        "timeout",
    ]


@pytest.mark.parametrize(
    ("text", "ms"),
    [("3", 3_000), ("0.5", 500), ("-1", 0), ("1e99", 3_600_000), ("soon", 0), ("nan", 0), ("", 0)],
)
def test_retry_after(text: str, ms: int) -> None:
    assert retry_after_ms({"retry-after": text}) == ms


@pytest.mark.parametrize(
    ("date", "ms"),
    [
        ("Wed, 21 Oct 2026 07:28:00 GMT", 30_000),
        ("Wed, 21 Oct 2026 07:27:00 GMT", 0),
        ("Thu, 21 Oct 2027 07:28:00 GMT", 3_600_000),
        ("Wed, 21 Oct 2026 07:28:00", 0),
        ("Wed, 99 Oct 2026 07:28:00 GMT", 0),
    ],
)
def test_retry_after_a_date(date: str, ms: int) -> None:
    """By the clock of the server that says it."""
    assert retry_after_ms({"retry-after": date, "date": "Wed, 21 Oct 2026 07:27:30 GMT"}) == ms
    assert retry_after_ms({"retry-after": date}) == 0
    assert retry_after_ms({"retry-after": date, "date": "today"}) == 0
