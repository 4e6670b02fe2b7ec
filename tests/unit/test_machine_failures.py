"""What goes wrong: error edges, retries, lost attempts, failing, deadlines, cancelling, limits."""

import pytest

from runtime import events as ev
from runtime import signals as sg
from runtime.errors import Conflict
from runtime.graph import HumanApprovalNode, LimitExceededNode, ParallelNode, RetryPolicy, WaitNode
from runtime.machine import FAILING_GRACE_MS, RECOVERIES_MAX, retry_delay_ms
from runtime.state import Failure, waiting_on, wake_at
from tests.unit.machine_driver import NOW, Driver, graph_of, step

SPLIT = ParallelNode(id="split")
NAP = WaitNode(id="nap", until="timer", delay_ms=1_000)
GATE = HumanApprovalNode(id="gate")
TWICE = RetryPolicy(max_attempts=2, backoff="fixed", initial_delay_ms=1_000)


def fan(*edges: str, nodes=(), **fields) -> Driver:
    drive = Driver(graph_of(*edges, nodes=(SPLIT, *nodes), **fields))
    drive.start()
    return drive


def retrying(policy: RetryPolicy, *edges: str) -> Driver:
    drive = Driver(graph_of("a>end", *edges, nodes=(step("a", retry=policy),)))
    drive.start()
    return drive


# --- without a policy -----------------------------------------------------------------------------


def test_a_node_without_a_policy_is_tried_once():
    drive = Driver(graph_of("a>end"))
    drive.start()
    assert drive.error("a", error="no luck", duration_ms=12) == ["NodeFailed a io_error", "WorkflowFailed a"]
    assert drive.status == "failed"
    assert drive.state.failure == Failure(error="node a failed: no luck", error_class="io_error", node_id="a")
    (failed,) = drive.events(ev.NodeFailed)
    assert failed == ev.NodeFailed(
        node_id="a",
        visit=1,
        attempt=1,
        error="no luck",
        error_class="io_error",
        outcome="error",
        duration_ms=12,
    )
    assert drive.state.steps == 0


def test_an_error_edge_catches_a_failure():
    drive = Driver(graph_of("a>b", "a>c error"))
    drive.start()
    assert drive.error("a") == [
        "NodeFailed a io_error",
        "NodeSkipped b",
        "NodeScheduled c",
        "NodeStarted c#1",
        "run c#1",
    ]
    assert drive.ok("c")[-1] == "WorkflowCompleted"
    assert drive.state.failure is None


def test_an_error_edge_to_the_end_catches_it_too():
    drive = Driver(graph_of("a>b", "a>end error"))
    drive.start()
    assert drive.error("a") == ["NodeFailed a io_error", "NodeSkipped b", "WorkflowCompleted"]


def test_an_error_edge_whose_condition_does_not_hold_catches_nothing():
    drive = Driver(graph_of("a>b", "a>c error if state.x"))
    drive.start()
    assert drive.error("a") == ["NodeFailed a io_error", "WorkflowFailed a"]


def test_an_error_edge_may_lead_back():
    drive = Driver(graph_of("a>b", "b>a error", "b>end"))
    drive.start()
    drive.ok("a")
    assert drive.error("b") == [
        "NodeFailed b io_error",
        "NodeScheduled a/2",
        "NodeStarted a/2#1",
        "run a/2#1",
    ]


def test_a_timeout_takes_its_own_edge():
    drive = Driver(graph_of("a>b timeout", "a>c error"))
    drive.start()
    assert drive.error("a", "timeout")[-2:] == ["NodeSkipped c", "run b#1"]


@pytest.mark.parametrize("error_class", ["timeout", "io_error"])
def test_without_a_timeout_edge_a_timeout_is_an_error(error_class):
    drive = Driver(graph_of("a>c error"))
    drive.start()
    assert drive.error("a", error_class)[-1] == "run c#1"


# --- retries --------------------------------------------------------------------------------------


