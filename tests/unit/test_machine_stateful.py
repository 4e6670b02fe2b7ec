"""Any workflow, any story: random graphs, driven by random signals in random order.

The ``Driver`` refolds at every turn, so each story is also one of an owner that was lost at each of its
points. Beyond that, what is asserted here is told from the log alone.
"""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime import events as ev
from runtime import signals as sg
from runtime.graph import (
    END,
    ConditionNode,
    Graph,
    HumanApprovalNode,
    JoinNode,
    LimitExceededNode,
    Node,
    ParallelNode,
    RetryPolicy,
    ToolPolicy,
    WaitNode,
)
from runtime.ir.loops import Shape
from runtime.machine import FAILING_GRACE_MS, RECOVERIES_MAX
from runtime.state import ExecutionState, apply, check_invariants, is_terminal, new_state
from tests.unit.machine_driver import EXECUTION_ID, Driver, edge_of, graph_of, step

VISITS_MAX = 40
ASKS = ToolPolicy(require_approval_for=("steps:b", "steps:d", "m:*"))
BLOCKS = ToolPolicy(blocked_tools=("steps:c",), require_approval_for=("steps:d",))

# --- graphs ---------------------------------------------------------------------------------------

CONDITIONS = ("", "", "", " if state.x", " if not state.x", " if state.n < 2", " if output == 1")
LABELS: dict[type, tuple[str, ...]] = {
    ConditionNode: ("branch", "ok"),
    HumanApprovalNode: ("ok", "approved", "rejected", "timeout", "error"),
    WaitNode: ("ok", "ok", "timeout", "error"),
    ParallelNode: ("ok",),
    LimitExceededNode: ("ok",),
}
STEP_LABELS = ("ok", "ok", "ok", "error", "timeout")
RETRY = RetryPolicy(max_attempts=2, initial_delay_ms=500, jitter=True)


@st.composite
def nodes_named(draw: st.DrawFn, name: str) -> Node:
    key = draw(st.sampled_from([None, None, "x", "n", "log", name]))
    deadline = draw(st.sampled_from([None, 700]))
    custom = {"merge": "custom", "module": "m", "function": "f", "retry": RETRY}
    return draw(
        st.sampled_from(
            [
                step(name, output_key=key),
                step(name, output_key=key, retry=RETRY, timeout_ms=deadline),
                ConditionNode(id=name),
                ParallelNode(id=name),
                JoinNode(id=name, output_key=key),
                JoinNode(id=name, output_key=key, merge="first"),
                JoinNode(id=name, output_key=key, **custom),
                WaitNode(id=name, until="timer", delay_ms=300),
                WaitNode(id=name, until="external_event", correlation_key="k", timeout_ms=deadline),
                WaitNode(id=name, until="either", correlation_key="{{ state.key }}", delay_ms=900),
                HumanApprovalNode(id=name, output_key=key, timeout_ms=deadline),
            ]
            + [LimitExceededNode(id=name)] * (draw(st.integers(0, 4)) == 0)
        )
    )


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """A random reducible graph: edges that lead on, and those back that leave one way in to each cycle."""
    names = list("abcdefgh"[: draw(st.integers(1, 8))])
    nodes = {name: draw(nodes_named(name)) for name in names}
    index = st.integers(0, len(names) - 1)
    pairs = [(draw(st.integers(0, max(0, n - 1))), n) for n in range(1, len(names))]
    pairs += draw(st.lists(st.tuples(index, index), max_size=9))
    pairs += [(n, -1) for n in draw(st.lists(index, max_size=2))]
    edges: list[str] = []
    for source, target in pairs:
        kind = type(nodes[names[source]])
        label = draw(st.sampled_from(LABELS.get(kind, STEP_LABELS)))
        condition = draw(st.sampled_from(CONDITIONS))
        edge = f"{names[source]}>{END if target < 0 else names[target]} {label}{condition}"
        if edge not in edges and not Shape("a", names, [edge_of(text) for text in [*edges, edge]]).tangles:
            edges.append(edge)
    return graph_of(
        *edges,
        nodes=tuple(nodes.values()),
        start="a",
        merges={"log": "append"},
        max_steps=VISITS_MAX,
        timeout_ms=draw(st.sampled_from([None, None, 5_000])),
        policy=draw(st.sampled_from([None, None, ASKS, BLOCKS])),
    )


