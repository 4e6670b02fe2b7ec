"""Two runtimes on one machine: one discovers the other and calls its workflows; and the official clients."""

import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import httpx
import httpx2
import pytest
from a2a.client import A2ACardResolver, Client, ClientConfig, ClientFactory
from a2a.helpers import get_data_parts, new_data_part
from a2a.types import CancelTaskRequest, GetTaskRequest, Message, Role, SendMessageRequest, TaskState
from mcp import Client as McpClient
from mcp.client.streamable_http import streamable_http_client

from tests.cluster.conftest import NewDatabase
from tests.cluster.test_streaming import Stream
from tests.fixtures.server import Server, eventually

pytestmark = pytest.mark.timeout(240)

WORDS = " ".join(f"word-{number}" for number in range(40))


def workflow(workflow_id: str, kind: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "workflow_id": workflow_id,
        "version": "1.0.0",
        "nodes": {"only": {"kind": kind}},
        "edges": [{"from": "only", "to": "end"}],
        **fields,
    }


def scripted(**options: Any) -> dict[str, Any]:
    return {"type": "model", "model": "scripted/m", "prompt": "x", "options": options, "output_key": "said"}


FAR = (
    workflow("far-talk", scripted(responses=[WORDS], token_ms=10), expose=["a2a", "mcp"]),
    workflow("far-slow", scripted(responses=["done"], latency_ms=4_000), expose=["a2a", "mcp"]),
    workflow("far-gate", {"type": "human_approval", "description": "May it?"}, expose=["a2a", "mcp"]),
)


def call_of(workflow_id: str, agent_id: str, skill: str, **fields: Any) -> dict[str, Any]:
    """A workflow that calls a skill of the other runtime."""
    kind = {
        "type": "a2a_task",
        "remote_agent": agent_id,
        "skill": skill,
        "input_mapping": {"topic": "{{ state.topic }}"},
        "auth": {"token_env": "FAR_TOKEN"},
        "output_key": "answer",
        "timeout_secs": 60,
        **fields,
    }
    return workflow(workflow_id, kind)


@pytest.fixture(scope="module")
def far(server: Server) -> Server:
    """The runtime that is called: its tenant publishes."""
    for ir in FAR:
        server.register(ir)
    status, answer = server.persist("PUT", "/tenants/default", {"policy": {"publish": True}})
    assert status == 200, answer
    return server


@pytest.fixture(scope="module")
def near(far: Server, new_database: NewDatabase) -> Iterator[Server]:
    """The runtime that calls. Its heartbeats are counted in seconds, so that silence is soon told."""
    environment = {
        "JAMJET_SECRETS": "FAR_TOKEN@127.0.0.1",
        "FAR_TOKEN": far.token,
        "JAMJET_AGENT_HEARTBEAT": "1",
        "JAMJET_AGENT_EXPIRY": "2",
    }
    with Server({}, database=new_database(), environment=environment) as running:
        yield running


@pytest.fixture(scope="module")
def agent_id(near: Server, far: Server) -> str:
    """The other runtime, discovered."""
    url = f"http://127.0.0.1:{far.port}"
    status, agent = near.persist("POST", "/agents/discover", {"url": url})
    assert status == 201, agent
    assert agent["id"] == f"jamjet-127-0-0-1-{far.port}"
    skills = {skill["id"] for skill in agent["capabilities"]["skills"]}
    assert {ir["workflow_id"] for ir in FAR} <= skills
    assert agent["uri"] == url
    return str(agent["id"])


def entries(server: Server, query: str) -> list[dict[str, Any]]:
    status, answer = server.persist("GET", f"/audit?limit=200&{query}")
    assert status == 200, answer
    return list(answer["items"])


# --- one runtime calls the other ------------------------------------------------------------------


