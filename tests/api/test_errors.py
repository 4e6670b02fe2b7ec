"""Errors in one shape, whoever raises them: ours, the framework's, and bugs. Garbage is never a bug."""

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.requests import BODY_BYTES_MAX
from runtime.errors import Overloaded
from tests.fixtures.api import ALL, Api, assert_error_shape, assert_refused

START: dict[str, Any] = {"workflow_id": "count", "input": {}}
POSTS = {
    "/workflows": {"ir": ALL[0]},
    "/executions": START,
    "/executions/{id}/approve": {"decision": "approved"},
    "/executions/{id}/external-event": {"correlation_key": "k", "payload": {}},
    "/executions/{id}/cancel": {},
    "/tokens": {"role": "viewer"},
}
"""Every POST that reads a body, with a body that it takes."""


async def post_raw(api: Api, path: str, content: Any, media_type: str | None = "application/json") -> Any:
    headers = {} if media_type is None else {"Content-Type": media_type}
    return await api.post(path, role="operator", content=content, headers=headers)


# --- bodies -------------------------------------------------------------------------------------

BROKEN = {
    "nothing": b"",
    "half an object": b'{"workflow_id": "count"',
    "a single quote": b"{'workflow_id': 'count'}",
    "a trailing comma": b'{"workflow_id": "count",}',
    "words": b"workflow_id=count",
    "not a number": b'{"input": {"n": NaN}}',
    "infinity": b'{"input": {"n": 1e999}}',
    "over 64 bits": b'{"input": {"n": 1' + b"0" * 30 + b"}}",
    "bytes": b"\xff\xfe\x00",
    "a lone surrogate": b'{"workflow_id": "\\ud800"}',
    "U+0000": b'{"workflow_id": "a\\u0000"}',
    "too deep": b'{"input": ' + b"[" * 100 + b"]" * 100 + b"}",
    "much too deep": b"[" * 100_000,
    "two values": b"{}{}",
    "UTF-16": json.dumps(START).encode("utf-16"),
}


@pytest.mark.parametrize("path", POSTS)
async def test_what_is_not_json_is_400(api: Api, path: str) -> None:
    path = path.replace("{id}", await api.paused("approve"))
    for name, content in BROKEN.items():
        if not content and path.endswith("/cancel"):
            continue
        answer = await post_raw(api, path, content)
        assert answer.status_code == 400, (name, answer.text)
        assert answer.json()["error"].startswith("bad request: the body "), (name, answer.text)
        assert_error_shape(answer)


@pytest.mark.parametrize("path", POSTS)
async def test_json_that_is_no_object_is_400(api: Api, path: str) -> None:
    if path.endswith("/cancel"):
        return
    path = path.replace("{id}", await api.paused("approve"))
    for content in (b"null", b"7", b"[]", b'"text"', b"true"):
        answer = await post_raw(api, path, content)
        assert_refused(answer, 400, "bad request: the body must be a JSON object", "bad_request")


@pytest.mark.parametrize("path", POSTS)
async def test_another_media_type_is_415(api: Api, path: str) -> None:
    content = json.dumps(POSTS[path]).encode()
    path = path.replace("{id}", await api.paused("approve"))
    for media_type in (None, "", "text/plain", "application/xml", "multipart/form-data", "json", "*/*"):
        answer = await post_raw(api, path, content, media_type)
        assert answer.status_code == 415, (media_type, answer.text)
        named = media_type or "no content-type"
        message = f"unsupported media type: {named}: send application/json"
        assert_refused(answer, 415, message, "unsupported_media_type")


@pytest.mark.parametrize(
    "media_type", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.api+json"]
)
async def test_json_by_its_other_names_is_read(api: Api, media_type: str) -> None:
    answer = await post_raw(api, "/executions", json.dumps(START).encode(), media_type)
    assert answer.status_code == 201


