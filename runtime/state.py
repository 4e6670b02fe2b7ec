"""The state of one execution, and the fold that makes it from events.

``apply`` is the only place where the state changes. It evaluates nothing and
asks nothing of the world, so state = fold(events), before and after any restart
(G3). ``ExecutionState`` holds the machine's part and the workflow's own data.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import msgspec

from runtime import events as ev
from runtime.graph import HumanApprovalNode
from runtime.jsonvalue import JsonValue
from runtime.mergepatch import apply_result
from runtime.plan import EDGE_ARMED, EDGE_DEAD, EDGE_FIRED, EDGE_PENDING, EDGE_REFUSED, Plan

SNAPSHOT_FORMAT = 1
ANSWERED_MAX = 64
"""How many signal ids are remembered, to answer a repeat from the log."""

Phase = Literal["pending", "running", "waiting", "backoff", "completed", "failed", "skipped", "cancelled"]
ACTIVE: tuple[Phase, ...] = ("running", "waiting", "backoff")

Status = Literal["running", "paused", "completed", "failed", "cancelled", "limit_exceeded"]
TERMINAL: tuple[Status, ...] = ("completed", "failed", "cancelled", "limit_exceeded")


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One node now. ``visit`` counts rounds, ``attempt`` tries within the visit."""

    phase: Phase = "pending"
    visit: int = 0
    attempt: int = 0
    recoveries: int = 0
    """Attempts of this visit that were lost with their owner or worker."""
    ended_tasks: int = 0
    """Tasks of a remote agent that ended without a result: the next attempt asks for another one."""
    waits_for: str | None = None
    """While waiting: approval, external_event, either or timer."""
    correlation_key: str | None = None
    due_at: int | None = None
    since: int = 0
    input: JsonValue = None
    output: JsonValue = None
    """Kept only where a join will ask for it."""


PENDING = NodeRecord()


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why an execution fails; ``deadline`` is when running nodes are no longer waited for."""

    error: str
    error_class: str
    node_id: str | None = None
    deadline: int = 0


class ExecutionState(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Machine and data of one execution after ``sequence`` events.

    ``edges`` has one of the ``EDGE_*`` states per edge of the graph. Inner values
    of ``data`` are shared between copies and must not be changed in place.
    """

    execution_id: str
    format: int = SNAPSHOT_FORMAT
    sequence: int = 0
    status: Status = "running"
    """Never ``paused``: that is derived, see ``status_of``."""
    workflow_id: str = ""
    workflow_version: str = ""
    isolation: str = "shared"
    input: dict[str, Any] = {}
    data: dict[str, Any] = {}
    nodes: dict[str, NodeRecord] = {}
    edges: list[int] = []
    buffered: dict[str, list[Any]] = {}
    buffered_count: int = 0
    buffered_bytes: int = 0
    visits: int = 0
    steps: int = 0
    started_at: int = 0
    updated_at: int = 0
    completed_at: int | None = None
    timeout_at: int | None = None
    held: ev.HoldReason | None = None
    held_at: int = 0
    failing: Failure | None = None
    failure: Failure | None = None
    answered: list[str] = []

    def node(self, node_id: str) -> NodeRecord:
        return self.nodes.get(node_id, PENDING)

    def copy(self) -> "ExecutionState":
        """A copy that ``apply`` may change without touching this one."""
        twin = msgspec.structs.replace(self)
        twin.nodes = dict(self.nodes)
        twin.edges = list(self.edges)
        twin.buffered = dict(self.buffered)
        twin.answered = list(self.answered)
        return twin


def new_state(execution_id: str, plan: Plan) -> ExecutionState:
    """An execution before its first event."""
    return ExecutionState(execution_id=execution_id, edges=plan.initial_edges())


def encode_state(state: ExecutionState) -> str:
    """The snapshot's JSON text."""
    return msgspec.json.encode(state).decode()


def decode_state(text: str) -> ExecutionState:
    """Read a snapshot."""
    return msgspec.json.decode(text, type=ExecutionState)


# --- what can be read off a state ---------------------------------------------------------------


def is_terminal(state: ExecutionState) -> bool:
    return state.status in TERMINAL


def status_of(state: ExecutionState) -> Status:
    """The status that the API shows: paused when nothing runs or backs off and something waits."""
    if is_terminal(state) or state.failing is not None or state.held is not None or state.sequence == 0:
        return state.status
    phases = {record.phase for record in state.nodes.values()}
    if "running" in phases or "backoff" in phases or "waiting" not in phases:
        return "running"
    return "paused"


