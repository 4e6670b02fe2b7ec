"""Every target that a source names, under whatever key, made into one list of labelled edges."""

from collections.abc import Mapping

from runtime.graph import END, Edge, Label
from runtime.ir.models import EDGES_MAX, ConditionKind, EdgeDef, JoinKind, Kind, ParallelKind
from runtime.ir.report import Report

_TARGET_KEYS: tuple[tuple[str, Label], ...] = (
    ("on_error", "error"),
    ("on_timeout", "timeout"),
    ("fallback_node", "timeout"),
    ("on_approved", "approved"),
    ("on_rejected", "rejected"),
)


def label_edges(
    definitions: list[EdgeDef],
    kinds: Mapping[str, Kind],
    nodes: frozenset[str],
    ends: frozenset[str],
    report: Report,
) -> list[Edge]:
    """The edges of a workflow: those listed, in order, then those that nodes name themselves.

    Args:
        definitions: the listed edges.
        kinds: the nodes that could be read.
        nodes: ids of all nodes but end nodes.
        ends: ids that stand for the end of a path.
    """
    return _Edges(nodes, ends, report).collect(definitions, kinds)


class _Edges:
    def __init__(self, nodes: frozenset[str], ends: frozenset[str], report: Report) -> None:
        self._nodes = nodes
        self._ends = ends
        self._report = report
        self._found: dict[Edge, None] = {}
        """A dict for its order: an edge that is named twice is one edge."""

    def collect(self, definitions: list[EdgeDef], kinds: Mapping[str, Kind]) -> list[Edge]:
        for index, definition in enumerate(definitions):
            self._listed(index, definition, kinds.get(definition.source))
        for node_id, kind in kinds.items():
            self._named(node_id, kind)
        for node_id, kind in kinds.items():
            if isinstance(kind, JoinKind):
                self._met(node_id, kind)
        if len(self._found) > EDGES_MAX:
            self._report.problem(f"ir.edges: {len(self._found)} edges are over the limit of {EDGES_MAX}")
        return list(self._found)

    def _listed(self, index: int, definition: EdgeDef, kind: Kind | None) -> None:
        if definition.source in self._ends:
            return
        if definition.source not in self._nodes:
            self._report.problem(f"ir.edges[{index}]: source {definition.source!r} does not exist")
            return
        branched = isinstance(kind, ConditionKind) and definition.label is None
        if branched and self._is_branch(kind, definition.target):
            return
        label = definition.label or "ok"
        self._add(definition.source, definition.target, "edge", label, definition.condition)

    def _is_branch(self, kind: Kind | None, target: str) -> bool:
        return isinstance(kind, ConditionKind) and any(branch.target == target for branch in kind.branches)

    def _named(self, node_id: str, kind: Kind) -> None:
        if isinstance(kind, ConditionKind):
            for branch in kind.branches:
                self._add(node_id, branch.target, "branch", "branch", branch.condition)
        if isinstance(kind, ParallelKind):
            started = {edge.target for edge in self._found if edge.source == node_id and edge.label == "ok"}
            for target in kind.branches:
                if self._resolved(target) not in started:
                    self._add(node_id, target, "branch", "ok")
        for key, label in _TARGET_KEYS:
            target = getattr(kind, key)
            if target:
                self._add(node_id, target, key, label)

    def _met(self, node_id: str, kind: JoinKind) -> None:
        sources = {edge.source for edge in self._found if edge.target == node_id}
        for source in kind.wait_for:
            if source not in self._nodes:
                self._report.at_node(node_id, f"wait_for source {source!r} does not exist")
            elif source not in sources:
                self._add(source, node_id, "edge", "ok")

    def _add(self, source: str, target: str, place: str, label: Label, condition: str | None = None) -> None:
        resolved = self._resolved(target)
        if resolved != END and resolved not in self._nodes:
            self._report.at_node(source, f"{place} target {target!r} does not exist")
            return
        self._found[Edge(source=source, target=resolved, label=label, condition=condition)] = None

    def _resolved(self, target: str) -> str:
        return END if target in self._ends else target
