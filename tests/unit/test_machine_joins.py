"""Joins: collect in order, first with its losers cancelled, and custom ones."""

from runtime import events as ev
from runtime import signals as sg
from runtime.effects import RunNode
from runtime.graph import JoinNode, ParallelNode, RetryPolicy, WaitNode
from tests.unit.machine_driver import Driver, graph_of, step

SPLIT = ParallelNode(id="split")


def fan(*nodes, join, extra=()):
    names = ("a", "b", "c")
    edges = [f"split>{name}" for name in names] + [f"{name}>meet" for name in names]
    return graph_of(*edges, "meet>end", *extra, nodes=(SPLIT, join, *nodes))


def timer(node_id, delay_ms):
    return WaitNode(id=node_id, until="timer", delay_ms=delay_ms)


def listener(node_id):
    return WaitNode(id=node_id, until="external_event", correlation_key=node_id)


# --- collect --------------------------------------------------------------------------------------


def test_collect_lists_outputs_in_the_order_of_wait_for():
    drive = Driver(fan(join=JoinNode(id="meet", wait_for=("c", "a", "b"), output_key="all")))
    drive.start()
    drive.ok("a", "A")
    drive.ok("b", None)
    assert drive.ok("c", {"n": 3}) == [
        "NodeCompleted c",
        "NodeScheduled meet",
        "NodeCompleted meet",
        "WorkflowCompleted",
    ]
    assert drive.data == {"all": [{"n": 3}, "A", None]}


def test_collect_without_wait_for_follows_the_edges():
    drive = Driver(fan(join=JoinNode(id="meet", output_key="all")))
    drive.start()
    for name in ("c", "b", "a"):
        drive.ok(name, name.upper())
    assert drive.data == {"all": ["A", "B", "C"]}


def test_collect_has_null_for_what_was_skipped_or_failed():
    graph = graph_of(
        "split>a if state.go",
        "split>b",
        "split>c",
        "a>meet",
        "b>meet error",
        "c>meet",
        nodes=(SPLIT, JoinNode(id="meet", wait_for=("a", "b", "c"), output_key="all")),
    )
    drive = Driver(graph)
    drive.start()
    drive.error("b")
    drive.ok("c", 1)
    assert drive.data == {"all": [None, None, 1]}


def test_a_join_with_only_dead_edges_is_skipped():
    graph = graph_of("a>b if state.x", "a>c if state.x", "b>meet", "c>meet", nodes=(JoinNode(id="meet"),))
    drive = Driver(graph)
    drive.start()
    assert drive.ok("a")[-2:] == ["NodeSkipped meet", "WorkflowCompleted"]


def test_outputs_are_kept_only_where_a_join_asks_for_them():
    drive = Driver(fan(join=JoinNode(id="meet", output_key="all"), extra=("split>d",)))
    drive.start()
    drive.ok("a", "kept")
    drive.ok("d", "not kept")
    assert drive.state.node("a").output == "kept"
    assert drive.state.node("d").output is None


# --- first ----------------------------------------------------------------------------------------

FIRST = JoinNode(id="meet", merge="first", output_key="winner")


def test_first_takes_the_first_result_and_cancels_the_others():
    drive = Driver(fan(join=FIRST, extra=("meet>after",)))
    drive.start()
    assert drive.ok("b", "B") == [
        "NodeCompleted b",
        "NodeScheduled meet",
        "NodeCancelled a",
        "NodeCancelled c",
        "NodeCompleted meet",
        "NodeScheduled after",
        "NodeStarted after#1",
        "stop a",
        "stop c",
        "run after#1",
    ]
    assert drive.data == {"winner": "B"}


def test_first_cancels_pending_waiting_and_backing_off_nodes_too():
    retry = RetryPolicy(max_attempts=2)
    graph = graph_of(
        "split>fast",
        "split>slow",
        "split>nap",
        "split>again",
        "fast>meet",
        "slow>later",
        "later>meet",
        "nap>meet",
        "again>meet",
        nodes=(SPLIT, FIRST, timer("nap", 1_000), step("again", retry=retry)),
    )
    drive = Driver(graph)
    drive.start()
    drive.error("again")
    assert drive.ok("fast", 1) == [
        "NodeCompleted fast",
        "NodeScheduled meet",
        "NodeCancelled slow",
        "NodeCancelled nap",
        "NodeCancelled again",
        "NodeCancelled later",
        "NodeCompleted meet",
        "WorkflowCompleted",
        "stop slow",
    ]


def test_late_results_of_the_losers_are_dropped():
    drive = Driver(fan(join=FIRST, extra=("meet>after",)))
    drive.start()
    drive.ok("a", "A")
    assert drive.send(sg.NodeSucceeded(node_id="b", visit=1, attempt=1, output="B")) == []
    assert drive.data == {"winner": "A"}


def test_first_leaves_alone_what_is_not_between():
    drive = Driver(fan(join=FIRST, extra=("split>aside",)))
    drive.start()
    drive.ok("a")
    assert drive.phase("aside") == "running"
    assert drive.status == "running"


