"""Waits and approvals: who is woken by what, once, and what becomes of the payload."""

import pytest

from runtime import events as ev
from runtime import signals as sg
from runtime.errors import BadRequest, Conflict, ValueRejected
from runtime.graph import Graph, HumanApprovalNode, JoinNode, ParallelNode, WaitNode
from runtime.machine import BUFFERED_BYTES_MAX, BUFFERED_COUNT_MAX, Moment, decide
from runtime.state import ANSWERED_MAX, waiting_on, wake_at
from tests.unit.machine_driver import NOW, Driver, graph_of

SPLIT = ParallelNode(id="split")


def timer(node_id: str = "w", delay_ms: int = 1_000) -> WaitNode:
    return WaitNode(id=node_id, until="timer", delay_ms=delay_ms)


def listener(node_id: str = "w", key: str = "paid", **fields) -> WaitNode:
    return WaitNode(id=node_id, until="external_event", correlation_key=key, **fields)


def either(node_id: str = "w", key: str = "paid", delay_ms: int = 1_000, **fields) -> WaitNode:
    return WaitNode(id=node_id, until="either", correlation_key=key, delay_ms=delay_ms, **fields)


def gate(node_id: str = "gate", **fields) -> HumanApprovalNode:
    return HumanApprovalNode(id=node_id, **fields)


def waiting(*edges: str, node, **fields) -> Driver:
    drive = Driver(graph_of(*edges, nodes=(node,), **fields))
    drive.start()
    return drive


# --- timers ---------------------------------------------------------------------------------------


def test_a_timer_pauses_and_goes_on_when_it_is_due():
    drive = Driver(graph_of("w>a", nodes=(timer(),)))
    assert drive.start() == ["WorkflowStarted", "NodeScheduled w", "TimerCreated w"]
    assert (drive.status, wake_at(drive.state)) == ("paused", NOW + 1_000)
    assert drive.events(ev.TimerCreated)[0].fire_at == NOW + 1_000
    assert waiting_on(drive.state) == [
        {"node_id": "w", "type": "timer", "since": NOW, "due_at": NOW + 1_000},
    ]
    assert drive.wake() == [
        "TimerFired w",
        "NodeCompleted w",
        "NodeScheduled a",
        "NodeStarted a#1",
        "run a#1",
    ]
    assert (drive.status, wake_at(drive.state)) == ("running", None)


def test_a_timer_never_fires_early():
    drive = waiting("w>end", node=timer())
    assert drive.tick(after=999) == []
    assert drive.last is not None
    assert drive.last.ignored
    assert drive.recover() == []
    assert drive.tick(after=1) == ["TimerFired w", "NodeCompleted w", "WorkflowCompleted"]


def test_a_timer_fires_once():
    drive = Driver(graph_of("split>w", "split>a", nodes=(SPLIT, timer())))
    drive.start()
    assert drive.tick(after=5_000) == ["TimerFired w", "NodeCompleted w"]
    assert drive.tick(after=5_000) == []
    assert drive.recover() == ["NodeStarted a#2 recovered", "run a#2"]


def test_a_new_owner_fires_what_became_due_meanwhile():
    drive = waiting("w>end", node=timer())
    assert drive.recover(after=60_000) == ["TimerFired w", "NodeCompleted w", "WorkflowCompleted"]


def test_timers_that_are_due_together_fire_in_the_order_in_which_they_were_due():
    nodes = (SPLIT, timer("slow", 300), timer("quick", 100), timer("mean", 200))
    drive = Driver(graph_of("split>slow", "split>quick", "split>mean", nodes=nodes))
    drive.start()
    drive.tick(after=1_000)
    assert [event.node_id for event in drive.events(ev.TimerFired)] == ["quick", "mean", "slow"]


def test_a_timer_of_no_length_needs_a_tick_all_the_same():
    drive = waiting("w>end", node=timer(delay_ms=0))
    assert (drive.status, wake_at(drive.state)) == ("paused", NOW)
    assert drive.tick() == ["TimerFired w", "NodeCompleted w", "WorkflowCompleted"]


