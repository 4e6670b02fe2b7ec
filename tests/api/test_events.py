"""The log as the API shows it, and external events."""

import asyncio
from typing import Any

import pytest

from tests.fixtures.api import Api, assert_refused, event
from tests.fixtures.workflows import chain

TWO = chain("two", first=event("a"), second=event("b"))


async def send(api: Api, execution_id: str, key: str = "payment-received", payload: Any = None) -> Any:
    body = {"correlation_key": key, "payload": payload}
    return await api.post(f"/executions/{execution_id}/external-event", body)


# --- the log ------------------------------------------------------------------------------------


async def test_the_log_is_gap_free_from_1_and_in_order(api: Api) -> None:
    execution_id = await api.start("count", n=1)
    await api.settled(execution_id)
    events = await api.events(execution_id)
    assert [found["sequence"] for found in events] == list(range(1, len(events) + 1))
    assert [(found["kind"], found["node_id"]) for found in events] == [
        ("WorkflowStarted", None),
        ("NodeScheduled", "only"),
        ("NodeStarted", "only"),
        ("NodeCompleted", "only"),
        ("WorkflowCompleted", None),
    ]
    assert len({found["id"] for found in events}) == len(events)


async def test_a_flat_event_has_its_data_beside_it(api: Api) -> None:
    execution_id = await api.start("count", n=1)
    await api.settled(execution_id)
    started, *_, node_completed, completed = await api.events(execution_id)
    assert (started["kind"], started["type"]) == ("WorkflowStarted", "workflow_started")
    assert started["data"]["initial_input"] == {"n": 1}
    assert node_completed["data"]["state_patch"] == {"n": 2}
    assert completed["data"]["final_state"] == {"n": 2}
    assert "node_id" not in node_completed["data"]


@pytest.mark.parametrize("path", ["/executions/{}/events?shape=typed", "/compat/executions/{}/events"])
async def test_a_typed_event_has_its_data_in_its_kind(api: Api, path: str) -> None:
    execution_id = await api.start("count", n=1)
    await api.settled(execution_id)
    started, *_, node_completed, completed = (await api.get(path.format(execution_id))).json()["events"]
    assert started["kind"]["type"] == "workflow_started"
    assert started["kind"]["workflow_id"] == "count"
    assert started["kind"]["workflow_version"] == "1.0.0"
    assert started["kind"]["initial_input"] == {"n": 1}
    assert (started["name"], started["type"]) == ("WorkflowStarted", "workflow_started")
    assert (node_completed["node_id"], node_completed["kind"]["node_id"]) == ("only", "only")
    assert isinstance(node_completed["kind"]["duration_ms"], int)
    assert "cost_usd" not in node_completed["kind"]
    assert completed["kind"]["final_state"] == {"n": 2}


async def test_the_two_shapes_differ_in_kind_alone(api: Api) -> None:
    execution_id = await api.paused("approve")
    flat = await api.events(execution_id)
    typed = (await api.get(f"/executions/{execution_id}/events?shape=typed")).json()["events"]
    common = ("id", "execution_id", "sequence", "type", "node_id", "created_at")
    assert [[e[key] for key in common] for e in flat] == [[e[key] for key in common] for e in typed]
    assert [e["kind"] for e in flat] == [e["name"] for e in typed]


async def test_the_log_can_be_read_in_pages(api: Api) -> None:
    execution_id = await api.start("count")
    await api.settled(execution_id)
    whole = await api.events(execution_id)
    pages: list[dict[str, Any]] = []
    while True:
        after = pages[-1]["sequence"] if pages else 0
        page = (await api.get(f"/executions/{execution_id}/events?after={after}&limit=2")).json()["events"]
        if not page:
            break
        pages.extend(page)
    assert pages == whole
    assert (await api.get(f"/executions/{execution_id}/events?after=1000")).json() == {"events": []}


