"""Loops: rounds, what a round cancels, and the edges that leave."""

from runtime import events as ev
from runtime import signals as sg
from runtime.graph import ConditionNode, JoinNode, ParallelNode, WaitNode
from tests.unit.machine_driver import NOW, Driver, graph_of, step

CHECK = ConditionNode(id="check")


def test_a_loop_goes_round_until_its_condition_lets_it_out():
    graph = graph_of("work>check", "check>done branch if state.n >= 2", "check>work branch", nodes=(CHECK,))
    drive = Driver(graph)
    drive.start()
    assert drive.ok("work", state_patch={"n": 1}) == [
        "NodeCompleted work",
        "NodeScheduled check",
        "NodeCompleted check",
        "NodeScheduled work/2",
        "NodeStarted work/2#1",
        "run work/2#1",
    ]
    assert drive.ok("work", state_patch={"n": 2}) == [
        "NodeCompleted work/2",
        "NodeScheduled check/2",
        "NodeCompleted check/2",
        "LoopEnded work",
        "NodeScheduled done",
        "NodeStarted done#1",
        "run done#1",
    ]
    assert drive.ok("done") == ["NodeCompleted done", "WorkflowCompleted"]
    assert drive.state.visits == 5


def test_each_visit_has_a_key_of_its_own():
    drive = Driver(graph_of("a>a if state.again"))
    drive.start(again=True)
    drive.ok("a")
    assert drive.last is not None
    assert [effect.key for effect in drive.last.effects] == ["exec_1:a:2"]


def test_a_back_edge_that_holds_is_taken_alone():
    drive = Driver(graph_of("a>b", "b>c", "b>a if state.again", "b>d"))
    drive.start()
    drive.ok("a")
    assert drive.ok("b", state_patch={"again": True}) == [
        "NodeCompleted b",
        "NodeScheduled a/2",
        "NodeStarted a/2#1",
        "run a/2#1",
    ]
    drive.ok("a")
    assert drive.ok("b", state_patch={"again": False})[-2:] == ["run c#1", "run d#1"]


def test_a_round_cancels_what_is_still_active_in_the_loop():
    nap = WaitNode(id="nap", until="timer", delay_ms=1_000)
    graph = graph_of(
        "head>fast",
        "head>slow",
        "head>nap",
        "fast>head if state.again",
        "slow>head if state.again",
        "nap>head if state.again",
        nodes=(nap,),
    )
    drive = Driver(graph)
    drive.start(again=True)
    drive.ok("head")
    assert drive.ok("fast") == [
        "NodeCancelled slow",
        "NodeCancelled nap",
        "NodeCompleted fast",
        "NodeScheduled head/2",
        "NodeStarted head/2#1",
        "stop slow",
        "run head/2#1",
    ]
    assert drive.send(sg.NodeSucceeded(node_id="slow", visit=1, attempt=1)) == []
    assert drive.ok("head")[-2:] == ["run fast/2#1", "run slow/2#1"]


def test_an_error_edge_that_leads_back_cancels_the_rest_of_the_round_too():
    drive = Driver(graph_of("head>a", "head>b", "a>head error", "b>head if state.again"))
    drive.start()
    drive.ok("head")
    assert drive.error("a") == [
        "NodeCancelled b",
        "NodeFailed a io_error",
        "NodeScheduled head/2",
        "NodeStarted head/2#1",
        "stop b",
        "run head/2#1",
    ]


def test_branches_inside_a_loop_meet_in_every_round():
    graph = graph_of(
        "split>a",
        "split>b",
        "a>meet",
        "b>meet",
        "meet>split if state.again",
        "meet>done",
        nodes=(ParallelNode(id="split"), JoinNode(id="meet", output_key="both")),
    )
    drive = Driver(graph)
    drive.start(again=True)
    drive.ok("a", 1)
    assert drive.ok("b", 2, state_patch={"again": True})[-2:] == ["run a/2#1", "run b/2#1"]
    assert drive.data["both"] == [1, 2]
    drive.ok("b", 4, state_patch={"again": False})
    assert drive.ok("a", 3) == [
        "NodeCompleted a/2",
        "NodeScheduled meet/2",
        "NodeCompleted meet/2",
        "LoopEnded split",
        "NodeScheduled done",
        "NodeStarted done#1",
        "run done#1",
    ]
    assert drive.data["both"] == [3, 4]


def test_a_skipped_branch_is_looked_at_again_in_the_next_round():
    graph = graph_of("head>a if state.n == 1", "head>b", "a>tail", "b>tail", "tail>head if state.n < 3")
    drive = Driver(graph)
    drive.start(n=0)
    drive.ok("head")
    assert drive.phase("a") == "skipped"
    drive.ok("b")
    drive.ok("tail", state_patch={"n": 1})
    drive.ok("head")
    assert drive.phase("a") == "running"
    assert drive.state.node("a").visit == 1
    assert drive.state.node("b").visit == 2


# --- leaving --------------------------------------------------------------------------------------


def exits():
    return Driver(graph_of("head>a", "head>b", "a>out", "a>head if state.a", "b>head if state.b", "out>end"))


def test_an_edge_that_leaves_waits_until_the_loop_has_ended():
    drive = exits()
    drive.start()
    drive.ok("head")
    assert drive.ok("a") == ["NodeCompleted a"]
    assert drive.phase("out") == "pending"
    assert drive.ok("b") == [
        "NodeCompleted b",
        "LoopEnded head",
        "NodeScheduled out",
        "NodeStarted out#1",
        "run out#1",
    ]