def test_a_wait_beside_a_running_node_does_not_pause():
    drive = Driver(graph_of("split>w", "split>a", nodes=(SPLIT, timer())))
    drive.start()
    assert drive.status == "running"
    drive.ok("a")
    assert drive.status == "paused"


# --- external events ------------------------------------------------------------------------------


def test_an_event_wakes_the_node_that_waits_for_its_key():
    drive = Driver(graph_of("w>a", nodes=(listener(),)))
    assert drive.start() == ["WorkflowStarted", "NodeScheduled w", "InterruptRaised w"]
    assert (drive.status, wake_at(drive.state)) == ("paused", None)
    assert waiting_on(drive.state) == [
        {"node_id": "w", "type": "external_event", "since": NOW, "correlation_key": "paid"},
    ]
    assert drive.event("paid") == [
        "ExternalEventReceived paid",
        "NodeCompleted w",
        "NodeScheduled a",
        "NodeStarted a#1",
        "run a#1",
    ]
    assert drive.last is not None
    assert drive.last.answer == {"accepted": True}
    assert drive.events(ev.ExternalEventReceived)[0].delivered == ("w",)


def test_an_object_is_merged_into_the_state_and_set_under_the_output_key():
    drive = Driver(graph_of("w>end", nodes=(listener(output_key="event"),)))
    drive.start(a={"x": 1}, gone=1)
    drive.event("paid", {"a": {"y": None, "z": 2}, "gone": None})
    assert drive.data == {"a": {"x": 1, "z": 2}, "event": {"a": {"y": None, "z": 2}, "gone": None}}


@pytest.mark.parametrize("payload", ["text", 7, [1], None])
def test_what_is_no_object_is_only_set_under_the_output_key(payload):
    drive = Driver(graph_of("w>end", nodes=(listener(output_key="event"),)))
    drive.start(q=1)
    drive.event("paid", payload)
    assert drive.data == {"q": 1, "event": payload}


def test_without_an_output_key_only_an_object_leaves_a_trace():
    drive = waiting("w>v", "v>end", node=listener())
    drive.event("paid", "text")
    assert drive.data == {}


def test_the_conditions_of_a_wait_see_the_merged_payload():
    drive = waiting("w>a if state.ok and output.ok", "w>b if not state.ok", node=listener())
    drive.event("paid", {"ok": True})
    assert (drive.phase("a"), drive.phase("b")) == ("running", "skipped")


def test_an_event_with_another_key_wakes_nobody():
    drive = waiting("w>end", node=listener())
    assert drive.event("refunded") == ["ExternalEventReceived refunded"]
    assert drive.status == "paused"


@pytest.mark.parametrize(
    ("template", "data", "key"),
    [
        ("order-{{ state.id }}", {"id": 7}, "order-7"),
        ("{{ state.id }}", {"id": "x"}, "x"),
        ("{{ state.id }}", {"id": 7}, "7"),
        ("{{ execution.id }}/{{ node.id }}", {}, "exec_1/w"),
    ],
)
def test_a_correlation_key_is_a_template(template, data, key):
    drive = Driver(graph_of("w>end", nodes=(listener(key=template),)))
    drive.start(**data)
    assert drive.state.node("w").correlation_key == key
    assert drive.event(key)[-1] == "WorkflowCompleted"


def test_a_correlation_key_is_rendered_when_the_wait_starts():
    drive = Driver(graph_of("a>w", "w>a if state.again", nodes=(listener(key="{{ state.n }}"),)))
    drive.start(n=1)
    drive.ok("a", state_patch={"again": True})
    assert drive.state.node("w").correlation_key == "1"
    drive.event("1", {"n": 2})
    drive.ok("a")
    assert drive.state.node("w").correlation_key == "2"