@pytest.mark.parametrize("query", ["after=-1", "after=x", "limit=0", "limit=10001", "shape=round", "wait=-1"])
async def test_a_parameter_that_cannot_be_is_400_and_named(api: Api, query: str) -> None:
    answer = await api.get(f"/executions/{await api.paused('pay')}/events?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(f"bad request: {query.partition('=')[0]}: ")


async def test_waiting_for_the_next_event(api: Api) -> None:
    execution_id = await api.hanging()
    last = (await api.events(execution_id))[-1]["sequence"]
    path = f"/executions/{execution_id}/events?after={last}&wait="
    assert (await api.get(f"{path}0.05")).json() == {"events": []}
    waiting = asyncio.create_task(api.get(f"{path}20"))
    api.functions.released.set()
    assert (await waiting).json()["events"][0]["kind"] == "NodeCompleted"


async def test_waiting_after_the_last_event_answers_at_once(api: Api) -> None:
    execution_id = await api.start("count")
    last = (await api.settled(execution_id))["sequence"]
    answer = await asyncio.wait_for(api.get(f"/executions/{execution_id}/events?after={last}&wait=60"), 20)
    assert answer.json() == {"events": []}


# --- external events ----------------------------------------------------------------------------


async def test_an_event_wakes_who_waits_and_its_payload_is_merged(api: Api) -> None:
    execution_id = await api.paused("pay", n=1)
    answer = await send(api, execution_id, payload={"amount": 500})
    assert answer.json() == {"execution_id": execution_id, "accepted": True}
    shown = await api.settled(execution_id)
    assert (shown["status"], shown["state"]) == ("completed", {"n": 1, "amount": 500})


@pytest.mark.parametrize("payload", [None, 7, "text", [1, 2], False, {}])
async def test_a_payload_may_be_any_json(api: Api, payload: Any) -> None:
    await api.register(chain("keep", paid=event("k", output_key="got")))
    execution_id = await api.paused("keep")
    assert (await send(api, execution_id, "k", payload)).status_code == 200
    assert (await api.settled(execution_id))["state"]["got"] == payload


async def test_an_event_that_comes_early_is_kept_for_its_wait(api: Api) -> None:
    await api.register(TWO)
    execution_id = await api.paused("two")
    await send(api, execution_id, "b", {"second": 2})
    assert (await api.settled(execution_id))["waiting_on"][0]["node_id"] == "first"
    await send(api, execution_id, "a", {"first": 1})
    shown = await api.settled(execution_id)
    assert (shown["status"], shown["state"]) == ("completed", {"first": 1, "second": 2})


async def test_a_key_that_nobody_waits_for_is_200_and_wakes_nobody(api: Api) -> None:
    execution_id = await api.paused("pay")
    assert (await send(api, execution_id, "replay:node")).status_code == 200
    assert (await api.settled(execution_id))["status"] == "paused"


async def test_more_unread_events_than_may_be_kept_are_409(api: Api) -> None:
    execution_id = await api.paused("pay")
    answers = [await send(api, execution_id, "k", "x" * 600_000) for _ in range(2)]
    assert answers[0].status_code == 200
    message = f"conflict: execution {execution_id} holds as many unread events as it may"
    assert_refused(answers[1], 409, message, "conflict")


async def test_an_event_after_the_end_is_409(api: Api) -> None:
    execution_id = await api.start("count")
    await api.settled(execution_id)
    message = f"conflict: execution {execution_id} is already in terminal state: completed"
    assert_refused(await send(api, execution_id), 409, message, "conflict")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"payload": {}}, "correlation_key: field required"),
        ({"correlation_key": "k"}, "payload: field required"),
        ({"correlation_key": 7, "payload": {}}, "correlation_key: "),
        ({"correlation_key": "", "payload": {}}, "correlation_key: "),
        ({"correlation_key": None, "payload": {}}, "correlation_key: "),
        ({"correlation_key": "x" * 1025, "payload": {}}, "correlation_key: "),
    ],
)
async def test_an_event_of_the_wrong_shape_is_400_and_names_the_field(
    api: Api, body: Any, field: str
) -> None:
    execution_id = await api.paused("pay")
    answer = await api.post(f"/executions/{execution_id}/external-event", body)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(f"bad request: {field}"), answer.text
    assert not await api.has_event(execution_id, "ExternalEventReceived")
