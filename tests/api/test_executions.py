"""Starting, listing, reading and cancelling executions."""

import asyncio
import json
import re
from typing import Any

import pytest

from tests.fixtures.api import Api, assert_refused, eventually
from tests.fixtures.workflows import chain, python

UNKNOWN = "exec_00000000000000000000000000000000"
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


# --- start --------------------------------------------------------------------------------------


async def test_a_start_is_answered_with_the_id_and_its_place(api: Api) -> None:
    answer = await api.post("/executions", {"workflow_id": "count", "input": {"n": 1}})
    body = answer.json()
    assert answer.status_code == 201
    assert re.fullmatch("exec_[0-9a-f]{32}", body["execution_id"])
    assert body.keys() == {"execution_id"}
    assert answer.headers["location"] == f"/executions/{body['execution_id']}"
    assert answer.headers["cache-control"] == "no-store"


async def test_an_acknowledged_start_can_be_read_at_once(api: Api) -> None:
    for _ in range(5):
        execution_id = await api.start("hang")
        assert (await api.get(f"/executions/{execution_id}")).status_code == 200
        assert (await api.get("/executions")).json()["executions"][0]["execution_id"] == execution_id


async def test_without_input_the_state_is_empty(api: Api) -> None:
    answer = await api.post("/executions", {"workflow_id": "approve"})
    shown = await api.settled(answer.json()["execution_id"])
    assert (shown["initial_input"], shown["state"]) == ({}, {})


