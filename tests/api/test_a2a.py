"""The A2A server: the official client, of both protocols, and raw requests."""

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from a2a.client import A2ACardResolver, Client, ClientConfig, ClientFactory
from a2a.client.errors import A2AClientError
from a2a.helpers import get_data_parts, new_data_part, new_text_part
from a2a.types import (
    AgentInterface,
    CancelTaskRequest,
    GetExtendedAgentCardRequest,
    GetTaskRequest,
    ListTasksRequest,
    Message,
    Part,
    Role,
    SendMessageRequest,
    StreamResponse,
    SubscribeToTaskRequest,
    Task,
    TaskState,
)
from a2a.utils.errors import A2AError

from api.federation import tasks
from tests.fixtures.api import APPROVE, COUNT, FAIL, HANG, PAY, TWO_GATES, Api, eventually
from tests.fixtures.served import served
from tests.fixtures.workflows import chain, python

BOTH = ["1.0", "0.3"]
EXPOSED = {"expose": ["a2a"]}
SCRIPTED = chain(
    "scripted",
    only={
        "kind": {
            "type": "model",
            "model": "scripted/m",
            "prompt": "x",
            "options": {"responses": ["two words"], "latency_ms": 300},
        }
    },
)


def exposed(ir: dict[str, Any]) -> dict[str, Any]:
    return {**ir, **EXPOSED}


@contextlib.asynccontextmanager
async def client(
    api: Api, *, role: str | None = "developer", version: str = "1.0", streaming: bool = False
) -> AsyncIterator[Client]:
    """The official client, unmodified, with a token, at a server with this API."""
    headers = {} if role is None else {"Authorization": f"Bearer {api.tokens[role]}"}
    async with served(api.app) as url, httpx.AsyncClient(headers=headers, timeout=30) as http:
        config = ClientConfig(httpx_client=http, streaming=streaming)
        card = await A2ACardResolver(http, url).get_agent_card()
        # A client takes the newest version that a card offers, so the others are taken out.
        offered = [one for one in card.supported_interfaces if one.protocol_version == version]
        del card.supported_interfaces[:]
        card.supported_interfaces.extend(
            AgentInterface(
                url=f"{url}/a2a", protocol_binding="JSONRPC", protocol_version=one.protocol_version
            )
            for one in offered
        )
        yield ClientFactory(config).create(card)


def message(*parts: Part, skill: str | None = None, **fields: Any) -> SendMessageRequest:
    made = Message(message_id=uuid.uuid4().hex, role=Role.ROLE_USER, parts=parts)
    for name, value in fields.items():
        setattr(made, name, value)
    if skill is not None:
        made.metadata.update({"skill": skill})
    return SendMessageRequest(message=made)


async def sent(a2a: Client, request: SendMessageRequest) -> Task:
    """The task that a message comes to."""
    [event] = [event async for event in a2a.send_message(request)]
    assert isinstance(event, StreamResponse)
    return event.task


async def streamed(a2a: Client, request: SendMessageRequest) -> list[StreamResponse]:
    return [event async for event in a2a.send_message(request)]


def last_state(events: list[StreamResponse]) -> int:
    """The state that the last event leaves the task in."""
    last = events[-1]
    return last.task.status.state if last.HasField("task") else last.status_update.status.state


@pytest.mark.parametrize("version", BOTH)
async def test_a_task_is_an_execution(bare_api: Api, version: str) -> None:
    await bare_api.register(exposed(COUNT))
    async with client(bare_api, version=version) as a2a:
        task = await sent(a2a, message(new_data_part({"n": 4}), skill="count"))

        assert task.status.state == TaskState.TASK_STATE_COMPLETED
        assert get_data_parts(task.artifacts[0].parts) == [{"n": 5.0}]
        assert task.artifacts[0].name == "output"
        again = await a2a.get_task(GetTaskRequest(id=task.id))
        assert again.status.state == TaskState.TASK_STATE_COMPLETED
    shown = (await bare_api.get(f"/executions/{task.id}")).json()
    assert (shown["workflow_id"], shown["initial_input"], shown["output"]) == ("count", {"n": 4}, {"n": 5})


async def test_text_is_input_too(bare_api: Api) -> None:
    await bare_api.register(exposed(COUNT))
    async with client(bare_api) as a2a:
        plain = await sent(a2a, message(new_text_part("hello")))
        as_json = await sent(a2a, message(new_text_part('{"n": 8}')))

    assert (await bare_api.get(f"/executions/{plain.id}")).json()["initial_input"] == {"message": "hello"}
    assert (await bare_api.get(f"/executions/{as_json.id}")).json()["output"] == {"n": 9}


