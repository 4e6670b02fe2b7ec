"""The client of a child, against a child that is played by the test."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from actors.functions import FunctionCall, FunctionClient, WorkerLost
from actors.functions import client as client_module


class Played:
    """A child: the test reads its calls and writes its answers."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.greeting: Any = {"ready": 1}
        self._connected: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def open(self) -> None:
        self._server = await asyncio.start_unix_server(self._accept, self.path)

    async def meet(self) -> None:
        self.reader, self.writer = await self._connected.get()

    async def read(self) -> Any:
        (length,) = struct.unpack(">I", await self.reader.readexactly(4))
        return json.loads(await self.reader.readexactly(length))

    def write(self, message: Any) -> None:
        data = json.dumps(message).encode()
        self.writer.write(struct.pack(">I", len(data)) + data)

    async def hang_up(self) -> None:
        self.writer.close()
        await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)

    async def close(self) -> None:
        self._server.close()
        if hasattr(self, "writer"):
            await self.hang_up()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        if self.greeting is None:
            writer.close()
            return
        self.write(self.greeting)
        self._connected.put_nowait((reader, writer))


class Told:
    """What the client told its owner."""

    def __init__(self) -> None:
        self.stuck = asyncio.Event()
        self.lost = asyncio.Event()


@pytest_asyncio.fixture
async def child(tmp_path: Path) -> AsyncIterator[Played]:
    played = Played(tmp_path / "s")
    await played.open()
    yield played
    await played.close()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest_asyncio.fixture
async def client(child: Played, told: Told) -> AsyncIterator[FunctionClient]:
    connected = FunctionClient(on_stuck=told.stuck.set, on_lost=told.lost.set)
    await connected.connect(child.path)
    await child.meet()
    yield connected
    connected.close()
    await told.lost.wait()


def call(function: str = "f", tenant_id: str = "t", **fields: Any) -> FunctionCall:
    return FunctionCall(module="m", function=function, key="k", tenant_id=tenant_id, **fields)


async def test_answers_come_in_any_order(child: Played, client: FunctionClient) -> None:
    first = asyncio.create_task(client.call(call("first")))
    second = asyncio.create_task(client.call(call("second")))
    ids = {request["function"]: request["id"] for request in (await child.read(), await child.read())}
    child.write({"id": ids["second"], "ok": True, "patch": {"n": 2}, "duration_ms": 3})
    assert (await second).patch == {"n": 2}
    assert not first.done()
    child.write({"id": ids["first"], "ok": False, "error_class": "io_error", "error": "e", "traceback": "t"})
    result = await first
    assert (result.ok, result.error_class, result.error, result.traceback) == (False, "io_error", "e", "t")


async def test_the_request_has_what_was_given_and_no_more(child: Played, client: FunctionClient) -> None:
    tasks = [
        asyncio.create_task(client.call(call(state={"a": 1}))),
        asyncio.create_task(client.call(call(kwargs={"b": 2}, mode="set"), timeout_ms=50_000)),
    ]
    base = {"module": "m", "function": "f", "key": "k"}
    assert await child.read() == {"id": 1, **base, "mode": "merge", "state": {"a": 1}}
    assert await child.read() == {"id": 2, **base, "mode": "set", "kwargs": {"b": 2}, "timed": True}
    for number in (1, 2):
        child.write({"id": number, "ok": True})
    await asyncio.gather(*tasks)


async def test_tenants_take_turns_and_the_number_in_flight_is_bounded(
    child: Played, client: FunctionClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "IN_FLIGHT_MAX", 2)
    names = ["a1", "a2", "a3", "a4", "b1", "b2", "c1"]
    tasks = [asyncio.create_task(client.call(call(name, tenant_id=name[0]))) for name in names]
    order = []
    requests = [await child.read(), await child.read()]
    assert client.pending == 7
    while requests:
        request = requests.pop(0)
        order.append(request["function"])
        child.write({"id": request["id"], "ok": True})
        if len(order) + len(requests) < len(names):
            requests.append(await child.read())
    await asyncio.gather(*tasks)
    assert order == ["a1", "a2", "a3", "b1", "c1", "a4", "b2"]
    assert client.pending == 0


async def test_bytes_that_wait_to_be_written_are_bounded(child: Played, client: FunctionClient) -> None:
    text = "x" * 700_000
    tasks = [asyncio.create_task(client.call(call(state={"text": text}))) for _ in range(8)]
    await asyncio.sleep(0)
    assert len(client._sent) == 2
    for _ in tasks:
        child.write({"id": (await child.read())["id"], "ok": True})
    await asyncio.gather(*tasks)


