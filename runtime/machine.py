"""The machine: decides what follows from a signal. Pure, whole, and the only one that decides.

Theory of operation
-------------------

``decide(plan, state, signal, moment)`` gives the events to append, the effects to
perform once they are committed, and the state after them. It works on a copy:
every event is applied as soon as it is emitted, so what is decided later in the
turn sees what was decided earlier, exactly as a fold of the log will.

A *node* is pending until its in-edges are decided, then it is skipped (all dead)
or begins a visit: control nodes settle at once, waits and approvals wait, and
nodes with an attempt to make get ``NodeStarted`` and a ``RunNode`` effect. When a
visit settles it has one *outcome*; edges with that label whose condition holds
fire, the rest die. ``_advance`` goes on until nothing more can be decided.

*Loops* are natural loops of the graph. A settled node tries its back-edges first;
taking one cancels what is still active in the loop, makes the loop's edges pending
again and starts the header's next visit. Edges that leave a loop are only armed or
refused when their source settles, and decided together when no node of the loop is
active any more (``LoopEnded``), so each fires at most once.

*Failure* without an ``error`` edge makes the execution failing: waits and back-offs
are cancelled, nothing new starts, running nodes may settle until a deadline, and
then it has failed. Cancelling and limits end it in one turn.

A *held* execution begins nothing new: attempts that run are settled, their edges are
decided, and there it stays until it is released. Timers wait as well.

Time, chance and environment come in with the ``Moment``; what was drawn from them
stands in the events, so replay never asks the world again.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from runtime import events as ev
from runtime import jsonvalue
from runtime import signals as sg
from runtime.effects import Effect, RunNode, StopNode
from runtime.errors import BadRequest, Conflict, JamjetError, ValueRejected
from runtime.graph import (
    END,
    A2aTaskNode,
    AttemptedNode,
    ConditionNode,
    HttpNode,
    HumanApprovalNode,
    JoinNode,
    LimitExceededNode,
    ModelNode,
    Node,
    ParallelNode,
    PythonFnNode,
    RetryPolicy,
    ToolPolicy,
    WaitNode,
)
from runtime.ids import call_key
from runtime.mergepatch import apply_result
from runtime.plan import (
    EDGE_ARMED,
    EDGE_FIRED,
    EDGE_PENDING,
    EDGE_REFUSED,
    Plan,
    sorted_by_position,
)
from runtime.policy import Verdict, verdict
from runtime.state import (
    ExecutionState,
    NodeRecord,
    Status,
    active_nodes,
    apply,
    is_terminal,
    payload_size,
    status_of,
)
from runtime.template import Rendered

RECOVERIES_MAX = 3
"""Attempts of one visit that may be lost with their owner or worker before the node fails."""
FAILING_GRACE_MS = 60_000
BUFFERED_COUNT_MAX = 1_000
BUFFERED_BYTES_MAX = 1024 * 1024

_TASK_ENDED = ("agent_failed", "agent_cancelled", "agent_rejected", "timeout")
"""Classes of error after which a remote agent's task is over, or was told to stop."""
QUEUES = {"model": "model", "python_fn": "python_tool", "http": "tool", "a2a_task": "tool"}


class Moment(msgspec.Struct, frozen=True):
    """What the machine may know of the world.

    ``now`` is in ms since the epoch by the database's clock, ``chance`` a number in
    [0, 1) for jitter, ``env`` the variables that templates may read. Measuring the whole
    state is costly, so ``measure_state`` asks for it only when what was added since the
    last time could matter.
    """

    now: int
    chance: float = 0.0
    env: Mapping[str, str] = MappingProxyType({})
    measure_state: bool = False
    policy: ToolPolicy | None = None
    """The tenant's."""


class Decision(msgspec.Struct, frozen=True):
    """What follows from one signal.

    ``answer`` are the fields that the sender is told; ``ignored``: the signal had no
    effect, and that is right.
    """

    events: tuple[ev.Event, ...]
    effects: tuple[Effect, ...]
    state: ExecutionState
    answer: dict[str, Any]
    ignored: bool = False


Admission = Literal["accept", "ignore", "refuse"]

_OPEN: dict[type, Admission] = {
    sg.Approve: "accept",
    sg.SendEvent: "accept",
    sg.Cancel: "accept",
    sg.NodeSucceeded: "accept",
    sg.NodeErrored: "accept",
    sg.Tick: "accept",
    sg.Recover: "accept",
    sg.Hold: "accept",
    sg.Release: "accept",
    sg.StartExecution: "refuse",
}
_CLOSED: dict[type, Admission] = {
    sg.Approve: "refuse",
    sg.SendEvent: "refuse",
    sg.Cancel: "refuse",
    sg.NodeSucceeded: "ignore",
    sg.NodeErrored: "ignore",
    sg.Tick: "ignore",
    sg.Recover: "ignore",
    sg.Hold: "ignore",
    sg.Release: "ignore",
    sg.StartExecution: "refuse",
}
ADMISSION: dict[Status, dict[type, Admission]] = {
    "running": _OPEN,
    "paused": _OPEN,
    "completed": _CLOSED,
    "failed": _CLOSED,
    "cancelled": _CLOSED,
    "limit_exceeded": _CLOSED,
}
"""Status x signal. ``refuse`` is a ``Conflict`` to the sender; ``ignore`` is silence."""


