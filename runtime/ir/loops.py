"""The shape of a graph: dominators, back-edges, natural loops, regions of joins.

An edge is a back-edge iff its target dominates its source. What is left without
them must have no cycle; then every cycle has one way in, its header, and loops
nest or are disjoint. All walks are iterative: sources choose the depth.
"""

from collections.abc import Iterable, Sequence

from runtime.graph import END, Edge, Loop

Links = dict[str, list[str]]


class Shape:
    """What follows from nodes, edges and start alone.

    Attributes:
        reachable: nodes that a path from the start reaches, in reverse postorder.
        back: indices of back-edges.
        dead: indices of edges whose source is not reachable.
        loops: natural loops, innermost first.
        tangles: cycles without a single entry, each as its nodes in order; none may be left.
    """

    def __init__(self, start: str, nodes: Iterable[str], edges: Sequence[Edge]) -> None:
        self._nodes = list(nodes)
        outward = _links(self._nodes, ((edge.source, edge.target) for edge in edges))
        self.reachable = _reverse_postorder(start, outward)
        self._order = {node: position for position, node in enumerate(self.reachable)}
        alive = [edge for edge in edges if edge.source in self._order and edge.target != END]
        inward = _links(self.reachable, ((edge.target, edge.source) for edge in alive))
        self.dominator = _dominators(self.reachable, self._order, inward)
        """The immediate dominator of every reachable node; the start's is itself."""
        self.dead = tuple(i for i, edge in enumerate(edges) if edge.source not in self._order)
        self.back = frozenset(i for i, edge in enumerate(edges) if self._is_back(edge))
        self._inward = inward
        forward = [(edge.source, edge.target) for edge in alive if not self._is_back(edge)]
        self.tangles = _cycles(self.reachable, _links(self.reachable, forward))
        self.loops = _natural_loops([edges[index] for index in sorted(self.back)], inward)

    def dominates(self, upper: str, lower: str) -> bool:
        """Whether every path from the start to ``lower`` passes ``upper``."""
        while self._order[lower] > self._order[upper]:
            lower = self.dominator[lower]
        return lower == upper

    def region(self, join: str) -> tuple[str, ...]:
        """The nodes from which the join is reached without passing its dominator, sorted.

        Those that the join dominates come after it, though a loop leads them back.
        """
        if join not in self._order or self.dominator[join] == join:
            return ()
        source = self.dominator[join]
        before = _reached(join, self._inward, stop=source)
        return tuple(sorted(node for node in before if not self.dominates(join, node)))

    def _is_back(self, edge: Edge) -> bool:
        known = edge.source in self._order and edge.target in self._order
        return known and self.dominates(edge.target, edge.source)


def _links(nodes: Iterable[str], pairs: Iterable[tuple[str, str]]) -> Links:
    links: Links = {node: [] for node in nodes}
    for source, target in pairs:
        if source in links and target != END:
            links[source].append(target)
    return links


def _reverse_postorder(start: str, outward: Links) -> list[str]:
    seen = {start}
    finished: list[str] = []
    stack = [(start, iter(outward[start]))]
    while stack:
        node, targets = stack[-1]
        following = next((target for target in targets if target not in seen), None)
        if following is None:
            finished.append(node)
            stack.pop()
        else:
            seen.add(following)
            stack.append((following, iter(outward[following])))
    return finished[::-1]


def _dominators(order: list[str], position: dict[str, int], inward: Links) -> dict[str, str]:
    """Immediate dominators, by iteration to a fixed point over reverse postorder."""
    dominator = {order[0]: order[0]}
    changed = True
    while changed:
        changed = False
        for node in order[1:]:
            known = [source for source in inward[node] if source in dominator]
            nearest = known[0]
            for source in known[1:]:
                nearest = _common(nearest, source, dominator, position)
            if dominator.get(node) != nearest:
                dominator[node] = nearest
                changed = True
    return dominator


def _common(one: str, other: str, dominator: dict[str, str], position: dict[str, int]) -> str:
    while one != other:
        while position[one] > position[other]:
            one = dominator[one]
        while position[other] > position[one]:
            other = dominator[other]
    return one


def _cycles(nodes: list[str], outward: Links) -> list[tuple[str, ...]]:
    """Cycles that share no node, enough to name each tangle once."""
    cycles: list[tuple[str, ...]] = []
    named: set[str] = set()
    finished: set[str] = set()
    for root in nodes:
        if root in finished:
            continue
        path, on_path = [root], {root}
        stack = [iter(outward[root])]
        while stack:
            target = next((node for node in stack[-1] if node not in finished), None)
            if target is None:
                stack.pop()
                node = path.pop()
                on_path.discard(node)
                finished.add(node)
            elif target in on_path:
                cycle = tuple(path[path.index(target) :])
                if named.isdisjoint(cycle):
                    cycles.append(cycle)
                    named.update(cycle)
            else:
                path.append(target)
                on_path.add(target)
                stack.append(iter(outward[target]))
    return cycles


def _natural_loops(back_edges: list[Edge], inward: Links) -> tuple[Loop, ...]:
    """One loop per header, innermost first: of two that nest, the inner one has fewer nodes."""
    members: dict[str, set[str]] = {}
    for edge in back_edges:
        loop = members.setdefault(edge.target, {edge.target})
        pending = [edge.source]
        while pending:
            node = pending.pop()
            if node not in loop:
                loop.add(node)
                pending.extend(inward[node])
    loops = [Loop(header=header, nodes=tuple(sorted(nodes))) for header, nodes in members.items()]
    return tuple(sorted(loops, key=lambda loop: len(loop.nodes)))


def _reached(start: str, links: Links, *, stop: str) -> set[str]:
    """What ``start`` leads to, itself included, on paths that do not pass ``stop``."""
    seen = {start}
    pending = [start]
    while pending:
        fresh = [node for node in links[pending.pop()] if node not in seen and node != stop]
        seen.update(fresh)
        pending.extend(fresh)
    return seen