def test_what_only_a_loser_leads_to_is_skipped_and_what_waited_for_it_goes_on():
    graph = graph_of(
        "split>a", "split>b", "split>c", "a>meet", "b>meet", "b>x", "b>y", "c>y", nodes=(SPLIT, FIRST)
    )
    drive = Driver(graph)
    drive.start()
    drive.ok("c")
    assert drive.phase("y") == "pending"
    assert drive.ok("a") == [
        "NodeCompleted a",
        "NodeScheduled meet",
        "NodeCancelled b",
        "NodeCompleted meet",
        "NodeSkipped x",
        "NodeScheduled y",
        "NodeStarted y#1",
        "stop b",
        "run y#1",
    ]


def test_a_timer_that_was_cancelled_in_the_turn_in_which_it_was_due_does_not_fire():
    nodes = (SPLIT, FIRST, timer("slow", 200), timer("quick", 100))
    drive = Driver(graph_of("split>slow", "split>quick", "slow>meet", "quick>meet", "meet>a", nodes=nodes))
    drive.start()
    drive.tick(after=500)
    assert drive.phase("a") == "running"
    assert [event.node_id for event in drive.events(ev.TimerFired)] == ["quick"]


def test_first_goes_on_when_a_branch_is_skipped():
    graph = graph_of("split>a if state.x", "split>b", "a>meet", "b>meet", nodes=(SPLIT, FIRST))
    drive = Driver(graph)
    drive.start()
    assert (drive.phase("a"), drive.phase("meet")) == ("skipped", "pending")
    drive.ok("b", "B")
    assert drive.data == {"winner": "B"}


def test_of_two_events_in_one_turn_the_first_in_the_log_wins():
    graph = graph_of(
        "split>slow",
        "split>quick",
        "slow>meet",
        "quick>meet",
        nodes=(SPLIT, FIRST, timer("slow", 200), timer("quick", 100)),
    )
    drive = Driver(graph)
    drive.start()
    drive.tick(after=500)
    arrived = next(e for e in drive.events(ev.NodeCompleted) if e.node_id in ("slow", "quick"))
    assert arrived.node_id == "quick"
    cancelled = drive.events(ev.NodeCancelled)
    assert [e.node_id for e in cancelled] == ["slow"]
    assert cancelled[0].reason == "join meet took quick first"


def test_first_takes_the_result_that_came_first_in_a_turn():
    """Both waits settle before the join is looked at; the log says which was first, not the edges' order."""
    graph = graph_of(
        "go>split",
        "split>x",
        "split>y",
        "y>meet",
        "x>meet",
        nodes=(SPLIT, listener("x"), FIRST, listener("y")),
    )
    drive = Driver(graph)
    drive.start()
    drive.event("y", "from y")
    drive.event("x", "from x")
    drive.ok("go")
    assert [e.node_id for e in drive.events(ev.NodeCompleted)][-3:] == ["x", "y", "meet"]
    assert drive.data == {"winner": "from x"}


def test_first_that_nothing_leads_to_has_nothing_to_take():
    drive = Driver(graph_of("meet>end", nodes=(FIRST,)))
    assert drive.start() == [
        "WorkflowStarted",
        "NodeScheduled meet",
        "NodeCompleted meet",
        "WorkflowCompleted",
    ]
    assert drive.data == {"winner": None}


def test_first_cancels_a_loop_between_as_a_whole():
    """``body`` leads to the join only through its loop's header, and is between all the same."""
    graph = graph_of(
        "split>head",
        "split>fast",
        "head>body",
        "body>head if state.more",
        "head>meet if state.enough",
        "fast>meet",
        nodes=(SPLIT, FIRST),
    )
    drive = Driver(graph)
    drive.start()
    drive.ok("head")
    assert drive.phase("body") == "running"
    lines = drive.ok("fast", "F")
    assert "NodeCancelled body" in lines
    assert drive.status == "completed"


# --- custom ---------------------------------------------------------------------------------------


def test_a_custom_join_is_called_with_the_outputs():
    join = JoinNode(
        id="meet", merge="custom", module="m", function="f", wait_for=("b", "a", "c"), output_key="r"
    )
    drive = Driver(fan(join=join))
    drive.start()
    drive.ok("a", 1)
    drive.ok("b", 2)
    assert drive.ok("c", 3) == ["NodeCompleted c", "NodeScheduled meet", "NodeStarted meet#1", "run meet#1"]
    assert drive.last is not None
    (effect,) = drive.last.effects
    assert isinstance(effect, RunNode)
    assert effect.input == {"args": [[2, 1, 3]]}
    assert drive.ok("meet", 6) == ["NodeCompleted meet", "WorkflowCompleted"]
    assert drive.data == {"r": 6}


def test_a_custom_join_is_retried_with_what_it_got():
    join = JoinNode(
        id="meet", merge="custom", module="m", function="f", retry=RetryPolicy(max_attempts=2), output_key="r"
    )
    drive = Driver(fan(join=join))
    drive.start()
    for name in ("a", "b", "c"):
        drive.ok(name, name)
    drive.error("meet")
    assert drive.wake() == ["NodeStarted meet#2 retry", "run meet#2"]
    assert drive.last is not None
    (effect,) = drive.last.effects
    assert isinstance(effect, RunNode)
    assert effect.input == {"args": [["a", "b", "c"]]}