def test_a_workflow_calls_a_workflow_of_another_runtime_and_both_audit_it(
    near: Server, far: Server, agent_id: str
) -> None:
    near.register(call_of("ask-far", agent_id, "far-talk"))
    execution = near.await_status(near.start_execution("ask-far", {"topic": "birds"}), "completed")

    assert execution["state"]["answer"] == {"topic": "birds", "said": WORDS}
    [called] = entries(near, f"execution_id={execution['execution_id']}&event_type=agent_call_completed")
    assert (called["actor_id"], called["actor_type"]) == (f"agent:{agent_id}", "agent")
    assert (called["details"]["skill"], called["details"]["is_error"]) == ("far-talk", False)
    there = [entry for entry in entries(far, "event_type=workflow_started") if entry["http_path"] == "/a2a"]
    assert there
    assert there[0]["actor_id"].startswith("token:")
    started = far.execution(there[0]["execution_id"])
    assert (started["workflow_id"], started["initial_input"]) == ("far-talk", {"topic": "birds"})
    status, trace = near.persist("GET", f"/agents/{quote(agent_id)}/trace")
    assert status == 200
    assert trace["events"][0]["direction"] == "in"
    assert trace["events"][0]["execution_id"] == execution["execution_id"]


def test_words_of_the_far_model_come_through_both_runtimes(near: Server, agent_id: str) -> None:
    near.register(call_of("stream-far", agent_id, "far-talk", stream=True))
    execution_id = near.start_execution("stream-far", {"topic": "x"})
    stream = Stream(near, execution_id)
    frames = list(stream.frames())
    stream.close()

    tokens = [data["text"] for _, _, event, data in frames if event == "token"]
    assert len(tokens) > 10, "told piece by piece"
    assert WORDS.endswith("".join(tokens)[-100:])
    assert near.execution(execution_id)["state"]["answer"]["said"] == WORDS


def test_an_owner_that_is_killed_in_mid_call_does_not_ask_twice(
    near: Server, far: Server, agent_id: str
) -> None:
    near.register(call_of("slow-far", agent_id, "far-slow"))
    before = far.persist("GET", "/executions?workflow_id=far-slow")[1]["total"]
    execution_id = near.start_execution("slow-far", {"topic": "x"})
    eventually(
        lambda: far.persist("GET", "/executions?workflow_id=far-slow")[1]["total"] > before,
        what="the far execution has started",
    )
    for pid in near.pids("ray::ExecutionActor"):
        os.kill(pid, signal.SIGKILL)

    near.await_status(execution_id, "completed")
    assert far.persist("GET", "/executions?workflow_id=far-slow")[1]["total"] == before + 1
    started = [event for event in near.events(execution_id) if event["kind"] == "NodeStarted"]
    assert len(started) == 2, "it was attempted again"


def test_a_cancelled_execution_cancels_the_far_one(near: Server, far: Server, agent_id: str) -> None:
    near.register(call_of("cancel-far", agent_id, "far-slow"))
    execution_id = near.start_execution("cancel-far", {"topic": "to be cancelled"})
    mine = {"topic": "to be cancelled"}

    def started() -> dict[str, Any] | None:
        listed = far.persist("GET", "/executions?workflow_id=far-slow&limit=3")[1]["executions"]
        shown = [far.execution(one["execution_id"]) for one in listed]
        return next((one for one in shown if one["initial_input"] == mine), None)

    there = eventually(started, what="the far execution has started")
    # The near one knows of the task once its message is answered, which takes a moment longer.
    eventually(lambda: "NodeStarted" in [event["kind"] for event in near.events(execution_id)])
    time.sleep(0.5)
    near.persist("POST", f"/executions/{execution_id}/cancel")
    far.await_status(there["execution_id"], "cancelled")


def test_an_agent_that_asks_for_input_fails_the_node(near: Server, agent_id: str) -> None:
    near.register(call_of("gate-far", agent_id, "far-gate"))
    execution = near.await_status(near.start_execution("gate-far", {"topic": "x"}), "failed")
    assert "asks for more input" in execution["error"]


# --- the registry ---------------------------------------------------------------------------------


def registry_pid(server: Server) -> int:
    return int(eventually(lambda: server.pids("ray::AgentRegistryActor"), what="the registry")[0])


def test_the_registry_is_killed_and_nothing_acknowledged_is_lost(near: Server) -> None:
    for number in range(20):
        card = {"id": f"beater-{number}", "name": f"Beater {number}"}
        assert near.persist("POST", "/agents", card)[0] == 201
    assert near.persist("POST", "/agents/beater-0/activate")[0] == 200
    killed = registry_pid(near)
    os.kill(killed, signal.SIGKILL)

    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda n: near.persist("POST", f"/agents/beater-{n % 20}/heartbeat"), range(100))
        )
    assert {status for status, _ in answers} == {200}
    assert registry_pid(near) != killed
    status, listed = near.persist("GET", "/agents?limit=500")
    assert status == 200
    shown = {agent["id"]: agent for agent in listed["agents"]}
    assert {f"beater-{number}" for number in range(20)} <= shown.keys()
    assert all(shown[f"beater-{number}"]["last_heartbeat"] for number in range(20))
    assert shown["beater-0"]["status"] == "active"
    assert near.persist("POST", "/agents/nobody/heartbeat")[0] == 404


