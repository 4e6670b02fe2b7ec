"""Limits of tenants and suspended tenants over REST: what is refused, what waits, what goes on."""

import asyncio
from typing import Any

import pytest

from tests.fixtures.api import COUNT, OTHER_TENANT, Api, eventually
from tests.fixtures.workflows import chain, python

DEVELOPER = "other-developer"
STEPS = chain("steps", first=python("hang"), second=python("count"))
SAY = chain(
    "say", say={"kind": {"type": "model", "model_ref": "scripted/echo", "prompt_ref": "one two three"}}
)


@pytest.fixture
async def acme(api: Api) -> Api:
    await api.register(COUNT, STEPS, SAY, role=DEVELOPER)
    return api


async def limit(api: Api, **limits: Any) -> None:
    answer = await api.ask("PUT", f"/tenants/{OTHER_TENANT}", role="operator", json={"limits": limits})
    assert answer.status_code == 200, answer.text


async def set_status(api: Api, status: str) -> None:
    answer = await api.ask("PUT", f"/tenants/{OTHER_TENANT}", role="operator", json={"status": status})
    assert answer.status_code == 200, answer.text


async def start(api: Api, workflow_id: str, **fields: Any) -> Any:
    return await api.post("/executions", {"workflow_id": workflow_id, **fields}, role=DEVELOPER)


async def shown(api: Api, execution_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await api.get(f"/executions/{execution_id}", role=DEVELOPER)).json()
    return found


async def kinds(api: Api, execution_id: str) -> list[str]:
    answer = await api.get(f"/executions/{execution_id}/events", role=DEVELOPER)
    return [event["kind"] for event in answer.json()["events"]]


async def until(api: Api, execution_id: str, **fields: Any) -> None:
    async def reached() -> bool:
        found = await shown(api, execution_id)
        return all(found[name] == value for name, value in fields.items())

    await eventually(reached)


# --- concurrency --------------------------------------------------------------------------------


async def test_one_too_many_is_429_and_says_which_limit(acme: Api) -> None:
    await limit(acme, max_concurrent_executions=1)
    first = (await start(acme, "steps")).json()["execution_id"]

    answer = await start(acme, "count")

    assert answer.status_code == 429
    body = answer.json()
    assert (body["code"], body["limit"]) == ("limit_reached", "max_concurrent_executions")
    assert body["error"].endswith("as many executions as it may: max_concurrent_executions is 1")
    assert int(answer.headers["retry-after"]) >= 1
    assert (await acme.get("/executions", role=DEVELOPER)).json()["total"] == 1

    acme.functions.released.set()
    await until(acme, first, status="completed")
    assert (await start(acme, "count")).status_code == 201


async def test_a_queued_start_waits_in_order_says_so_and_ends(acme: Api) -> None:
    await limit(acme, max_concurrent_executions=1)
    first = (await start(acme, "steps")).json()["execution_id"]
    waiting = [(await start(acme, "count", queue=True)).json()["execution_id"] for _ in range(5)]

    found = await shown(acme, waiting[0])
    assert (found["status"], found["state"]) == ("running", {})
    assert [entry["type"] for entry in found["waiting_on"]] == ["max_concurrent_executions"]
    assert await kinds(acme, waiting[0]) == ["WorkflowStarted", "ExecutionHeld"]
    listed = (await acme.get("/executions?status=running", role=DEVELOPER)).json()
    assert listed["total"] == 6
    assert {row["status"] for row in listed["executions"]} == {"running"}

    acme.functions.released.set()
    for execution_id in (first, *waiting):
        await until(acme, execution_id, status="completed")
    ends = [(await shown(acme, execution_id))["completed_at"] for execution_id in waiting]
    assert ends == sorted(ends)
    assert await kinds(acme, waiting[0]) == [
        "WorkflowStarted", "ExecutionHeld", "ExecutionReleased", "NodeScheduled", "NodeStarted",
        "NodeCompleted", "WorkflowCompleted",
    ]  # fmt: skip


async def test_a_waiting_client_is_answered_when_a_queued_start_has_ended(acme: Api) -> None:
    await limit(acme, max_concurrent_executions=1)
    await start(acme, "steps")
    body = {"workflow_id": "count", "queue": True}
    asked = asyncio.create_task(acme.post("/executions", body, role=DEVELOPER, headers={"Prefer": "wait=20"}))

    async def queued() -> bool:
        return (await acme.get("/executions", role=DEVELOPER)).json()["total"] == 2

    await eventually(queued)
    acme.functions.released.set()

    answer = (await asked).json()
    assert (answer["status"], answer["waiting_on"]) == ("completed", [])


