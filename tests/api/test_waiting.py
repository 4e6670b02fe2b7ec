"""Waiting for an execution: ``?wait=`` and ``Prefer: wait``."""

import asyncio
import time
from typing import Any

import pytest

from tests.fixtures.api import Api

START = {"workflow_id": "count", "input": {"n": 1}}
HANG = {"workflow_id": "hang", "input": {}}


async def timed(request: Any) -> tuple[Any, float]:
    began = time.monotonic()
    return await request, time.monotonic() - began


WAYS: list[tuple[str, dict[str, str]]] = [
    ("?wait=10", {}),
    ("", {"Prefer": "wait=10"}),
    ("", {"Prefer": "respond-async, wait=10"}),
    ("", {"Prefer": "Wait=10"}),
    ("", {"Prefer": "wait = 10"}),
    ("", {"Prefer": "wait=10; strict"}),
    ("?wait=10", {"Prefer": "wait=0"}),
]


@pytest.mark.parametrize(("query", "headers"), WAYS)
async def test_a_start_may_wait_for_the_end(api: Api, query: str, headers: dict[str, str]) -> None:
    answer = await api.post(f"/executions{query}", START, headers=headers)
    body = answer.json()
    assert (answer.status_code, body.get("status"), body.get("state")) == (201, "completed", {"n": 2})
    assert answer.headers["location"] == f"/executions/{body['execution_id']}"
    assert answer.headers["preference-applied"] == "wait=10"


async def test_a_start_may_wait_for_a_pause(api: Api) -> None:
    answer = await api.post("/executions?wait=10", {"workflow_id": "approve"})
    assert answer.json()["status"] == "paused"


async def test_after_its_time_the_answer_is_as_things_stand(api: Api) -> None:
    answer, took = await timed(api.post("/executions?wait=0.2", HANG))
    assert (answer.status_code, answer.json()["status"]) == (201, "running")
    path = f"/executions/{answer.json()['execution_id']}"
    answer, again = await timed(api.get(f"{path}?wait=0.2"))
    assert (answer.status_code, answer.json()["status"]) == (200, "running")
    assert min(took, again) >= 0.2


@pytest.mark.parametrize("query", ["", "?wait=0"])
async def test_reading_without_a_wait_answers_at_once(api: Api, query: str) -> None:
    answer = await api.get(f"/executions/{await api.hanging()}{query}")
    assert answer.json()["status"] == "running"


async def test_waiting_for_what_has_ended_answers_at_once(api: Api) -> None:
    execution_id = await api.start("count")
    await api.settled(execution_id)
    answer, took = await timed(api.get(f"/executions/{execution_id}?wait=60"))
    assert answer.json()["status"] == "completed"
    assert took < 30


async def test_everyone_who_waits_is_answered_when_it_ends(api: Api) -> None:
    execution_id = await api.hanging()
    path = f"/executions/{execution_id}?wait=20"
    waiting = [asyncio.create_task(api.get(path)) for _ in range(20)]
    done, _ = await asyncio.wait(waiting, timeout=0.1)
    assert not done
    api.functions.released.set()
    answers = await asyncio.gather(*waiting)
    assert {answer.json()["status"] for answer in answers} == {"completed"}


async def test_waiting_for_what_is_unknown_is_404_at_once(api: Api) -> None:
    answer, took = await timed(api.get("/executions/exec_1?wait=60"))
    assert answer.status_code == 404
    assert took < 30


BAD_WAITS = ["-1", "61", "soon", "nan", "inf", "", "1e9", "0x10"]


@pytest.mark.parametrize("wait", BAD_WAITS)
async def test_a_wait_that_cannot_be_is_400(api: Api, wait: str) -> None:
    execution_id = await api.hanging()
    for path in (f"/executions/{execution_id}", f"/executions/{execution_id}/events"):
        answer = await api.get(f"{path}?wait={wait}")
        assert answer.status_code == 400
        assert answer.json()["error"].startswith(
            "bad request: wait: must be a number of seconds from 0 to 60"
        )


async def test_a_preference_is_met_as_far_as_can_be(api: Api) -> None:
    answer = await api.post("/executions", START, headers={"Prefer": "wait=3600"})
    assert (answer.json()["status"], answer.headers["preference-applied"]) == ("completed", "wait=60")


@pytest.mark.parametrize(
    "prefer", ["respond-async", "handling=strict", "", "wait", "wait=soon", "wait=-1", "await=5"]
)
async def test_other_preferences_are_ignored(api: Api, prefer: str) -> None:
    answer = await api.post("/executions", HANG, headers={"Prefer": prefer})
    assert answer.json().keys() == {"execution_id"}
    assert "preference-applied" not in answer.headers


async def test_who_goes_away_while_waiting_leaves_the_execution_alone(api: Api) -> None:
    execution_id = await api.hanging()
    waiting = asyncio.create_task(api.get(f"/executions/{execution_id}?wait=20"))
    await asyncio.wait([waiting], timeout=0.05)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    api.functions.released.set()
    assert (await api.settled(execution_id))["status"] == "completed"
