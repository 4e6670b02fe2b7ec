"""The executor of ``a2a_task`` nodes against a small A2A server that answers as it is told to."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from actors.runner import Runner, message_id
from actors.settings import Settings
from runtime.effects import STOPPED, RunNode
from runtime.graph import A2aTaskNode, RetryPolicy
from runtime.signals import NodeErrored, NodeSucceeded
from runtime.store.agent_port import NewAgent
from runtime.store.memory import MemoryStore
from tests.fixtures.http_server import Asked, HttpServer, http_server, response
from tests.unit.machine_driver import Driver, graph_of

KEY = "exec_1:review:1"
Answer = Callable[[str, dict[str, Any]], Any]
"""The result of a method with its params; an exception's text becomes an error."""


class NoFunctions:
    async def call(self, effect: Any, node: Any, *, tenant_id: str) -> Any:
        raise AssertionError


def card(port: int, version: str, *, streaming: bool = False, **more: Any) -> dict[str, Any]:
    url = f"http://127.0.0.1:{port}/rpc"
    if version == "1.0":
        one = {"url": url, "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}
        return {
            "name": "R",
            "supportedInterfaces": [one],
            "capabilities": {"streaming": streaming},
            "skills": [],
            **more,
        }
    return {
        "name": "R",
        "url": url,
        "protocolVersion": "0.3.0",
        "capabilities": {"streaming": streaming},
        "skills": [],
        **more,
    }


class Agent:
    """An agent of one version."""

    def __init__(self, version: str, answer: Answer, *, streaming: bool = False, **card_fields: Any) -> None:
        self.version = version
        self.methods: list[str] = []
        self.looked_at = asyncio.Event()
        self.refuses = b""
        self.params: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self._answer = answer
        self._streaming = streaming
        self._card_fields = card_fields
        self.port = 0

    async def __call__(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.method == "GET":
            made = card(self.port, self.version, streaming=self._streaming, **self._card_fields)
            writer.write(response(200, made))
            return
        if self.refuses:
            writer.write(self.refuses)
            return
        call = asked.json()
        self.methods.append(call["method"])
        if call["method"] == "GetTask":
            self.looked_at.set()
        self.params.append(call["params"])
        self.headers.append(asked.headers)
        result = self._answer(call["method"], call["params"])
        if isinstance(result, list):
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
            writer.write(head + b"".join(_event(call["id"], one) for one in result))
            writer.close()
            return
        if asyncio.iscoroutine(result):
            result = await result
        writer.write(response(200, _rpc(call["id"], result), content_type="application/json"))


def _rpc(request_id: Any, result: Any) -> dict[str, Any]:
    if isinstance(result, Exception):
        error = {"code": -32603, "message": str(result)}
        return {"jsonrpc": "2.0", "id": request_id, "error": error}
    return {"jsonrpc": "2.0", "id": request_id, "result": result}


def _event(request_id: Any, result: Any) -> bytes:
    return b"data: " + json.dumps(_rpc(request_id, result)).encode() + b"\n\n"


def task(version: str, state: str, *, text: str = "", artifacts: Any = ()) -> dict[str, Any]:
    """A task in either version's words; ``state`` as 0.3 has it."""
    if version == "1.0":
        named = "TASK_STATE_" + state.upper().replace("-", "_")
        status: dict[str, Any] = {"state": named}
        if text:
            status["message"] = {"messageId": "m", "role": "ROLE_AGENT", "parts": [{"text": text}]}
        parts = [{"artifactId": "a", "parts": [part]} for part in artifacts]
        return {"id": "t1", "contextId": "c1", "status": status, "artifacts": parts}
    status = {"state": state}
    if text:
        status["message"] = {
            "kind": "message",
            "messageId": "m",
            "role": "agent",
            "parts": [{"kind": "text", "text": text}],
        }
    parts = [
        {"artifactId": "a", "parts": [{"kind": "data" if "data" in part else "text", **part}]}
        for part in artifacts
    ]
    return {"kind": "task", "id": "t1", "contextId": "c1", "status": status, "artifacts": parts}


def sent(version: str, found: dict[str, Any]) -> dict[str, Any]:
    """The result of sending a message."""
    return {"task": found} if version == "1.0" else found


def never_done(method: str, params: Any) -> Any:
    found = task("1.0", "working")
    return sent("1.0", found) if method == "SendMessage" else found


class World:
    """A runner, and the agent that it calls."""

    def __init__(self, agent: Agent, server: HttpServer, runner: Runner, store: MemoryStore) -> None:
        self.agent = agent
        self.server = server
        self.runner = runner
        self.store = store
        self.pieces: list[str] = []

    def node(self, **fields: Any) -> A2aTaskNode:
        given = {
            "agent": "reviewer",
            "url": self.server.url,
            "skill": "review",
            "timeout_ms": 10_000,
            **fields,
        }
        return A2aTaskNode(id="review", **given)

    async def run(self, **fields: Any) -> NodeSucceeded | NodeErrored:
        effect = RunNode(
            node=self.node(**fields), visit=1, attempt=1, input={"code": "x", "n": 3}, state={}, key=KEY
        )
        return await self.runner.run(effect, tenant_id="default")


@pytest.fixture
async def world_of() -> AsyncIterator[Any]:
    """Makes a world with an agent."""
    import contextlib

    stack = contextlib.AsyncExitStack()

    async def make(agent: Agent, **settings: Any) -> World:
        server = await stack.enter_async_context(http_server(agent))
        agent.port = server.port
        store = MemoryStore(lambda: 1_000)
        given = {"http_allow": ("127.0.0.0/8",), **settings}
        world: World
        runner = Runner.over(
            Settings(**given),
            NoFunctions(),
            store,
            on_token=lambda key, attempt, text: world.pieces.append(text),
        )
        stack.push_async_callback(runner.close)
        world = World(agent, server, runner, store)
        return world

    yield make
    await stack.aclose()


BOTH = pytest.mark.parametrize("version", ["1.0", "0.3"])


@BOTH
async def test_a_task_that_ends_at_once(world_of: Any, version: str) -> None:
    agent = Agent(
        version,
        lambda *_: sent(version, task(version, "completed", artifacts=[{"data": {"safe": True, "n": 3}}])),
    )
    world = await world_of(agent)

    result = await world.run()

    assert isinstance(result, NodeSucceeded)
    assert result.output == {"safe": True, "n": 3}
    assert agent.methods == ["SendMessage" if version == "1.0" else "message/send"]
    message = agent.params[0]["message"]
    assert message["messageId"] == KEY
    assert message["metadata"] == {"skill": "review"}
    assert message["parts"][0]["data"] == {"code": "x", "n": 3}


@BOTH
async def test_a_task_that_goes_on_is_looked_at_until_it_ends(world_of: Any, version: str) -> None:
    looks = iter(("working", "completed"))

    def answer(method: str, params: Any) -> Any:
        if method in ("GetTask", "tasks/get"):
            return task(version, next(looks), artifacts=[{"text": "all "}, {"text": "good"}])
        return sent(version, task(version, "submitted"))

    world = await world_of(Agent(version, answer))
    result = await world.run()
    assert isinstance(result, NodeSucceeded)
    assert result.output == "all good"


@BOTH
async def test_a_message_may_be_answered_without_a_task(world_of: Any, version: str) -> None:
    if version == "1.0":
        said: Any = {"message": {"messageId": "m", "role": "ROLE_AGENT", "parts": [{"text": "hello"}]}}
    else:
        part = {"kind": "text", "text": "hello"}
        said = {"kind": "message", "messageId": "m", "role": "agent", "parts": [part]}
    world = await world_of(Agent(version, lambda *_: said))
    result = await world.run()
    assert isinstance(result, NodeSucceeded)
    assert result.output == "hello"


@BOTH
async def test_a_stream_is_told_as_it_comes(world_of: Any, version: str) -> None:
    def events(method: str, params: Any) -> Any:
        if version == "1.0":
            chunk = {"artifactId": "a", "parts": [{"text": "one "}]}
            more = {"artifactId": "a", "parts": [{"text": "two"}]}
            where = {"taskId": "t1", "contextId": "c1"}
            return [
                {"task": task(version, "working")},
                {"artifactUpdate": {**where, "artifact": chunk}},
                {"artifactUpdate": {**where, "artifact": more, "append": True}},
                {"statusUpdate": {**where, "status": {"state": "TASK_STATE_COMPLETED"}}},
            ]
        where = {"taskId": "t1", "contextId": "c1"}
        chunk = {"artifactId": "a", "parts": [{"kind": "text", "text": "one "}]}
        more = {"artifactId": "a", "parts": [{"kind": "text", "text": "two"}]}
        return [
            task(version, "working"),
            {"kind": "artifact-update", **where, "artifact": chunk},
            {"kind": "artifact-update", **where, "artifact": more, "append": True},
            {"kind": "status-update", **where, "status": {"state": "completed"}, "final": True},
        ]

    world = await world_of(Agent(version, events, streaming=True))
    result = await world.run(stream=True)
    assert isinstance(result, NodeSucceeded), result
    assert result.output == "one two"
    assert world.pieces == ["one ", "two"]


@BOTH
@pytest.mark.parametrize(
    ("state", "error_class", "retryable", "said"),
    [
        ("failed", "agent_failed", None, "agent reviewer failed: because"),
        ("canceled", "agent_cancelled", False, "agent reviewer was cancelled: because"),
        ("rejected", "agent_rejected", False, "agent reviewer rejected the task: because"),
        ("input-required", "input_required", False, "agent reviewer asks for more input: because"),
        ("auth-required", "auth_required", False, "agent reviewer asks for other credentials: because"),
    ],
)
async def test_a_task_that_does_not_come_to_a_result(
    world_of: Any, version: str, state: str, error_class: str, retryable: bool | None, said: str
) -> None:
    world = await world_of(Agent(version, lambda *_: sent(version, task(version, state, text="because"))))
    result = await world.run()
    assert isinstance(result, NodeErrored)
    assert (result.error, result.error_class, result.retryable) == (said, error_class, retryable)


@BOTH
async def test_an_error_of_the_agent(world_of: Any, version: str) -> None:
    world = await world_of(Agent(version, lambda *_: RuntimeError("no room")))
    result = await world.run()
    assert isinstance(result, NodeErrored)
    assert result.error_class == "agent_error"
    assert result.error.startswith("agent reviewer refused: ")
    assert "no room" in result.error


async def test_a_registered_agent_is_found_by_its_id(world_of: Any) -> None:
    agent = Agent("1.0", lambda *_: sent("1.0", task("1.0", "completed", artifacts=[{"text": "ok"}])))
    world = await world_of(agent)
    agents = world.store.agents("default")
    made = card(agent.port, "1.0")
    await agents.register(NewAgent(agent_id="reviewer", card=json.dumps(made), digest="d", uri="u"))

    result = await world.run(url=None)
    assert isinstance(result, NodeSucceeded), result
    assert result.output == "ok"

    await agents.move("reviewer", "deactivated")
    result = await world.run(url=None)
    assert isinstance(result, NodeErrored)
    assert (result.error, result.error_class) == ("agent reviewer is deactivated", "agent_unavailable")
    result = await world.run(url=None, agent="nobody")
    assert isinstance(result, NodeErrored)
    assert (result.error, result.error_class) == ("agent nobody is not registered", "agent_not_found")


async def test_the_token_goes_to_its_host_alone(world_of: Any) -> None:
    agent = Agent("1.0", lambda *_: sent("1.0", task("1.0", "completed")))
    secret = {"env": {"TOKEN": "s3cret-token"}}
    world = await world_of(agent, secrets=("TOKEN@127.0.0.1",), **secret)
    assert isinstance(await world.run(token_env="TOKEN"), NodeSucceeded)
    assert agent.headers[0]["authorization"] == "Bearer s3cret-token"

    elsewhere = await world_of(agent, secrets=("TOKEN@example.com",), **secret)
    result = await elsewhere.run(token_env="TOKEN")
    assert isinstance(result, NodeErrored)
    assert (result.error_class, result.retryable) == ("secret_refused", False)
    assert "s3cret" not in result.error


async def test_an_agent_that_gives_the_token_back_does_not_get_it_into_an_error(world_of: Any) -> None:
    agent = Agent("1.0", lambda *_: RuntimeError("bad token s3cret-token"))
    world = await world_of(agent, secrets=("TOKEN@127.0.0.1",), env={"TOKEN": "s3cret-token"})
    result = await world.run(token_env="TOKEN")
    assert isinstance(result, NodeErrored)
    assert "s3cret" not in result.error


async def test_a_task_that_takes_too_long_is_cancelled(world_of: Any) -> None:
    agent = Agent("1.0", never_done)
    world = await world_of(agent)
    result = await world.run(timeout_ms=700)
    assert isinstance(result, NodeErrored)
    assert (result.error, result.error_class) == ("agent reviewer did not end in time", "timeout")
    assert agent.methods[-1] == "CancelTask"


@pytest.mark.parametrize(("message", "is_cancelled"), [(STOPPED, True), (None, False)])
async def test_a_stopped_attempt_cancels_its_task_and_a_lost_one_does_not(
    world_of: Any, message: str | None, is_cancelled: bool
) -> None:
    agent = Agent("1.0", never_done)
    world = await world_of(agent)
    running = asyncio.create_task(world.run())
    await asyncio.wait_for(agent.looked_at.wait(), 10)
    running.cancel(message)
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ("CancelTask" in agent.methods) is is_cancelled


async def test_a_secret_that_is_not_set(world_of: Any) -> None:
    world = await world_of(Agent("1.0", lambda *_: None), secrets=("TOKEN@127.0.0.1",))
    result = await world.run(token_env="TOKEN")
    assert isinstance(result, NodeErrored)
    assert (result.error, result.error_class) == (
        "the secret TOKEN is not set on the server",
        "secret_missing",
    )


async def test_an_agent_of_the_oldest_version_is_spoken_to_as_the_next_one(world_of: Any) -> None:
    agent = Agent(
        "0.3", lambda *_: task("0.3", "completed", artifacts=[{"text": "ok"}]), protocolVersion=None
    )
    world = await world_of(agent)
    result = await world.run()
    assert isinstance(result, NodeSucceeded), result
    assert agent.methods == ["message/send"]


@pytest.mark.parametrize(
    ("status", "error_class", "retryable", "after"),
    [
        (429, "rate_limit", None, 7_000),
        (500, "server_error", None, 7_000),
        (401, "client_error", False, 7_000),
    ],
)
async def test_a_status_is_what_it_is_to_http_nodes(
    world_of: Any, status: int, error_class: str, retryable: bool | None, after: int
) -> None:
    agent = Agent("1.0", lambda *_: None)
    world = await world_of(agent)
    agent.refuses = response(status, {"error": "no"}, retry_after="7")
    result = await world.run()
    assert isinstance(result, NodeErrored)
    assert (result.error_class, result.retryable, result.retry_after_ms) == (error_class, retryable, after)
    assert result.error == f"agent reviewer answered {status}"


@pytest.mark.parametrize(
    ("error_class", "second"),
    [("agent_failed", f"{KEY}:1"), ("timeout", f"{KEY}:1"), ("io_error", KEY), ("worker_lost", KEY)],
)
def test_a_retry_asks_for_a_new_task_only_where_the_last_one_has_ended(error_class: str, second: str) -> None:
    call = A2aTaskNode(
        id="review", agent="r", retry=RetryPolicy(max_attempts=3, initial_delay_ms=10), output_key="x"
    )
    drive = Driver(graph_of("review>end", nodes=(call,)))
    drive.start()
    drive.error("review", error_class)
    if error_class != "worker_lost":
        drive.wake()
    [effect] = [one for one in drive.last.effects if isinstance(one, RunNode)]
    assert message_id(effect) == second.replace("exec_1:", f"{effect.key.partition(':')[0]}:")
    drive.recover()
    [again] = [one for one in drive.last.effects if isinstance(one, RunNode)]
    assert message_id(again) == message_id(effect)


async def test_the_inside_is_not_reached(world_of: Any) -> None:
    agent = Agent("1.0", lambda *_: None)
    world = await world_of(agent, http_allow=())
    result = await world.run()
    assert isinstance(result, NodeErrored)
    assert (result.error_class, result.retryable) == ("address_refused", False)
    assert world.server.connections == 0


async def test_a_card_may_not_point_inside(world_of: Any) -> None:
    one = {"url": "http://169.254.169.254/rpc", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}
    world = await world_of(Agent("1.0", lambda *_: None, supportedInterfaces=[one]))
    result = await world.run()
    assert isinstance(result, NodeErrored)
    assert (result.error_class, result.retryable) == ("address_refused", False)


async def test_an_agent_that_speaks_no_http(world_of: Any) -> None:
    one = {"url": "https://example.com", "protocolBinding": "GRPC", "protocolVersion": "1.0"}
    world = await world_of(Agent("1.0", lambda *_: None, supportedInterfaces=[one]))
    result = await world.run()
    assert isinstance(result, NodeErrored)
    assert (result.error, result.error_class) == (
        "agent reviewer does not speak A2A by http",
        "bad_agent_card",
    )


# --- agents that answer with anything -------------------------------------------------------------


class Raw(Agent):
    """An agent that answers each call with these bytes, and leaves the connection open if it is told to."""

    def __init__(self, data: bytes, version: str = "1.0", *, streaming: bool = False) -> None:
        super().__init__(version, lambda *_: None, streaming=streaming)
        self.data = data
        self.stays = streaming
        self.left = asyncio.Event()

    async def __call__(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.method == "GET":
            await super().__call__(asked, writer)
            return
        writer.write(self.data)
        await writer.drain()
        if self.stays:
            await self.left.wait()
        writer.close()


def plain(body: bytes, header: bytes = b"X: y") -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return head + header + b"\r\n\r\n" + body


@BOTH
@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"1",
        b'"\xff"',
        b"[" * 100_000,
        b'{"jsonrpc":"2.0","id":"1","result":null}',
        b'{"jsonrpc":"2.0","id":"1","result":5}',
        b'{"jsonrpc":"2.0","id":"1","error":{"code":null}}',
        b'{"jsonrpc":"2.0","id":"1","result":{"task":{"id":5}}}',
        b'{"jsonrpc":"2.0","id":"1","result":{"message":{"messageId":"m","parts":[{"data":NaN}]}}}',
        b'{"jsonrpc":"2.0","id":"1","result":{"message":{"messageId":"m","parts":[{"text":"\\ud800"}]}}}',
    ],
)
async def test_an_answer_that_is_no_a2a(world_of: Any, version: str, body: bytes) -> None:
    world = await world_of(Raw(plain(body), version))
    result = await world.run()
    assert isinstance(result, NodeErrored), result
    assert result.error_class == "agent_error"
    assert result.error.startswith("agent reviewer ")


async def test_an_answer_with_headers_beyond_ascii(world_of: Any) -> None:
    task_json = json.dumps(_rpc("1", sent("1.0", task("1.0", "completed", artifacts=[{"text": "ok"}]))))
    world = await world_of(Raw(plain(task_json.encode(), b"Server: caf\xe9")))
    result = await world.run()
    assert isinstance(result, NodeSucceeded), result
    assert result.output == "ok"


async def test_an_answer_that_is_cut_off(world_of: Any) -> None:
    world = await world_of(Raw(plain(b"{", b"Content-Length: 200")))
    result = await world.run()
    assert isinstance(result, NodeErrored)
    assert result.error_class == "connection_reset"


async def test_an_answer_that_the_store_cannot_hold(world_of: Any) -> None:
    said = sent("1.0", task("1.0", "completed", artifacts=[{"text": "a\0b"}]))
    world = await world_of(Agent("1.0", lambda *_: said))
    result = await world.run()
    assert isinstance(result, NodeErrored)
    assert (result.error_class, result.retryable) == ("value_rejected", False)


async def test_an_input_that_a2a_cannot_say(world_of: Any) -> None:
    deep = {"code": json.loads("[" * 60 + "]" * 60)}
    world = await world_of(Agent("1.0", never_done))
    effect = RunNode(node=world.node(), visit=1, attempt=1, input=deep, state={}, key=KEY)
    result = await world.runner.run(effect, tenant_id="default")
    assert isinstance(result, NodeErrored)
    assert (result.error_class, result.retryable) == ("value_rejected", False)
    assert result.error.startswith("the input of agent reviewer cannot be sent: ")
    assert world.agent.methods == []


async def test_a_stream_that_stays_open_after_the_end(world_of: Any) -> None:
    done = sent("1.0", task("1.0", "completed", artifacts=[{"text": "ok"}]))
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    agent = Raw(head + _event("1", done), streaming=True)
    world = await world_of(agent)
    result = await world.run(stream=True, timeout_ms=3_000)
    agent.left.set()
    assert isinstance(result, NodeSucceeded), result
    assert result.output == "ok"


@pytest.mark.parametrize("state", ["failed", "completed"])
async def test_an_agent_that_gives_the_token_back_does_not_get_it_stored(world_of: Any, state: str) -> None:
    said = task("1.0", state, text="sent s3cret-token", artifacts=[{"data": {"got": "s3cret-token"}}])
    agent = Agent("1.0", lambda *_: sent("1.0", said))
    world = await world_of(agent, secrets=("TOKEN@127.0.0.1",), env={"TOKEN": "s3cret-token"})
    result = await world.run(token_env="TOKEN")
    assert "s3cret" not in str(result)
    assert "${TOKEN}" in str(result)


@pytest.mark.parametrize(("said", "spoken"), [("0.2.0", "0.3"), ("0.3.0", "0.3"), ("abc", "1.0")])
async def test_versions_that_the_sdk_does_not_know(world_of: Any, said: str, spoken: str) -> None:
    agent = Agent(spoken, lambda *_: sent(spoken, task(spoken, "completed", artifacts=[{"text": "ok"}])))
    world = await world_of(agent)
    one = {"url": f"{world.server.url}/rpc", "protocolBinding": "JSONRPC", "protocolVersion": said}
    agent._card_fields = {"supportedInterfaces": [one]}
    result = await world.run()
    assert isinstance(result, NodeSucceeded), result
    assert result.output == "ok"
