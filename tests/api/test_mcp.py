"""The MCP server, asked by the official client, by JamJet's CLI, and by those who may not."""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import jsonschema
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, TextContent

from actors.settings import VERSION
from api.app import build_app
from api.inner import InnerAnswer
from api.mcp.tools import TOOLS
from api.mcp.workflows import input_schema, tool_names, workflow_tools
from api.requests import BODY_BYTES_MAX
from tests.fixtures.api import APPROVE, COUNT, HANG, OTHER_TENANT, Api, assert_refused, eventually
from tests.fixtures.http_server import http_server, reply
from tests.fixtures.served import served

URL = "http://localhost:7700/mcp"
MODERN = "2026-07-28"
TOO_LOW = "insufficient role — developer or operator required"
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


class Replicas(httpx2.AsyncBaseTransport):
    """Sends each request to the next app, as a load balancer does."""

    def __init__(self, *apps: Any) -> None:
        self._transports = [httpx2.ASGITransport(app) for app in apps]
        self._sent = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self._sent += 1
        return await self._transports[self._sent % len(self._transports)].handle_async_request(request)


@contextlib.asynccontextmanager
async def connected(
    api: Api, role: str = "developer", *, mode: Any = "legacy", replicas: Any = None, **headers: str
) -> AsyncIterator[Client]:
    """The official client, with the token of a role."""
    transport = replicas or Replicas(api.app)
    given = {"Authorization": f"Bearer {api.tokens[role]}", **headers}
    async with (
        httpx2.AsyncClient(transport=transport, headers=given, timeout=30) as http,
        Client(streamable_http_client(URL, http_client=http), mode=mode) as client,
    ):
        yield client