def test_a_retry_waits_and_tries_again_with_the_same_input_and_key():
    node = step("a", retry=TWICE, input_mapping={"n": "{{ state.n }}"})
    drive = Driver(graph_of("split>a", "split>b", nodes=(SPLIT, node)))
    drive.start(n=1)
    assert drive.last is not None
    first = drive.last.effects[0]
    assert drive.error("a") == ["NodeFailed a io_error ...", "RetryScheduled a"]
    assert (drive.phase("a"), drive.status) == ("backoff", "running")
    assert waiting_on(drive.state) == [{"node_id": "a", "type": "retry", "since": NOW, "due_at": NOW + 1_000}]
    drive.ok("b", state_patch={"n": 2})
    assert drive.status == "running"
    assert drive.tick(after=999) == []
    assert drive.tick(after=1) == ["NodeStarted a#2 retry", "run a#2"]
    again = drive.last.effects[0]
    assert (again.input, again.key, again.state) == ({"n": 1}, first.key, {"n": 2})
    assert drive.ok("a")[-1] == "WorkflowCompleted"


def test_the_last_attempt_s_failure_is_the_node_s():
    drive = retrying(TWICE)
    drive.error("a", error="first")
    drive.wake()
    assert drive.error("a", error="second") == ["NodeFailed a io_error", "WorkflowFailed a"]
    assert drive.state.failure is not None
    assert drive.state.failure.error == "node a failed: second"
    assert [(e.attempt, e.retryable) for e in drive.events(ev.NodeFailed)] == [(1, True), (2, False)]


def test_an_exhausted_retry_is_caught_by_the_error_edge():
    drive = retrying(TWICE, "a>b error")
    drive.error("a")
    drive.wake()
    assert drive.error("a")[-1] == "run b#1"


def test_a_visit_has_its_attempts_to_itself():
    drive = Driver(graph_of("a>a if state.again", nodes=(step("a", retry=TWICE),)))
    drive.start(again=True)
    drive.error("a")
    drive.wake()
    drive.ok("a")
    assert drive.error("a") == ["NodeFailed a/2 io_error ...", "RetryScheduled a/2"]


def test_a_result_that_comes_in_the_backoff_is_dropped():
    drive = retrying(TWICE)
    drive.error("a")
    assert drive.send(sg.NodeSucceeded(node_id="a", visit=1, attempt=1)) == []
    assert drive.phase("a") == "backoff"


@pytest.mark.parametrize(
    ("backoff", "delays"),
    [
        ("fixed", [100, 100, 100, 100, 100]),
        ("linear", [100, 200, 300, 400, 500]),
        ("exponential", [100, 200, 400, 500, 500]),
    ],
)
def test_the_delay_grows_up_to_its_cap(backoff, delays):
    policy = RetryPolicy(max_attempts=6, backoff=backoff, initial_delay_ms=100, max_delay_ms=500)
    drive = retrying(policy)
    for _ in delays:
        drive.error("a")
        drive.wake()
    assert [event.delay_ms for event in drive.events(ev.RetryScheduled)] == delays


def test_a_hundredth_failure_is_no_trouble():
    policy = RetryPolicy(backoff="exponential", initial_delay_ms=1_000, max_delay_ms=30_000)
    assert retry_delay_ms(policy, 100_000, 0.0) == 30_000


@pytest.mark.parametrize(("chance", "delay_ms"), [(0.0, 500), (0.5, 750), (0.999, 999)])
def test_the_drawn_delay_stands_in_the_event(chance, delay_ms):
    policy = RetryPolicy(max_attempts=2, backoff="fixed", initial_delay_ms=1_000, jitter=True)
    drive = retrying(policy)
    drive.send(sg.NodeErrored(node_id="a", visit=1, attempt=1, error="e", error_class="io_error"), chance)
    (scheduled,) = drive.events(ev.RetryScheduled)
    assert scheduled == ev.RetryScheduled(
        node_id="a", visit=1, attempt=2, delay_ms=delay_ms, due_at=NOW + delay_ms
    )
    assert wake_at(drive.state) == NOW + delay_ms


@pytest.mark.parametrize(("retry_after_ms", "delay_ms"), [(10, 1_000), (90_000, 90_000)])
def test_the_delay_is_at_least_what_the_other_side_asked_for(retry_after_ms, delay_ms):
    drive = retrying(TWICE)
    drive.error("a", "rate_limit", retry_after_ms=retry_after_ms)
    assert drive.events(ev.RetryScheduled)[0].delay_ms == delay_ms


@pytest.mark.parametrize(
    ("error_class", "fields", "retried"),
    [
        ("rate_limit", {}, True),
        ("io_error", {}, False),
        ("rate_limit", {"retryable": False}, False),
        ("io_error", {"retryable": True}, False),
    ],
)
def test_only_the_classes_of_the_policy_are_retried(error_class, fields, retried):
    drive = retrying(RetryPolicy(max_attempts=2, retryable_on=("rate_limit", "timeout")))
    drive.error("a", error_class, **fields)
    assert drive.phase("a") == ("backoff" if retried else "failed")


