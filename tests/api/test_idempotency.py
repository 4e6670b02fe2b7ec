"""Idempotency-Key: the same request twice has one effect and one answer."""

import asyncio
from typing import Any

import pytest

from api.idempotency import Idempotency
from runtime.store import IdempotencyRecord, TenantStore
from tests.fixtures.api import Api, approval, assert_refused, event, eventually
from tests.fixtures.workflows import chain, python

START: dict[str, Any] = {"workflow_id": "hang", "input": {"n": 1}}
TWO_EVENTS = chain("two-events", first=event("k"), second=event("k"))
TWO_APPROVALS = chain("two-approvals", first=approval(), second=approval())
BUSY = {
    "workflow_id": "busy",
    "version": "1",
    "start_node": "split",
    "nodes": {
        "split": {"kind": {"type": "parallel", "branches": ["gate", "work"]}},
        "gate": approval(),
        "work": python("hang"),
    },
}
"""It waits for an approval while its owner holds it, because another node runs."""
MISMATCH = "idempotency mismatch: this Idempotency-Key came with another request before"


def key(text: str = "a key") -> dict[str, str]:
    return {"Idempotency-Key": text}


async def total(api: Api) -> int:
    number: int = (await api.get("/executions")).json()["total"]
    return number


# --- starts -------------------------------------------------------------------------------------


async def test_a_start_that_is_repeated_is_one_execution_with_one_answer(api: Api) -> None:
    first, second = [await api.post("/executions", START, headers=key()) for _ in range(2)]
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.content == second.content
    assert first.headers["location"] == second.headers["location"]
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert await total(api) == 1


async def test_fifty_starts_at_once_with_one_key_are_one_execution(api: Api) -> None:
    requests = (api.post("/executions", START, headers=key()) for _ in range(50))
    answers = await asyncio.gather(*requests)
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert await total(api) == 1


async def test_a_repeat_may_wait_where_the_first_did_not(api: Api) -> None:
    body = {"workflow_id": "count", "input": {"n": 1}}
    first = await api.post("/executions", body, headers=key())
    second = await api.post("/executions?wait=10", body, headers=key())
    assert second.status_code == 201
    assert second.json()["execution_id"] == first.json()["execution_id"]
    assert second.json()["state"] == {"n": 2}


async def test_a_start_with_another_body_is_422(api: Api) -> None:
    await api.post("/executions", START, headers=key())
    answer = await api.post("/executions", {**START, "input": {"n": 2}}, headers=key())
    assert_refused(answer, 422, MISMATCH, "idempotency_mismatch")
    assert await total(api) == 1


async def test_two_bodies_at_once_with_one_key_are_one_effect_and_one_422(api: Api) -> None:
    bodies = [{**START, "input": {"n": n}} for n in range(2)]
    answers = await asyncio.gather(*(api.post("/executions", body, headers=key()) for body in bodies))
    assert sorted(answer.status_code for answer in answers) == [201, 422]
    assert await total(api) == 1


async def test_a_key_is_kept_only_for_what_had_an_effect(api: Api) -> None:
    assert (await api.post("/executions", {"workflow_id": "later"}, headers=key())).status_code == 404
    await api.register({**chain("later", gate=approval())})
    assert (await api.post("/executions", {"workflow_id": "later"}, headers=key())).status_code == 201


async def test_the_compat_prefix_does_not_make_it_another_request(api: Api) -> None:
    answers = [await api.post(f"{prefix}/executions", START, headers=key()) for prefix in ("", "/compat")]
    assert answers[0].content == answers[1].content
    assert await total(api) == 1


@pytest.mark.parametrize("bad", ["", "x" * 256, "tab\there", "ä"])
async def test_a_key_that_cannot_be_kept_is_400(api: Api, bad: str) -> None:
    execution_id = await api.paused("approve")
    for path, body in (
        ("/executions", START),
        (f"/executions/{execution_id}/approve", {"decision": "approved"}),
        (f"/executions/{execution_id}/cancel", None),
    ):
        answer = await api.post(path, body, headers={"Idempotency-Key": bad.encode("latin-1")})  # type: ignore[dict-item]
        message = "bad request: Idempotency-Key: must be 1 to 255 printable ASCII characters"
        assert_refused(answer, 400, message, "bad_request")
    assert (await api.settled(execution_id))["status"] == "paused"


# --- signals ------------------------------------------------------------------------------------


async def test_a_repeated_approval_is_answered_alike_and_decides_one_node(api: Api) -> None:
    await api.register(TWO_APPROVALS)
    execution_id = await api.paused("two-approvals")
    path, body = f"/executions/{execution_id}/approve", {"decision": "approved"}
    first, second = [await api.post(path, body, headers=key()) for _ in range(2)]
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.content == second.content
    assert first.json()["node_id"] == "first"
    assert (await api.settled(execution_id))["waiting_on"][0]["node_id"] == "second"


