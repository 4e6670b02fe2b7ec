"""Holds: a start that waits for a slot, and a tenant that is suspended."""

import pytest

from runtime.errors import Conflict
from runtime.graph import HumanApprovalNode, RetryPolicy, WaitNode
from runtime.state import has_work, stored_status, waiting_on, wake_at
from tests.unit.machine_driver import NOW, Driver, graph_of, step


def waits_for(drive: Driver) -> list[str]:
    return [entry["type"] for entry in waiting_on(drive.state)]


def test_a_start_that_waits_for_a_slot_begins_when_it_has_one():
    drive = Driver(graph_of("a>end", timeout_ms=5_000))

    assert drive.start(held=True) == ["WorkflowStarted", "ExecutionHeld slot"]
    assert (stored_status(drive.state), drive.status) == ("queued", "running")
    assert waits_for(drive) == ["max_concurrent_executions"]
    assert not has_work(drive.state)
    assert wake_at(drive.state) is None

    drive.now += 60_000
    assert drive.release("slot") == [
        "ExecutionReleased slot",
        "NodeScheduled a",
        "NodeStarted a#1",
        "run a#1",
    ]
    assert (stored_status(drive.state), waits_for(drive)) == ("running", [])
    assert wake_at(drive.state) == drive.now + 5_000, "its deadline counts from when it began"


def test_neither_an_owner_nor_a_timer_nor_another_reason_begins_what_waits_for_a_slot():
    drive = Driver(graph_of("a>end"))
    drive.start(held=True)

    assert drive.recover() == drive.tick(1_000) == drive.release("tenant") == drive.hold() == []
    assert drive.event("k") == ["ExternalEventReceived k"]
    with pytest.raises(Conflict, match="not waiting for an approval"):
        drive.approve()
    assert stored_status(drive.state) == "queued"


def test_what_waits_for_a_slot_can_be_cancelled():
    drive = Driver(graph_of("a>end"))
    drive.start(held=True)

    assert drive.cancel() == ["WorkflowCancelled"]
    assert drive.release("slot") == []
    assert waits_for(drive) == []


def test_a_hold_lets_what_runs_settle_and_begins_nothing():
    drive = Driver(graph_of("a>b", "b>end"))
    drive.start()

    assert drive.hold() == ["ExecutionHeld tenant"]
    assert drive.hold() == [], "once is enough"
    assert (stored_status(drive.state), has_work(drive.state)) == ("running", True)
    assert drive.ok("a", 1) == ["NodeCompleted a"]
    assert (stored_status(drive.state), has_work(drive.state)) == ("suspended", False)
    assert (drive.status, waits_for(drive)) == ("running", ["tenant_suspended"])

    assert drive.release() == ["ExecutionReleased tenant", "NodeScheduled b", "NodeStarted b#1", "run b#1"]


def test_a_held_execution_does_not_end_before_it_is_released():
    drive = Driver(graph_of("a>end"))
    drive.start()
    drive.hold()

    assert drive.ok("a") == ["NodeCompleted a"]
    assert drive.release() == ["ExecutionReleased tenant", "WorkflowCompleted"]


def test_timers_and_retries_wait_while_it_is_held_and_are_taken_afterwards():
    retry = RetryPolicy(max_attempts=2, initial_delay_ms=500)
    wait = WaitNode(id="nap", until="timer", delay_ms=300)
    drive = Driver(graph_of("a>nap", "a>b", "b>end", nodes=(wait, step("b", retry=retry))))
    drive.start()
    drive.ok("a")
    drive.error("b")
    drive.hold()

    assert wake_at(drive.state) is None
    assert drive.tick(10_000) == []
    assert drive.release() == [
        "ExecutionReleased tenant", "TimerFired nap", "NodeCompleted nap", "NodeStarted b#2 retry", "run b#2"
    ]  # fmt: skip


def test_an_attempt_that_is_lost_while_it_is_held_is_made_again():
    drive = Driver(graph_of("a>b", "b>end"))
    drive.start()
    drive.hold()

    assert drive.recover() == ["NodeStarted a#2 recovered", "run a#2"]
    assert drive.ok("a") == ["NodeCompleted a"]


def test_the_deadline_of_an_execution_is_not_taken_while_it_is_held():
    drive = Driver(graph_of("a>end", timeout_ms=1_000))
    drive.start()
    drive.hold()

    assert drive.tick(2_000) == []
    assert drive.release() == ["ExecutionReleased tenant", "TimerFired", "WorkflowFailing"]


def test_a_failure_ends_it_also_while_it_is_held():
    gate = HumanApprovalNode(id="gate")
    drive = Driver(graph_of("a>b", "a>gate", "b>end", nodes=(gate,)))
    drive.start()
    drive.ok("a")
    drive.hold()

    assert drive.error("b")[-1] == "WorkflowFailed b"
    assert drive.status == "failed"


def test_an_approval_that_comes_while_it_is_held_is_taken():
    gate = HumanApprovalNode(id="gate")
    drive = Driver(graph_of("gate>a", "a>end", nodes=(gate,)))
    drive.start()
    drive.hold()

    assert drive.approve() == ["ApprovalReceived gate", "NodeCompleted gate"]
    assert drive.release()[1:] == ["NodeScheduled a", "NodeStarted a#1", "run a#1"]


def test_held_since_is_shown():
    drive = Driver(graph_of("a>end"))
    drive.start(held=True)

    assert waiting_on(drive.state) == [{"node_id": None, "type": "max_concurrent_executions", "since": NOW}]