async def test_a_stampede_never_runs_more_than_it_may(acme: Api) -> None:
    await limit(acme, max_concurrent_executions=10)
    running = most = 0
    real = acme.functions._run

    async def watched(function: str, state: Any) -> dict[str, Any]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await asyncio.sleep(0)
            return await real(function, state)
        finally:
            running -= 1

    acme.functions._run = watched  # type: ignore[method-assign]
    answers = await asyncio.gather(*(start(acme, "count", queue=True) for _ in range(100)))
    assert {answer.status_code for answer in answers} == {201}

    async def all_ended() -> bool:
        return (await acme.get("/executions?status=completed", role=DEVELOPER)).json()["total"] == 100

    await eventually(all_ended)
    assert 0 < most <= 10


async def test_a_queued_start_can_be_cancelled(acme: Api) -> None:
    await limit(acme, max_concurrent_executions=1)
    await start(acme, "steps")
    waiting = (await start(acme, "count", queue=True)).json()["execution_id"]

    answer = await acme.post(f"/executions/{waiting}/cancel", role=DEVELOPER)

    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert await kinds(acme, waiting) == ["WorkflowStarted", "ExecutionHeld", "WorkflowCancelled"]


async def test_without_its_limit_a_queue_goes_on(acme: Api) -> None:
    await limit(acme, max_concurrent_executions=0)
    waiting = [(await start(acme, "count", queue=True)).json()["execution_id"] for _ in range(3)]

    await limit(acme)

    for execution_id in waiting:
        await until(acme, execution_id, status="completed")


async def test_the_same_start_twice_takes_one_slot(acme: Api) -> None:
    await limit(acme, max_concurrent_executions=1)
    headers = {"Idempotency-Key": "once"}
    body = {"workflow_id": "steps"}
    first = await acme.post("/executions", body, role=DEVELOPER, headers=headers)
    again = await acme.post("/executions", body, role=DEVELOPER, headers=headers)

    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()


# --- the month ----------------------------------------------------------------------------------


async def test_used_up_tokens_are_429_until_the_month_ends(acme: Api) -> None:
    await limit(acme, max_tokens_per_month=1)
    first = await start(acme, "say")
    await until(acme, first.json()["execution_id"], status="completed")

    answer = await start(acme, "count", queue=True)

    assert answer.status_code == 429
    assert answer.json()["limit"] == "max_tokens_per_month"
    usage = (await acme.get(f"/tenants/{OTHER_TENANT}", role="operator")).json()["usage"]
    assert usage["tokens"] >= 1
    assert (usage["executions"], usage["queued"], len(usage["month"])) == (0, 0, 7)
    assert 0 < int(answer.headers["retry-after"]) <= 31 * 86_400 + 1
    await limit(acme, max_tokens_per_month=1_000_000)
    assert (await start(acme, "count")).status_code == 201


# --- suspended tenants --------------------------------------------------------------------------


async def test_a_suspended_tenant_starts_nothing_at_once(acme: Api) -> None:
    """Also where a replica does not know yet: the start's own transaction does."""
    assert (await start(acme, "count")).status_code == 201
    await set_status(acme, "suspended")

    answer = await start(acme, "count")

    assert answer.status_code == 403
    assert (
        answer.json()["error"]
        == "tenant acme is suspended: it may read, cancel and revoke tokens, nothing else"
    )
    assert (await acme.get("/executions", role=DEVELOPER)).json()["total"] == 1


async def test_what_runs_is_held_and_goes_on_when_the_tenant_is_active_again(acme: Api) -> None:
    running = (await start(acme, "steps")).json()["execution_id"]
    await set_status(acme, "suspended")

    async def held() -> bool:
        return "ExecutionHeld" in await kinds(acme, running)

    await eventually(held)
    acme.functions.released.set()

    async def settled() -> bool:
        return (await kinds(acme, running))[-1] == "NodeCompleted"

    await eventually(settled)
    found = await shown(acme, running)
    assert found["status"] == "running"
    assert [entry["type"] for entry in found["waiting_on"]] == ["tenant_suspended"]

    await set_status(acme, "active")

    await until(acme, running, status="completed")
    assert (await kinds(acme, running))[-5:] == [
        "ExecutionReleased", "NodeScheduled", "NodeStarted", "NodeCompleted", "WorkflowCompleted"
    ]  # fmt: skip