# --- stories --------------------------------------------------------------------------------------

PATCHES = (None, {"x": True}, {"x": None}, {"n": 1}, {"n": 5}, {"key": "k"}, {"key": "l"}, {"log": "line"})
OUTPUTS = (None, 0, 1, "text", {"x": None}, [1])
CLASSES = ("io_error", "timeout", "worker_lost")
HOLDS = (sg.Hold(), sg.Release(reason="tenant"), sg.Release(reason="tenant"), sg.Release(reason="slot"))
DELAYS = (0, 1, 299, 300, 1_000, 10_000)
DUE = ("running", "waiting", "backoff")

Move = tuple[str, int, int]
"""What is done, to whom of those in question, and how."""


def do(drive: Driver, move: Move) -> None:
    """Do it, if there is anybody to do it to."""
    what, whom, how = move
    state = drive.state
    running = [node_id for node_id, record in state.nodes.items() if record.phase == "running"]
    asking = decidable(drive)
    if what == "ok" and running:
        patch, output = PATCHES[how % len(PATCHES)], OUTPUTS[how % len(OUTPUTS)]
        drive.ok(running[whom % len(running)], output, state_patch=patch)
    elif what == "error" and running:
        drive.error(running[whom % len(running)], CLASSES[how % len(CLASSES)])
    elif what == "approve" and asking:
        decision = ("approved", "rejected")[how % 2]
        patch = PATCHES[how % len(PATCHES)]
        drive.approve(decision, node_id=asking[whom % len(asking)], state_patch=patch)
    elif what == "event" and not is_terminal(state):
        drive.event("kl"[whom % 2], PATCHES[how % len(PATCHES)])
    elif what in ("tick", "recover"):
        getattr(drive, what)(DELAYS[how % len(DELAYS)])
    elif what == "late":
        names = list(drive.plan.nodes)
        be_late(drive, names[whom % len(names)], visit=1 + how % 2, attempt=1 + how % 3)
    elif what == "hold":
        drive.send(HOLDS[whom % len(HOLDS)])
    elif what == "cancel" and not is_terminal(state) and how == 11:
        drive.cancel()
        assert drive.status == "cancelled"


def decidable(drive: Driver) -> list[str]:
    """The nodes whose approval may be decided now: not that of a call, while the execution is held."""
    asking = [n for n, record in drive.state.nodes.items() if record.waits_for == "approval"]
    if drive.state.held is None:
        return asking
    return [node_id for node_id in asking if isinstance(drive.plan.nodes[node_id], HumanApprovalNode)]


def be_late(drive: Driver, node_id: str, visit: int, attempt: int) -> None:
    record = drive.state.node(node_id)
    if record.phase != "running" or (record.visit, record.attempt) != (visit, attempt):
        late = sg.NodeSucceeded(node_id=node_id, visit=visit, attempt=attempt, output="late")
        assert drive.send(late) == []


MOVES = ("ok", "ok", "ok", "error", "error", "approve", "event", "tick", "recover", "late", "cancel", "hold")
moves = st.lists(st.tuples(st.sampled_from(MOVES), st.integers(0, 7), st.integers(0, 11)), max_size=30)


@settings(max_examples=500, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck))
@given(graph=graphs(), x=st.booleans(), start=st.integers(0, 7), story=moves, luck=st.booleans())
def test_any_story_keeps_the_promises_and_has_an_end(
    graph: Graph, x: bool, start: int, story: list[Move], luck: bool
) -> None:
    drive = Driver(graph)
    drive.start(only_record=start % 2 == 1, held=start > 5, x=x, n=0, key="k")
    for move in story:
        do(drive, move)
    bring_to_an_end(drive, luck)
    check_log(drive)