@pytest.fixture(params=["legacy", MODERN])
async def client(api: Api, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    """A developer's, once with a handshake and once without."""
    # The client's own tasks must end in the task that began them, which fixtures do not warrant.
    opened: asyncio.Queue[Client] = asyncio.Queue()
    done = asyncio.Event()

    async def hold() -> None:
        async with connected(api, mode=request.param) as found:
            opened.put_nowait(found)
            await done.wait()

    holding = asyncio.create_task(hold())
    yield await opened.get()
    done.set()
    await holding


def text_of(result: CallToolResult) -> str:
    """The texts of a result."""
    return "\n".join(part.text for part in result.content if isinstance(part, TextContent))


async def called(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """What a tool answers, if it answers well; the same as structure and as text."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, text_of(result)
    assert json.loads(text_of(result)) == result.structured_content
    body: dict[str, Any] = result.structured_content
    return body


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    """The sentence with which a tool refuses."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    return text_of(result)


async def rpc(api: Api, method: str, role: str | None = "developer", **more: Any) -> httpx2.Response:
    """A message as JamJet's CLI sends it."""
    headers = more.pop("headers", {})
    message = {"jsonrpc": "2.0", "id": 1, "method": method, **more}
    return await api.post("/mcp", message, role=role, headers=headers)


# --- the server and its tools ---------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["legacy", MODERN, "auto"])
async def test_the_server_says_who_it_is(api: Api, mode: str) -> None:
    async with connected(api, mode=mode) as client:
        assert client.protocol_version == ("2025-11-25" if mode == "legacy" else MODERN)
        if mode != MODERN:
            assert (client.server_info.name, client.server_info.version) == ("jamjet-ray", VERSION)
            assert "jamjet_approve" in (client.instructions or "")
        assert (await client.list_resources()).resources == []
        assert (await client.list_resource_templates()).resource_templates == []
        assert (await client.list_prompts()).prompts == []


async def test_every_tool_says_what_it_takes_and_does(client: Client) -> None:
    tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert list(tools) == list(TOOLS)
    for tool in tools.values():
        assert tool.title
        assert len(tool.description or "") > 50
        jsonschema.Draft202012Validator.check_schema(tool.input_schema)
        assert tool.input_schema["additionalProperties"] is False
        assert all(field["description"] for field in tool.input_schema["properties"].values())
        assert "tenant" not in json.dumps(tool.input_schema)
        assert tool.annotations is not None
        assert None not in tool.annotations.model_dump(exclude={"title"}).values()
    reading = {name for name, tool in tools.items() if tool.annotations.read_only_hint}  # type: ignore[union-attr]
    assert reading == {
        "jamjet_get_execution", "jamjet_list_executions", "jamjet_get_events", "jamjet_list_agents"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("tool", "arguments", "expected"),
    [
        (
            "jamjet_run_workflow",
            {"workflow_id": "w", "input": {"n": 1}, "wait_seconds": 5, "idempotency_key": "k"},
            (
                "POST",
                "/executions",
                {"workflow_id": "w", "workflow_version": None, "input": {"n": 1}},
                {"Prefer": "wait=5", "Idempotency-Key": "k"},
            ),
        ),
        (
            "jamjet_run_workflow",
            {"workflow_id": "w", "workflow_version": "2"},
            (
                "POST",
                "/executions",
                {"workflow_id": "w", "workflow_version": "2", "input": {}},
                {"Prefer": "wait=30"},
            ),
        ),
        ("jamjet_get_execution", {"execution_id": "a/b?c"}, ("GET", "/executions/a%2Fb%3Fc", None, None)),
        ("jamjet_list_executions", {}, ("GET", "/executions", None, None)),
        (
            "jamjet_list_executions",
            {"workflow_id": "a&b", "limit": 2.0, "status": "failed"},
            ("GET", "/executions?status=failed&workflow_id=a%26b&limit=2", None, None),
        ),
        ("jamjet_cancel_execution", {"execution_id": "e"}, ("POST", "/executions/e/cancel", None, None)),
        ("jamjet_get_events", {"execution_id": "e"}, ("GET", "/executions/e/events?limit=500", None, None)),
        (
            "jamjet_get_events",
            {"execution_id": "e", "after": 3, "limit": 1},
            ("GET", "/executions/e/events?after=3&limit=1", None, None),
        ),
        (
            "jamjet_approve",
            {"execution_id": "e", "decision": "rejected", "state_patch": {"a": 1}},
            ("POST", "/executions/e/approve", {"decision": "rejected", "state_patch": {"a": 1}}, None),
        ),
        (
            "jamjet_list_agents",
            {"skill": "sum up", "protocol": "a2a", "status": "active", "offset": 5},
            ("GET", "/agents?status=active&skill=sum+up&protocol=a2a&offset=5", None, None),
        ),
        (
            "jamjet_discover_agent",
            {"url": "https://a.example"},
            ("POST", "/agents/discover", {"url": "https://a.example"}, None),
        ),
    ],
)
def test_a_tool_is_one_request_of_the_rest_api(tool: str, arguments: dict[str, Any], expected: Any) -> None:
    assert TOOLS[tool].ask(arguments)[:4] == expected


# --- executions -----------------------------------------------------------------------------------


async def test_a_workflow_is_run_to_its_end(api: Api, client: Client) -> None:
    execution = await called(client, "jamjet_run_workflow", workflow_id="count", input={"n": 4})

    assert (execution["status"], execution["output"]) == ("completed", {"n": 5})
    execution_id = execution["execution_id"]
    assert await called(client, "jamjet_get_execution", execution_id=execution_id) == execution
    assert (await api.get(f"/executions/{execution_id}")).json() == execution
    listed = await called(client, "jamjet_list_executions", workflow_id="count", status="completed", limit=1)
    assert [found["execution_id"] for found in listed["executions"]] == [execution_id]


async def test_events_are_read_on_from_where_the_caller_was(client: Client) -> None:
    execution = await called(client, "jamjet_run_workflow", workflow_id="count")
    events = (await called(client, "jamjet_get_events", execution_id=execution["execution_id"]))["events"]
    assert (events[0]["type"], events[-1]["type"]) == ("workflow_started", "workflow_completed")
    later = await called(
        client, "jamjet_get_events", execution_id=execution["execution_id"], after=1, limit=1
    )
    assert later["events"] == events[1:2]


async def test_one_that_hangs_is_cancelled(client: Client) -> None:
    execution = await called(client, "jamjet_run_workflow", workflow_id="hang", wait_seconds=0)
    assert execution["status"] == "running"
    execution_id = execution["execution_id"]

    cancelled = await called(client, "jamjet_cancel_execution", execution_id=execution_id)

    assert cancelled["status"] == "cancelled"
    sentence = await refused(client, "jamjet_cancel_execution", execution_id=execution_id)
    assert sentence == f"conflict: execution {execution_id} is already in terminal state: cancelled"


async def test_an_approval_lets_it_go_on(client: Client) -> None:
    execution = await called(client, "jamjet_run_workflow", workflow_id="approve")
    assert [wait["type"] for wait in execution["waiting_on"]] == ["approval"]
    execution_id = execution["execution_id"]

    await called(
        client,
        "jamjet_approve",
        execution_id=execution_id,
        decision="approved",
        comment="fine",
        state_patch={"n": 9},
    )

    async def ended() -> bool:
        return (await called(client, "jamjet_get_execution", execution_id=execution_id))[
            "status"
        ] == "completed"

    await eventually(ended)


async def test_the_same_key_starts_one_execution(client: Client) -> None:
    ids = {
        (await called(client, "jamjet_run_workflow", workflow_id="count", idempotency_key="once"))[
            "execution_id"
        ]
        for _ in range(2)
    }
    assert len(ids) == 1
    sentence = await refused(client, "jamjet_run_workflow", workflow_id="hang", idempotency_key="once")
    assert sentence == "idempotency mismatch: this Idempotency-Key came with another request before"


async def test_any_request_may_reach_any_replica(api: Api) -> None:
    other = build_app(api.settings, store=api.store, executions=api.executions, agents=api.agents)
    async with connected(api, replicas=Replicas(api.app, other)) as client:
        execution = await called(client, "jamjet_run_workflow", workflow_id="hang", wait_seconds=0)
        for _ in range(2):
            await called(client, "jamjet_get_execution", execution_id=execution["execution_id"])
        await called(client, "jamjet_cancel_execution", execution_id=execution["execution_id"])


async def test_calls_do_not_wait_for_each_other(api: Api, client: Client) -> None:
    waiting = asyncio.create_task(called(client, "jamjet_run_workflow", workflow_id="hang", wait_seconds=20))

    async def seen() -> bool:
        return bool((await called(client, "jamjet_list_executions", workflow_id="hang"))["total"])

    await eventually(seen)
    assert not waiting.done()
    api.functions.released.set()
    assert (await waiting)["status"] == "completed"


async def test_a_start_is_audited_as_the_callers_own(api: Api, client: Client) -> None:
    execution = await called(client, "jamjet_run_workflow", workflow_id="count")
    answer = await api.get(f"/audit?event_type=workflow_started&execution_id={execution['execution_id']}")
    (entry,) = answer.json()["items"]
    assert (entry["http_method"], entry["http_path"]) == ("POST", "/mcp")
    assert entry["actor_id"].startswith("token:tok_")


async def test_what_is_asked_from_within_has_the_id_of_its_request(api: Api) -> None:
    params = {"name": "jamjet_run_workflow", "arguments": {"workflow_id": "count"}}
    answer = await rpc(api, "tools/call", params=params)
    (entry,) = (await api.get("/audit?event_type=workflow_started")).json()["items"]
    assert entry["http_request_id"] == answer.headers["x-request-id"]


# --- what goes wrong ------------------------------------------------------------------------------


async def test_errors_are_rests_own_sentences(client: Client) -> None:
    result = await client.call_tool("jamjet_get_execution", {"execution_id": "exec_1"})
    assert (result.is_error, text_of(result)) == (True, "not found: execution exec_1")
    assert result.structured_content["code"] == "not_found"
    sentence = await refused(client, "jamjet_run_workflow", workflow_id="nothing")
    assert sentence == "not found: workflow nothing"


@pytest.mark.parametrize(
    ("tool", "arguments", "sentence"),
    [
        ("jamjet_run_workflow", {}, "bad request: 'workflow_id' is a required property"),
        (
            "jamjet_run_workflow",
            {"workflow_id": "count", "wait_seconds": 61},
            "bad request: wait_seconds: 61 is greater than the maximum of 60",
        ),
        (
            "jamjet_run_workflow",
            {"workflow_id": "count", "input": [1]},
            "bad request: input: [1] is not of type 'object'",
        ),
        (
            "jamjet_list_executions",
            {"tenant_id": "acme"},
            "bad request: Additional properties are not allowed ('tenant_id' was unexpected)",
        ),
        (
            "jamjet_approve",
            {"execution_id": "e", "decision": "maybe"},
            "bad request: decision: 'maybe' is not one of ['approved', 'rejected']",
        ),
        ("jamjet_discover_agent", {"url": 7}, "bad request: url: 7 is not of type 'string'"),
    ],
)
async def test_a_bad_argument_is_named(client: Client, tool: str, arguments: Any, sentence: str) -> None:
    assert await refused(client, tool, **arguments) == sentence


async def test_a_long_argument_is_not_said_in_full(client: Client) -> None:
    sentence = await refused(client, "jamjet_get_execution", execution_id="x" * 10_000)
    assert len(sentence) < 400
    assert sentence.startswith("bad request: execution_id: ")
    assert sentence.endswith("is too long")


@pytest.mark.parametrize("name", ["nothing", "run_nothing", ""])
async def test_an_unknown_tool_is_the_protocols_error(client: Client, name: str) -> None:
    with pytest.raises(MCPError) as raised:
        await client.call_tool(name, {})
    assert (raised.value.code, raised.value.message) == (-32602, f"Unknown tool: {name}")


async def test_a_bug_of_ours_shows_its_class_only(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise LookupError("a secret")

    monkeypatch.setattr("api.mcp.server.ask", broken)
    for call in (client.list_tools(), client.call_tool("jamjet_list_executions", {})):
        with pytest.raises(MCPError) as raised:
            await call
        assert (raised.value.code, raised.value.message) == (-32603, "internal error: LookupError")


async def test_a_library_that_breaks_is_a_500(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> None:
        raise LookupError("a secret")

    monkeypatch.setattr("api.mcp.server.serve", broken)
    assert_refused(await rpc(api, "ping"), 500, "internal error: LookupError", "internal")


# --- who may --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["legacy", MODERN])
@pytest.mark.parametrize("role", ["viewer", "reviewer"])
async def test_who_may_only_read_reads(api: Api, role: str, mode: str) -> None:
    execution_id = await api.start("count")
    await api.settled(execution_id)
    gate = await api.paused("approve")
    async with connected(api, role, mode=mode) as client:
        assert len((await client.list_tools()).tools) == len(TOOLS)
        assert (await called(client, "jamjet_get_execution", execution_id=execution_id))["output"] == {"n": 1}
        assert (await called(client, "jamjet_list_executions"))["total"] == 2
        assert (await called(client, "jamjet_get_events", execution_id=execution_id))["events"]
        assert await refused(client, "jamjet_run_workflow", workflow_id="count") == TOO_LOW
        assert await refused(client, "jamjet_cancel_execution", execution_id=gate) == TOO_LOW
        assert await refused(client, "jamjet_approve", execution_id=gate, decision="approved") == TOO_LOW


async def test_another_tenant_sees_nothing(api: Api) -> None:
    execution_id = await api.start("count")
    async with connected(api, "other-operator") as client:
        assert (await called(client, "jamjet_list_executions"))["total"] == 0
        for tool in ("jamjet_get_execution", "jamjet_get_events", "jamjet_cancel_execution"):
            sentence = await refused(client, tool, execution_id=execution_id)
            assert sentence == f"not found: execution {execution_id}"
        sentence = await refused(client, "jamjet_run_workflow", workflow_id="count")
        assert sentence == "not found: workflow count"


async def test_an_operator_acts_where_the_header_says(api: Api) -> None:
    await api.start("count")
    async with connected(api, "operator", **{"X-Tenant-Id": OTHER_TENANT}) as client:
        assert (await called(client, "jamjet_list_executions"))["total"] == 0
    answer = await rpc(api, "ping", "developer", headers={"X-Tenant-Id": OTHER_TENANT})
    assert answer.status_code == 403


async def test_a_suspended_tenant_reads(api: Api) -> None:
    await api.store.system.update_tenant(OTHER_TENANT, status="suspended")
    async with connected(api, "other-developer") as client:
        assert (await called(client, "jamjet_list_executions"))["total"] == 0
        sentence = await refused(client, "jamjet_run_workflow", workflow_id="count")
        assert sentence.startswith(f"tenant {OTHER_TENANT} is suspended: ")


@pytest.mark.parametrize("token", [None, "jj_" + "0" * 64, "nonsense"])
async def test_without_a_good_token_nothing_is_answered(api: Api, token: str | None) -> None:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    for method in ("initialize", "tools/list", "ping"):
        answer = await rpc(api, method, None, headers=headers)
        assert_refused(answer, 401, "invalid or expired token", "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_refusals_are_noted(bare_api: Api) -> None:
    await rpc(bare_api, "ping", "viewer", headers={"Origin": "https://evil.example"})
    await bare_api.app.state.resources.refusals.close()
    (entry,) = (await bare_api.get("/audit?event_type=request_refused")).json()["items"]
    assert entry["details"]["paths"] == ["POST /mcp"]


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("jamjet.example", "https://jamjet.example", 200),
        ("jamjet.example:7700", "https://JamJet.example:8443", 200),
        ("localhost:7700", "http://127.0.0.1:3000", 200),
        ("[::1]:7700", "http://localhost:3000", 200),
        ("localhost:7700", None, 200),
        ("localhost:7700", "https://evil.example", 403),
        ("jamjet.example", "http://localhost", 403),
        ("jamjet.example", "https://jamjet.example.evil.example", 403),
        ("jamjet.example", "https://jamjet.example@evil.example", 403),
        ("localhost", "null", 403),
        ("localhost", "", 403),
        ("localhost", "http://[", 403),
    ],
)
async def test_pages_from_elsewhere_may_not_call(
    bare_api: Api, host: str, origin: str | None, status: int
) -> None:
    headers = {"Host": host} | ({} if origin is None else {"Origin": origin})
    answer = await rpc(bare_api, "ping", headers=headers)
    assert answer.status_code == status
    if status == 403:
        assert_refused(answer, 403, f"a page of {origin!r} may not call this host", "forbidden")


# --- the wire -------------------------------------------------------------------------------------


async def test_jamjets_cli_is_answered_in_plain_json(api: Api) -> None:
    params = {
        "protocolVersion": "2024-11-05",
        "capabilities": {},
        "clientInfo": {"name": "c", "version": "1"},
    }
    answer = await rpc(api, "initialize", params=params)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert (body["jsonrpc"], body["id"]) == ("2.0", 1)
    assert body["result"]["serverInfo"] == {"name": "jamjet-ray", "version": VERSION}
    assert body["result"]["protocolVersion"] == "2024-11-05"

    listed = (await rpc(api, "tools/list", params={})).json()["result"]["tools"]
    assert len(listed) == len(TOOLS)
    assert all(tool["name"] and tool["description"] and tool["inputSchema"]["properties"] for tool in listed)


@pytest.mark.parametrize(
    "accept", ["*/*", None, "application/json", "application/json, text/event-stream", ""]
)
async def test_what_a_client_says_it_accepts_does_not_matter(bare_api: Api, accept: str | None) -> None:
    headers = {"Authorization": f"Bearer {bare_api.tokens['viewer']}"}
    request = bare_api.http.build_request("POST", "/mcp", json=PING, headers=headers)
    del request.headers["accept"]
    if accept is not None:
        request.headers["accept"] = accept
    answer = await bare_api.http.send(request)
    assert (answer.status_code, answer.json()) == (200, {"jsonrpc": "2.0", "id": 1, "result": {}})


@pytest.mark.parametrize("version", [None, "2025-06-18", MODERN])
async def test_a_notification_is_accepted_without_an_answer(bare_api: Api, version: str | None) -> None:
    message = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    headers = {} if version is None else {"MCP-Protocol-Version": version}
    answer = await bare_api.post("/mcp", message, headers=headers)
    assert (answer.status_code, answer.content) == (202, b"")
    assert "content-type" not in answer.headers


@pytest.mark.parametrize(
    ("message", "status", "code"),
    [
        ([PING], 400, -32602),
        ({"hello": "there"}, 400, -32602),
        ({"jsonrpc": "2.0", "id": 1, "method": "nothing/known"}, 200, -32601),
        ({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": 7}}, 200, -32602),
        ({"jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": {"uri": "x:y"}}, 200, -32601),
    ],
)
async def test_what_is_no_message_is_the_protocols_error(
    bare_api: Api, message: Any, status: int, code: int
) -> None:
    answer = await bare_api.post("/mcp", message)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_an_unknown_version_of_the_protocol_is_refused_with_those_that_are_known(bare_api: Api) -> None:
    answer = await rpc(bare_api, "tools/list", headers={"MCP-Protocol-Version": "2031-01-01"})
    assert answer.status_code == 400
    assert "error" in answer.json()


async def test_a_header_that_comes_twice_is_refused(bare_api: Api) -> None:
    headers = [
        ("Authorization", f"Bearer {bare_api.tokens['viewer']}"),
        ("MCP-Protocol-Version", MODERN),
        ("Mcp-Method", "tools/list"),
        ("Mcp-Method", "tools/call"),
    ]
    answer = await bare_api.http.post("/mcp", json={**PING, "method": "tools/list"}, headers=headers)
    assert (answer.status_code, "more than once" in answer.text) == (400, True)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_there_is_no_stream_to_open_and_no_session_to_end(bare_api: Api, method: str) -> None:
    answer = await bare_api.ask(method, "/mcp", headers={"Accept": "text/event-stream"})
    assert_refused(answer, 405, f"method not allowed: {method} /mcp", "method_not_allowed")
    assert answer.headers["allow"] == "POST"


async def test_bodies_are_held_to_rests_bounds(bare_api: Api) -> None:
    json_type = {"Content-Type": "application/json"}
    for content in (b" " * (BODY_BYTES_MAX + 1), _pieces(BODY_BYTES_MAX + 1)):
        answer = await bare_api.ask("POST", "/mcp", content=content, headers=json_type)
        assert_refused(
            answer, 413, f"payload too large: the body is over the limit of {BODY_BYTES_MAX} bytes"
        )
    answer = await bare_api.ask("POST", "/mcp", content=b"{}", headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415
    for content in (b"{", b"[" * 70 + b"]" * 70, b'{"id": 99999999999999999999999}', b'{"id": "\\u0000"}'):
        answer = await bare_api.ask("POST", "/mcp", content=content, headers=json_type)
        assert (answer.status_code, answer.json()["code"]) == (400, "value_rejected")


async def _pieces(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 1024 + 1):
        yield b" " * 1024


async def test_a_media_type_may_have_parameters_and_capitals(bare_api: Api) -> None:
    headers = {"Content-Type": "Application/JSON; charset=UTF-8"}
    answer = await bare_api.ask("POST", "/mcp", content=json.dumps(PING).encode(), headers=headers)
    assert answer.json()["result"] == {}


async def test_nothing_runs_on_after_an_exchange(bare_api: Api) -> None:
    await rpc(bare_api, "ping")
    before = asyncio.all_tasks()
    for method in ("ping", "tools/list", "nothing/known"):
        await rpc(bare_api, method)
    assert {task for task in asyncio.all_tasks() - before if "mcp" in repr(task)} == set()


def test_who_does_not_ask_for_mcp_does_not_pay_for_it() -> None:
    code = (
        "import sys; from actors.settings import Settings; from api.app import build_app;"
        " build_app(Settings()); sys.exit(len({'mcp', 'mcp_types', 'jsonschema'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- workflows as tools ---------------------------------------------------------------------------


def item(workflow_id: str, **fields: Any) -> dict[str, Any]:
    return {"workflow_id": workflow_id, "version": "1.0.0", "exposed": ["mcp"], **fields}


@pytest.fixture
def exposed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The list of opened workflows, to be filled."""
    items: list[dict[str, Any]] = []

    async def workflows(_: Any) -> InnerAnswer:
        return InnerAnswer(200, {"workflows": items})

    monkeypatch.setattr("api.mcp.server._workflows", workflows)
    return items


async def test_an_opened_workflow_is_a_tool(client: Client, exposed: list[dict[str, Any]]) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    exposed += [
        item("count", description="Counts one up.", input_schema=schema),
        item("fail", exposed=["a2a"]),
        {"workflow_id": "hang", "version": "1.0.0"},
        item("approve", description=None, input_schema={"properties": {"a": "no schema"}}),
    ]

    tools = {tool.name: tool for tool in (await client.list_tools()).tools if tool.name not in TOOLS}

    assert list(tools) == ["run_count", "run_approve"]
    assert (tools["run_count"].description, tools["run_count"].input_schema) == ("Counts one up.", schema)
    assert tools["run_approve"].description == "Runs the workflow approve."
    assert tools["run_approve"].input_schema["type"] == "object"
    assert (await called(client, "run_count", n=7))["output"] == {"n": 8}


async def test_a_workflow_that_waits_says_for_what(client: Client, exposed: list[dict[str, Any]]) -> None:
    exposed += [item("approve"), item("pay")]
    for name, what in (
        ("approve", "approval at node gate"),
        ("pay", "external event 'payment-received' at node paid"),
    ):
        result = await client.call_tool(f"run_{name}", {})
        execution = result.structured_content
        assert (result.is_error, execution["status"]) == (False, "paused")
        sentence, text = (part.text for part in result.content if isinstance(part, TextContent))
        head = f"Execution {execution['execution_id']} of workflow {name} is paused and waits for {what}"
        assert sentence.startswith(head)
        assert json.loads(text) == execution


async def test_a_workflow_that_takes_long_is_left_running(
    client: Client, exposed: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.mcp.workflows.WAIT_S", 0)
    exposed.append(item("hang"))
    result = await client.call_tool("run_hang", {})
    assert (result.is_error, result.structured_content["status"]) == (False, "running")
    assert "is still running" in text_of(result)


async def test_a_workflow_that_fails_is_an_error(client: Client, exposed: list[dict[str, Any]]) -> None:
    exposed.append(item("fail"))
    result = await client.call_tool("run_fail", {})
    assert (result.is_error, result.structured_content["status"]) == (True, "failed")
    assert "of workflow fail failed: " in text_of(result)
    assert "no luck" in text_of(result)


async def test_the_version_that_is_opened_is_run(api: Api, exposed: list[dict[str, Any]]) -> None:
    exposed += [item("count", version="9.9.9"), item("count", version="1.0.0")]
    async with connected(api) as client:
        assert await refused(client, "run_count") == "not found: workflow count version 9.9.9"


async def test_a_viewer_may_not_run_an_opened_workflow(api: Api, exposed: list[dict[str, Any]]) -> None:
    exposed.append(item("count"))
    async with connected(api, "viewer") as client:
        assert await refused(client, "run_count") == TOO_LOW


async def test_a_list_that_cannot_be_read_is_told(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async def workflows(_: Any) -> InnerAnswer:
        return InnerAnswer(503, {"error": "unavailable: the database is not there"})

    monkeypatch.setattr("api.mcp.server._workflows", workflows)
    with pytest.raises(MCPError, match="unavailable: the database is not there"):
        await client.list_tools()
    assert await refused(client, "run_count") == "unavailable: the database is not there"


def test_names_are_fit_for_every_client_and_no_two_alike() -> None:
    hashed = tool_names(["a.b"])["a.b"]
    twin = hashed.removeprefix("run_")
    ids = ["plain-id_1", "a.b", "a/b", twin, "ünïcode", "x" * 60, "x" * 61, "x" * 62]
    names = tool_names(ids)
    assert list(names) == ids
    assert (names["plain-id_1"], names["x" * 60]) == ("run_plain-id_1", "run_" + "x" * 60)
    assert names["a.b"] == hashed
    assert hashed.startswith("run_a_b_")
    assert names[twin] != f"run_{twin}"
    assert len(set(names.values())) == len(ids)
    assert all(len(name) <= 64 and name.isascii() for name in names.values())
    assert tool_names(reversed(ids)) == names


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, {"type": "object"}),
        ("text", {"type": "object"}),
        ({}, {"type": "object"}),
        ({"type": "array"}, {"type": "object"}),
        ({"required": ["a"]}, {"type": "object", "required": ["a"]}),
    ],
)
def test_an_input_schema_is_about_an_object(given: Any, expected: dict[str, Any]) -> None:
    assert input_schema(given) == expected


def test_a_list_of_today_opens_nothing() -> None:
    assert workflow_tools({"workflows": [{"workflow_id": "count", "version": "1.0.0"}]}) == {}


# --- over a real socket, with nothing replaced ----------------------------------------------------


@contextlib.asynccontextmanager
async def over_a_socket(api: Api) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {api.tokens['developer']}"}
    async with (
        served(api.app) as url,
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http)) as client,
    ):
        yield client


async def test_an_exposed_workflow_is_listed_run_and_told_step_by_step(bare_api: Api) -> None:
    told: list[tuple[float, str | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, message))

    schema = {"n": "int", "note": "str"}
    await bare_api.register({**COUNT, "expose": ["mcp"], "description": "Counts.", "state_schema": schema})
    async with over_a_socket(bare_api) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert tools["run_count"].description == "Counts."
        assert tools["run_count"].input_schema["properties"] == {
            "n": {"type": "integer"},
            "note": {"type": "string"},
        }
        result = await client.call_tool("run_count", {"n": 4}, progress_callback=on_progress)

    assert result.structured_content is not None
    assert result.structured_content["output"] == {"n": 5}
    assert ("NodeCompleted: only") in [message for _, message in told]
    assert [progress for progress, _ in told] == sorted({progress for progress, _ in told})


async def test_progress_ends_where_the_workflow_pauses(bare_api: Api) -> None:
    told: list[str | None] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        told.append(message)

    await bare_api.register(APPROVE)
    async with over_a_socket(bare_api) as client:
        result = await client.call_tool(
            "jamjet_run_workflow", {"workflow_id": "approve"}, progress_callback=on_progress
        )

    assert result.structured_content is not None
    assert result.structured_content["status"] == "paused"
    assert "InterruptRaised: gate" in told


async def test_a_workflow_that_hangs_is_cancelled_from_beside(bare_api: Api) -> None:
    await bare_api.register(HANG)
    async with over_a_socket(bare_api) as client:
        running = asyncio.create_task(
            client.call_tool("jamjet_run_workflow", {"workflow_id": "hang"}, progress_callback=_ignore)
        )
        listed = await eventually(lambda: _running(client))
        await called(client, "jamjet_cancel_execution", execution_id=listed[0]["execution_id"])
        result = await running

    assert result.structured_content is not None
    assert result.structured_content["status"] == "cancelled"


async def _running(client: Client) -> list[dict[str, Any]]:
    listed = await called(client, "jamjet_list_executions", status="running")
    found: list[dict[str, Any]] = listed["executions"]
    return found


async def _ignore(progress: float, total: float | None, message: str | None) -> None:
    """Asked for, so that the answer is a stream."""


async def test_agents_are_listed_and_discovered(bare_api: Api) -> None:
    card = {"name": "Far Agent", "capabilities": {"skills": [{"name": "far"}]}}
    async with http_server(reply(200, card)) as server, over_a_socket(bare_api) as client:
        found = await called(client, "jamjet_discover_agent", url=server.url)
        listed = await called(client, "jamjet_list_agents", skill="far")
        nobody = "http://127.0.0.1:1"
        assert "unreachable: " in await refused(client, "jamjet_discover_agent", url=nobody)

    assert found["id"] == "far-agent"
    assert [agent["id"] for agent in listed["agents"]] == ["far-agent"]
