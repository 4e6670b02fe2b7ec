"""Event streams through HAProxy: live, unbuffered, resumable on another replica, and room beside them."""

import contextlib
import http.client
import itertools
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fixtures.server import Server, eventually

pytestmark = pytest.mark.timeout(180)

WORDS = 500
TALK = {
    "workflow_id": "talk",
    "version": "1.0.0",
    "nodes": {
        "talk": {
            "kind": {
                "type": "model",
                "model": "talker",
                "prompt": "talk",
            }
        }
    },
    "edges": [{"from": "talk", "to": "end"}],
    "models": {
        "talker": {
            "provider": "scripted",
            "model": "talker",
            "responses": [" ".join(f"word-{n}" for n in range(WORDS))],
            "token_ms": 5,
        }
    },
}
IDLE = 200


class Stream:
    """One open stream, frame by frame, each with the time at which it came."""

    def __init__(self, server: Server, execution_id: str, *, after: int = 0) -> None:
        self._connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
        self._connection.request(
            "GET",
            f"/executions/{execution_id}/events/stream",
            headers={"Authorization": f"Bearer {server.token}", "Last-Event-ID": str(after)},
        )
        self.response = self._connection.getresponse()
        assert self.response.status == 200, self.response.read()

    def frames(self) -> Iterator[tuple[float, str, str, Any]]:
        """(time, id, event, data) until the stream ends; a broken connection ends it too."""
        fields: dict[str, str] = {}
        with contextlib.suppress(OSError, http.client.HTTPException):
            while line := self.response.readline():
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name:
                    fields[name] = value
                elif "event" in fields:
                    yield time.monotonic(), fields.get("id", ""), fields["event"], json.loads(fields["data"])
                    fields = {}

    def close(self) -> None:
        self._connection.close()


def test_words_of_a_model_come_one_by_one(server: Server) -> None:
    server.register(TALK)
    execution_id = server.start_execution("talk")
    stream = Stream(server, execution_id)
    seen = list(stream.frames())
    stream.close()
    words = [(at, data["text"]) for at, _, event, data in seen if event == "token"]
    said = "".join(text for _, text in words)
    whole = server.execution(execution_id)["state"]["talk"]
    assert whole.endswith(said)
    assert len(said) > len(whole) * 0.9, "most of it was still to come when the stream began"
    gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(words)]
    assert words[-1][0] - words[0][0] > WORDS * 0.9 * 0.005 * 0.9, "they came in one lump"
    assert max(gaps) < 1.0
    assert len({round(at, 3) for at, _ in words}) > WORDS // 10
    assert [event for _, _, event, _ in seen][-3:] == ["NodeCompleted", "WorkflowCompleted", "end"]


def test_a_stream_goes_on_after_its_replica_was_killed(server: Server) -> None:
    execution_id = server.start_execution("slow", {"pause": 1})
    stream = Stream(server, execution_id)
    seen: list[str] = []
    for _, sequence, event, _ in stream.frames():
        seen.append(sequence)
        if event == "NodeCompleted":
            [replica] = server.pids("ray::ServeReplica")
            os.kill(replica, signal.SIGKILL)
            break
    list(stream.frames())
    stream.close()

    def again() -> Stream | None:
        with contextlib.suppress(OSError, http.client.HTTPException, AssertionError):
            return Stream(server, execution_id, after=int(seen[-1]))
        return None

    resumed = eventually(again, what="another replica")
    rest = [(sequence, event) for _, sequence, event, _ in resumed.frames()]
    resumed.close()
    assert rest[-1] == ("", "end")
    sequences = [int(sequence) for sequence in (*seen, *(s for s, _ in rest)) if sequence]
    assert sequences == list(range(1, len(sequences) + 1)), "an event was missed, or came twice"
    assert server.execution(execution_id)["status"] == "completed"


def test_idle_streams_leave_room_for_other_requests(server: Server) -> None:
    execution_id = server.start_execution("approve", {"n": 1})
    server.await_status(execution_id, "paused")
    streams = [Stream(server, execution_id) for _ in range(IDLE)]
    began = time.monotonic()
    for _ in range(20):
        status, answer = server.request(
            "POST", "/executions", {"workflow_id": "three", "input": {}}, {"Prefer": "wait=30"}
        )
        assert (status, answer["status"]) == (201, "completed")
    assert time.monotonic() - began < 20
    ended: list[str] = []

    def follow(stream: Stream) -> None:
        ended.extend(event for _, _, event, _ in stream.frames() if event == "end")
        stream.close()

    threads = [threading.Thread(target=follow, args=(stream,)) for stream in streams]
    for thread in threads:
        thread.start()
    server.persist("POST", f"/executions/{execution_id}/approve", {"decision": "approved"})
    for thread in threads:
        thread.join(60)
    assert len(ended) == IDLE


def test_a_client_that_goes_away_leaves_nothing_behind(server: Server) -> None:
    """As many streams as one token may have, again and again: each place must become free."""
    execution_id = server.start_execution("approve", {"n": 1})
    server.await_status(execution_id, "paused")
    for _ in range(3):
        streams = [Stream(server, execution_id) for _ in range(IDLE)]
        for stream in streams:
            with contextlib.suppress(OSError):
                stream._connection.sock.shutdown(socket.SHUT_RDWR)
            stream.close()
    server.persist("POST", f"/executions/{execution_id}/cancel")
    assert server.await_status(execution_id, "cancelled")