def bring_to_an_end(drive: Driver, luck: bool) -> None:
    """Answer whatever is asked, well or badly, until nothing is."""
    for _ in range(VISITS_MAX * (RECOVERIES_MAX + 3)):
        if is_terminal(drive.state):
            return
        if drive.state.held is not None and "running" not in phases(drive):
            drive.release(drive.state.held)
            continue
        if not drive.state.visits:
            drive.recover()
            continue
        active = [(n, r) for n, r in drive.state.nodes.items() if r.phase in DUE]
        # What is held settles what runs first: the rest waits until it is released.
        node_id, record = min(active, key=lambda found: found[1].phase != "running")
        if record.phase == "running":
            drive.ok(node_id) if luck else drive.error(node_id)
        elif record.phase == "backoff" or record.waits_for == "timer":
            drive.wake()
        elif record.waits_for == "approval":
            drive.approve("approved" if luck else "rejected", node_id=node_id)
        else:
            drive.event(record.correlation_key or "")
    raise AssertionError(f"it does not end: {drive.state.nodes}")


def phases(drive: Driver) -> set[str]:
    return {record.phase for record in drive.state.nodes.values()}


# --- what the log must say ------------------------------------------------------------------------

ENDS = (ev.WorkflowCompleted, ev.WorkflowFailed, ev.WorkflowCancelled, ev.WorkflowLimitExceeded)
SETTLED = ("completed", "failed", "skipped", "cancelled")


def check_log(drive: Driver) -> None:
    log = drive.events()
    assert isinstance(log[0], ev.WorkflowStarted)
    assert [isinstance(event, ENDS) for event in log].index(True) == len(log) - 1
    assert drive.state.sequence == len(log)
    assert drive.state.steps == len(drive.events(ev.NodeCompleted))
    assert drive.state.visits == len(drive.events(ev.NodeScheduled)) <= VISITS_MAX
    state = new_state(EXECUTION_ID, drive.plan)
    for event, at in drive.history():
        check_event(drive, state, event, at)
        apply(state, drive.plan, event, at)
        if not isinstance(event, ev.NodeScheduled):
            check_invariants(state, drive.plan)


def check_event(drive: Driver, state: ExecutionState, event: ev.Event, at: int) -> None:
    """Hold one event against what was the case before it."""
    if isinstance(event, ev.NodeScheduled):
        check_begin(drive, state, event)
    if isinstance(event, ev.NodeStarted):
        assert event.attempt == state.node(event.node_id).attempt + 1
        assert state.failing is None or event.reason == "recovered"
        assert state.held is None or event.reason == "recovered"
    if isinstance(event, ev.TimerFired | ev.WorkflowCompleted | ev.LoopEnded):
        assert state.held is None
    if isinstance(event, ev.NodeSkipped):
        assert state.node(event.node_id).phase == "pending"
    if isinstance(event, ev.TimerFired):
        due_at = state.timeout_at if event.node_id is None else state.node(event.node_id).due_at
        assert due_at is not None
        assert due_at <= at
    if isinstance(event, ev.LoopEnded):
        members = dict(drive.plan.loops)[event.node_id]
        assert not [n for n in members if state.node(n).phase in DUE], "a loop ends while it is active"
    if isinstance(event, ev.WorkflowCompleted):
        left = drive.plan.nodes.keys() - drive.plan.unreachable
        assert not [n for n in left if state.node(n).phase not in SETTLED], "it ends before all is decided"
        assert state.failing is None
    if isinstance(event, ev.WorkflowFailed) and state.failing is not None:
        assert state.failing.deadline <= state.updated_at + FAILING_GRACE_MS


def check_begin(drive: Driver, state: ExecutionState, event: ev.NodeScheduled) -> None:
    """A visit begins once all that leads to it has settled, but for a join that takes the first."""
    plan, node_id = drive.plan, event.node_id
    record = state.node(node_id)
    assert (record.phase, record.visit + 1) == ("pending", event.visit)
    assert state.failing is None
    assert state.held is None
    if node_id == plan.graph.start:
        return
    sources = {plan.edges[index].source for index in plan.in_edges[node_id]} - plan.unreachable
    settled = {source for source in sources if state.node(source).phase in SETTLED}
    node = plan.nodes[node_id]
    if isinstance(node, JoinNode) and node.merge == "first":
        assert settled
    else:
        # The sources of a dead edge need not even be reachable.
        alive = {plan.edges[i].source for i in plan.in_edges[node_id] if i not in plan.graph.dead_edges}
        assert alive <= settled, f"{node_id} begins before {alive - settled}"