@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
@pytest.mark.parametrize("path", [*POSTS, "/workflows as yaml"])
async def test_a_body_over_one_mebibyte_is_413(api: Api, path: str, chunked: bool) -> None:
    media_type = "application/yaml" if path.endswith("yaml") else "application/json"
    path = path.removesuffix(" as yaml").replace("{id}", await api.paused("approve"))
    content = b'"' + b"x" * BODY_BYTES_MAX + b'"'
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:  # for ever: it must be cut off
            sent += 64 * 1024
            yield b"x" * 64 * 1024

    answer = await post_raw(api, path, chunks() if chunked else content, media_type)
    message = "payload too large: the body is over the limit of 1048576 bytes"
    assert_refused(answer, 413, message, "payload_too_large")
    assert sent <= BODY_BYTES_MAX + 128 * 1024


async def test_a_body_of_exactly_one_mebibyte_is_read(api: Api) -> None:
    empty = json.dumps({**START, "input": {"text": ""}})
    body = {**START, "input": {"text": "x" * (BODY_BYTES_MAX - len(empty))}}
    content = json.dumps(body).encode()
    assert len(content) == BODY_BYTES_MAX
    assert (await post_raw(api, "/executions", content)).status_code == 201


# --- paths and methods --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/executions/", "/executions/a/b/c", "//", "/compat", "/compatx"]
)
@pytest.mark.parametrize("role", [None, "developer"])
async def test_an_unknown_path_is_404_as_json(bare_api: Api, path: str, role: str | None) -> None:
    answer = await bare_api.get(f"http://localhost:7700{path}", role=role)
    assert answer.status_code == 404
    assert answer.json()["error"].startswith("not found: path /")
    assert answer.json()["code"] == "not_found"
    assert_error_shape(answer)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/executions"),
        ("DELETE", "/executions/exec_1"),
        ("GET", "/executions/exec_1/cancel"),
        ("PATCH", "/workflows"),
        ("POST", "/health"),
        ("POST", "/workers"),
    ],
)
async def test_a_wrong_method_is_405_and_says_which_are_right(bare_api: Api, method: str, path: str) -> None:
    answer = await bare_api.ask(method, path)
    assert_refused(answer, 405, f"method not allowed: {method} {path}", "method_not_allowed")
    assert answer.headers["allow"]


# --- request ids --------------------------------------------------------------------------------


async def test_an_error_carries_the_request_id_of_the_ingress(bare_api: Api) -> None:
    for path in ("/nothing", "/executions/exec_1", "/executions?limit=x"):
        answer = await bare_api.get(path, headers={"X-Request-Id": "abc-123"})
        assert answer.json()["request_id"] == "abc-123"
    ids = {(await bare_api.get("/nothing")).json()["request_id"] for _ in range(3)}
    assert len(ids) == 3


# --- limits and bugs ----------------------------------------------------------------------------