def test_what_a_correlation_key_misses_is_noted():
    drive = waiting("w>end", node=listener(key="order-{{ state.id }}"))
    (raised,) = drive.events(ev.InterruptRaised)
    assert (raised.correlation_key, raised.warnings) == ("order-", ("state.id is undefined",))


@pytest.mark.parametrize(
    "node", [listener("b", key="{{ state.t ~ state.t }}"), gate("b", description="{{ state.t ~ state.t }}")]
)
def test_a_wait_whose_template_cannot_be_rendered_fails(node):
    drive = Driver(graph_of("a>b", "b>c error", nodes=(node,)))
    drive.start(t="x" * 200_000)
    assert drive.ok("a") == [
        "NodeCompleted a",
        "NodeScheduled b",
        "NodeFailed b template_error",
        "NodeScheduled c",
        "NodeStarted c#1",
        "run c#1",
    ]


def test_an_event_goes_to_all_nodes_that_wait_for_it():
    nodes = (SPLIT, listener("w", output_key="w"), either("e", output_key="e"), listener("o", key="other"))
    drive = Driver(graph_of("split>w", "split>e", "split>o", nodes=nodes))
    drive.start()
    assert drive.event("paid", {"n": 1}) == [
        "ExternalEventReceived paid",
        "NodeCompleted w",
        "NodeCompleted e",
    ]
    assert drive.events(ev.ExternalEventReceived)[0].delivered == ("w", "e")
    assert drive.data == {"n": 1, "w": {"n": 1}, "e": {"n": 1}}
    assert drive.phase("o") == "waiting"


def test_of_waits_that_meet_in_a_first_join_one_takes_the_event():
    nodes = (SPLIT, listener("x"), listener("y"), JoinNode(id="meet", merge="first", output_key="won"))
    drive = Driver(graph_of("split>x", "split>y", "y>meet", "x>meet", nodes=nodes))
    drive.start()
    assert drive.event("paid", "first") == [
        "ExternalEventReceived paid",
        "NodeCompleted x",
        "NodeScheduled meet",
        "NodeCancelled y",
        "NodeCompleted meet",
        "WorkflowCompleted",
    ]
    assert drive.data == {"won": "first"}


def test_a_wait_that_starts_again_in_the_same_turn_does_not_get_the_event_again():
    drive = Driver(graph_of("w>w", nodes=(listener(),)))
    drive.start()
    assert drive.event("paid") == [
        "ExternalEventReceived paid",
        "NodeCompleted w",
        "NodeScheduled w/2",
        "InterruptRaised w/2",
    ]


def test_an_event_that_fails_one_wait_does_not_reach_those_that_it_cancels():
    nodes = (SPLIT, listener("w", output_key="sum"), listener("v"))
    drive = Driver(graph_of("split>w", "split>v", nodes=nodes, merges={"sum": "add"}))
    drive.start(sum=1e308)
    assert drive.event("paid", 1e308) == [
        "ExternalEventReceived paid",
        "NodeFailed w value_rejected",
        "NodeCancelled v",
        "WorkflowFailed w",
    ]


def test_a_recorded_start_begins_with_an_event_too():
    drive = Driver(graph_of("w>end", nodes=(listener(),)))
    assert drive.start(only_record=True) == ["WorkflowStarted"]
    assert drive.event("paid") == [
        "ExternalEventReceived paid",
        "NodeScheduled w",
        "NodeCompleted w",
        "WorkflowCompleted",
    ]


# --- buffered events ------------------------------------------------------------------------------


def wait_in_a_loop() -> Graph:
    return graph_of("a>w", "w>a if state.again", nodes=(listener(output_key="got"),))


def test_an_event_that_nobody_waits_for_is_kept_for_the_next_wait():
    drive = Driver(wait_in_a_loop())
    drive.start()
    assert drive.event("paid", "early") == ["ExternalEventReceived paid"]
    assert drive.state.buffered == {"paid": ["early"]}
    assert drive.ok("a") == ["NodeCompleted a", "NodeScheduled w", "NodeCompleted w", "WorkflowCompleted"]
    assert drive.data == {"got": "early"}
    assert drive.events(ev.NodeCompleted)[-1].consumed_key == "paid"