async def test_fifty_approvals_at_once_with_one_key_are_one_decision(api: Api) -> None:
    await api.register(TWO_APPROVALS)
    execution_id = await api.paused("two-approvals")
    path, body = f"/executions/{execution_id}/approve", {"decision": "approved"}
    answers = await asyncio.gather(*(api.post(path, body, headers=key()) for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert (await api.kinds(execution_id)).count("ApprovalReceived") == 1


async def test_while_a_branch_runs_repeats_at_once_get_one_answer_too(api: Api) -> None:
    await api.register(BUSY)
    execution_id = await api.start("busy")
    await eventually(lambda: api.has_event(execution_id, "InterruptRaised"))
    path, body = f"/executions/{execution_id}/approve", {"decision": "approved"}
    answers = await asyncio.gather(*(api.post(path, body, headers=key()) for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert (await api.kinds(execution_id)).count("ApprovalReceived") == 1


async def test_a_repeated_event_is_delivered_once(api: Api) -> None:
    await api.register(TWO_EVENTS)
    execution_id = await api.paused("two-events")
    path, body = f"/executions/{execution_id}/external-event", {"correlation_key": "k", "payload": {"n": 1}}
    answers = await asyncio.gather(*(api.post(path, body, headers=key()) for _ in range(20)))
    answers.append(await api.post(path, body, headers=key()))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert (await api.kinds(execution_id)).count("ExternalEventReceived") == 1
    assert (await api.settled(execution_id))["waiting_on"][0]["node_id"] == "second"


async def test_without_a_key_a_repeated_event_is_another_one(api: Api) -> None:
    await api.register(TWO_EVENTS)
    execution_id = await api.paused("two-events")
    for _ in range(2):
        body = {"correlation_key": "k", "payload": {"n": 1}}
        assert (await api.post(f"/executions/{execution_id}/external-event", body)).status_code == 200
    assert (await api.settled(execution_id))["status"] == "completed"


async def test_a_repeated_cancellation_is_answered_alike_after_the_end(api: Api) -> None:
    execution_id = await api.hanging()
    path = f"/executions/{execution_id}/cancel"
    first, second = [await api.post(path, headers=key()) for _ in range(2)]
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.content == second.content
    assert (await api.post(path)).status_code == 409


async def test_a_signal_with_another_body_is_422(api: Api) -> None:
    await api.register(TWO_APPROVALS, TWO_EVENTS)
    cases = (
        ("two-approvals", "approve", {"decision": "approved"}, {"decision": "rejected"}),
        (
            "two-events",
            "external-event",
            {"correlation_key": "k", "payload": 1},
            {"correlation_key": "k", "payload": 2},
        ),
    )
    for workflow_id, route, first, other in cases:
        execution_id = await api.paused(workflow_id)
        path = f"/executions/{execution_id}/{route}"
        assert (await api.post(path, first, headers=key())).status_code == 200
        assert_refused(await api.post(path, other, headers=key()), 422, MISMATCH, "idempotency_mismatch")
        assert (await api.settled(execution_id))["waiting_on"][0]["node_id"] == "second"


async def test_two_events_that_both_find_their_key_unused_are_one_effect_and_one_422(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution_id = await api.hanging()
    look_up, both_looked = Idempotency.recorded, asyncio.Barrier(2)
    looks = 0

    async def look_up_together(self: Idempotency, tenant: TenantStore) -> IdempotencyRecord | None:
        nonlocal looks
        looks += 1
        found = await look_up(self, tenant)
        if looks <= 2:
            await both_looked.wait()
        return found

    monkeypatch.setattr(Idempotency, "recorded", look_up_together)
    path = f"/executions/{execution_id}/external-event"
    bodies = [{"correlation_key": "k", "payload": n} for n in range(2)]
    answers = await asyncio.gather(*(api.post(path, body, headers=key()) for body in bodies))
    assert sorted(answer.status_code for answer in answers) == [200, 422]
    assert (await api.kinds(execution_id)).count("ExternalEventReceived") == 1


async def test_one_key_on_two_routes_is_two_requests(api: Api) -> None:
    execution_id = await api.paused("approve")
    body = {"correlation_key": "k", "payload": None}
    assert (
        await api.post(f"/executions/{execution_id}/external-event", body, headers=key())
    ).status_code == 200
    assert (await api.post(f"/executions/{execution_id}/cancel", headers=key())).json()[
        "status"
    ] == "cancelled"
    assert (await api.get(f"/executions/{execution_id}")).json()["status"] == "cancelled"


async def test_one_key_on_two_executions_is_two_requests(api: Api) -> None:
    for execution_id in (await api.hanging(), await api.hanging()):
        answer = await api.post(f"/executions/{execution_id}/cancel", headers=key())
        assert answer.json() == {"execution_id": execution_id, "status": "cancelled"}


async def test_after_a_conflict_the_same_key_may_succeed(api: Api) -> None:
    execution_id = await api.hanging()
    path, body = f"/executions/{execution_id}/approve", {"decision": "approved"}
    assert (await api.post(path, body, headers=key())).status_code == 409
    await api.register(TWO_APPROVALS)
    other = await api.paused("two-approvals")
    assert (await api.post(f"/executions/{other}/approve", body, headers=key())).status_code == 200
