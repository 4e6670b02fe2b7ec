"""``http`` nodes through the REST API: what is sent, what the log shows, and what it must never show."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest

from actors.settings import Settings
from tests.fixtures.api import Api, Prepared, assert_refused, opened
from tests.fixtures.http_server import Asked, http_server, reply, response

CANARY = "canary-7f3a91"


def fetch(url: str, **kind: Any) -> dict[str, Any]:
    node = {"kind": {"type": "http", "url": url, **kind}}
    return {
        "workflow_id": "fetch",
        "version": "1.0.0",
        "nodes": {"fetch": node},
        "edges": [{"from": "fetch", "to": "end"}],
        "retry_policies": {
            "quick": {
                "max_attempts": 3,
                "backoff": "fixed",
                "initial_delay": 0.02,
                "max_delay": 1,
                "jitter": False,
                "retryable_on": ["server_error"],
            }
        },
    }


@pytest.fixture
async def http_api(prepared: Prepared, tmp_path: Path) -> AsyncIterator[Api]:
    """The API of an installation that holds a secret for this machine."""
    copyfile(prepared.bare, tmp_path / "runtime.db")
    settings = Settings(http_allow=("127.0.0.0/8",), secrets=("CANARY@127.0.0.1",), env={"CANARY": CANARY})
    async with opened(tmp_path / "runtime.db", dict(prepared.tokens), settings) as api:
        yield api


async def test_an_answer_becomes_state(http_api: Api) -> None:
    async with http_server(reply(200, {"title": "found"})) as server:
        await http_api.register(fetch(server.url + "/{{ state.id }}", query={"page": "{{ state.page }}"}))
        execution_id = await http_api.start("fetch", id=7, page=2)
        ended = await http_api.settled(execution_id)
        assert ended["state"]["fetch"] == {"title": "found"}
        assert server.asked[0].path == "/7?page=2"
        events = await http_api.events(execution_id)
        assert [event["kind"] for event in events][-3:] == [
            "ToolCallCompleted",
            "NodeCompleted",
            "WorkflowCompleted",
        ]
        called = events[-3]["data"]
        assert (called["tool"], called["protocol"]) == ("fetch", "http")


async def test_every_attempt_has_one_key(http_api: Api) -> None:
    async def second_time(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(response(503 if len(server.asked) < 3 else 201, "later"))

    async with http_server(second_time) as server:
        await http_api.register(fetch(server.url, method="POST", body={"n": 1}, retry_policy="quick"))
        execution_id = await http_api.start("fetch")
        assert (await http_api.settled(execution_id))["status"] == "completed"
        assert [asked.headers["idempotency-key"] for asked in server.asked] == [f"{execution_id}:fetch:1"] * 3
        assert (await http_api.kinds(execution_id)).count("RetryScheduled") == 2


async def test_what_cannot_be_reached_fails_the_execution_with_a_reason(http_api: Api) -> None:
    await http_api.register(fetch("http://169.254.169.254/latest/meta-data"))
    ended = await http_api.settled(await http_api.start("fetch"))
    assert ended["status"] == "failed"
    assert ended["error"] == (
        "node fetch failed: 169.254.169.254 is not a public address: it may not be reached"
    )


async def test_a_variable_that_is_no_secret_of_ours_is_refused_at_registration(http_api: Api) -> None:
    answer = await http_api.post(
        "/workflows", {"ir": fetch("https://example.com", headers={"A": "{{ env.HOME }}"})}
    )
    assert_refused(
        answer,
        400,
        "bad request: node 'fetch': headers reads env.HOME, which is not allowed (JAMJET_TEMPLATE_ENV)",
    )


@pytest.mark.parametrize("status", [200, 404])
async def test_a_secret_is_seen_by_its_host_and_by_nobody_else(
    http_api: Api, tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    caplog.set_level(logging.DEBUG)

    async def echo(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(response(status, {"you sent": asked.headers}))

    async with http_server(echo) as server:
        ir = fetch(server.url, headers={"Authorization": "Bearer {{ env.CANARY }}"}, response="full")
        await http_api.register(ir)
        execution_id = await http_api.start("fetch")
        ended = await http_api.settled(execution_id)
        assert server.asked[0].headers["authorization"] == f"Bearer {CANARY}"
    shown = [str(ended), str(await http_api.events(execution_id)), caplog.text]
    stored = files_of(tmp_path)
    assert "Bearer ${CANARY}" in stored[0] + stored[-1]
    assert not [text for text in (*shown, *stored) if CANARY in text]


def files_of(folder: Path) -> list[str]:
    """All that the database has written, byte by byte."""
    return [path.read_bytes().decode("latin-1") for path in sorted(folder.glob("runtime.db*"))]


async def test_a_secret_is_not_sent_elsewhere(http_api: Api) -> None:
    async with http_server(reply(200)) as server:
        url = f"http://localhost:{server.port}"
        await http_api.register(fetch(url, headers={"Authorization": "{{ env.CANARY }}"}))
        ended = await http_api.settled(await http_api.start("fetch"))
        assert ended["error"] == "node fetch failed: the secret CANARY may not be sent to localhost"
        assert server.asked == []
