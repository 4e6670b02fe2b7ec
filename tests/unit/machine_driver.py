"""Drives the machine without a world, and distrusts it: every turn is decided three times and refolded.

``graph_of`` builds a graph from a few words; a ``Driver`` sends signals and answers with what came
out, one line for each event and effect, so that a test can state the whole of it.
"""

import re
from typing import Any

import msgspec
import pytest

from runtime import events as ev
from runtime import signals as sg
from runtime.effects import Effect, RunNode, StopNode
from runtime.graph import Edge, Graph, JoinNode, Node, PythonFnNode, ToolPolicy
from runtime.ids import call_key
from runtime.ir.loops import Shape
from runtime.machine import Decision, Moment, decide
from runtime.plan import Plan
from runtime.state import (
    ExecutionState,
    active_nodes,
    apply,
    check_invariants,
    decode_state,
    encode_state,
    fold,
    is_terminal,
    new_state,
    payload_size,
    status_of,
    wake_at,
)

NOW = 1_700_000_000_000
EXECUTION_ID = "exec_1"

_EDGE = re.compile(r"(?P<source>\w+)>(?P<target>\w+)(?: (?P<label>(?!if )\w+))?(?: if (?P<condition>.+))?")


def step(node_id: str, **fields: Any) -> PythonFnNode:
    """A node with an attempt to make."""
    return PythonFnNode(id=node_id, module="steps", function=node_id, **fields)


def graph_of(*edges: str, nodes: tuple[Node, ...] = (), start: str | None = None, **fields: Any) -> Graph:
    """A graph in normal form, its loops and regions computed.

    Args:
        edges: ``a>b``, ``a>b error``, ``a>b if state.x``, ``a>b branch if state.x``.
        nodes: those that are not plain steps.
        start: by default the source of the first edge.
    """
    listed = [edge_of(text) for text in edges]
    given = {node.id: node for node in nodes}
    names = dict.fromkeys(
        name for edge in listed for name in (edge.source, edge.target) if name != "end"
    ) | dict.fromkeys(given)
    first = start or next(iter(names))
    shape = Shape(first, names, listed)
    assert not shape.tangles, shape.tangles
    made: dict[str, Node] = {}
    for name in names:
        node = given.get(name) or step(name)
        if isinstance(node, JoinNode) and node.merge == "first":
            node = msgspec.structs.replace(node, region=shape.region(name))
        made[name] = node
    return Graph(
        **{"workflow_id": "w", "version": "1.0.0", **fields},
        start=first,
        nodes=made,
        edges=tuple(
            msgspec.structs.replace(edge, back=index in shape.back) for index, edge in enumerate(listed)
        ),
        dead_edges=shape.dead,
        loops=shape.loops,
    )


def edge_of(text: str) -> Edge:
    parts = _EDGE.fullmatch(text)
    assert parts is not None, text
    fields = {name: value for name, value in parts.groupdict().items() if value is not None}
    return msgspec.convert(fields, type=Edge)


def line_of(thing: ev.Event | Effect) -> str:
    """An event or effect in one line: ``NodeStarted a#1``, ``run a#1``, ``NodeFailed a timeout``.

    The visit is told from the second on (``a/2#1``); a failure that is to be retried ends in ``...``.
    """
    if isinstance(thing, RunNode):
        return f"run {_visit(thing.node.id, thing.visit)}#{thing.attempt}"
    if isinstance(thing, StopNode):
        return f"stop {_visit(thing.node_id, thing.visit)}"
    words = [type(thing).__name__]
    if thing.node_id is not None:
        words.append(_visit(thing.node_id, getattr(thing, "visit", 1)))
    if isinstance(thing, ev.NodeStarted):
        words[-1] += f"#{thing.attempt}"
        words += [thing.reason] if thing.reason != "first" else []
    if isinstance(thing, ev.NodeFailed):
        words.append(thing.error_class + ("" if thing.outcome else " ..."))
    if isinstance(thing, ev.ExternalEventReceived):
        words.append(thing.correlation_key)
    if isinstance(thing, ev.ExecutionHeld | ev.ExecutionReleased):
        words.append(thing.reason)
    return " ".join(words)


def _visit(node_id: str, visit: int) -> str:
    return f"{node_id}/{visit}" if visit > 1 else node_id


