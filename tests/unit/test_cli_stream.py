"""Following by stream: tokens as they come, resumption, and the long poll where there is no stream."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.cli import client as client_module
from api.cli import event_stream
from api.cli import main as cli
from api.cli.live_text import LiveText
from tests.fixtures.rest_stub import Frames, Stub, event, frame, running_stub

ID = "exec_00000000000000000000000000000001"
STREAM = f"GET /executions/{ID}/events/stream"
POLL = f"GET /executions/{ID}/events"


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stub]:
    monkeypatch.setattr(client_module, "_RETRY_DELAYS_S", (0.0, 0.0))
    monkeypatch.setattr(event_stream, "_PAUSE_S", 0.01)
    monkeypatch.delenv("JAMJET_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    with running_stub() as stub:
        monkeypatch.setenv("JAMJET_URL", stub.url)
        stub.on("POST /executions", (201, {"execution_id": ID}))
        stub.on(
            f"GET /executions/{ID}", (200, {"execution_id": ID, "status": "completed", "state": {"a": 1}})
        )
        yield stub


def sent(sequence: int, kind: str, **more: Any) -> bytes:
    return frame(kind, event(sequence, kind, **more), sequence)


def token(text: str, node_id: str = "draft", attempt: int = 1) -> bytes:
    return frame("token", {"node_id": node_id, "visit": 1, "attempt": attempt, "text": text})


def streams(stub: Stub) -> list[dict[str, Any]]:
    return [asked for asked in stub.asked if asked["route"] == STREAM]


def test_tokens_are_shown_on_stderr_between_the_events(
    stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = (sent(1, "NodeStarted"), token("Hel"), b": ping\n\n", token("lo"), sent(2, "WorkflowCompleted"))
    stub.on(STREAM, (200, Frames(parts)))

    assert cli.main(["run", "greet", "--stream"]) == 0

    out, err = capsys.readouterr()
    assert json.loads(out) == {"a": 1}
    lines = err.splitlines()
    said = lines.index("draft> Hello")
    assert "NodeStarted" in lines[said - 1]
    assert "WorkflowCompleted" in lines[said + 1]
    assert POLL not in {asked["route"] for asked in stub.asked}


def test_without_stream_the_tokens_are_not_shown(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.on(STREAM, (200, Frames((token("Hello"), sent(1, "WorkflowCompleted")))))

    assert cli.main(["run", "greet"]) == 0

    assert "Hello" not in capsys.readouterr().err


@pytest.mark.parametrize("is_cut", [True, False])
def test_a_broken_stream_is_resumed_after_the_last_event_and_shows_none_twice(
    stub: Stub, capsys: pytest.CaptureFixture[str], is_cut: bool
) -> None:
    stub.on(
        STREAM,
        (200, Frames((sent(4, "NodeStarted"), sent(5, "NodeCompleted")), is_cut=is_cut)),
        (200, Frames((sent(5, "NodeCompleted"), sent(6, "WorkflowCompleted")))),
    )

    assert cli.main(["events", ID, "--follow", "--after", "3"]) == 0

    err = capsys.readouterr().err
    assert [err.count(kind) for kind in ("NodeStarted", "NodeCompleted", "WorkflowCompleted")] == [1, 1, 1]
    first, second = streams(stub)
    assert first["query"] == {"after": "3"}
    assert "last-event-id" not in first["headers"]
    assert second["headers"]["last-event-id"] == "5"
    assert second["query"] == {}


def test_an_end_without_an_event_ends_it_too(stub: Stub) -> None:
    stub.on(STREAM, (200, Frames((frame("end", {"status": "completed"}),))))

    assert cli.main(["events", ID, "--follow", "--after", "9"]) == 0


@pytest.mark.parametrize(
    "answer", [(404, {"error": "not found"}), (200, {"events": []}), (503, {"error": "full"}), (0, None)]
)
def test_where_there_is_no_stream_the_long_poll_goes_on(stub: Stub, answer: Any) -> None:
    stub.on(STREAM, answer)
    stub.on(POLL, (200, {"events": [event(1, "WorkflowCompleted")]}))

    assert cli.main(["run", "greet", "--stream"]) == 0

    assert stub.sent(POLL)["query"]["after"] == "0"


def test_the_long_poll_goes_on_where_the_stream_got_to(stub: Stub) -> None:
    stub.on(STREAM, (200, Frames((sent(1, "NodeStarted"),))), (404, {"error": "not found"}))
    stub.on(POLL, (200, {"events": [event(2, "WorkflowCompleted")]}))

    assert cli.main(["events", ID, "--follow"]) == 0

    assert stub.sent(POLL)["query"]["after"] == "1"


def test_a_silent_stream_ends_at_the_timeout(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.on(STREAM, (200, Frames((sent(1, "NodeStarted"), 1.5, sent(2, "WorkflowCompleted")))))
    began = time.monotonic()

    assert cli.main(["events", ID, "--follow", "--timeout", "0.3"]) == 124

    assert time.monotonic() - began < 1.2
    assert "has not ended after 0.3 s" in capsys.readouterr().err


@pytest.mark.parametrize(("status", "exit_code"), [(401, 4), (403, 4)])
def test_a_refusal_is_said(
    stub: Stub, capsys: pytest.CaptureFixture[str], status: int, exit_code: int
) -> None:
    stub.on(STREAM, (status, {"error": "invalid or expired token"}))

    assert cli.main(["events", ID, "--follow"]) == exit_code

    assert "invalid or expired token" in capsys.readouterr().err
    assert len(streams(stub)) == 1


def test_a_token_that_is_revoked_meanwhile_ends_it(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    refusal = {"error": "invalid or expired token", "code": "unauthorized"}
    stub.on(STREAM, (200, Frames((sent(1, "NodeStarted"), frame("error", refusal)))), (401, refusal))

    assert cli.main(["events", ID, "--follow"]) == 4

    assert "NodeStarted" in capsys.readouterr().err


def test_an_unknown_execution_is_not_found(stub: Stub) -> None:
    assert cli.main(["events", ID, "--follow"]) == 3


def test_no_server_is_said_in_one_sentence(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["events", ID, "--follow", "--url", "http://127.0.0.1:9"]) == 5

    assert "no server answers at http://127.0.0.1:9" in capsys.readouterr().err


def test_stream_wants_to_wait(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "greet", "--stream", "--no-wait"]) == 2

    assert stub.asked == []


def test_each_speaker_has_lines_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    text = LiveText()
    for node_id, attempt, piece in [("a", 1, "one"), ("b", 1, "two"), ("b", 2, "again\x1b[2J")]:
        text.add({"node_id": node_id, "visit": 1, "attempt": attempt, "text": piece})
    text.end_line()
    text.end_line()

    assert capsys.readouterr().err == "a> one\nb> two\nb (attempt 2)> again\ufffd[2J\n"