def test_a_policy_without_classes_retries_all_but_what_is_not_retryable():
    drive = retrying(TWICE)
    assert drive.error("a", "anything", retryable=False) == ["NodeFailed a anything", "WorkflowFailed a"]


# --- attempts that are lost -----------------------------------------------------------------------


def test_a_new_owner_makes_running_attempts_again():
    drive = fan("split>a", "split>b", nodes=(step("a"),))
    drive.ok("b")
    assert drive.recover() == ["NodeStarted a#2 recovered", "run a#2"]
    assert drive.last is not None
    assert drive.last.effects[0].key == "exec_1:a:1"


def test_a_lost_worker_costs_no_attempt():
    drive = retrying(RetryPolicy(max_attempts=2, backoff="linear", initial_delay_ms=1_000))
    assert drive.lose("a") == ["NodeStarted a#2 recovered", "run a#2"]
    drive.error("a")
    assert drive.events(ev.RetryScheduled)[0].delay_ms == 1_000
    drive.wake()
    assert drive.recover() == ["NodeStarted a#4 recovered", "run a#4"]
    assert drive.error("a") == ["NodeFailed a io_error", "WorkflowFailed a"]


def test_the_result_of_a_lost_attempt_is_dropped():
    drive = Driver(graph_of("a>end"))
    drive.start()
    drive.recover()
    assert drive.send(sg.NodeSucceeded(node_id="a", visit=1, attempt=1)) == []
    assert drive.ok("a")[-1] == "WorkflowCompleted"


@pytest.mark.parametrize("lose", [Driver.recover, lambda drive: drive.lose("a")])
def test_what_is_lost_too_often_has_crashed(lose):
    drive = retrying(RetryPolicy(max_attempts=9), "a>b error")
    for number in range(RECOVERIES_MAX):
        assert lose(drive)[0] == f"NodeStarted a#{number + 2} recovered"
    assert lose(drive) == ["NodeFailed a crashed", "NodeScheduled b", "NodeStarted b#1", "run b#1"]
    (failed,) = drive.events(ev.NodeFailed)
    assert (failed.attempt, failed.error) == (4, "lost 4 times with the process that ran it")


def test_a_crash_without_an_error_edge_fails_the_execution():
    drive = Driver(graph_of("a>end"))
    drive.start()
    for _ in range(RECOVERIES_MAX):
        drive.recover()
    assert drive.recover() == ["NodeFailed a crashed", "WorkflowFailed a"]


def test_losses_are_counted_for_each_visit():
    drive = Driver(graph_of("a>a if state.again"))
    drive.start(again=True)
    for _ in range(RECOVERIES_MAX):
        drive.recover()
    drive.ok("a")
    assert drive.recover() == ["NodeStarted a/2#2 recovered", "run a/2#2"]


def test_a_new_owner_leaves_waits_and_backoffs_alone():
    drive = fan("split>nap", "split>gate", "split>a", nodes=(NAP, GATE, step("a", retry=TWICE)))
    drive.error("a")
    assert drive.recover() == []


def test_what_is_due_is_done_before_lost_attempts_are_made_again():
    """The timer takes the loop into its next round: the lost attempt is of no interest any more."""
    drive = fan("split>a", "split>nap", "nap>split", "a>end", "a>split if state.x", nodes=(NAP,))
    assert drive.recover(after=1_000) == [
        "TimerFired nap",
        "NodeCancelled a",
        "NodeCompleted nap",
        "NodeScheduled split/2",
        "NodeCompleted split/2",
        "NodeScheduled a/2",
        "NodeStarted a/2#1",
        "NodeScheduled nap/2",
        "TimerCreated nap/2",
        "stop a",
        "run a/2#1",
    ]


# --- failing --------------------------------------------------------------------------------------


def failing_fan() -> Driver:
    """``a`` fails while ``b`` runs, ``c`` backs off, and ``nap`` and ``gate`` wait."""
    drive = fan(
        "split>a",
        "split>b",
        "split>c",
        "split>nap",
        "split>gate",
        "b>after",
        nodes=(NAP, GATE, step("c", retry=TWICE)),
    )
    drive.error("c")
    return drive


