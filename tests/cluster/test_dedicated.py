"""Executions and functions that ask for a machine: actors of their own, gone when they wait."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.long import LONG
from tests.fixtures.server import Server, eventually
from tests.fixtures.workflows import chain, python

pytestmark = pytest.mark.timeout(180)

AT_ONCE = 20 if LONG else 6
"""Each is a process to be started."""


def own_actors(server: Server, *execution_ids: str) -> dict[str, dict[str, Any]]:
    """The living actors of these executions alone, by execution."""
    named = {worker["name"]: worker for worker in server.workers()}
    return {e: named[f"execution:{e}"] for e in execution_ids if f"execution:{e}" in named}


def waits(server: Server, execution_id: str) -> list[dict[str, Any]]:
    return list(server.execution(execution_id)["waiting_on"])


def test_many_at_once_and_one_of_them_is_killed(server: Server, tmp_path: Path) -> None:
    shared = set(server.pids("ray::ExecutionActor"))
    gate = tmp_path / "gate"
    ids = [
        server.start_execution("gated", {"gate": str(gate)}, resources={"num_cpus": 0.05})
        for _ in range(AT_ONCE)
    ]

    def all_there() -> dict[str, dict[str, Any]] | None:
        found = own_actors(server, *ids)
        return found if len(found) == AT_ONCE else None

    before = eventually(all_there, within_s=90, what=f"{AT_ONCE} actors")
    assert len({actor["pid"] for actor in before.values()}) == AT_ONCE
    victim = ids[-1]
    eventually(lambda: all(started(server, execution_id) for execution_id in ids), what="their functions")
    os.kill(before[victim]["pid"], signal.SIGKILL)

    def resumed() -> bool:
        actor = server.execution(victim)["actor"]
        return actor is not None and actor["pid"] != before[victim]["pid"]

    eventually(resumed, what="another life of the killed one")
    assert own_actors(server, *ids).keys() >= before.keys() - {victim}
    gate.touch()
    for execution_id in ids:
        assert server.await_status(execution_id, "completed", within_s=120)["state"]["n"] == 1
        if execution_id != victim:
            reasons = {e["data"].get("reason", "first") for e in started(server, execution_id)}
            assert reasons == {"first"}, "another one was touched"
    assert "recovered" in {e["data"].get("reason") for e in started(server, victim)}
    eventually(lambda: not own_actors(server, *ids), what="their end")
    eventually(lambda: set(server.pids("ray::ExecutionActor")) <= shared, what="their processes' end")


def started(server: Server, execution_id: str) -> list[dict[str, Any]]:
    return [event for event in server.events(execution_id) if event["kind"] == "NodeStarted"]


def test_it_is_gone_while_it_waits_and_back_when_it_wakes(server: Server) -> None:
    execution_id = server.start_execution("approve", {"n": 1}, isolation="dedicated")
    server.await_status(execution_id, "paused")
    eventually(lambda: not own_actors(server, execution_id), what="its end")
    status, answer = server.persist("POST", f"/executions/{execution_id}/approve", {"decision": "approved"})
    assert status == 200, answer
    assert server.await_status(execution_id, "completed")["state"]["n"] == 2
    eventually(lambda: not own_actors(server, execution_id), what="its end")


def test_what_no_node_has_is_told(server: Server) -> None:
    execution_id = server.start_execution("three", resources={"num_gpus": 2, "labels": {"zone": "b"}})
    (wait,) = eventually(lambda: waits(server, execution_id), what="a reason")
    assert (wait["type"], wait["node_id"]) == ("resources", None)
    assert wait["reason"] == "no node has num_gpus 2 (the most is 0) and the label zone=b"
    assert server.execution(execution_id)["status"] == "running"
    status, answer = server.persist("POST", f"/executions/{execution_id}/cancel")
    assert (status, answer.get("status")) == (200, "cancelled")


def test_what_is_in_use_is_waited_for(server: Server) -> None:
    first = server.start_execution("slow", {"pause": 0.8}, resources={"num_cpus": 2})
    eventually(lambda: own_actors(server, first), what="its actor")
    second = server.start_execution("three", resources={"num_cpus": 2})
    (wait,) = eventually(lambda: waits(server, second), what="a reason")
    assert wait["reason"].startswith("every node that has it is in use: num_cpus 2 (free: ")
    assert server.await_status(second, "completed", within_s=90)["state"]["n"] == 3
    assert server.execution(first)["status"] == "completed"


def test_a_function_with_resources_has_a_process_of_its_own(server: Server) -> None:
    """Its node alone runs apart; the others run where they always do."""
    server.register(
        chain(
            "apart",
            one=python("where"),
            two=python("where", resources={"num_cpus": 1}),
            three=python("where"),
        )
    )
    done = server.await_status(server.start_execution("apart"), "completed")
    first, apart, last = done["state"]["parents"]
    assert first == last != apart
    eventually(lambda: not server.pids("ray::FunctionActor"), what="its end")


def test_a_function_waits_for_a_machine_that_there_is_not(server: Server) -> None:
    server.register(
        chain("never", one=python("count"), two=python("count", resources={"custom": {"tpu": 4}}))
    )
    execution_id = server.start_execution("never")
    (wait,) = eventually(lambda: waits(server, execution_id), what="a reason")
    assert (wait["type"], wait["node_id"]) == ("resources", "two")
    assert wait["reason"] == "no node has custom.tpu 4 (the most is 0)"
    status, answer = server.persist("POST", f"/executions/{execution_id}/cancel")
    assert status == 200, answer
    server.await_status(execution_id, "cancelled")


def test_a_function_that_ends_its_machine_fails(server: Server) -> None:
    server.register(chain("dies", one=python("die", resources={"num_cpus": 0.1})))
    failed = server.await_status(server.start_execution("dies"), "failed")
    assert "ended the process it ran in" in failed["error"]