async def test_the_same_message_again_is_the_same_task(bare_api: Api) -> None:
    await bare_api.register(exposed(COUNT))
    request = message(new_data_part({"n": 1}), skill="count")
    async with client(bare_api) as a2a:
        tasks = await asyncio.gather(*(sent(a2a, request) for _ in range(3)))

    assert len({task.id for task in tasks}) == 1
    assert (await bare_api.get("/executions")).json()["total"] == 1


@pytest.mark.parametrize("version", BOTH)
async def test_a_stream_tells_step_by_step(bare_api: Api, version: str) -> None:
    await bare_api.register(exposed(SCRIPTED))
    async with client(bare_api, version=version, streaming=True) as a2a:
        events = await streamed(a2a, message(new_data_part({}), skill="scripted"))

    assert events[0].HasField("task")
    assert last_state(events) == TaskState.TASK_STATE_COMPLETED
    text = "".join(
        part.text for event in events for part in event.status_update.status.message.parts if part.text
    )
    assert text == "two words"
    [artifact] = [event.artifact_update.artifact for event in events if event.HasField("artifact_update")]
    assert get_data_parts(artifact.parts) == [{"only": "two words"}]


async def test_a_task_that_waits_asks_for_input_and_gets_it(bare_api: Api) -> None:
    await bare_api.register(exposed(APPROVE))
    async with client(bare_api) as a2a:
        task = await sent(a2a, message(new_data_part({"n": 1}), skill="approve"))
        assert task.status.state == TaskState.TASK_STATE_INPUT_REQUIRED
        assert "node gate waits for an approval" in task.status.message.parts[0].text

        done = await sent(a2a, message(new_text_part("approved"), task_id=task.id))
        assert done.status.state == TaskState.TASK_STATE_COMPLETED
        assert done.id == task.id


async def test_a_task_that_waits_for_an_event_gets_its_payload(bare_api: Api) -> None:
    await bare_api.register(exposed(PAY))
    async with client(bare_api, streaming=True) as a2a:
        events = await streamed(a2a, message(new_data_part({}), skill="pay"))
        assert last_state(events) == TaskState.TASK_STATE_INPUT_REQUIRED
        task_id = events[0].task.id
        events = await streamed(a2a, message(new_data_part({"amount": 500}), task_id=task_id))

    assert last_state(events) == TaskState.TASK_STATE_COMPLETED
    kinds = await bare_api.kinds(task_id)
    assert "ExternalEventReceived" in kinds


@pytest.mark.parametrize("version", BOTH)
async def test_a_task_is_cancelled(bare_api: Api, version: str) -> None:
    await bare_api.register(exposed(HANG))
    request = message(new_data_part({}), skill="hang")
    request.configuration.return_immediately = True
    async with client(bare_api, version=version) as a2a:
        task = await sent(a2a, request)
        assert task.status.state == TaskState.TASK_STATE_WORKING
        cancelled = await a2a.cancel_task(CancelTaskRequest(id=task.id))
        assert cancelled.status.state == TaskState.TASK_STATE_CANCELED

    assert (await bare_api.get(f"/executions/{task.id}")).json()["status"] == "cancelled"


async def test_a_failed_execution_is_a_failed_task(bare_api: Api) -> None:
    await bare_api.register(exposed(FAIL))
    async with client(bare_api) as a2a:
        task = await sent(a2a, message(new_data_part({}), skill="fail"))
        with pytest.raises(A2AError, match="already in terminal state"):
            await a2a.cancel_task(CancelTaskRequest(id=task.id))

    assert task.status.state == TaskState.TASK_STATE_FAILED
    assert "no luck" in task.status.message.parts[0].text


async def test_a_task_is_followed_from_where_it_is(bare_api: Api) -> None:
    await bare_api.register(exposed(HANG))
    execution_id = await bare_api.hanging()
    async with client(bare_api, streaming=True) as a2a:
        stream = a2a.subscribe(SubscribeToTaskRequest(id=execution_id))
        first = await anext(stream)
        assert first.task.id == execution_id
        bare_api.functions.released.set()
        rest = [event async for event in stream]
        assert last_state(rest) == TaskState.TASK_STATE_COMPLETED
        with pytest.raises(A2AError, match="has ended"):
            async for _ in a2a.subscribe(SubscribeToTaskRequest(id=execution_id)):
                pass