def test_waits_take_the_oldest_event_of_their_key_and_consume_it():
    drive = Driver(wait_in_a_loop())
    drive.start(again=True)
    for payload in ("one", "two"):
        drive.event("paid", payload)
    drive.event("refunded", "other")
    drive.ok("a")
    assert drive.data["got"] == "one"
    assert drive.state.buffered == {"paid": ["two"], "refunded": ["other"]}
    drive.ok("a")
    assert drive.data["got"] == "two"
    assert drive.state.buffered == {"refunded": ["other"]}
    assert drive.ok("a")[-1] == "InterruptRaised w/3"


def test_a_buffered_object_is_merged_too():
    drive = Driver(graph_of("a>w", nodes=(listener(),)))
    drive.start(x=1)
    drive.event("paid", {"x": None, "y": 2})
    drive.ok("a")
    assert drive.data == {"y": 2}


def test_a_wait_for_either_takes_a_buffered_event():
    drive = Driver(graph_of("a>w", nodes=(either(),)))
    drive.start()
    drive.event("paid")
    assert drive.ok("a")[-2:] == ["NodeCompleted w", "WorkflowCompleted"]


def test_a_buffered_event_that_fails_its_wait_is_consumed():
    graph = graph_of("a>w", "w>a error", nodes=(listener(output_key="sum"),), merges={"sum": "add"})
    drive = Driver(graph)
    drive.start(sum=1e308)
    drive.event("paid", 1e308)
    drive.event("paid", 1)
    assert "NodeFailed w value_rejected" in drive.ok("a")
    assert drive.state.buffered == {"paid": [1]}
    assert drive.ok("a")[-1] == "WorkflowCompleted"


def test_at_most_a_thousand_events_are_kept():
    drive = Driver(wait_in_a_loop())
    drive.start()
    state, moment = drive.state, Moment(NOW)
    for number in range(BUFFERED_COUNT_MAX):
        event = sg.SendEvent(signal_id=f"event-{number}", correlation_key=f"key-{number % 7}")
        state = decide(drive.plan, state, event, moment).state
    assert state.buffered_count == BUFFERED_COUNT_MAX == 1_000
    with pytest.raises(Conflict, match="holds as many unread events as it may"):
        decide(drive.plan, state, sg.SendEvent(signal_id="more", correlation_key="paid"), moment)


def test_an_event_that_somebody_waits_for_needs_no_room():
    drive = Driver(wait_in_a_loop())
    drive.start()
    drive.event("other", "x" * (BUFFERED_BYTES_MAX - 2))
    with pytest.raises(Conflict):
        drive.event("paid", 0)
    drive.ok("a")
    assert drive.event("paid", 0)[-1] == "WorkflowCompleted"