async def test_a_timeout_counts_from_the_start_in_the_child(child: Played, client: FunctionClient) -> None:
    task = asyncio.create_task(client.call(call(), timeout_ms=1))
    request = await child.read()
    other = asyncio.create_task(client.call(call(), timeout_ms=60_000))
    child.write({"id": (await child.read())["id"], "ok": True})
    await other
    assert not task.done()
    child.write({"id": request["id"], "event": "started"})
    result = await task
    assert (result.error_class, result.error) == ("timeout", "m.f did not finish in 1 ms")
    assert await child.read() == {"cancel": request["id"]}


async def test_a_late_answer_is_dropped(child: Played, client: FunctionClient, told: Told) -> None:
    task = asyncio.create_task(client.call(call(), timeout_ms=1))
    child.write({"id": (await child.read())["id"], "event": "started"})
    assert (await task).error_class == "timeout"
    child.write({"id": (await child.read())["cancel"], "ok": True})
    child.write({"id": 999, "ok": True})
    after = asyncio.create_task(client.call(call()))
    child.write({"id": (await child.read())["id"], "ok": True})
    assert (await after).ok
    assert not told.stuck.is_set()


async def test_a_call_that_cannot_be_stopped_is_told_at_once(
    child: Played, client: FunctionClient, told: Told
) -> None:
    task = asyncio.create_task(client.call(call()))
    request = await child.read()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await child.read() == {"cancel": request["id"]}
    child.write({"id": request["id"], "event": "stuck"})
    await told.stuck.wait()


async def test_a_cancelled_call_that_does_not_answer_counts_as_stuck(
    child: Played, client: FunctionClient, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "CANCEL_S", 0.01)
    task = asyncio.create_task(client.call(call()))
    await child.read()
    task.cancel()
    await told.stuck.wait()


async def test_a_call_cancelled_in_the_queue_is_never_sent(
    child: Played, client: FunctionClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "IN_FLIGHT_MAX", 1)
    tasks = [asyncio.create_task(client.call(call(name))) for name in ("one", "two", "three")]
    request = await child.read()
    tasks[1].cancel()
    await asyncio.gather(tasks[1], return_exceptions=True)
    child.write({"id": request["id"], "ok": True})
    request = await child.read()
    assert request["function"] == "three"
    child.write({"id": request["id"], "ok": True})
    await asyncio.gather(tasks[0], tasks[2])


async def test_the_end_of_the_child_tells_what_was_sent(
    child: Played, client: FunctionClient, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "IN_FLIGHT_MAX", 1)
    tasks = [asyncio.create_task(client.call(call())) for _ in range(2)]
    await child.read()
    await child.hang_up()
    lost = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(error, WorkerLost) and error.sent for error in lost] == [True, False]
    assert isinstance(lost[1], WorkerLost)
    assert told.lost.is_set()
    await client.wait_idle()


async def test_refusing_gives_back_what_was_not_sent(
    child: Played, client: FunctionClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "IN_FLIGHT_MAX", 1)
    tasks = [asyncio.create_task(client.call(call())) for _ in range(2)]
    request = await child.read()
    client.refuse()
    with pytest.raises(WorkerLost):
        await tasks[1]
    with pytest.raises(WorkerLost):
        await client.call(call())
    child.write({"id": request["id"], "ok": True})
    assert (await tasks[0]).ok
    await client.wait_idle()


@pytest.mark.parametrize("frame", [struct.pack(">I", 3) + b"{x}", struct.pack(">I", 2**32 - 1)])
async def test_nonsense_from_the_child_ends_the_connection(
    child: Played, client: FunctionClient, frame: bytes
) -> None:
    task = asyncio.create_task(client.call(call()))
    await child.read()
    child.writer.write(frame)
    with pytest.raises(WorkerLost):
        await task


async def test_arguments_that_are_not_json_fail_their_call_alone(
    child: Played, client: FunctionClient
) -> None:
    result = await client.call(call(kwargs={"a": object()}))
    assert result.error_class == "value_rejected"
    task = asyncio.create_task(client.call(call()))
    child.write({"id": (await child.read())["id"], "ok": True})
    assert (await task).ok


async def test_a_child_that_ends_before_it_greets(child: Played) -> None:
    child.greeting = None
    told = Told()
    client = FunctionClient(on_stuck=told.stuck.set, on_lost=told.lost.set)
    with pytest.raises(ConnectionResetError):
        await client.connect(child.path)
    assert told.lost.is_set()


async def test_a_child_that_does_not_greet(child: Played) -> None:
    child.greeting = {"id": 0, "event": "other"}
    told = Told()
    client = FunctionClient(on_stuck=told.stuck.set, on_lost=told.lost.set)
    with pytest.raises(TimeoutError):
        await client.connect(child.path, timeout_s=0.05)
    client.close()
    await told.lost.wait()