async def test_tasks_are_listed(bare_api: Api) -> None:
    await bare_api.register(exposed(COUNT))
    ids = [await bare_api.start("count", n=number) for number in range(3)]
    for execution_id in ids:
        await bare_api.settled(execution_id)
    async with client(bare_api) as a2a:
        page = await a2a.list_tasks(ListTasksRequest(page_size=2, include_artifacts=True))
        rest = await a2a.list_tasks(ListTasksRequest(page_size=2, page_token=page.next_page_token))
        none = await a2a.list_tasks(ListTasksRequest(status=TaskState.TASK_STATE_FAILED))

    assert page.total_size == 3
    assert {task.id for task in (*page.tasks, *rest.tasks)} == set(ids)
    assert get_data_parts(page.tasks[0].artifacts[0].parts) == [{"n": 3.0}]
    assert (rest.next_page_token, list(none.tasks)) == ("", [])


async def test_skills_are_the_exposed_workflows_alone(api: Api) -> None:
    await api.register({**exposed(COUNT), "version": "2.0.0", "description": "Counts."})
    async with client(api) as a2a:
        card = await a2a.get_extended_agent_card(GetExtendedAgentCardRequest())
        assert [(skill.id, skill.description) for skill in card.skills] == [("count", "Counts.")]
        with pytest.raises(A2AError, match="there is no skill 'approve'"):
            await sent(a2a, message(new_data_part({}), skill="approve"))
    assert (await api.get("/executions")).json()["total"] == 0


async def test_without_a_skill_there_must_be_only_one(bare_api: Api) -> None:
    async with client(bare_api) as a2a:
        with pytest.raises(A2AError, match=r"metadata.skill is required: .*there are none"):
            await sent(a2a, message(new_data_part({})))
        await bare_api.register(exposed(COUNT), exposed(PAY))
        with pytest.raises(A2AError, match=r"metadata.skill is required: .*pay, count"):
            await sent(a2a, message(new_data_part({})))


async def test_roles_and_tenants_are_as_in_rest(bare_api: Api) -> None:
    await bare_api.register(exposed(COUNT))
    mine = await bare_api.start("count", n=1)
    await bare_api.settled(mine)

    async with client(bare_api, role="viewer") as a2a:
        assert (await a2a.get_task(GetTaskRequest(id=mine))).id == mine
        with pytest.raises(A2AError, match="insufficient role"):
            await sent(a2a, message(new_data_part({}), skill="count"))
        with pytest.raises(A2AError, match="insufficient role"):
            await a2a.cancel_task(CancelTaskRequest(id=mine))
    async with client(bare_api, role="other-developer") as a2a:
        with pytest.raises(A2AError, match=f"execution {mine}"):
            await a2a.get_task(GetTaskRequest(id=mine))
        with pytest.raises(A2AError, match="there is no skill 'count'"):
            await sent(a2a, message(new_data_part({}), skill="count"))
    async with client(bare_api, role=None) as a2a:
        with pytest.raises(A2AClientError, match="401"):
            await a2a.get_task(GetTaskRequest(id=mine))


async def test_a_call_is_audited_as_what_it_is(bare_api: Api) -> None:
    await bare_api.register(exposed(COUNT))
    async with client(bare_api) as a2a:
        task = await sent(a2a, message(new_data_part({}), skill="count"))

    items = (await bare_api.get(f"/audit?execution_id={task.id}")).json()["items"]
    [started] = [item for item in items if item["event_type"] == "workflow_started"]
    assert (started["http_method"], started["http_path"]) == ("POST", "/a2a")
    assert started["actor_id"].startswith("token:")


async def test_the_audit_names_the_request_that_the_caller_made(bare_api: Api) -> None:
    await bare_api.register(exposed(COUNT))
    answer = await bare_api.post("/a2a", send("m"), **V1)
    execution_id = answer.json()["result"]["task"]["id"]

    items = (await bare_api.get(f"/audit?execution_id={execution_id}")).json()["items"]
    [started] = [item for item in items if item["event_type"] == "workflow_started"]
    assert started["http_request_id"] == answer.headers["x-request-id"]


# --- raw requests ---------------------------------------------------------------------------------


async def rpc(api: Api, body: Any, **more: Any) -> dict[str, Any]:
    answer = await api.post("/a2a", body, **more)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