class Executions:
    """Executions of which every call raises one error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def _raise(self, *_: object, **__: object) -> Any:
        raise self._error

    start = signal = changed = close = _raise
    draining = False


async def test_an_overload_is_429_and_says_when_to_come_again(api: Api) -> None:
    error = Overloaded("too many executions wait to be taken up", retry_after_s=7)
    api.rebuild(executions=Executions(error))
    answer = await api.post("/executions", START)
    message = "overloaded: too many executions wait to be taken up"
    assert_refused(answer, 429, message, "overloaded")
    assert answer.headers["retry-after"] == "7"


async def test_of_a_bug_only_its_class_is_told(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    error = RuntimeError("password=hunter2")
    api.rebuild(executions=Executions(error))
    answer = await api.post("/executions", START)
    assert_refused(answer, 500, "internal error: RuntimeError", "internal")
    assert "hunter2" not in answer.text
    assert "hunter2" in caplog.text


# --- raw requests, as no decent client sends them -----------------------------------------------


async def call_raw(api: Api, method: str, path: str, *, query: bytes = b"", **headers: bytes) -> Any:
    """One request straight to the app; returns (status, decoded body)."""
    sent: list[dict[str, Any]] = []
    token = f"Bearer {api.tokens['developer']}".encode()
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "headers": [
            (b"authorization", token),
            *((name.replace("_", "-").encode(), value) for name, value in headers.items()),
        ],
        "server": ("127.0.0.1", 7700),
        "scheme": "http",
        "http_version": "1.1",
        "root_path": "",
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await api.app(scope, receive, send)  # type: ignore[arg-type]
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], json.loads(body)


RAW: list[tuple[str, str, dict[str, bytes], int]] = [
    ("GET", "/executions", {"query": b"status=\xff"}, 400),
    ("GET", "/executions/exec_1", {"query": b"\xff"}, 404),
    ("GET", "/nothing", {"query": b"\xff\xfe"}, 404),
    ("DELETE", "/executions", {"query": b"\xff"}, 405),
    ("POST", "/executions/exec_1/cancel", {"query": b"\xff", "idempotency_key": b"k"}, 404),
    ("POST", "/executions", {"content_length": "²".encode("latin-1")}, 415),
    ("POST", "/executions", {"content_length": b"9" * 5_000}, 413),
    ("POST", "/executions", {"content_length": b"-1"}, 415),
    ("GET", "/executions/exec_1", {"host": b"[::1"}, 404),
    ("GET", "/nothing", {"host": b"a b\xff"}, 404),
    ("GET", "/executions/exec_1", {"x_request_id": b"\xff\xfe"}, 404),
]


@pytest.mark.parametrize(("method", "path", "more", "status"), RAW)
async def test_raw_nonsense_is_answered(
    bare_api: Api, method: str, path: str, more: dict[str, Any], status: int
) -> None:
    answered, body = await call_raw(bare_api, method, path, **more)
    assert (answered, body.keys() >= {"error", "code", "request_id"}) == (status, True), body


# --- garbage ------------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=15,
)
KEYS = st.sampled_from(
    [
        "workflow_id",
        "ir",
        "yaml",
        "input",
        "isolation",
        "resources",
        "decision",
        "node_id",
        "user_id",
        "comment",
        "state_patch",
        "correlation_key",
        "payload",
        "role",
        "name",
        "expires_in_s",
        "version",
        "nodes",
        "edges",
        "kind",
        "start_node",
        "labels",
        "models",
    ]
)
WORDS = st.sampled_from(["count", "approve", "pay", "approved", "rejected", "viewer", "gate", "only", "end"])
PLAUSIBLE = st.dictionaries(KEYS, WORDS | JSON | st.dictionaries(KEYS, WORDS | JSON, max_size=4), max_size=6)
CONTENT = st.one_of(st.binary(max_size=100), (JSON | PLAUSIBLE).map(lambda value: json.dumps(value).encode()))


WITHOUT_LIMITS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@given(content=CONTENT, path=st.sampled_from(list(POSTS)))
@WITHOUT_LIMITS
async def test_garbage_in_a_body_is_never_a_500(api: Api, content: bytes, path: str) -> None:
    if "{id}" in path:
        path = path.replace("{id}", await api.start("approve"))
    answer: httpx2.Response = await post_raw(api, path, content)
    assert answer.status_code < 500, answer.text


SEGMENTS = st.lists(
    st.sampled_from(["executions", "workflows", "tokens", "compat", "events"]) | st.text(), max_size=4
)
QUERIES = st.dictionaries(
    st.sampled_from(["limit", "offset", "status", "wait", "after", "shape", "workflow_id"]) | st.text(),
    st.integers(max_value=0).map(str) | st.text(max_size=10),
    max_size=3,
)


@given(segments=SEGMENTS, query=QUERIES, method=st.sampled_from(["GET", "DELETE", "PUT", "OPTIONS"]))
@WITHOUT_LIMITS
async def test_garbage_in_a_path_or_a_query_is_never_a_500(
    api: Api, segments: list[str], query: dict[str, str], method: str
) -> None:
    path = "/".join(quote(segment.encode("utf-8", "replace")) for segment in ("", *segments))
    answer = await api.ask(method, f"http://localhost:7700{path}", role="operator", params=query)
    assert answer.status_code < 500, answer.text
