"""The stream of an execution's events, over the application alone. Live gaps are seen in tests/cluster."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import orjson
import pytest

from api import auth, streaming
from tests.fixtures.api import Api, assert_refused, eventually

Frame = dict[str, Any]


def frames_of(text: str) -> list[Frame]:
    """Frames as ``{"id", "event", "data"}``; a comment is ``{"comment"}``."""
    found: list[Frame] = []
    for block in text.split("\n\n"):
        lines = [line.partition(": ")[::2] for line in block.splitlines()]
        if lines and lines[0][0] == "":
            found.append({"comment": lines[0][1]})
        elif lines:
            fields: Frame = dict(lines)
            found.append({**fields, "data": orjson.loads(fields["data"])})
    return found


async def stream(api: Api, execution_id: str, query: str = "", **headers: str) -> list[Frame]:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await api.get(f"/executions/{execution_id}/events/stream{query}", headers=given)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    return frames_of(answer.text)


async def ended(api: Api) -> str:
    execution_id = await api.start("count", n=1)
    assert (await api.settled(execution_id))["status"] == "completed"
    return execution_id


async def test_it_has_every_event_as_the_list_has_it_and_then_an_end(api: Api) -> None:
    execution_id = await ended(api)
    frames = await stream(api, execution_id)
    assert [frame["data"] for frame in frames[:-1]] == await api.events(execution_id)
    assert [frame["id"] for frame in frames[:-1]] == [str(n) for n in range(1, len(frames))]
    assert [frame["event"] for frame in frames[-2:]] == ["WorkflowCompleted", "end"]
    assert frames[-1] == {"event": "end", "data": {"status": "completed"}}


@pytest.mark.parametrize(("query", "headers"), [("?after=4", {}), ("", {"last_event_id": "4"})])
async def test_it_goes_on_where_a_client_was(api: Api, query: str, headers: dict[str, str]) -> None:
    execution_id = await ended(api)
    frames = await stream(api, execution_id, query, **headers)
    assert frames[0]["id"] == "5"


async def test_a_client_that_has_seen_everything_gets_no_more(api: Api) -> None:
    execution_id = await ended(api)
    last = (await api.events(execution_id))[-1]["sequence"]
    frames = await asyncio.wait_for(stream(api, execution_id, f"?after={last}"), 5)
    assert [frame["event"] for frame in frames] == ["end"]


async def test_a_client_that_says_more_than_there_is_is_told_of_the_end(api: Api) -> None:
    execution_id = await api.paused("approve", n=1)
    following = asyncio.create_task(stream(api, execution_id, "?after=500"))
    await eventually(lambda: listened(api, execution_id))
    await api.post(f"/executions/{execution_id}/cancel")
    frames = await asyncio.wait_for(following, 10)
    assert frames == [{"event": "end", "data": {"status": "cancelled"}}]


@pytest.mark.parametrize("seen", ["x", "-1", "1.5", "9" * 30])
async def test_a_last_event_id_that_is_none_is_refused(api: Api, seen: str) -> None:
    answer = await api.get(f"/executions/{await ended(api)}/events/stream", headers={"Last-Event-ID": seen})
    assert_refused(answer, 400, f"bad request: Last-Event-ID: must be a sequence, not {seen[:40]!r}")


async def test_typed_events_under_the_prefix(api: Api) -> None:
    answer = await api.get(f"/compat/executions/{await ended(api)}/events/stream")
    first = frames_of(answer.text)[0]
    assert first["event"] == "WorkflowStarted"
    assert first["data"]["kind"]["type"] == "workflow_started"


async def test_what_is_unknown_or_anothers_is_404(api: Api) -> None:
    execution_id = await ended(api)
    for role, known in (("developer", "exec_nothing"), ("other-developer", execution_id)):
        answer = await api.get(f"/executions/{known}/events/stream", role=role)
        assert_refused(answer, 404, f"not found: execution {known}")


async def test_it_follows_an_execution_to_its_end(api: Api) -> None:
    execution_id = await api.paused("approve", n=1)
    following = asyncio.create_task(stream(api, execution_id))
    await eventually(lambda: listened(api, execution_id))
    answer = await api.post(f"/executions/{execution_id}/approve", {"decision": "approved"})
    assert answer.status_code == 200
    frames = await asyncio.wait_for(following, 10)
    assert "ApprovalReceived" in [frame["event"] for frame in frames]
    assert frames[-1]["data"] == {"status": "completed"}


async def listened(api: Api, execution_id: str) -> bool:
    return execution_id in api.executions._watcher.listened


async def test_what_a_model_says_comes_before_the_event_that_has_it_whole(api: Api) -> None:
    execution_id = await api.hanging()
    following = asyncio.create_task(stream(api, execution_id))
    await eventually(lambda: listened(api, execution_id))
    for text in ("Hel", "lo\n", "ü"):
        api.executions.said(f"{execution_id}:only:1", 1, text)
    api.executions.said("exec_other:only:1", 1, "not ours")
    api.functions.released.set()
    frames = await asyncio.wait_for(following, 10)
    tokens = [frame for frame in frames if frame["event"] == "token"]
    assert [token["data"]["text"] for token in tokens] == ["Hel", "lo\n", "ü"]
    assert tokens[0] == {
        "event": "token",
        "data": {"node_id": "only", "visit": 1, "attempt": 1, "text": "Hel"},
    }
    kinds = [frame["event"] for frame in frames]
    assert kinds.index("token") < kinds.index("NodeCompleted")
    assert not await listened(api, execution_id), "it listens no more"


async def test_a_client_that_vanishes_while_it_is_sent_something_is_forgotten_at_once() -> None:
    told: list[str] = []

    async def body() -> AsyncGenerator[bytes]:
        try:
            while True:
                yield b"frame"
        finally:
            told.append("listens no more")

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        await asyncio.sleep(0.005)

    answer = streaming.EventStream(body(), lambda: told.append("is counted out"))
    await answer({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)
    assert sorted(told) == ["is counted out", "listens no more"]


async def test_a_quiet_stream_is_kept_open_by_comments(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "PING_S", 0.02)
    monkeypatch.setattr(streaming, "LOOK_S", 0.02)
    execution_id = await api.paused("approve", n=1)
    following = asyncio.create_task(stream(api, execution_id))
    await asyncio.sleep(0.1)
    await api.post(f"/executions/{execution_id}/cancel")
    frames = await asyncio.wait_for(following, 10)
    assert {"comment": "ping"} in frames
    assert frames[-1]["data"] == {"status": "cancelled"}


async def test_a_revoked_token_ends_its_stream(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "LOOK_S", 0.02)
    monkeypatch.setattr(auth, "REMEMBERED_S", 0.0)
    api.tokens["brief"] = await api.create_token("brief", "viewer")
    execution_id = await api.paused("approve", n=1)
    path = f"/executions/{execution_id}/events/stream"
    following = asyncio.create_task(api.get(path, role="brief"))
    await eventually(lambda: listened(api, execution_id))
    assert await api.store.tenant("default").revoke_token("brief")
    answer = await asyncio.wait_for(following, 10)
    assert frames_of(answer.text)[-1] == {
        "event": "error",
        "data": {"error": "invalid or expired token", "code": "unauthorized"},
    }


async def test_streams_of_one_token_are_bounded(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "STREAMS_OF_ONE_MAX", 1)
    execution_id = await api.paused("approve", n=1)
    following = asyncio.create_task(stream(api, execution_id))
    await eventually(lambda: listened(api, execution_id))
    path = f"/executions/{execution_id}/events/stream"
    refused = await api.get(path)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
    other = asyncio.create_task(api.get(path, role="viewer"))
    await api.post(f"/executions/{execution_id}/cancel")
    await asyncio.wait_for(asyncio.gather(following, other), 10)
    assert (await api.get(path)).status_code == 200, "its place is free again"