def stored_status(state: ExecutionState) -> str:
    """The status in the execution's row: as ``status_of``, but ``queued`` or ``suspended`` while it is held.

    A held one whose attempts still run is ``running``: its owner waits for them.
    """
    if state.held is None or is_terminal(state) or _runs(state):
        return status_of(state)
    return "queued" if state.held == "slot" else "suspended"


def _runs(state: ExecutionState) -> bool:
    return state.failing is not None or any(record.phase == "running" for record in state.nodes.values())


def has_work(state: ExecutionState) -> bool:
    """Whether an owner is needed now: a node runs, or nothing has been decided since the start."""
    if is_terminal(state):
        return False
    if state.held is not None:
        return _runs(state)
    return all(record.phase not in ("waiting", "backoff") for record in state.nodes.values()) or any(
        record.phase == "running" for record in state.nodes.values()
    )


def wake_at(state: ExecutionState) -> int | None:
    """When the earliest timer is due, or None."""
    if is_terminal(state):
        return None
    if state.held is not None:
        return None if state.failing is None else state.failing.deadline
    due = [record.due_at for record in state.nodes.values() if record.due_at is not None]
    if state.timeout_at is not None and state.failing is None:
        due.append(state.timeout_at)
    if state.failing is not None:
        due.append(state.failing.deadline)
    return min(due, default=None)


HOLDS: dict[ev.HoldReason, str] = {"slot": "max_concurrent_executions", "tenant": "tenant_suspended"}
"""What a held execution waits on, as the API shows it."""


def waiting_on(state: ExecutionState) -> list[dict[str, Any]]:
    """Why the execution does not go on by itself, as the API shows it: a hold, and one entry a node."""
    entries: list[dict[str, Any]] = []
    if state.held is not None:
        entries.append({"node_id": None, "type": HOLDS[state.held], "since": state.held_at})
    for node_id, record in state.nodes.items():
        if record.phase == "waiting":
            entry: dict[str, Any] = {"node_id": node_id, "type": record.waits_for, "since": record.since}
            if record.correlation_key is not None:
                entry["correlation_key"] = record.correlation_key
        elif record.phase == "backoff":
            entry = {"node_id": node_id, "type": "retry", "since": record.since}
        else:
            continue
        if record.due_at is not None:
            entry["due_at"] = record.due_at
        entries.append(entry)
    return entries


def active_nodes(state: ExecutionState) -> list[str]:
    return [node_id for node_id, record in state.nodes.items() if record.phase in ACTIVE]


def check_invariants(state: ExecutionState, plan: Plan) -> None:
    """Raise AssertionError for a state that no history may lead to."""
    assert len(state.edges) == len(plan.edges)
    assert state.nodes.keys() <= plan.nodes.keys()
    if is_terminal(state):
        assert state.completed_at is not None
        assert not active_nodes(state), "a terminal execution has active nodes"
    for node_id, record in state.nodes.items():
        assert (record.phase == "waiting") == (record.waits_for is not None), node_id
        assert record.phase in ("waiting", "backoff") or record.due_at is None, node_id
        assert record.attempt <= 0 or record.visit > 0, node_id
        assert record.phase != "backoff" or record.due_at is not None, node_id


# --- the fold -----------------------------------------------------------------------------------


def fold(state: ExecutionState, plan: Plan, history: Iterable[tuple[ev.Event, int]]) -> ExecutionState:
    """The state after further events, each with its time; the argument is left as it was."""
    state = state.copy()
    for event, at in history:
        apply(state, plan, event, at)
    return state


def apply(state: ExecutionState, plan: Plan, event: ev.Event, at: int) -> None:
    """Change the state by one event, which gets the next sequence."""
    state.sequence += 1
    state.updated_at = at
    _APPLY[type(event)](state, plan, event, at)


def _workflow_started(state: ExecutionState, plan: Plan, event: ev.WorkflowStarted, at: int) -> None:
    state.workflow_id = event.workflow_id
    state.workflow_version = event.workflow_version
    state.isolation = event.isolation
    state.input = event.initial_input
    state.data = event.initial_input
    state.started_at = at
    state.timeout_at = event.timeout_at


def _ended(status: Status) -> Callable[[ExecutionState, Plan, Any, int], None]:
    def end(state: ExecutionState, plan: Plan, event: Any, at: int) -> None:
        state.status = status
        state.completed_at = at
        state.failing = state.held = None
        state.buffered = {}
        state.buffered_count = state.buffered_bytes = 0
        if isinstance(event, ev.WorkflowFailed):
            state.failure = Failure(error=event.error, error_class=event.error_class, node_id=event.node_id)
        if isinstance(event, ev.WorkflowLimitExceeded):
            what = event.description or f"{event.limit_type} exceeded"
            state.failure = Failure(error=what, error_class=event.limit_type, node_id=event.node_id)
        if isinstance(event, ev.WorkflowCancelled) and event.signal_id:
            _remember(state, event.signal_id)

    return end