def decide(plan: Plan, state: ExecutionState, signal: sg.Signal, moment: Moment) -> Decision:
    """Choose the events to append and the effects to perform for one signal.

    Pure: equal arguments give an equal Decision, and ``state`` is left unchanged.

    Raises:
        Conflict: the signal does not fit the present state.
        BadRequest: it is ambiguous, or of the wrong shape.
    """
    signal_id = getattr(signal, "signal_id", None)
    if signal_id is not None and signal_id in state.answered:
        answer = {"status": "cancelled"} if isinstance(signal, sg.Cancel) else {"accepted": True}
        return Decision((), (), state, answer, ignored=True)
    fresh = isinstance(signal, sg.StartExecution) and state.sequence == 0
    admission = "accept" if fresh else ADMISSION[status_of(state)][type(signal)]
    if admission == "refuse":
        raise Conflict(_refusal(state, signal))
    if admission == "ignore":
        return Decision((), (), state, {}, ignored=True)
    turn = _Turn(plan, state.copy(), moment)
    answer = _HANDLERS[type(signal)](turn, signal) or {}
    ignored = not turn.events and not turn.effects
    return Decision(tuple(turn.events), tuple(turn.effects), turn.state, answer, ignored)


def _refusal(state: ExecutionState, signal: sg.Signal) -> str:
    if isinstance(signal, sg.StartExecution):
        return f"execution {state.execution_id} exists already"
    return f"execution {state.execution_id} is already in terminal state: {state.status}"