async def test_the_version_that_is_asked_for_runs(api: Api) -> None:
    newer = {**chain("count", one=python("count"), two=python("count")), "version": "2.0.0"}
    await api.register(newer)
    for version, n in (("1.0.0", 1), ("2.0.0", 2), (None, 2)):
        body: dict[str, Any] = {"workflow_id": "count", "workflow_version": version}
        answer = await api.post("/executions", body)
        assert (await api.settled(answer.json()["execution_id"]))["state"] == {"n": n}


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"workflow_id": "nothing"}, "workflow nothing"),
        ({"workflow_id": "count", "workflow_version": "9.9.9"}, "workflow count version 9.9.9"),
        ({"workflow_id": "workflow.yaml", "input": {}}, "workflow workflow.yaml"),
        ({"workflow_id": "nul\u0001"}, "workflow nul\u0001"),
    ],
)
async def test_starting_what_is_not_registered_is_404(api: Api, body: Any, named: str) -> None:
    assert_refused(await api.post("/executions", body), 404, f"not found: {named}", "not_found")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "workflow_id: "),
        ({"workflow_id": None}, "workflow_id: "),
        ({"workflow_id": 7}, "workflow_id: "),
        ({"workflow_id": ""}, "workflow_id: "),
        ({"workflow_id": "count", "workflow_version": 1.0}, "workflow_version: "),
        ({"workflow_id": "count", "input": [1]}, "input: "),
        ({"workflow_id": "count", "input": "text"}, "input: "),
        ({"workflow_id": "count", "isolation": "splendid"}, "isolation: "),
        ({"workflow_id": "count", "resources": []}, "resources: "),
        ({"workflow_id": "count", "resources": {"num_cpus": "many"}}, "resources.num_cpus: "),
        ({"workflow_id": "count", "resources": {"num_gpus": -1}}, "resources.num_gpus: "),
        ({"workflow_id": "count", "resources": {"custom": {"tpu": "x"}}}, "resources.custom.tpu: "),
        ([], "the body must be a JSON object"),
        ("count", "the body must be a JSON object"),
    ],
)
async def test_a_start_of_the_wrong_shape_is_400_and_names_the_field(api: Api, body: Any, field: str) -> None:
    answer = await api.post("/executions", body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"].startswith(f"bad request: {field}"), answer.text
    assert (await api.get("/executions")).json()["total"] == 0


async def test_resources_of_a_start_go_into_its_row(api: Api) -> None:
    body = {"workflow_id": "count", "isolation": "dedicated", "resources": {"num_cpus": 2, "memory": 10**9}}
    answer = await api.post("/executions", body)
    row = await api.store.tenant("default").execution(answer.json()["execution_id"])
    assert row is not None
    assert row.isolation == "dedicated"
    assert json.loads(row.resources or "") == {"num_cpus": 2, "memory": 10**9}


# --- list ---------------------------------------------------------------------------------------


async def test_the_list_is_newest_first_and_paged(api: Api) -> None:
    started = [await api.start("hang") for _ in range(5)]
    whole = (await api.get("/executions")).json()
    assert {found["execution_id"] for found in whole["executions"]} == set(started)
    assert (whole["total"], whole["limit"], whole["offset"]) == (5, 50, 0)
    moments = [found["created_at"] for found in whole["executions"]]
    assert moments == sorted(moments, reverse=True)
    page = (await api.get("/executions?limit=2&offset=3")).json()
    assert page["executions"] == whole["executions"][3:5]
    assert (page["total"], page["limit"], page["offset"]) == (5, 2, 3)
    assert (await api.get("/executions?offset=9")).json()["executions"] == []


async def test_the_list_is_filtered_by_status_and_workflow(api: Api) -> None:
    made = {
        "running": await api.hanging(),
        "paused": await api.paused("approve"),
        "completed": await api.start("count"),
        "failed": await api.start("fail"),
        "cancelled": await api.paused("pay"),
    }
    await api.post(f"/executions/{made['cancelled']}/cancel")
    for execution_id in (made["completed"], made["failed"]):
        await api.settled(execution_id)
    for status, execution_id in made.items():
        found = (await api.get(f"/executions?status={status}")).json()
        assert [row["execution_id"] for row in found["executions"]] == [execution_id], status
        assert found["total"] == 1
    assert (await api.get("/executions?status=limit_exceeded")).json()["total"] == 0
    found = (await api.get("/executions?workflow_id=pay")).json()
    assert [row["execution_id"] for row in found["executions"]] == [made["cancelled"]]
    assert (await api.get("/executions?workflow_id=pay&status=paused")).json()["executions"] == []


REFUSED_QUERIES = {
    "status": ["finished", "", "Running", "running,paused"],
    "limit": ["0", "-1", "501", "ten", "1.5", "", "%D9%A3", "00000000000199999", "9" * 5_000],
    "offset": ["-1", "x", "9" * 30, "0" * 24 + "9999999999", "0" * 5_000 + "9999999999"],
}


@pytest.mark.parametrize("name", REFUSED_QUERIES)
async def test_a_filter_that_cannot_be_is_400_and_named(bare_api: Api, name: str) -> None:
    for value in REFUSED_QUERIES[name]:
        answer = await bare_api.get(f"/executions?{name}={value}")
        assert answer.status_code == 400, (value[:40], answer.text[:200])
        assert answer.json()["error"].startswith(f"bad request: {name}: must be "), answer.text


# --- one ----------------------------------------------------------------------------------------


async def test_a_completed_execution_is_shown_whole(api: Api) -> None:
    execution_id = await api.start("count", n=1)
    shown = await api.settled(execution_id)
    assert (shown["status"], shown["state"], shown["output"]) == ("completed", {"n": 2}, {"n": 2})
    assert shown["current_state"] == shown["state"]
    assert (shown["initial_input"], shown["steps_executed"]) == ({"n": 1}, 1)
    assert (shown["error"], shown["waiting_on"], shown["actor"]) == (None, [], None)
    for name in ("created_at", "started_at", "updated_at", "completed_at"):
        assert TIMESTAMP.fullmatch(shown[name]), name
    assert shown["created_at"] <= shown["completed_at"]


async def test_a_failed_execution_says_what_failed(api: Api) -> None:
    shown = await api.settled(await api.start("fail"))
    assert (shown["status"], shown["output"]) == ("failed", None)
    assert "no luck" in shown["error"]


async def test_a_running_execution_shows_who_runs_it(api: Api) -> None:
    shown = (await api.get(f"/executions/{await api.hanging()}")).json()
    assert (shown["status"], shown["completed_at"]) == ("running", None)
    assert shown["actor"] == {
        "name": "local",
        "incarnation": "local#1",
        "node": "local",
        "pid": 0,
        "isolation": "shared",
    }


async def test_a_paused_execution_says_what_it_waits_for_and_has_no_actor(api: Api) -> None:
    shown = await api.settled(await api.start("pay"))
    [wait] = shown["waiting_on"]
    assert (wait["node_id"], wait["type"]) == ("paid", "external_event")
    assert wait["correlation_key"] == "payment-received"
    assert TIMESTAMP.fullmatch(wait["since"])
    assert (shown["completed_at"], shown["actor"]) == (None, None)


@pytest.mark.parametrize("form", ["{hex}", "{uuid}", "exec_{hex}"])
async def test_an_id_may_be_written_as_jamjets_server_prints_it(api: Api, form: str) -> None:
    execution_id = await api.start("count")
    bare = execution_id.removeprefix("exec_")
    uuid = "-".join((bare[:8], bare[8:12], bare[12:16], bare[16:20], bare[20:]))
    answer = await api.get(f"/executions/{form.format(hex=bare, uuid=uuid)}")
    assert (answer.status_code, answer.json()["execution_id"]) == (200, execution_id)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("GET", "/events", None),
        ("GET", "/approvals", None),
        ("POST", "/cancel", None),
        ("POST", "/approve", {"decision": "approved"}),
        ("POST", "/external-event", {"correlation_key": "k", "payload": None}),
    ],
)
async def test_an_unknown_execution_is_404_on_every_route(
    bare_api: Api, method: str, path: str, body: Any
) -> None:
    for execution_id in (UNKNOWN, "exec_abc123", "nonsense", "a b", "ä", "%00", "..."):
        answer = await bare_api.ask(method, f"/executions/{execution_id}{path}", json=body)
        shown = "\x00" if execution_id == "%00" else execution_id
        assert_refused(answer, 404, f"not found: execution {shown}", "not_found")