def test_a_silent_agent_is_stale_then_paused_and_comes_back(near: Server) -> None:
    assert near.persist("POST", "/agents", {"id": "sleeper", "name": "Sleeper"})[0] == 201
    near.persist("POST", "/agents/sleeper/activate")
    assert near.persist("POST", "/agents/sleeper/heartbeat")[0] == 200

    def seen() -> dict[str, Any]:
        return dict(near.persist("GET", "/agents/sleeper")[1])

    assert seen()["status"] == "active"
    paused = eventually(lambda: (one := seen())["status"] == "paused" and one, what="paused")
    assert paused["last_heartbeat"]
    eventually(lambda: seen()["stale"], what="stale")
    near.persist("POST", "/agents/sleeper/heartbeat")
    eventually(lambda: seen()["status"] == "active", what="active again")
    assert seen()["stale"] is False


# --- the official clients, through HAProxy --------------------------------------------------------


@asynccontextmanager
async def a2a_client(server: Server, *, streaming: bool) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {server.token}"}
    url = f"http://127.0.0.1:{server.port}"
    async with httpx.AsyncClient(headers=headers, timeout=30) as http:
        card = await A2ACardResolver(http, url).get_agent_card()
        yield ClientFactory(ClientConfig(httpx_client=http, streaming=streaming)).create(card)


def message(skill: str, task_id: str = "") -> SendMessageRequest:
    made = Message(
        message_id=os.urandom(8).hex(),
        role=Role.ROLE_USER,
        parts=[new_data_part({"topic": "t"})],
        task_id=task_id,
    )
    made.metadata.update({"skill": skill})
    return SendMessageRequest(message=made)


async def test_the_official_a2a_client(far: Server) -> None:
    async with a2a_client(far, streaming=False) as client:
        listed = [skill.id for skill in client._card.skills]  # type: ignore[attr-defined]
        assert "far-talk" in listed
        [event] = [event async for event in client.send_message(message("far-talk"))]
        assert event.task.status.state == TaskState.TASK_STATE_COMPLETED
        assert get_data_parts(event.task.artifacts[0].parts)[0]["said"] == WORDS

        request = message("far-slow")
        request.configuration.return_immediately = True
        [event] = [event async for event in client.send_message(request)]
        await client.cancel_task(CancelTaskRequest(id=event.task.id))
        task = await client.get_task(GetTaskRequest(id=event.task.id))
        assert task.status.state == TaskState.TASK_STATE_CANCELED

    async with a2a_client(far, streaming=True) as client:
        arrivals: list[float] = []
        said = ""
        async for event in client.send_message(message("far-talk")):
            text = "".join(part.text for part in event.status_update.status.message.parts)
            if text:
                arrivals.append(time.monotonic())
                said += text
        assert len(arrivals) > 10
        assert arrivals[-1] - arrivals[0] > 0.1, "one by one, not all at the end"
        assert WORDS.endswith(said[-100:])


async def test_the_official_mcp_client(far: Server) -> None:
    told: list[str | None] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        told.append(message)

    headers = {"Authorization": f"Bearer {far.token}"}
    url = f"http://127.0.0.1:{far.port}/mcp"
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        McpClient(streamable_http_client(url, http_client=http)) as client,
    ):
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert {"jamjet_run_workflow", "run_far-talk"} <= names
        result = await client.call_tool("run_far-talk", {"topic": "t"}, progress_callback=on_progress)
        assert result.structured_content is not None
        assert result.structured_content["output"]["said"] == WORDS
        assert len(told) > 10

        started = await client.call_tool(
            "jamjet_run_workflow", {"workflow_id": "far-slow", "wait_seconds": 0}
        )
        assert started.structured_content is not None
        given = {"execution_id": started.structured_content["execution_id"]}
        cancelled = await client.call_tool("jamjet_cancel_execution", given)
        assert cancelled.structured_content is not None
        assert cancelled.structured_content["status"] == "cancelled"