def _workflow_failing(state: ExecutionState, plan: Plan, event: ev.WorkflowFailing, at: int) -> None:
    state.failing = Failure(
        error=event.error, error_class=event.error_class, node_id=event.node_id, deadline=event.deadline
    )


def _held(state: ExecutionState, plan: Plan, event: ev.ExecutionHeld, at: int) -> None:
    state.held, state.held_at = event.reason, at


def _released(state: ExecutionState, plan: Plan, event: ev.ExecutionReleased, at: int) -> None:
    state.held, state.held_at = None, 0
    if event.timeout_at is not None:
        state.timeout_at = event.timeout_at


def _node_scheduled(state: ExecutionState, plan: Plan, event: ev.NodeScheduled, at: int) -> None:
    state.visits += 1
    state.nodes[event.node_id] = NodeRecord(phase="running", visit=event.visit, since=at)


def _node_started(state: ExecutionState, plan: Plan, event: ev.NodeStarted, at: int) -> None:
    record = state.nodes[event.node_id]
    state.nodes[event.node_id] = NodeRecord(
        phase="running",
        visit=event.visit,
        attempt=event.attempt,
        recoveries=record.recoveries + (event.reason == "recovered"),
        ended_tasks=record.ended_tasks,
        input=event.input if event.reason == "first" else record.input,
        since=at,
    )


def _node_completed(state: ExecutionState, plan: Plan, event: ev.NodeCompleted, at: int) -> None:
    state.steps += 1
    state.data = apply_result(
        state.data,
        patch=event.state_patch,
        output_key=event.output_key,
        output=event.output,
        merges=plan.graph.merges,
    )
    if event.consumed_key is not None:
        _take_buffered(state, event.consumed_key)
    kept = event.output if event.node_id in plan.kept_outputs else None
    record = NodeRecord(phase="completed", visit=event.visit, since=at, output=kept)
    _settle(state, plan, event.node_id, record, event.fired, event.held)


def _node_failed(state: ExecutionState, plan: Plan, event: ev.NodeFailed, at: int) -> None:
    if event.consumed_key is not None:
        _take_buffered(state, event.consumed_key)
    if event.outcome is not None:
        record = NodeRecord(phase="failed", visit=event.visit, attempt=event.attempt, since=at)
        _settle(state, plan, event.node_id, record, event.fired, event.held)


def _tool_called(state: ExecutionState, plan: Plan, event: ev.ToolCallCompleted, at: int) -> None:
    """Said for those who read the log."""


def _agent_called(state: ExecutionState, plan: Plan, event: ev.AgentCallCompleted, at: int) -> None:
    if event.task_ended:
        record = state.nodes[event.node_id]
        state.nodes[event.node_id] = msgspec.structs.replace(record, ended_tasks=record.ended_tasks + 1)


def _node_skipped(state: ExecutionState, plan: Plan, event: ev.NodeSkipped, at: int) -> None:
    visit = state.node(event.node_id).visit
    _settle(state, plan, event.node_id, NodeRecord(phase="skipped", visit=visit, since=at), (), ())


def _node_cancelled(state: ExecutionState, plan: Plan, event: ev.NodeCancelled, at: int) -> None:
    record = NodeRecord(phase="cancelled", visit=event.visit, since=at)
    _settle(state, plan, event.node_id, record, (), ())


def _loop_ended(state: ExecutionState, plan: Plan, event: ev.LoopEnded, at: int) -> None:
    position = next(i for i, (header, _) in enumerate(plan.loops) if header == event.node_id)
    for index in plan.exits[position]:
        state.edges[index] = EDGE_FIRED if index in event.fired else EDGE_DEAD


def _retry_scheduled(state: ExecutionState, plan: Plan, event: ev.RetryScheduled, at: int) -> None:
    record = state.nodes[event.node_id]
    state.nodes[event.node_id] = msgspec.structs.replace(
        record, phase="backoff", due_at=event.due_at, since=at
    )


def _interrupt_raised(state: ExecutionState, plan: Plan, event: ev.InterruptRaised, at: int) -> None:
    state.nodes[event.node_id] = NodeRecord(
        phase="waiting",
        visit=event.visit,
        waits_for=event.reason,
        correlation_key=event.correlation_key,
        due_at=event.due_at,
        since=at,
    )


def _policy_violated(state: ExecutionState, plan: Plan, event: ev.PolicyViolation, at: int) -> None:
    """The failure that follows says what came of it."""