# --- cancel -------------------------------------------------------------------------------------


async def test_cancelling_needs_neither_body_nor_content_type(api: Api) -> None:
    execution_id = await api.hanging()
    answer = await api.post(f"/executions/{execution_id}/cancel")
    assert "content-type" not in answer.request.headers
    assert (answer.status_code, answer.json()) == (200, {"execution_id": execution_id, "status": "cancelled"})
    shown = (await api.get(f"/executions/{execution_id}")).json()
    assert (shown["status"], shown["output"], shown["waiting_on"]) == ("cancelled", None, [])
    assert (await api.kinds(execution_id))[-2:] == ["NodeCancelled", "WorkflowCancelled"]


async def test_a_late_result_of_a_cancelled_execution_is_refused(api: Api) -> None:
    execution_id = await api.hanging()
    await api.post(f"/executions/{execution_id}/cancel")
    before = await api.events(execution_id)
    api.functions.released.set()
    assert (await api.settled(await api.start("hang")))["status"] == "completed"
    assert await api.events(execution_id) == before


@pytest.mark.parametrize("body", [{}, {"reason": "no need"}])
async def test_cancelling_ignores_what_a_body_says(api: Api, body: Any) -> None:
    answer = await api.post(f"/executions/{await api.hanging()}/cancel", body)
    assert answer.status_code == 200


async def test_cancelling_after_the_end_is_409(api: Api) -> None:
    cancelled = await api.hanging()
    assert (await api.post(f"/executions/{cancelled}/cancel")).status_code == 200
    completed, failed = await api.start("count"), await api.start("fail")
    for execution_id, status in ((cancelled, "cancelled"), (completed, "completed"), (failed, "failed")):
        await api.settled(execution_id)
        before = await api.events(execution_id)
        message = f"conflict: execution {execution_id} is already in terminal state: {status}"
        assert_refused(await api.post(f"/executions/{execution_id}/cancel"), 409, message, "conflict")
        assert await api.events(execution_id) == before


async def test_of_many_cancellations_at_once_one_is_taken(api: Api) -> None:
    execution_id = await api.hanging()
    answers = await asyncio.gather(*(api.post(f"/executions/{execution_id}/cancel") for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 19
    assert (await api.kinds(execution_id)).count("WorkflowCancelled") == 1


@pytest.mark.parametrize("round_", range(5))
async def test_a_cancellation_that_races_an_approval_leaves_one_end(api: Api, round_: int) -> None:
    execution_id = await api.paused("approve")
    requests = [
        api.post(f"/executions/{execution_id}/approve", {"decision": "approved"}),
        api.post(f"/executions/{execution_id}/cancel"),
    ]
    answers = await asyncio.gather(*requests[:: 1 if round_ % 2 else -1])
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert (await api.settled(execution_id))["status"] in ("completed", "cancelled")
    kinds = await api.kinds(execution_id)
    ends = [kind for kind in kinds if kind in ("WorkflowCompleted", "WorkflowCancelled", "WorkflowFailed")]
    assert ends == kinds[-1:]


# --- workers ------------------------------------------------------------------------------------


async def test_workers_are_those_that_live(api: Api) -> None:
    await api.hanging()

    async def busy() -> Any:
        workers = (await api.get("/workers")).json()["workers"]
        return workers if workers and workers[0]["live"] == 1 else None

    [worker] = await eventually(busy)
    assert (worker["id"], worker["status"], worker["name"]) == ("local#1", "active", "local")
    assert TIMESTAMP.fullmatch(worker["started_at"])
    assert worker["started_at"] <= worker["last_heartbeat"]
    await api.store.system.mark_dead(("local#1",))
    assert (await api.get("/workers")).json() == {"workers": []}