V1 = {"headers": {"A2A-Version": "1.0"}}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"jsonrpc": "2.0", "id": 1, "method": "Nope"}, -32601),
        ({"jsonrpc": "1.0", "id": 1, "method": "GetTask"}, -32600),
        ([], -32600),
        ({"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": {"id": 5}}, -32602),
        ({"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": {"id": "exec_x"}}, -32001),
        ({"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": {"id": "../health"}}, -32001),
        ({"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {}}, -32602),
        ({"jsonrpc": "2.0", "id": 1, "method": "ListTasks", "params": {"pageToken": "x"}}, -32602),
        ({"jsonrpc": "2.0", "id": 1, "method": "ListTasks", "params": {"pageToken": "²"}}, -32602),
        ({"jsonrpc": "2.0", "id": 1, "method": "ListTasks", "params": {"pageToken": "1" * 5_000}}, -32602),
        (
            {
                "jsonrpc": "2.0",
                "id": 1,
                "method": "CreateTaskPushNotificationConfig",
                "params": {"taskId": "exec_x", "url": "https://example.com"},
            },
            -32003,
        ),
    ],
)
async def test_wrong_requests_are_json_rpcs_errors(bare_api: Api, body: Any, code: int) -> None:
    assert (await rpc(bare_api, body, **V1))["error"]["code"] == code


async def test_what_is_no_json_and_what_is_too_large(bare_api: Api) -> None:
    broken = await bare_api.ask("POST", "/a2a", content=b"{", headers={"Content-Type": "application/json"})
    assert broken.json()["error"]["code"] == -32700
    plain = await bare_api.ask("POST", "/a2a", content=b"{}", headers={"Content-Type": "text/plain"})
    assert plain.status_code == 415
    sent = {"Content-Type": "application/json"}
    large = await bare_api.ask("POST", "/a2a", content=b"x" * 1_048_577, headers=sent)
    assert large.status_code == 413


async def test_of_a_bug_of_ours_only_the_class_is_told(
    bare_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("with a secret in it")

    monkeypatch.setattr("api.inner.ask", broken)
    for method in ("GetTask", "SubscribeToTask"):
        asked = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"id": "exec_x"}}
        error = (await rpc(bare_api, asked, **V1))["error"]
        assert (error["code"], error["message"]) == (-32603, "internal error: RuntimeError")


async def test_a_client_that_goes_away_leaves_nothing_behind(bare_api: Api) -> None:
    await bare_api.register(exposed(HANG))
    await bare_api.hanging()
    async with client(bare_api, streaming=True) as a2a:
        stream = a2a.send_message(message(new_data_part({}), skill="hang"))
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]

    async def closed() -> bool:
        streams = bare_api.app.state.resources.streams
        return not streams._open

    await eventually(closed)


def send(message_id: str = "m", *parts: Any, **fields: Any) -> dict[str, Any]:
    given = {"messageId": message_id, "role": "ROLE_USER", "parts": parts or [{"data": {"n": 1}}], **fields}
    return {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": given}}


@pytest.mark.parametrize("message_id", ["x" * 300, "schlüssel", "a\r\nX-Tenant-Id: acme", "a\0b"])
async def test_any_id_makes_a_message_the_same(bare_api: Api, message_id: str) -> None:
    await bare_api.register(exposed(COUNT))
    ids = {(await rpc(bare_api, send(message_id), **V1))["result"]["task"]["id"] for _ in range(2)}
    other = await rpc(bare_api, send(f"{message_id}y"), **V1)

    assert len(ids) == 1
    assert other["result"]["task"]["id"] not in ids


@pytest.mark.parametrize("ir", [APPROVE, PAY])
async def test_the_same_answer_again_is_taken_once(bare_api: Api, ir: dict[str, Any]) -> None:
    await bare_api.register(ir)
    execution_id = await bare_api.paused(ir["workflow_id"])
    answer = send("m", {"data": {"decision": "approved"}}, taskId=execution_id)

    told = [await rpc(bare_api, answer, **V1) for _ in range(2)]

    states = [one["result"]["task"]["status"]["state"] for one in told]
    assert states == ["TASK_STATE_COMPLETED"] * 2
    again = await rpc(bare_api, send("other", {"text": "approved"}, taskId=execution_id), **V1)
    assert "waits for nothing" in again["error"]["message"]


@pytest.mark.parametrize("rest", ["events", "approvals", "events/stream"])
@pytest.mark.parametrize("method", ["GetTask", "SubscribeToTask"])
async def test_an_id_is_never_the_path_of_another_route(bare_api: Api, method: str, rest: str) -> None:
    await bare_api.register(exposed(COUNT))
    execution_id = await bare_api.start("count")
    await bare_api.settled(execution_id)
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"id": f"{execution_id}/{rest}"}}
    assert (await rpc(bare_api, body, **V1))["error"]["code"] == -32001