def _tool_approval_required(
    state: ExecutionState, plan: Plan, event: ev.ToolApprovalRequired, at: int
) -> None:
    state.nodes[event.node_id] = NodeRecord(
        phase="waiting", visit=event.visit, waits_for="approval", input=event.input, since=at
    )


def _timer_created(state: ExecutionState, plan: Plan, event: ev.TimerCreated, at: int) -> None:
    state.nodes[event.node_id] = NodeRecord(
        phase="waiting", visit=event.visit, waits_for="timer", due_at=event.fire_at, since=at
    )


def _timer_fired(state: ExecutionState, plan: Plan, event: ev.TimerFired, at: int) -> None:
    """The event that follows in the same turn says what came of it."""
    if event.node_id is None:
        state.timeout_at = None


def _approval_received(state: ExecutionState, plan: Plan, event: ev.ApprovalReceived, at: int) -> None:
    _remember(state, event.signal_id)
    if isinstance(plan.nodes[event.node_id], HumanApprovalNode) or event.decision != "approved":
        return
    # Of an approval node its completion brings the patch; a call that is approved begins with it.
    state.data = apply_result(
        state.data, patch=event.state_patch, output_key=None, output=None, merges=plan.graph.merges
    )


def _external_event(state: ExecutionState, plan: Plan, event: ev.ExternalEventReceived, at: int) -> None:
    _remember(state, event.signal_id)
    if not event.delivered:
        queue = state.buffered.get(event.correlation_key, [])
        state.buffered[event.correlation_key] = [*queue, event.payload]
        state.buffered_count += 1
        state.buffered_bytes += payload_size(event.payload)


def _settle(
    state: ExecutionState,
    plan: Plan,
    node_id: str,
    record: NodeRecord,
    fired: tuple[int, ...],
    held: tuple[int, ...],
) -> None:
    """Record a settled node and decide its edges; taking a back-edge resets its loop."""
    state.nodes[node_id] = record
    if fired and plan.edges[fired[0]].back:
        _reset_loop(state, plan, plan.edges[fired[0]].target)
        return
    for index in plan.out_edges[node_id]:
        if plan.edges[index].back:
            continue
        if plan.left_loop[index] is not None:
            state.edges[index] = EDGE_ARMED if index in held else EDGE_REFUSED
        else:
            state.edges[index] = EDGE_FIRED if index in fired else EDGE_DEAD


def _reset_loop(state: ExecutionState, plan: Plan, header: str) -> None:
    for member in plan.loop_of_header[header]:
        visit = state.node(member).visit
        state.nodes[member] = NodeRecord(visit=visit) if visit else PENDING
        for index in plan.out_edges[member]:
            state.edges[index] = EDGE_PENDING


def _take_buffered(state: ExecutionState, key: str) -> None:
    oldest, *rest = state.buffered[key]
    state.buffered_count -= 1
    state.buffered_bytes -= payload_size(oldest)
    if rest:
        state.buffered[key] = rest
    else:
        del state.buffered[key]


def payload_size(payload: JsonValue) -> int:
    """Bytes of a payload as JSON."""
    return len(msgspec.json.encode(payload))


def _remember(state: ExecutionState, signal_id: str) -> None:
    state.answered.append(signal_id)
    del state.answered[:-ANSWERED_MAX]


_APPLY: dict[type, Callable[[ExecutionState, Plan, Any, int], None]] = {
    ev.WorkflowStarted: _workflow_started,
    ev.WorkflowCompleted: _ended("completed"),
    ev.WorkflowFailing: _workflow_failing,
    ev.WorkflowFailed: _ended("failed"),
    ev.WorkflowCancelled: _ended("cancelled"),
    ev.WorkflowLimitExceeded: _ended("limit_exceeded"),
    ev.ExecutionHeld: _held,
    ev.ExecutionReleased: _released,
    ev.NodeScheduled: _node_scheduled,
    ev.NodeStarted: _node_started,
    ev.NodeCompleted: _node_completed,
    ev.ToolCallCompleted: _tool_called,
    ev.AgentCallCompleted: _agent_called,
    ev.NodeFailed: _node_failed,
    ev.NodeSkipped: _node_skipped,
    ev.NodeCancelled: _node_cancelled,
    ev.LoopEnded: _loop_ended,
    ev.RetryScheduled: _retry_scheduled,
    ev.InterruptRaised: _interrupt_raised,
    ev.PolicyViolation: _policy_violated,
    ev.ToolApprovalRequired: _tool_approval_required,
    ev.TimerCreated: _timer_created,
    ev.TimerFired: _timer_fired,
    ev.ApprovalReceived: _approval_received,
    ev.ExternalEventReceived: _external_event,
}