def test_waits_and_backoffs_are_cancelled_at_once_and_running_nodes_settle():
    drive = failing_fan()
    assert drive.error("a") == [
        "NodeFailed a io_error",
        "NodeCancelled c",
        "NodeCancelled nap",
        "NodeCancelled gate",
        "WorkflowFailing a",
    ]
    assert (drive.status, waiting_on(drive.state)) == ("running", [])
    assert wake_at(drive.state) == NOW + FAILING_GRACE_MS == NOW + 60_000
    assert drive.ok("b", "done") == ["NodeCompleted b", "WorkflowFailed a"]
    assert (drive.status, drive.phase("after")) == ("failed", "pending")
    assert drive.state.failure == Failure(error="node a failed: no luck", error_class="io_error", node_id="a")


def test_what_does_not_settle_in_time_is_cancelled():
    drive = failing_fan()
    drive.error("a")
    assert drive.tick(after=59_999) == []
    assert drive.tick(after=1) == ["NodeCancelled b", "WorkflowFailed a", "stop b"]
    assert drive.send(sg.NodeSucceeded(node_id="b", visit=1, attempt=1)) == []


def test_a_new_owner_does_not_start_what_is_past_the_deadline():
    drive = failing_fan()
    drive.error("a")
    assert drive.recover(after=FAILING_GRACE_MS) == ["NodeCancelled b", "WorkflowFailed a", "stop b"]


def test_a_new_owner_lets_running_nodes_settle_until_the_same_deadline():
    drive = failing_fan()
    drive.error("a")
    assert drive.recover(after=50_000) == ["NodeStarted b#2 recovered", "run b#2"]
    assert wake_at(drive.state) == NOW + FAILING_GRACE_MS
    assert drive.wake()[-2:] == ["WorkflowFailed a", "stop b"]


def test_the_first_failure_is_the_one_that_is_told():
    drive = failing_fan()
    drive.error("a", "first")
    assert drive.error("b", "second") == ["NodeFailed b second", "WorkflowFailed a"]
    assert drive.state.failure is not None
    assert drive.state.failure.error_class == "first"


def test_while_failing_nothing_is_retried():
    drive = fan("split>a", "split>b", nodes=(step("b", retry=TWICE),))
    drive.error("a")
    assert drive.error("b") == ["NodeFailed b io_error", "WorkflowFailed a"]


def test_while_failing_error_edges_and_rounds_start_nothing():
    drive = fan("split>a", "split>b", "split>c", "b>fix error", "c>c")
    drive.error("a")
    assert drive.error("b") == ["NodeFailed b io_error"]
    assert drive.ok("c") == ["NodeCompleted c", "WorkflowFailed a"]


def test_while_failing_nothing_can_be_approved_and_events_wake_nobody():
    drive = failing_fan()
    drive.error("a")
    with pytest.raises(Conflict, match="not waiting for an approval"):
        drive.approve(node_id="gate")
    assert drive.event("k") == ["ExternalEventReceived k"]


def test_results_still_become_state_while_failing():
    drive = failing_fan()
    drive.error("a")
    drive.ok("b", state_patch={"b": 1})
    assert drive.data == {"b": 1}


# --- the execution's own deadline -----------------------------------------------------------------


def test_an_execution_that_only_waits_fails_at_its_deadline():
    drive = Driver(graph_of("gate>end", nodes=(GATE,), timeout_ms=5_000))
    drive.start()
    assert wake_at(drive.state) == NOW + 5_000
    assert drive.tick(after=4_999) == []
    assert drive.tick(after=1) == ["TimerFired", "NodeCancelled gate", "WorkflowFailed"]
    assert drive.state.failure == Failure(error="the execution timed out", error_class="timeout")


def test_at_the_deadline_running_nodes_may_settle():
    drive = Driver(graph_of("a>b", timeout_ms=5_000))
    drive.start()
    assert drive.wake() == ["TimerFired", "WorkflowFailing"]
    assert wake_at(drive.state) == NOW + 5_000 + FAILING_GRACE_MS
    assert drive.ok("a") == ["NodeCompleted a", "WorkflowFailed"]


def test_error_edges_do_not_catch_the_deadline():
    drive = Driver(graph_of("a>end", "a>b error", "a>c timeout", timeout_ms=5_000))
    drive.start()
    drive.wake()
    drive.wake()
    assert drive.status == "failed"