class _Turn:
    """One decision in the making: a working copy of the state, and what has been decided so far."""

    def __init__(self, plan: Plan, state: ExecutionState, moment: Moment) -> None:
        self.plan = plan
        self.state = state
        self.moment = moment
        self.events: list[ev.Event] = []
        self.effects: list[Effect] = []
        self._touched: deque[str] = deque()
        self._arrivals: dict[int, None] = {}
        """Edges that fired in this turn, in the order of the log."""

    def emit(self, event: ev.Event) -> None:
        self.events.append(event)
        if isinstance(event, ev.NodeCompleted | ev.NodeFailed | ev.LoopEnded):
            for index in event.fired:
                self._arrivals.pop(index, None)
                self._arrivals[index] = None
        apply(self.state, self.plan, event, self.moment.now)

    # --- readiness ------------------------------------------------------------------------------

    def touch(self, nodes: Iterable[str]) -> None:
        """Look at these nodes again: an edge into them may have been decided."""
        self._touched.extend(nodes)

    def advance(self) -> None:
        """Decide all that can be decided now."""
        if not self.state.visits:
            # A start that was only recorded begins with whatever signal comes first.
            self.touch([self.plan.graph.start])
        while not is_terminal(self.state):
            if self.state.failing is not None:
                self._touched.clear()
                self._finish_failing()
                return
            if self.state.held is not None:
                self._touched.clear()
                return
            if self._touched:
                self._consider(self._touched.popleft())
            elif not self._end_a_loop():
                break
        if not is_terminal(self.state) and not active_nodes(self.state):
            self.emit(ev.WorkflowCompleted())

    def _consider(self, node_id: str) -> None:
        if node_id == END or node_id in self.plan.unreachable:
            return
        if self.state.node(node_id).phase != "pending":
            return
        verdict = self._readiness(node_id)
        if verdict == "ready":
            self._begin(self.plan.nodes[node_id])
        elif verdict == "dead":
            self.emit(ev.NodeSkipped(node_id=node_id))
            self._touch_targets(node_id)

    def _readiness(self, node_id: str) -> Literal["ready", "dead", "undecided"]:
        if node_id == self.plan.graph.start:
            return "ready"
        edges = {self.state.edges[index] for index in self.plan.in_edges[node_id]}
        node = self.plan.nodes[node_id]
        if isinstance(node, JoinNode) and node.merge == "first" and EDGE_FIRED in edges:
            return "ready"
        if not edges or edges & {EDGE_PENDING, EDGE_ARMED, EDGE_REFUSED}:
            return "undecided"
        return "ready" if EDGE_FIRED in edges else "dead"

    def _touch_targets(self, node_id: str) -> None:
        self.touch(self.plan.edges[index].target for index in self.plan.out_edges[node_id])

    def _end_a_loop(self) -> bool:
        """Decide the edges that leave one ended loop, innermost first; False if none has ended."""
        for position, (header, members) in enumerate(self.plan.loops):
            held = [i for i in self.plan.exits[position] if self.state.edges[i] in (EDGE_ARMED, EDGE_REFUSED)]
            if not held or self._loop_is_active(members):
                continue
            fired = tuple(i for i in held if self.state.edges[i] == EDGE_ARMED)
            self.emit(ev.LoopEnded(node_id=header, fired=fired))
            self.touch(self.plan.edges[index].target for index in self.plan.exits[position])
            return True
        return False

    def _loop_is_active(self, members: frozenset[str]) -> bool:
        return any(node_id in members for node_id in active_nodes(self.state))

    # --- a visit begins -------------------------------------------------------------------------

    def _begin(self, node: Node) -> None:
        if self.state.visits >= self.plan.graph.max_steps:
            self.exceed_limit("max_steps", self.plan.graph.max_steps, self.state.visits + 1, node.id)
            return
        visit = self.state.node(node.id).visit + 1
        queue = QUEUES.get(_kind(node), "general")
        self.emit(ev.NodeScheduled(node_id=node.id, visit=visit, queue_type=queue))
        match node:
            case ConditionNode() | ParallelNode():
                self.complete(node, visit)
            case JoinNode():
                self._meet(node, visit)
            case _:
                self._begin_rendered(node, visit)

    def _begin_rendered(
        self, node: LimitExceededNode | WaitNode | HumanApprovalNode | AttemptedNode, visit: int
    ) -> None:
        try:
            rendered = self.plan.template(node.id).render(self.scope(node.id))
        except JamjetError as error:
            attempt = 0
            if isinstance(node, AttemptedNode):
                attempt = 1
                self.emit(ev.NodeStarted(node_id=node.id, visit=visit, attempt=attempt))
            self.fail_node(node, visit, attempt, str(error), "template_error")
            return
        match node:
            case LimitExceededNode():
                self.complete(node, visit)
                description = None if rendered.value is None else _as_text(rendered.value)
                self.exceed_limit("strategy", None, None, node.id, description)
            case WaitNode():
                self._wait(node, visit, rendered)
            case HumanApprovalNode():
                self._ask(node, visit, rendered)
            case PythonFnNode() | ModelNode() | HttpNode() | A2aTaskNode():
                self._run_if_allowed(node, visit, rendered.value, rendered.warnings)

    def _meet(self, node: JoinNode, visit: int) -> None:
        if node.merge == "first":
            self._meet_first(node, visit)
            return
        outputs = [self._kept_output(source) for source in self._join_sources(node)]
        if node.merge == "custom":
            self._run_if_allowed(node, visit, {"args": [outputs]})
        else:
            self.complete(node, visit, output=outputs, output_key=node.output_key)

    def _join_sources(self, node: JoinNode) -> list[str]:
        if node.wait_for:
            return list(node.wait_for)
        return [self.plan.edges[index].source for index in self.plan.in_edges[node.id]]

    def _meet_first(self, node: JoinNode, visit: int) -> None:
        fired = [i for i in self.plan.in_edges[node.id] if self.state.edges[i] == EDGE_FIRED]
        if not fired:
            # The start: nothing leads to it.
            self.complete(node, visit, output_key=node.output_key)
            return
        first = next((index for index in self._arrivals if index in fired), fired[0])
        winner = self.plan.edges[first].source
        self.cancel_nodes(node.region, f"join {node.id} took {winner} first")
        self.complete(node, visit, output=self._kept_output(winner), output_key=node.output_key)

    def _kept_output(self, node_id: str) -> Any:
        record = self.state.node(node_id)
        return record.output if record.phase == "completed" else None

    def _wait(self, node: WaitNode, visit: int, rendered: Rendered) -> None:
        if node.until == "timer":
            self.emit(
                ev.TimerCreated(node_id=node.id, visit=visit, fire_at=self.moment.now + (node.delay_ms or 0))
            )
            return
        key = _as_text(rendered.value)
        if key in self.state.buffered:
            payload = self.state.buffered[key][0]
            self.complete_wait(node, visit, payload, consumed_key=key, warnings=rendered.warnings)
            return
        delay = node.delay_ms if node.until == "either" else node.timeout_ms
        self.emit(
            ev.InterruptRaised(
                node_id=node.id,
                visit=visit,
                reason=node.until,
                correlation_key=key,
                due_at=None if delay is None else self.moment.now + delay,
                warnings=rendered.warnings,
            )
        )

    def _ask(self, node: HumanApprovalNode, visit: int, rendered: Rendered) -> None:
        self.emit(
            ev.InterruptRaised(
                node_id=node.id,
                visit=visit,
                reason="approval",
                description=None if rendered.value is None else _as_text(rendered.value),
                due_at=None if node.timeout_ms is None else self.moment.now + node.timeout_ms,
                warnings=rendered.warnings,
            )
        )

    def _run_if_allowed(
        self, node: AttemptedNode | JoinNode, visit: int, input: Any, warnings: tuple[str, ...] = ()
    ) -> None:
        """Make the first attempt of a visit, unless a policy forbids it or asks for an approval."""
        found = self._verdict(node)
        if found is None:
            self._run(node, visit, attempt=1, reason="first", input=input, warnings=warnings)
        elif found.decision == "block":
            self._forbid(node, visit, 0, found)
        else:
            self._ask_for_call(node, visit, found, input, warnings)

    def _verdict(self, node: AttemptedNode | JoinNode) -> Verdict | None:
        graph, tenant = self.plan.graph, self.moment.policy
        return verdict(node, (("tenant", tenant), ("workflow", graph.policy), ("node", node.policy)))

    def _forbid(self, node: AttemptedNode | JoinNode, visit: int, attempt: int, found: Verdict) -> None:
        self.emit(
            ev.PolicyViolation(
                node_id=node.id, visit=visit, tool=found.tool, rule=found.rule, policy_scope=found.scope
            )
        )
        self.fail_node(node, visit, attempt, f"{found.rule} ({found.scope} policy)", "policy_violation")

    def _ask_for_call(
        self,
        node: AttemptedNode | JoinNode,
        visit: int,
        found: Verdict,
        input: Any,
        warnings: tuple[str, ...],
    ) -> None:
        self.emit(
            ev.ToolApprovalRequired(
                node_id=node.id,
                visit=visit,
                tool=found.tool,
                rule=found.rule,
                policy_scope=found.scope,
                tool_call_hash=tool_call_hash(found.tool, input),
                input=input,
                warnings=warnings,
            )
        )

    def run_approved(self, node: AttemptedNode | JoinNode, record: NodeRecord) -> None:
        """Make the attempt that a person was asked for, unless it has been forbidden meanwhile."""
        if not self._forbidden(node, record):
            self._run(node, record.visit, attempt=1, reason="first", input=record.input)

    def _forbidden(self, node: AttemptedNode | JoinNode, record: NodeRecord) -> bool:
        """Whether a policy forbids the call that a visit has come to; then the visit has failed."""
        found = self._verdict(node)
        if found is None or found.decision != "block":
            return False
        self._forbid(node, record.visit, record.attempt, found)
        return True

    def _run(
        self,
        node: AttemptedNode | JoinNode,
        visit: int,
        *,
        attempt: int,
        reason: Literal["first", "retry", "recovered"],
        input: Any = None,
        warnings: tuple[str, ...] = (),
    ) -> None:
        """Commit an attempt, and ask for it. A later attempt reuses what the first one rendered."""
        self.emit(
            ev.NodeStarted(
                node_id=node.id, visit=visit, attempt=attempt, reason=reason, input=input, warnings=warnings
            )
        )
        record = self.state.node(node.id)
        self.effects.append(
            RunNode(
                node=node,
                visit=visit,
                attempt=attempt,
                input=record.input,
                state=self.state.data,
                key=call_key(self.state.execution_id, node.id, visit),
                ended_tasks=record.ended_tasks,
            )
        )

    def try_again(self, node_id: str, reason: Literal["retry", "recovered"]) -> None:
        """Make the next attempt, unless it was forbidden since the first. Approval is asked for once."""
        record = self.state.node(node_id)
        node = self.plan.nodes[node_id]
        assert isinstance(node, AttemptedNode | JoinNode)
        if self._forbidden(node, record):
            return
        self._run(node, record.visit, attempt=record.attempt + 1, reason=reason)

    def scope(self, node_id: str, output: Any = None, data: dict[str, Any] | None = None) -> dict[str, Any]:
        """The names that templates and conditions may use."""
        return {
            "state": self.state.data if data is None else data,
            "output": output,
            "env": self.moment.env,
            "execution": {"id": self.state.execution_id, "workflow_id": self.state.workflow_id},
            "node": {"id": node_id},
        }

    # --- a visit settles ------------------------------------------------------------------------

    def complete(
        self,
        node: Node,
        visit: int,
        *,
        output: Any = None,
        output_key: str | None = None,
        patch: dict[str, Any] | None = None,
        outcome: str = "ok",
        warnings: tuple[str, ...] = (),
        **extras: Any,
    ) -> None:
        """Settle a visit well: merge, set, choose edges, and look at their targets.

        A result that the state cannot hold fails the node.
        """
        try:
            after = self.state_with(patch, output_key, output)
        except ValueRejected as error:
            attempt = self.state.node(node.id).attempt
            consumed = extras.get("consumed_key")
            self.fail_node(node, visit, attempt, error.detail, "value_rejected", consumed_key=consumed)
            return
        fired, held = self._choose_edges(node, outcome, output, after)
        self._leave_round(fired, node.id)
        self.emit(
            ev.NodeCompleted(
                node_id=node.id,
                visit=visit,
                output=output,
                output_key=output_key,
                state_patch=patch,
                outcome=outcome,
                fired=fired,
                held=held,
                warnings=warnings + self._overwritten(node, output_key),
                **extras,
            )
        )
        self._touch_targets(node.id)

    def _overwritten(self, node: Node, output_key: str | None) -> tuple[str, ...]:
        """A warning if this result replaces that of a parallel branch."""
        for rival in self.plan.rivals.get(node.id, ()) if output_key is not None else ():
            if self.state.node(rival).phase == "completed":
                return (f"state.{output_key} was written by {rival} in parallel",)
        return ()

    def state_with(self, patch: dict[str, Any] | None, output_key: str | None, output: Any) -> dict[str, Any]:
        if not patch and output_key is None:
            return self.state.data
        after = apply_result(
            self.state.data,
            patch=patch,
            output_key=output_key,
            output=output,
            merges=self.plan.graph.merges,
        )
        if self.moment.measure_state:
            jsonvalue.encode(after, what="the state")
        return after

    def complete_wait(
        self, node: WaitNode, visit: int, payload: Any, *, outcome: str = "ok", **extras: Any
    ) -> None:
        patch = payload if isinstance(payload, dict) else None
        self.complete(
            node, visit, output=payload, output_key=node.output_key, patch=patch, outcome=outcome, **extras
        )

    def fail_node(
        self, node: Node, visit: int, attempt: int, error: str, error_class: str, **extras: Any
    ) -> None:
        """Settle a visit badly: along its ``timeout`` or ``error`` edges, else the execution fails."""
        outcome = self._failure_outcome(node, error_class)
        fired, held = self._choose_edges(node, outcome, None, self.state.data)
        caught = bool(fired or held)
        self._leave_round(fired, node.id)
        self.emit(
            ev.NodeFailed(
                node_id=node.id,
                visit=visit,
                attempt=attempt,
                error=error,
                error_class=error_class,
                outcome=outcome,
                fired=fired,
                held=held,
                **extras,
            )
        )
        if caught:
            self._touch_targets(node.id)
        else:
            self.begin_failing(f"node {node.id} failed: {error}", error_class, node.id)

    def _failure_outcome(self, node: Node, error_class: str) -> str:
        for label in ("timeout", "rejected"):
            if error_class == label and self.plan.label_exists(node.id, label):
                return label
        return "error"

    def _choose_edges(
        self, node: Node, outcome: str, output: Any, data: dict[str, Any]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The edges that fire now, and those that fire when the loop they leave has ended."""
        scope = self.scope(node.id, output, data)
        if outcome == "approved" and not self.plan.label_exists(node.id, "approved"):
            outcome = "ok"
        if isinstance(node, ConditionNode):
            chosen = self._first_branch(node, scope)
        else:
            chosen = [
                index
                for index in self.plan.out_edges[node.id]
                if self.plan.edges[index].label == outcome and self._holds(index, scope)
            ]
        back = [index for index in chosen if self.plan.edges[index].back]
        if back:
            return (back[0],), ()
        fired = tuple(index for index in chosen if self.plan.left_loop[index] is None)
        return fired, tuple(index for index in chosen if self.plan.left_loop[index] is not None)

    def _first_branch(self, node: ConditionNode, scope: dict[str, Any]) -> list[int]:
        for label in ("branch", "ok"):
            for index in self.plan.out_edges[node.id]:
                if self.plan.edges[index].label == label and self._holds(index, scope):
                    return [index]
        return []

    def _holds(self, index: int, scope: dict[str, Any]) -> bool:
        condition = self.plan.conditions[index]
        return condition is None or condition.holds(scope)

    def _leave_round(self, fired: tuple[int, ...], node_id: str) -> None:
        """Before a back-edge is taken: cancel what is still active in its loop."""
        if fired and self.plan.edges[fired[0]].back:
            members = self.plan.loop_of_header[self.plan.edges[fired[0]].target] - {node_id}
            active = [member for member in active_nodes(self.state) if member in members]
            self.cancel_nodes(active, "the loop went into its next round")

    def cancel_nodes(self, nodes: Iterable[str], reason: str) -> None:
        """Cancel nodes that have not settled; running ones are told to stop."""
        for node_id in sorted_by_position(self.plan, nodes):
            record = self.state.node(node_id)
            if record.phase in ("pending", "running", "waiting", "backoff"):
                if record.phase == "running" and record.attempt:
                    self.effects.append(StopNode(node_id=node_id, visit=record.visit))
                self.emit(ev.NodeCancelled(node_id=node_id, visit=record.visit, reason=reason))
                self._touch_targets(node_id)

    # --- the execution ends ---------------------------------------------------------------------

    def begin_failing(self, error: str, error_class: str, node_id: str | None) -> None:
        if self.state.failing is not None:
            return
        idle = [n for n, record in self.state.nodes.items() if record.phase in ("waiting", "backoff")]
        self.cancel_nodes(idle, "the execution is failing")
        deadline = self.moment.now + FAILING_GRACE_MS
        if active_nodes(self.state):
            self.emit(
                ev.WorkflowFailing(error=error, error_class=error_class, node_id=node_id, deadline=deadline)
            )
        else:
            self.emit(ev.WorkflowFailed(error=error, error_class=error_class, node_id=node_id))

    def _finish_failing(self) -> None:
        failing = self.state.failing
        assert failing is not None
        if self.moment.now >= failing.deadline:
            self.cancel_nodes(active_nodes(self.state), "the execution has failed")
        if not active_nodes(self.state):
            self.emit(
                ev.WorkflowFailed(
                    error=failing.error, error_class=failing.error_class, node_id=failing.node_id
                )
            )

    def exceed_limit(
        self,
        limit_type: str,
        limit: float | None,
        actual: float | None,
        node_id: str | None,
        description: str | None = None,
    ) -> None:
        self.cancel_nodes(active_nodes(self.state), f"{limit_type} limit exceeded")
        self.emit(
            ev.WorkflowLimitExceeded(
                limit_type=limit_type,
                limit_value=limit,
                actual_value=actual,
                node_id=node_id,
                description=description,
            )
        )


# --- one handler a signal -------------------------------------------------------------------------


def _start_execution(turn: _Turn, signal: sg.StartExecution) -> None:
    graph = turn.plan.graph
    timeout_at = None if signal.held else _deadline(turn)
    turn.emit(
        ev.WorkflowStarted(
            workflow_id=graph.workflow_id,
            workflow_version=graph.version,
            initial_input=signal.input,
            isolation=signal.isolation,
            timeout_at=timeout_at,
        )
    )
    if signal.held:
        turn.emit(ev.ExecutionHeld(reason="slot"))
    if not signal.only_record:
        turn.advance()


def _deadline(turn: _Turn) -> int | None:
    timeout_ms = turn.plan.graph.timeout_ms
    return None if timeout_ms is None else turn.moment.now + timeout_ms


def _hold(turn: _Turn, signal: sg.Hold) -> None:
    if turn.state.held is None:
        turn.emit(ev.ExecutionHeld(reason="tenant"))


def _release(turn: _Turn, signal: sg.Release) -> None:
    if turn.state.held != signal.reason:
        return
    timeout_at = _deadline(turn) if signal.reason == "slot" else None
    turn.emit(ev.ExecutionReleased(reason=signal.reason, timeout_at=timeout_at))
    _take_due(turn)
    turn.touch(turn.plan.nodes)
    turn.advance()


def _recover(turn: _Turn, signal: sg.Recover) -> None:
    lost = [(node_id, record) for node_id, record in turn.state.nodes.items() if record.phase == "running"]
    _take_due(turn)
    turn.touch(turn.plan.nodes)
    turn.advance()
    for node_id, record in lost:
        # What was due, or another that was lost, may have cancelled this one.
        if turn.state.node(node_id) is record:
            _retry_lost(turn, node_id, record)
    turn.advance()


def _retry_lost(turn: _Turn, node_id: str, record: NodeRecord) -> None:
    if record.recoveries < RECOVERIES_MAX:
        turn.try_again(node_id, "recovered")
        return
    error = f"lost {record.recoveries + 1} times with the process that ran it"
    turn.fail_node(turn.plan.nodes[node_id], record.visit, record.attempt, error, "crashed")


def _tick(turn: _Turn, signal: sg.Tick) -> None:
    _take_due(turn)
    turn.advance()


def _take_due(turn: _Turn) -> None:
    """Let every due timer take effect, in the order in which they were due."""
    now, state = turn.moment.now, turn.state
    if state.held is not None:
        return
    due: list[tuple[int, int, str | None]] = [
        (record.due_at, turn.plan.position[node_id], node_id)
        for node_id, record in state.nodes.items()
        if record.due_at is not None and record.due_at <= now
    ]
    if state.timeout_at is not None and state.timeout_at <= now:
        due.append((state.timeout_at, -1, None))
    for _, _, node_id in sorted(due):
        if is_terminal(state):
            break
        if node_id is None:
            _execution_due(turn)
        else:
            record = state.node(node_id)
            if record.due_at is not None and record.due_at <= now:
                _node_due(turn, node_id, record)
        # Before the next one: where two lead to one join, the first to fire decides it.
        turn.advance()


def _execution_due(turn: _Turn) -> None:
    if turn.state.failing is None:
        turn.emit(ev.TimerFired())
        turn.begin_failing("the execution timed out", "timeout", None)


def _node_due(turn: _Turn, node_id: str, record: NodeRecord) -> None:
    node = turn.plan.nodes[node_id]
    if record.phase == "backoff":
        turn.try_again(node_id, "retry")
        return
    turn.emit(ev.TimerFired(node_id=node_id, visit=record.visit))
    if isinstance(node, WaitNode) and node.until == "timer":
        turn.complete(node, record.visit)
    elif isinstance(node, WaitNode) and node.until == "either":
        outcome = "timeout" if turn.plan.label_exists(node_id, "timeout") else "ok"
        turn.complete(node, record.visit, outcome=outcome)
    else:
        what = "approval" if record.waits_for == "approval" else f"event {record.correlation_key!r}"
        turn.fail_node(node, record.visit, record.attempt, f"timed out waiting for {what}", "timeout")


def _approve(turn: _Turn, signal: sg.Approve) -> dict[str, Any]:
    node_id = _approval_target(turn, signal)
    record = turn.state.node(node_id)
    node = turn.plan.nodes[node_id]
    if turn.state.held is not None and not isinstance(node, HumanApprovalNode):
        raise Conflict(
            f"execution {turn.state.execution_id} is held, so the call of {node_id} cannot begin now"
        )
    # Too large a patch is the sender's mistake, not the end of the execution.
    turn.state_with(signal.state_patch, None, None)
    turn.emit(
        ev.ApprovalReceived(
            node_id=node_id,
            visit=record.visit,
            decision=signal.decision,
            user_id=signal.user_id,
            actor=signal.actor,
            comment=signal.comment,
            state_patch=signal.state_patch,
            signal_id=signal.signal_id,
        )
    )
    if isinstance(node, HumanApprovalNode):
        _decide(turn, node, record, signal)
    elif signal.decision == "approved":
        assert isinstance(node, AttemptedNode | JoinNode)
        turn.run_approved(node, record)
    else:
        _reject(turn, node, record, signal)
    turn.advance()
    return {"accepted": True, "node_id": node_id}


def _decide(turn: _Turn, node: Node, record: NodeRecord, signal: sg.Approve) -> None:
    """Settle an approval node."""
    if signal.decision == "approved" or turn.plan.label_exists(node.id, "rejected"):
        turn.complete(
            node,
            record.visit,
            output={"decision": signal.decision, "user_id": signal.user_id, "comment": signal.comment},
            output_key=node.output_key,
            patch=signal.state_patch,
            outcome=signal.decision,
        )
    else:
        _reject(turn, node, record, signal)


def _reject(turn: _Turn, node: Node, record: NodeRecord, signal: sg.Approve) -> None:
    why = f": {signal.comment}" if signal.comment else ""
    error = f"approval rejected by {signal.user_id}{why}"
    turn.fail_node(node, record.visit, record.attempt, error, "rejected")


def _approval_target(turn: _Turn, signal: sg.Approve) -> str:
    nodes = turn.state.nodes
    pending = [node_id for node_id, record in nodes.items() if record.waits_for == "approval"]
    if signal.node_id is not None:
        if signal.node_id in pending:
            return signal.node_id
        raise Conflict(f"node {signal.node_id} is not waiting for an approval")
    if not pending:
        raise Conflict(f"execution {turn.state.execution_id} is not waiting for an approval")
    if len(pending) > 1:
        names = ", ".join(sorted_by_position(turn.plan, pending))
        raise BadRequest(f"multiple approvals pending ({names}); specify node_id")
    return pending[0]


def _send_event(turn: _Turn, signal: sg.SendEvent) -> dict[str, Any]:
    state = turn.state
    waiting = sorted_by_position(
        turn.plan,
        [
            node_id
            for node_id, record in state.nodes.items()
            if record.correlation_key == signal.correlation_key
        ],
    )
    if not waiting:
        size = signal.size or payload_size(signal.payload)
        full = state.buffered_count >= BUFFERED_COUNT_MAX or state.buffered_bytes + size > BUFFERED_BYTES_MAX
        if full:
            raise Conflict(f"execution {state.execution_id} holds as many unread events as it may")
    state_before = dict(state.nodes)
    turn.emit(
        ev.ExternalEventReceived(
            correlation_key=signal.correlation_key,
            payload=signal.payload,
            delivered=tuple(waiting),
            signal_id=signal.signal_id,
        )
    )
    for node_id in waiting:
        node = turn.plan.nodes[node_id]
        assert isinstance(node, WaitNode)
        # What the ones before led to may have cancelled this one.
        if turn.state.node(node_id) is state_before[node_id]:
            turn.complete_wait(node, state_before[node_id].visit, signal.payload)
            turn.advance()
    turn.advance()
    return {"accepted": True}


def _cancel(turn: _Turn, signal: sg.Cancel) -> dict[str, Any]:
    turn.cancel_nodes(active_nodes(turn.state), "the execution was cancelled")
    turn.emit(ev.WorkflowCancelled(reason=signal.reason, signal_id=signal.signal_id))
    return {"status": "cancelled"}


def _current(turn: _Turn, signal: sg.NodeSucceeded | sg.NodeErrored) -> NodeRecord | None:
    """The record that this result belongs to, or None if it comes too late or from a lost attempt."""
    record = turn.state.node(signal.node_id)
    same = (record.visit, record.attempt) == (signal.visit, signal.attempt)
    return record if record.phase == "running" and same else None


_TELEMETRY = (
    "duration_ms",
    "gen_ai_system",
    "gen_ai_model",
    "input_tokens",
    "output_tokens",
    "finish_reason",
    "cost_usd",
)


def _node_succeeded(turn: _Turn, signal: sg.NodeSucceeded) -> None:
    record = _current(turn, signal)
    if record is None:
        return
    node = turn.plan.nodes[signal.node_id]
    _tell_of_call(turn, node, signal, is_error=False)
    turn.complete(
        node,
        record.visit,
        output=signal.output,
        output_key=node.output_key,
        patch=signal.state_patch,
        **{name: getattr(signal, name) for name in _TELEMETRY},
    )
    turn.advance()


def _tell_of_call(
    turn: _Turn, node: Node, signal: sg.NodeSucceeded | sg.NodeErrored, *, is_error: bool
) -> None:
    if isinstance(node, HttpNode):
        turn.emit(
            ev.ToolCallCompleted(
                node_id=node.id,
                visit=signal.visit,
                tool=node.id,
                protocol="http",
                duration_ms=signal.duration_ms,
                is_error=is_error,
            )
        )
    elif isinstance(node, A2aTaskNode):
        turn.emit(
            ev.AgentCallCompleted(
                node_id=node.id,
                visit=signal.visit,
                agent=node.agent,
                skill=node.skill,
                duration_ms=signal.duration_ms,
                is_error=is_error,
                task_ended=isinstance(signal, sg.NodeErrored) and signal.error_class in _TASK_ENDED,
            )
        )


def _node_errored(turn: _Turn, signal: sg.NodeErrored) -> None:
    record = _current(turn, signal)
    if record is None:
        return
    node = turn.plan.nodes[signal.node_id]
    _tell_of_call(turn, node, signal, is_error=True)
    if signal.error_class == "worker_lost":
        _retry_lost(turn, node.id, record)
    elif turn.state.failing is None and _may_retry(node.retry, record, signal):
        _schedule_retry(turn, node, record, signal)
    else:
        turn.fail_node(
            node,
            record.visit,
            record.attempt,
            signal.error,
            signal.error_class,
            duration_ms=signal.duration_ms,
        )
    turn.advance()


def _may_retry(policy: RetryPolicy | None, record: NodeRecord, signal: sg.NodeErrored) -> bool:
    if policy is None or signal.retryable is False:
        return False
    tries = record.attempt - record.recoveries
    matches = not policy.retryable_on or signal.error_class in policy.retryable_on
    return tries < policy.max_attempts and matches


def _schedule_retry(turn: _Turn, node: Node, record: NodeRecord, signal: sg.NodeErrored) -> None:
    assert node.retry is not None
    delay_ms = retry_delay_ms(node.retry, record.attempt - record.recoveries, turn.moment.chance)
    delay_ms = max(delay_ms, signal.retry_after_ms)
    turn.emit(
        ev.NodeFailed(
            node_id=node.id,
            visit=record.visit,
            attempt=record.attempt,
            error=signal.error,
            error_class=signal.error_class,
            retryable=True,
            duration_ms=signal.duration_ms,
        )
    )
    turn.emit(
        ev.RetryScheduled(
            node_id=node.id,
            visit=record.visit,
            attempt=record.attempt + 1,
            delay_ms=delay_ms,
            due_at=turn.moment.now + delay_ms,
        )
    )


def retry_delay_ms(policy: RetryPolicy, failures: int, chance: float) -> int:
    """The delay after the n-th failure: fixed d, linear d*n, exponential d*2^(n-1), capped.

    With jitter the delay is drawn evenly from its upper half.
    """
    factor = {"fixed": 1, "linear": failures, "exponential": 2 ** min(failures - 1, 40)}[policy.backoff]
    delay = min(policy.initial_delay_ms * factor, policy.max_delay_ms)
    return int(delay * (0.5 + chance / 2)) if policy.jitter else int(delay)


def tool_call_hash(tool: str, input: jsonvalue.JsonValue) -> str:
    """What names one call of a tool: SHA-256 of ``{tool}:`` and its input as JSON with sorted keys."""
    content = msgspec.json.encode(input, order="sorted")
    return hashlib.sha256(f"{tool}:".encode() + content).hexdigest()


def _as_text(value: jsonvalue.JsonValue) -> str:
    """A rendered value where only a text will do."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _kind(node: Node) -> str:
    tag = node.__struct_config__.tag
    assert isinstance(tag, str)
    return tag


_HANDLERS: dict[type, Callable[[_Turn, Any], dict[str, Any] | None]] = {
    sg.StartExecution: _start_execution,
    sg.Recover: _recover,
    sg.Hold: _hold,
    sg.Release: _release,
    sg.Tick: _tick,
    sg.Approve: _approve,
    sg.SendEvent: _send_event,
    sg.Cancel: _cancel,
    sg.NodeSucceeded: _node_succeeded,
    sg.NodeErrored: _node_errored,
}
