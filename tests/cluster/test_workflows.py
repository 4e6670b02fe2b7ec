"""The same workflows on shared actors and on actors of their own, through Serve, on a real Ray."""

from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.server import Server, eventually

pytestmark = pytest.mark.timeout(180)

ISOLATIONS = ("shared", "dedicated")


@pytest.fixture(params=ISOLATIONS)
def isolation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(
    server: Server, workflow_id: str, isolation: str, given: dict[str, Any] | None = None
) -> dict[str, Any]:
    execution_id = server.start_execution(workflow_id, given, isolation=isolation)
    return server.await_status(execution_id, "completed", "failed", "limit_exceeded")


def test_three_python_steps(server: Server, isolation: str) -> None:
    seen = run(server, "three", isolation, {"n": 1})
    assert (seen["status"], seen["state"], seen["steps_executed"]) == ("completed", {"n": 4}, 3)
    assert seen["isolation"] == isolation
    assert [event["sequence"] for event in server.events(seen["execution_id"])] == list(range(1, 12))


def test_fan_out_and_join(server: Server, isolation: str) -> None:
    assert run(server, "fan", isolation)["state"]["meet"] == ["a", "b", "c"]


def test_a_loop_runs_until_its_condition_holds(server: Server, isolation: str) -> None:
    seen = run(server, "loop", isolation)
    assert (seen["status"], seen["state"]["n"], seen["steps_executed"]) == ("completed", 3, 6)


def test_retries_keep_one_key(server: Server, isolation: str, tmp_path: Path) -> None:
    seen = run(server, "retry", isolation, {"folder": str(tmp_path)})
    assert (seen["status"], seen["state"]["tries"]) == ("completed", 3)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failure_says_what_failed(server: Server, isolation: str) -> None:
    seen = run(server, "fails", isolation)
    assert seen["status"] == "failed"
    assert "no luck" in seen["error"]


def test_a_timer_fires_and_the_execution_goes_on(server: Server, isolation: str) -> None:
    seen = run(server, "nap", isolation)
    created, fired = (
        next(event for event in server.events(seen["execution_id"]) if event["kind"] == kind)
        for kind in ("TimerCreated", "TimerFired")
    )
    assert seen["state"] == {"n": 1}
    assert fired["created_at"] >= created["created_at"]


def test_an_approval_pauses_and_goes_on(server: Server, isolation: str) -> None:
    execution_id = server.start_execution("approve", {"n": 1}, isolation=isolation)
    paused = server.await_status(execution_id, "paused")
    assert paused["waiting_on"][0]["type"] == "approval"
    assert eventually(lambda: server.execution(execution_id)["actor"] is None), "parked means no owner"
    answer = server.persist(
        "POST", f"/executions/{execution_id}/approve", {"decision": "approved", "state_patch": {"n": 5}}
    )
    assert answer == (200, {"execution_id": execution_id, "accepted": True, "node_id": "gate"})
    assert server.await_status(execution_id, "completed")["state"]["n"] == 6
    assert server.persist("POST", f"/executions/{execution_id}/approve", {"decision": "approved"})[0] == 409


def test_an_external_event_wakes_it(server: Server, isolation: str) -> None:
    execution_id = server.start_execution("pay", {"n": 1}, isolation=isolation)
    server.await_status(execution_id, "paused")
    event = {"correlation_key": "paid", "payload": {"amount": 500}}
    assert server.persist("POST", f"/executions/{execution_id}/external-event", event)[0] == 200
    assert server.await_status(execution_id, "completed")["state"]["amount"] == 500


def test_cancelling_stops_a_running_function(server: Server, isolation: str) -> None:
    execution_id = server.start_execution("slow", {"pause": 30}, isolation=isolation)
    eventually(lambda: "NodeStarted" in [event["kind"] for event in server.events(execution_id)])
    answer = server.persist("POST", f"/executions/{execution_id}/cancel")
    assert answer == (200, {"execution_id": execution_id, "status": "cancelled"})
    assert server.events(execution_id)[-1]["kind"] == "WorkflowCancelled"


def test_a_dedicated_execution_has_an_actor_named_after_it(server: Server) -> None:
    execution_id = server.start_execution("slow", {"pause": 1}, isolation="dedicated")
    actor = eventually(lambda: server.execution(execution_id)["actor"])
    assert (actor["name"], actor["isolation"]) == (f"execution:{execution_id}", "dedicated")
    assert actor["pid"] in server.pids("ray::ExecutionActor")
    server.await_status(execution_id, "completed")
    eventually(lambda: actor["pid"] not in server.pids("ray::ExecutionActor"), what="the actor leaves")


def test_wait_answers_with_the_whole_execution(server: Server) -> None:
    status, answer = server.request(
        "POST", "/executions", {"workflow_id": "three", "input": {}}, {"Prefer": "wait=30"}
    )
    assert (status, answer["status"], answer["state"]) == (201, "completed", {"n": 3})