def test_the_deadline_takes_effect_once():
    drive = Driver(graph_of("a>b", timeout_ms=5_000))
    drive.start()
    drive.wake()
    assert drive.tick(after=10) == []
    assert drive.recover() == ["NodeStarted a#2 recovered", "run a#2"]
    assert len(drive.events(ev.TimerFired)) == 1


def test_what_was_due_before_the_deadline_comes_before_it():
    drive = Driver(graph_of("nap>end", nodes=(NAP,), timeout_ms=5_000))
    drive.start()
    assert drive.recover(after=60_000) == ["TimerFired nap", "NodeCompleted nap", "WorkflowCompleted"]


def test_a_recorded_start_may_be_too_late_already():
    drive = Driver(graph_of("a>end", timeout_ms=5_000))
    drive.start(only_record=True)
    assert drive.recover(after=5_000) == ["TimerFired", "WorkflowFailed"]


def test_an_execution_that_fails_already_is_not_timed_out():
    drive = fan("split>a", "split>b", timeout_ms=5_000)
    drive.error("a")
    assert drive.tick(after=5_000) == []
    assert drive.wake() == ["NodeCancelled b", "WorkflowFailed a", "stop b"]
    assert drive.state.failure is not None
    assert drive.state.failure.error_class == "io_error"


# --- cancelling -----------------------------------------------------------------------------------


def test_cancelling_ends_everything_in_one_turn():
    drive = failing_fan()
    assert drive.cancel(reason="changed my mind") == [
        "NodeCancelled a",
        "NodeCancelled b",
        "NodeCancelled c",
        "NodeCancelled nap",
        "NodeCancelled gate",
        "WorkflowCancelled",
        "stop a",
        "stop b",
    ]
    assert drive.last is not None
    assert drive.last.answer == {"status": "cancelled"}
    assert (drive.status, wake_at(drive.state)) == ("cancelled", None)
    (cancelled,) = drive.events(ev.WorkflowCancelled)
    assert (cancelled.reason, cancelled.signal_id) == ("changed my mind", "signal-1")


def test_late_results_are_refused_after_a_cancel():
    drive = Driver(graph_of("a>b"))
    drive.start()
    drive.cancel()
    assert drive.send(sg.NodeSucceeded(node_id="a", visit=1, attempt=1, output=1)) == []
    late = sg.NodeErrored(node_id="a", visit=1, attempt=1, error="e", error_class="io_error")
    assert drive.send(late) == []
    assert drive.recover() == []
    assert drive.data == {}


def test_a_paused_execution_can_be_cancelled():
    drive = Driver(graph_of("gate>end", nodes=(GATE,)))
    drive.start()
    assert drive.cancel() == ["NodeCancelled gate", "WorkflowCancelled"]


def test_a_failing_execution_can_be_cancelled():
    drive = failing_fan()
    drive.error("a")
    assert drive.cancel() == ["NodeCancelled b", "WorkflowCancelled", "stop b"]
    assert (drive.status, drive.state.failure, drive.state.failing) == ("cancelled", None, None)


def test_a_recorded_start_can_be_cancelled_before_it_begins():
    drive = Driver(graph_of("a>end"))
    drive.start(only_record=True)
    assert drive.cancel() == ["WorkflowCancelled"]


# --- limits ---------------------------------------------------------------------------------------


def test_a_limit_exceeded_node_ends_the_execution_and_cancels_the_rest():
    stop = LimitExceededNode(id="stop", description="no more than {{ state.most }} rounds")
    drive = Driver(graph_of("split>b", "split>nap", "split>a", "a>stop", nodes=(SPLIT, NAP, stop)))
    drive.start(most=3)
    assert drive.ok("a") == [
        "NodeCompleted a",
        "NodeScheduled stop",
        "NodeCompleted stop",
        "NodeCancelled b",
        "NodeCancelled nap",
        "WorkflowLimitExceeded stop",
        "stop b",
    ]
    assert drive.status == "limit_exceeded"
    assert drive.state.failure == Failure(
        error="no more than 3 rounds", error_class="strategy", node_id="stop"
    )


def test_a_limit_while_others_wait_ends_them_too():
    drive = fan("split>gate", "split>a", "a>a", nodes=(GATE,), max_steps=3)
    assert drive.ok("a") == ["NodeCompleted a", "NodeCancelled gate", "WorkflowLimitExceeded a"]
    assert drive.state.failure == Failure(error="max_steps exceeded", error_class="max_steps", node_id="a")