@pytest.mark.parametrize("number", ["NaN", "1e999"])
async def test_a_number_that_is_not_json(bare_api: Api, number: str) -> None:
    await bare_api.register(exposed(COUNT))
    body = json.dumps(send("m", {"data": {"n": "?"}})).replace('"?"', number)
    headers = {"Content-Type": "application/json", **V1["headers"]}
    answer = await bare_api.ask("POST", "/a2a", content=body.encode(), headers=headers)
    assert answer.json()["error"]["code"] == -32602


@pytest.mark.parametrize("levels", [40, 47, 61])
async def test_an_output_may_be_deep(bare_api: Api, levels: int) -> None:
    await bare_api.register(exposed(COUNT))
    deep = json.loads("[" * levels + "]" * levels)
    execution_id = await bare_api.start("count", n=1, deep=deep)
    await bare_api.settled(execution_id)
    async with client(bare_api) as a2a:
        task = await a2a.get_task(GetTaskRequest(id=execution_id))
    [part] = task.artifacts[0].parts
    shown = json.loads(part.text) if part.text else get_data_parts([part])[0]
    assert shown == {"n": 2, "deep": deep}


async def test_tasks_are_listed_by_state_and_context(bare_api: Api) -> None:
    await bare_api.register(COUNT, APPROVE)
    done, waits = await bare_api.start("count"), await bare_api.paused("approve")
    await bare_api.settled(done)

    async def listed(**params: Any) -> dict[str, str]:
        body = {"jsonrpc": "2.0", "id": 1, "method": "ListTasks", "params": params}
        result = (await rpc(bare_api, body, **V1))["result"]
        assert result.get("totalSize", 0) == len(result["tasks"])
        return {task["id"]: task["status"]["state"] for task in result["tasks"]}

    both = {done: "TASK_STATE_COMPLETED", waits: "TASK_STATE_INPUT_REQUIRED"}
    assert await listed() == both
    assert await listed(status="TASK_STATE_REJECTED") == {}
    assert await listed(status="TASK_STATE_INPUT_REQUIRED") == {waits: both[waits]}
    assert await listed(contextId=done) == {done: both[done]}
    assert await listed(contextId=done, status="TASK_STATE_FAILED") == {}
    assert await listed(contextId="exec_x") == {}


async def test_a_task_that_asks_already_while_a_branch_runs_is_followed_to_its_pause(bare_api: Api) -> None:
    nodes = {**TWO_GATES["nodes"], "right": python("hang")}
    await bare_api.register({**TWO_GATES, "nodes": nodes})
    execution_id = await bare_api.start("two-gates")
    for kind in ("InterruptRaised", "NodeStarted"):
        await eventually(lambda kind=kind: bare_api.has_event(execution_id, kind))
    async with client(bare_api, streaming=True) as a2a:
        stream = a2a.subscribe(SubscribeToTaskRequest(id=execution_id))
        events = [await anext(stream)]
        bare_api.functions.released.set()
        async with asyncio.timeout(10):
            events += [event async for event in stream]

    assert last_state(events) == TaskState.TASK_STATE_INPUT_REQUIRED


async def test_nobody_is_waited_for_who_has_left(bare_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await bare_api.register(exposed(HANG))
    monkeypatch.setattr("api.federation.a2a_server.WAIT_S", 0.1)
    looks = 0
    settled = tasks.has_settled

    def counted(execution: dict[str, Any]) -> bool:
        nonlocal looks
        looks += 1
        return settled(execution)

    monkeypatch.setattr(tasks, "has_settled", counted)
    headers = {"Authorization": f"Bearer {bare_api.tokens['developer']}", "A2A-Version": "1.0"}
    async with served(bare_api.app) as url:
        async with httpx.AsyncClient(timeout=1) as http:
            with pytest.raises(httpx.ReadTimeout):
                await http.post(f"{url}/a2a", json=send("m"), headers=headers)
        assert looks > 1
        await asyncio.sleep(0.3)
        seen = looks
        await asyncio.sleep(0.5)
        assert looks == seen
