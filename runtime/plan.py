"""A graph made ready to run: adjacency, loops, and compiled conditions and templates.

A plan is derived from a ``Graph`` alone and never changes, so owners keep one
per workflow version.
"""

from collections.abc import Iterable
from typing import Any

from runtime.expr import Expression, compile_expression
from runtime.graph import END, A2aTaskNode, Graph, HttpNode, JoinNode, ModelNode, PythonFnNode, WaitNode
from runtime.template import Template, compile_template


class Plan:
    """What the machine looks up while it decides."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes = graph.nodes
        self.edges = graph.edges
        self.in_edges: dict[str, list[int]] = {node: [] for node in graph.nodes}
        """Edges that readiness looks at: all but back-edges."""
        self.out_edges: dict[str, list[int]] = {node: [] for node in graph.nodes}
        self.conditions: list[Expression | None] = []
        for index, edge in enumerate(graph.edges):
            self.conditions.append(compile_expression(edge.condition) if edge.condition else None)
            self.out_edges[edge.source].append(index)
            if edge.target != END and not edge.back:
                self.in_edges[edge.target].append(index)
        self.loops = [(loop.header, frozenset(loop.nodes)) for loop in graph.loops]
        self.loop_of_header = dict(self.loops)
        self.left_loop = [self._outermost_loop_left(index) for index in range(len(graph.edges))]
        """By edge: the outermost loop that it leaves, as an index into ``loops``, or None."""
        self.exits: list[list[int]] = [
            [index for index, left in enumerate(self.left_loop) if left == position]
            for position in range(len(self.loops))
        ]
        self.templates = {node.id: compile_template(_templated(node)) for node in graph.nodes.values()}
        self.kept_outputs = self._sources_of_joins()
        """Nodes whose output a join will ask for."""
        self.rivals = self._writers_of_one_key()
        """By node: those in parallel branches that set the same key of the state."""
        self.unreachable = self._nodes_without_a_path()
        self.position = {node: index for index, node in enumerate(graph.nodes)}

    def template(self, node_id: str) -> Template:
        return self.templates[node_id]

    def label_exists(self, node_id: str, label: str) -> bool:
        return any(self.edges[index].label == label for index in self.out_edges[node_id])

    def initial_edges(self) -> list[int]:
        dead = set(self.graph.dead_edges)
        return [EDGE_DEAD if index in dead else EDGE_PENDING for index in range(len(self.edges))]

    def _outermost_loop_left(self, index: int) -> int | None:
        edge = self.edges[index]
        left = [
            position
            for position, (_, members) in enumerate(self.loops)
            if edge.source in members and edge.target not in members
        ]
        return max(left, key=lambda position: len(self.loops[position][1])) if left else None

    def _nodes_without_a_path(self) -> frozenset[str]:
        """Nodes that no path from the start reaches: all their edges are dead from the start."""
        dead = set(self.graph.dead_edges)
        reached = {edge.target for index, edge in enumerate(self.edges) if index not in dead}
        return frozenset(self.nodes.keys() - reached - {self.graph.start})

    def _writers_of_one_key(self) -> dict[str, tuple[str, ...]]:
        writers: dict[str, list[str]] = {}
        for node in self.nodes.values():
            if node.output_key is not None and node.output_key not in self.graph.merges:
                writers.setdefault(node.output_key, []).append(node.id)
        later = {node: self._nodes_after(node) for group in writers.values() if group[1:] for node in group}
        return {
            node: tuple(n for n in group if n != node and n not in later[node] and node not in later[n])
            for group in writers.values()
            if group[1:]
            for node in group
        }

    def _nodes_after(self, node: str) -> set[str]:
        """What a node leads to without a back-edge."""
        seen: set[str] = set()
        pending = [node]
        while pending:
            for index in self.out_edges[pending.pop()]:
                edge = self.edges[index]
                if edge.target != END and not edge.back and edge.target not in seen:
                    seen.add(edge.target)
                    pending.append(edge.target)
        return seen

    def _sources_of_joins(self) -> frozenset[str]:
        joins = (node for node in self.nodes.values() if isinstance(node, JoinNode))
        sources: set[str] = set()
        for join in joins:
            sources.update(join.wait_for)
            sources.update(self.edges[index].source for index in self.in_edges[join.id])
        return frozenset(sources)


EDGE_PENDING, EDGE_FIRED, EDGE_DEAD, EDGE_ARMED, EDGE_REFUSED = range(5)
"""An edge's state. Armed and refused edges leave a loop: they fire or die when it has ended."""


def _templated(node: Any) -> Any:
    """The part of a node that is rendered when a visit starts."""
    match node:
        case PythonFnNode() | A2aTaskNode():
            return node.input_mapping
        case ModelNode():
            return {"prompt": node.prompt, "system_prompt": node.system_prompt}
        case HttpNode():
            return {"url": node.url, "headers": node.headers, "query": node.query, "body": node.body}
        case WaitNode():
            return node.correlation_key
        case _:
            return node.description


def sorted_by_position(plan: Plan, nodes: Iterable[str]) -> list[str]:
    """Nodes in the order of the workflow's source: what makes decisions repeatable."""
    return sorted(nodes, key=plan.position.__getitem__)