class Driver:
    """One execution, its log as stored rows, and a clock that moves only when told."""

    def __init__(self, graph: Graph, *, now: int = NOW, env: dict[str, str] | None = None) -> None:
        self.plan = Plan(graph)
        self.now = now
        self.env = env or {}
        self.measure_state = False
        self.policy: ToolPolicy | None = None
        self.state = new_state(EXECUTION_ID, self.plan)
        self.rows: list[tuple[str, str, int]] = []
        """Type, data and time of every event, as the store has them."""
        self.last: Decision | None = None
        self.calls: dict[str, tuple[int, int]] = {}
        """Visit and attempt of every call that was asked for, and is neither answered nor stopped."""
        self._settled: set[tuple[str, int]] = set()
        self._signals = 0

    # --- what was, what is ----------------------------------------------------------------------

    @property
    def status(self) -> str:
        return status_of(self.state)

    @property
    def data(self) -> dict[str, Any]:
        return self.state.data

    def phase(self, node_id: str) -> str:
        return self.state.node(node_id).phase

    def events(self, kind: type | None = None) -> list[Any]:
        """Every event so far, or those of one kind."""
        return [event for event, _ in self.history() if kind is None or isinstance(event, kind)]

    def history(self) -> list[tuple[ev.Event, int]]:
        return [(ev.decode_event(name, data), at) for name, data, at in self.rows]

    def refolded(self) -> ExecutionState:
        return fold(new_state(EXECUTION_ID, self.plan), self.plan, self.history())

    # --- signals --------------------------------------------------------------------------------

    def start(self, only_record: bool = False, held: bool = False, **data: Any) -> list[str]:
        return self.send(sg.StartExecution(input=data, only_record=only_record, held=held))

    def hold(self) -> list[str]:
        return self.send(sg.Hold())

    def release(self, reason: Any = "tenant") -> list[str]:
        return self.send(sg.Release(reason=reason))

    def ok(self, node_id: str, output: Any = None, **fields: Any) -> list[str]:
        """The attempt that runs now succeeds."""
        return self.send(sg.NodeSucceeded(**self._attempt(node_id), output=output, **fields))

    def error(self, node_id: str, error_class: str = "io_error", **fields: Any) -> list[str]:
        """The attempt that runs now fails."""
        told = {"error": "no luck", "error_class": error_class, **fields}
        return self.send(sg.NodeErrored(**self._attempt(node_id), **told))

    def lose(self, node_id: str) -> list[str]:
        """The process that made the attempt is gone."""
        return self.error(node_id, "worker_lost")

    def approve(self, decision: Any = "approved", *, user_id: str = "ann", **fields: Any) -> list[str]:
        fields.setdefault("signal_id", self.signal_id())
        return self.send(sg.Approve(decision=decision, user_id=user_id, **fields))

    def event(self, key: str, payload: Any = None, **fields: Any) -> list[str]:
        fields.setdefault("signal_id", self.signal_id())
        return self.send(sg.SendEvent(correlation_key=key, payload=payload, **fields))

    def cancel(self, **fields: Any) -> list[str]:
        fields.setdefault("signal_id", self.signal_id())
        return self.send(sg.Cancel(**fields))

    def tick(self, after: int = 0) -> list[str]:
        self.now += after
        return self.send(sg.Tick())

    def wake(self) -> list[str]:
        """Time passes until the earliest timer is due."""
        due = wake_at(self.state)
        assert due is not None, "nothing is due, ever"
        self.now = max(self.now, due)
        return self.send(sg.Tick())

    def recover(self, after: int = 0) -> list[str]:
        self.now += after
        return self.send(sg.Recover())

    def signal_id(self) -> str:
        self._signals += 1
        return f"signal-{self._signals}"

    def _attempt(self, node_id: str) -> dict[str, Any]:
        record = self.state.node(node_id)
        assert record.phase == "running", f"{node_id} is {record.phase}"
        return {"node_id": node_id, "visit": record.visit, "attempt": record.attempt}

    # --- a turn ---------------------------------------------------------------------------------

    def send(self, signal: sg.Signal, chance: float = 0.0) -> list[str]:
        """Decide, check, and take over what was decided.

        The same is decided by an owner that has lived all along, by one that read the snapshot, and by
        one that folded the log, whatever the point at which the first was lost.
        """
        moment = Moment(self.now, chance, self.env, self.measure_state, self.policy)
        before = encode_state(self.state)
        snapshot = decode_state(before)
        try:
            decision = decide(self.plan, self.state, signal, moment)
        except Exception as error:
            assert encode_state(self.state) == before, "a refused signal changed the state"
            for other in (snapshot, self.refolded()):
                _same_refusal(self.plan, other, signal, moment, error)
            raise
        for other in (self.state, snapshot, self.refolded()):
            assert decide(self.plan, other, signal, moment) == decision
        assert encode_state(self.state) == before, "decide changed its argument"
        self._end_calls(signal)
        self._take(decision)
        return [line_of(thing) for thing in (*decision.events, *decision.effects)]

    def _end_calls(self, signal: sg.Signal) -> None:
        if isinstance(signal, sg.Recover):
            self.calls.clear()
        if isinstance(signal, sg.NodeSucceeded | sg.NodeErrored):
            told = (signal.visit, signal.attempt)
            self.calls = {n: call for n, call in self.calls.items() if (n, call) != (signal.node_id, told)}

    def _take(self, decision: Decision) -> None:
        was_terminal = is_terminal(self.state)
        assert not (was_terminal and (decision.events or decision.effects)), "something followed the end"
        for event in decision.events:
            self._check_event(event)
            self.rows.append((ev.event_type(event), ev.encode_event(event), self.now))
        self.last = decision
        self.state = decision.state
        self._check_effects(decision)
        self._check_state()

    def _check_event(self, event: ev.Event) -> None:
        if isinstance(event, ev.NodeScheduled | ev.NodeStarted):
            visit = (event.node_id, event.visit)
            assert visit not in self._settled, f"{visit} starts again after it has settled"
        if isinstance(event, ev.NodeCompleted) or (isinstance(event, ev.NodeFailed) and event.outcome):
            visit = (event.node_id, event.visit)
            assert visit not in self._settled, f"{visit} settles twice"
            self._settled.add(visit)
        assert ev.decode_event(ev.event_type(event), ev.encode_event(event)) == event

    def _check_effects(self, decision: Decision) -> None:
        committed = {
            (e.node_id, e.visit, e.attempt) for e in decision.events if isinstance(e, ev.NodeStarted)
        }
        for effect in decision.effects:
            if isinstance(effect, RunNode):
                assert (effect.node.id, effect.visit, effect.attempt) in committed, "a call without its event"
                assert effect.key == call_key(EXECUTION_ID, effect.node.id, effect.visit)
                assert effect.node.id not in self.calls, "two calls for one node"
                self.calls[effect.node.id] = (effect.visit, effect.attempt)
            else:
                self.calls.pop(effect.node_id, None)

    def _check_state(self) -> None:
        state = self.state
        check_invariants(state, self.plan)
        running = {n: (r.visit, r.attempt) for n, r in state.nodes.items() if r.phase == "running"}
        assert running == self.calls, "what runs and what was asked for differ"
        assert state.sequence == len(self.rows)
        text = encode_state(state)
        assert encode_state(self.refolded()) == text, "the fold of the log is another state"
        assert encode_state(decode_state(text)) == text, "the snapshot does not survive the round trip"
        assert state.buffered_count == sum(map(len, state.buffered.values()))
        assert state.buffered_bytes == sum(
            payload_size(p) for queue in state.buffered.values() for p in queue
        )
        if state.visits and not is_terminal(state) and state.held is None:
            assert active_nodes(state), "nothing can ever happen to it again"


def _same_refusal(
    plan: Plan, state: ExecutionState, signal: sg.Signal, moment: Moment, error: Exception
) -> None:
    with pytest.raises(type(error)) as again:
        decide(plan, state, signal, moment)
    assert again.value.args == error.args


def folded(graph: Graph, rows: list[tuple[str, str, int]]) -> ExecutionState:
    """The state that stored rows lead to, event by event."""
    plan = Plan(graph)
    state = new_state(EXECUTION_ID, plan)
    for name, data, at in rows:
        apply(state, plan, ev.decode_event(name, data), at)
    return state