def test_the_kept_events_are_bounded_in_bytes_and_what_is_consumed_makes_room():
    drive = Driver(wait_in_a_loop())
    drive.start(again=True)
    half = "x" * (BUFFERED_BYTES_MAX // 2 - 2)
    drive.event("paid", half)
    drive.event("other", half)
    assert drive.state.buffered_bytes == BUFFERED_BYTES_MAX
    with pytest.raises(Conflict):
        drive.event("paid", 0)
    drive.ok("a")
    assert drive.event("paid", 0) == ["ExternalEventReceived paid"]


def test_nothing_is_kept_after_the_end():
    drive = Driver(graph_of("a>end"))
    drive.start()
    drive.event("paid", "never read")
    drive.ok("a")
    assert (drive.state.buffered, drive.state.buffered_count, drive.state.buffered_bytes) == ({}, 0, 0)


# --- deadlines of waits ---------------------------------------------------------------------------


def test_a_wait_for_an_event_may_end_in_its_timeout_edge():
    drive = waiting("w>a", "w>late timeout", "w>oops error", node=listener(timeout_ms=1_000))
    assert waiting_on(drive.state)[0]["due_at"] == NOW + 1_000
    assert drive.tick(after=999) == []
    assert drive.tick(after=1) == [
        "TimerFired w",
        "NodeFailed w timeout",
        "NodeSkipped a",
        "NodeScheduled late",
        "NodeStarted late#1",
        "NodeSkipped oops",
        "run late#1",
    ]
    assert drive.event("paid") == ["ExternalEventReceived paid"]


def test_without_a_timeout_edge_the_error_edge_catches_it():
    drive = waiting("w>oops error", node=listener(timeout_ms=1_000))
    assert drive.wake()[-1] == "run oops#1"


def test_without_either_the_execution_fails():
    drive = waiting("w>a", node=listener(timeout_ms=1_000))
    assert drive.wake() == ["TimerFired w", "NodeFailed w timeout", "WorkflowFailed w"]
    assert drive.state.failure is not None
    assert drive.state.failure.error == "node w failed: timed out waiting for event 'paid'"
    assert drive.state.failure.error_class == "timeout"


def test_either_goes_on_with_the_event():
    drive = waiting("w>a", "w>late timeout", node=either(output_key="got"))
    assert drive.event("paid", 1)[-1] == "run a#1"
    assert drive.data == {"got": 1}
    assert drive.tick(after=5_000) == []


def test_either_goes_along_its_timeout_edge_when_the_time_comes_first():
    drive = waiting("w>a", "w>late timeout", node=either(output_key="got"))
    assert drive.wake() == [
        "TimerFired w",
        "NodeCompleted w",
        "NodeSkipped a",
        "NodeScheduled late",
        "NodeStarted late#1",
        "run late#1",
    ]
    assert drive.data == {}


def test_either_without_a_timeout_edge_goes_on_all_the_same():
    drive = waiting("w>a", node=either())
    assert drive.wake()[-1] == "run a#1"


@pytest.mark.parametrize("event_first", [True, False])
def test_of_a_due_timer_and_an_event_the_first_in_the_log_wins(event_first):
    drive = waiting("w>a", "w>late timeout", node=either())
    drive.now += 1_000
    told = [lambda: drive.event("paid"), drive.tick]
    for tell in told if event_first else reversed(told):
        tell()
    assert (drive.phase("a"), drive.phase("late")) == (
        ("running", "skipped") if event_first else ("skipped", "running")
    )
    assert len(drive.events(ev.TimerFired)) == (0 if event_first else 1)


# --- approvals ------------------------------------------------------------------------------------


def test_an_approval_pauses_until_somebody_decides():
    drive = Driver(graph_of("gate>a", nodes=(gate(description="Pay {{ state.sum }}?"),)))
    assert drive.start(sum=7) == ["WorkflowStarted", "NodeScheduled gate", "InterruptRaised gate"]
    assert drive.status == "paused"
    assert waiting_on(drive.state) == [{"node_id": "gate", "type": "approval", "since": NOW}]
    assert drive.events(ev.InterruptRaised)[0].description == "Pay 7?"
    assert drive.approve(actor="token-1", comment="fine") == [
        "ApprovalReceived gate",
        "NodeCompleted gate",
        "NodeScheduled a",
        "NodeStarted a#1",
        "run a#1",
    ]
    assert drive.last is not None
    assert drive.last.answer == {"accepted": True, "node_id": "gate"}
    assert drive.last.events[0] == ev.ApprovalReceived(
        node_id="gate",
        visit=1,
        decision="approved",
        user_id="ann",
        actor="token-1",
        comment="fine",
        signal_id="signal-1",
    )


@pytest.mark.parametrize(("template", "shown"), [("{{ state.o }}", '{"n":1}'), ("{{ state.n }}", "1")])
def test_a_description_is_always_a_text(template, shown):
    drive = Driver(graph_of("gate>end", nodes=(gate(description=template),)))
    drive.start(o={"n": 1}, n=1)
    assert drive.events(ev.InterruptRaised)[0].description == shown


def test_the_decision_is_the_output_and_the_patch_is_merged_before():
    drive = Driver(graph_of("gate>end", nodes=(gate(output_key="review"),)))
    drive.start(draft={"text": "a", "note": 1})
    drive.approve(comment="ok", state_patch={"draft": {"text": "b", "note": None}, "review": "old"})
    assert drive.data == {
        "draft": {"text": "b"},
        "review": {"decision": "approved", "user_id": "ann", "comment": "ok"},
    }


def test_an_approved_edge_is_taken_instead_of_the_ok_edge():
    drive = waiting("gate>plain", "gate>a approved", "gate>b rejected", node=gate())
    drive.approve()
    assert [drive.phase(name) for name in ("plain", "a", "b")] == ["skipped", "running", "skipped"]


def test_a_rejection_takes_its_edge_and_merges_the_patch():
    drive = waiting("gate>a", "gate>b rejected", "gate>c error", node=gate())
    assert drive.approve("rejected", state_patch={"why": "no"}) == [
        "ApprovalReceived gate",
        "NodeCompleted gate",
        "NodeSkipped a",
        "NodeScheduled b",
        "NodeStarted b#1",
        "NodeSkipped c",
        "run b#1",
    ]
    assert drive.data == {"why": "no"}


def test_a_rejection_without_an_edge_fails_the_execution_with_who_and_why():
    drive = waiting("gate>a", node=gate())
    assert drive.approve("rejected", user_id="bob", comment="too dear") == [
        "ApprovalReceived gate",
        "NodeFailed gate rejected",
        "WorkflowFailed gate",
    ]
    assert drive.state.failure is not None
    assert drive.state.failure.error == "node gate failed: approval rejected by bob: too dear"


def test_a_rejection_without_an_edge_is_caught_by_the_error_edge():
    drive = waiting("gate>a", "gate>b error", node=gate())
    assert drive.approve("rejected")[-1] == "run b#1"
    assert drive.events(ev.NodeFailed)[0].error == "approval rejected by ann"


def two_gates() -> Driver:
    drive = Driver(graph_of("split>x", "split>y", "x>end", nodes=(SPLIT, gate("x"), gate("y"))))
    drive.start()
    return drive


def test_of_several_approvals_one_must_be_named():
    drive = two_gates()
    with pytest.raises(BadRequest, match=r"multiple approvals pending \(x, y\); specify node_id"):
        drive.approve()
    assert drive.approve(node_id="y") == ["ApprovalReceived y", "NodeCompleted y"]
    assert drive.status == "paused"
    assert drive.approve()[-1] == "WorkflowCompleted"


def test_of_two_decisions_one_wins():
    drive = two_gates()
    drive.approve(node_id="x")
    with pytest.raises(Conflict, match="node x is not waiting for an approval"):
        drive.approve("rejected", node_id="x")
    assert len(drive.events(ev.ApprovalReceived)) == 1


@pytest.mark.parametrize("node_id", [None, "a", "gate", "nowhere"])
def test_where_nothing_waits_for_a_decision_there_is_a_conflict(node_id):
    drive = Driver(graph_of("a>gate", nodes=(gate(),)))
    drive.start()
    with pytest.raises(Conflict, match="is not waiting for an approval"):
        drive.approve(node_id=node_id)


def test_a_wait_for_an_event_cannot_be_approved():
    drive = waiting("w>end", node=listener())
    with pytest.raises(Conflict):
        drive.approve(node_id="w")


def test_a_decision_after_the_end_is_a_conflict():
    drive = waiting("gate>end", node=gate())
    drive.approve()
    with pytest.raises(Conflict, match="already in terminal state: completed"):
        drive.approve(node_id="gate")


def test_an_approval_in_a_loop_is_asked_for_again():
    drive = waiting("gate>gate rejected", "gate>a", node=gate())
    assert drive.approve("rejected")[-1] == "InterruptRaised gate/2"
    drive.approve()
    assert drive.phase("a") == "running"


def test_a_patch_that_the_state_cannot_hold_is_refused_and_the_approval_stays_open():
    drive = Driver(graph_of("gate>a", "gate>b error", nodes=(gate(),), merges={"sum": "add"}))
    drive.start(sum=1e308)
    with pytest.raises(ValueRejected, match="no number that can be kept"):
        drive.approve(state_patch={"sum": 1e308})
    assert drive.status == "paused"
    assert drive.approve(state_patch={"sum": 1})[0] == "ApprovalReceived gate"


# --- deadlines of approvals -----------------------------------------------------------------------


def test_an_approval_may_end_in_its_timeout_edge():
    drive = waiting("gate>a", "gate>escalate timeout", node=gate(timeout_ms=60_000))
    assert wake_at(drive.state) == NOW + 60_000
    assert drive.tick(after=59_999) == []
    assert drive.wake() == [
        "TimerFired gate",
        "NodeFailed gate timeout",
        "NodeSkipped a",
        "NodeScheduled escalate",
        "NodeStarted escalate#1",
        "run escalate#1",
    ]
    with pytest.raises(Conflict):
        drive.approve(node_id="gate")


def test_an_approval_without_a_timeout_edge_fails_at_its_deadline():
    drive = waiting("gate>a", node=gate(timeout_ms=60_000))
    assert drive.wake() == ["TimerFired gate", "NodeFailed gate timeout", "WorkflowFailed gate"]
    assert drive.state.failure is not None
    assert drive.state.failure.error == "node gate failed: timed out waiting for approval"


def test_a_decision_that_is_logged_before_the_deadline_is_noticed_wins():
    drive = waiting("gate>a", "gate>escalate timeout", node=gate(timeout_ms=1_000))
    drive.now += 2_000
    assert drive.approve()[-1] == "run a#1"
    assert drive.tick() == []


# --- repeats --------------------------------------------------------------------------------------


def test_a_repeated_decision_is_answered_from_the_log():
    drive = two_gates()
    drive.approve(node_id="x", signal_id="once")
    for decision in ("approved", "rejected"):
        assert drive.approve(decision, node_id="x", signal_id="once") == []
        assert drive.last is not None
        assert drive.last.answer["accepted"] is True
        assert drive.last.ignored


def test_a_repeated_event_is_delivered_once():
    drive = Driver(wait_in_a_loop())
    drive.start()
    drive.event("paid", 1, signal_id="once")
    assert drive.event("paid", 1, signal_id="once") == []
    assert drive.state.buffered == {"paid": [1]}


def test_repeats_are_answered_after_the_end_too():
    drive = waiting("gate>end", node=gate())
    drive.approve(signal_id="once")
    assert drive.status == "completed"
    assert drive.approve(signal_id="once") == []


def test_a_repeated_cancel_is_answered_from_the_log():
    drive = waiting("gate>end", node=gate())
    drive.cancel(signal_id="once")
    assert drive.cancel(signal_id="once") == []
    assert drive.last is not None
    assert drive.last.answer == {"status": "cancelled"}


def test_a_refused_signal_is_not_remembered():
    drive = Driver(graph_of("a>gate", nodes=(gate(),)))
    drive.start()
    with pytest.raises(Conflict):
        drive.approve(signal_id="early")
    drive.ok("a")
    assert drive.approve(signal_id="early")[-1] == "WorkflowCompleted"


def test_the_last_signals_are_remembered_and_no_more():
    drive = Driver(graph_of("a>end"))
    drive.start()
    for number in range(ANSWERED_MAX + 1):
        drive.event("k", signal_id=f"event-{number}")
    assert len(drive.state.answered) == ANSWERED_MAX
    assert drive.event("k", signal_id="event-1") == []
    assert drive.event("k", signal_id="event-0") == ["ExternalEventReceived k"]