def test_another_round_takes_back_what_was_armed_and_it_fires_at_most_once():
    drive = exits()
    drive.start(b=True)
    drive.ok("head")
    drive.ok("a")
    assert drive.ok("b")[:2] == ["NodeCompleted b", "NodeScheduled head/2"]
    drive.ok("head", state_patch={"b": False})
    drive.ok("b")
    assert drive.phase("out") == "pending"
    assert "run out#1" in drive.ok("a")
    assert [event.fired for event in drive.events(ev.LoopEnded)] == [(2,)]
    drive.ok("out")
    assert drive.status == "completed"


def test_a_refused_exit_dies_when_the_loop_has_ended():
    drive = Driver(graph_of("head>a", "a>head if state.again", "a>out if state.out", "out>end"))
    drive.start()
    drive.ok("head")
    assert drive.ok("a") == ["NodeCompleted a", "LoopEnded head", "NodeSkipped out", "WorkflowCompleted"]


def test_an_error_edge_may_leave_a_loop():
    drive = Driver(graph_of("head>a", "a>head if state.again", "a>repair error", "a>out"))
    drive.start()
    drive.ok("head")
    assert drive.error("a") == [
        "NodeFailed a io_error",
        "LoopEnded head",
        "NodeScheduled repair",
        "NodeStarted repair#1",
        "NodeSkipped out",
        "run repair#1",
    ]


def test_a_loop_waits_for_nodes_that_wait():
    nap = WaitNode(id="b", until="timer", delay_ms=50)
    graph = graph_of("head>a", "head>b", "a>out", "a>head if state.a", "b>head if state.b", nodes=(nap,))
    drive = Driver(graph)
    drive.start()
    drive.ok("head")
    drive.ok("a")
    assert drive.status == "paused"
    assert "run out#1" in drive.wake()


# --- nested loops ---------------------------------------------------------------------------------


def nested():
    return Driver(
        graph_of("outer>inner", "inner>inner if state.i", "inner>tail", "tail>outer if state.o", "tail>end")
    )


def test_nested_loops_each_go_round():
    drive = nested()
    drive.start(i=True, o=True)
    drive.ok("outer")
    assert drive.ok("inner")[-1] == "run inner/2#1"
    assert drive.ok("inner", state_patch={"i": False}) == [
        "NodeCompleted inner/2",
        "LoopEnded inner",
        "NodeScheduled tail",
        "NodeStarted tail#1",
        "run tail#1",
    ]
    assert drive.ok("tail") == [
        "NodeCompleted tail",
        "NodeScheduled outer/2",
        "NodeStarted outer/2#1",
        "run outer/2#1",
    ]
    drive.ok("outer")
    assert drive.state.node("inner").visit == 3
    drive.ok("inner")
    assert drive.ok("tail", state_patch={"o": False})[-2:] == ["LoopEnded outer", "WorkflowCompleted"]


def test_an_edge_out_of_both_loops_waits_for_the_outer_one():
    graph = graph_of(
        "outer>inner",
        "outer>side",
        "inner>inner if state.i",
        "inner>outer if state.o",
        "inner>out",
        "side>outer if state.o",
    )
    drive = Driver(graph)
    drive.start()
    drive.ok("outer")
    drive.ok("inner")
    assert drive.phase("out") == "pending"
    assert drive.ok("side") == [
        "NodeCompleted side",
        "LoopEnded outer",
        "NodeScheduled out",
        "NodeStarted out#1",
        "run out#1",
    ]


def test_the_outer_back_edge_out_of_an_inner_loop_starts_both_anew():
    graph = graph_of("outer>inner", "inner>other", "other>inner if state.i", "inner>outer if state.o")
    drive = Driver(graph)
    drive.start(o=True)
    drive.ok("outer")
    assert drive.ok("inner")[:2] == ["NodeCompleted inner", "NodeScheduled outer/2"]
    assert drive.phase("inner") == "pending"
    drive.ok("outer", state_patch={"o": False})
    drive.ok("inner")
    drive.ok("other")
    assert drive.status == "completed"


# --- bounds ---------------------------------------------------------------------------------------


def test_max_steps_bounds_the_visits():
    drive = Driver(graph_of("a>a", max_steps=3))
    drive.start()
    drive.ok("a")
    drive.ok("a")
    assert drive.ok("a") == ["NodeCompleted a/3", "WorkflowLimitExceeded a"]
    assert drive.status == "limit_exceeded"
    (limit,) = drive.events(ev.WorkflowLimitExceeded)
    assert (limit.limit_type, limit.limit_value, limit.actual_value) == ("max_steps", 3, 4)
    assert drive.state.completed_at == NOW


def test_max_steps_cancels_the_rest():
    drive = Driver(graph_of("s>a", "s>b", "a>a", nodes=(ParallelNode(id="s"),), max_steps=3))
    drive.start()
    assert drive.ok("a") == ["NodeCompleted a", "NodeCancelled b", "WorkflowLimitExceeded a", "stop b"]


def test_a_loop_of_control_nodes_alone_is_bounded_too():
    drive = Driver(graph_of("c>c", nodes=(ConditionNode(id="c"),), max_steps=10))
    lines = drive.start()
    assert lines[-1] == "WorkflowLimitExceeded c"
    assert drive.state.visits == 10


def test_a_loop_that_is_never_entered_is_skipped_whole():
    graph = graph_of("a>head if state.go", "head>tail", "tail>head if state.x", "tail>out", "out>end")
    drive = Driver(graph)
    drive.start()
    lines = drive.ok("a")
    assert lines[-1] == "WorkflowCompleted"
    assert {drive.phase(name) for name in ("head", "tail", "out")} == {"skipped"}


def test_a_step_of_a_long_loop_keeps_the_state_small():
    drive = Driver(graph_of("a>a if state.n < 50", nodes=(step("a", output_key="n"),)))
    drive.start(n=0)
    for n in range(1, 51):
        drive.ok("a", n)
    assert drive.status == "completed"
    assert len(drive.state.nodes) == 1
