"""The shape of graphs: worked examples, and properties checked against the definitions."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from runtime.graph import END, Edge
from runtime.ir.loops import Shape


def shape(*pairs: str, start: str = "a") -> Shape:
    edges = [Edge(source=pair[0], target=END if pair[1] == "." else pair[1]) for pair in pairs]
    nodes = sorted({node for pair in pairs for node in pair if node != "."} | {start})
    return Shape(start, nodes, edges)


def test_a_straight_line_has_no_loops():
    found = shape("ab", "bc", "c.")
    assert (found.loops, found.back, found.dead, found.tangles) == ((), frozenset(), (), [])
    assert found.reachable == ["a", "b", "c"]


def test_a_back_edge_makes_a_natural_loop():
    found = shape("ab", "bc", "cb", "cd")
    assert found.back == {2}
    assert [(loop.header, loop.nodes) for loop in found.loops] == [("b", ("b", "c"))]


def test_a_node_may_lead_to_itself():
    found = shape("ab", "bb")
    assert [(loop.header, loop.nodes) for loop in found.loops] == [("b", ("b",))]


def test_back_edges_with_one_header_are_one_loop():
    found = shape("ab", "bc", "bd", "cb", "db")
    assert [(loop.header, loop.nodes) for loop in found.loops] == [("b", ("b", "c", "d"))]


def test_nested_loops_come_innermost_first():
    found = shape("ab", "bc", "cb", "ca")
    assert [loop.header for loop in found.loops] == ["b", "a"]


def test_a_cycle_with_two_entries_is_a_tangle():
    found = shape("ab", "ac", "bc", "cb")
    assert [set(cycle) for cycle in found.tangles] == [{"b", "c"}]
    assert found.loops == ()


def test_each_tangle_is_named_once():
    found = shape("ab", "ac", "bc", "cb", "cd", "ce", "be", "bd", "de", "ed")
    assert sorted(sorted(cycle) for cycle in found.tangles) == [["b", "c"], ["d", "e"]]


def test_cycles_that_the_start_does_not_reach_are_dead_and_no_tangle():
    found = shape("ab", "xy", "yx", "xb", "yb")
    assert found.dead == (1, 2, 3, 4)
    assert found.tangles == []
    assert found.dominator == {"a": "a", "b": "a"}


def test_the_region_of_a_join_lies_between_its_dominator_and_it():
    found = shape("pb", "pc", "bd", "dj", "cj", "jz", "ex", start="p")
    assert found.region("j") == ("b", "c", "d")
    assert found.region("p") == ()


def test_a_region_leaves_out_paths_that_do_not_reach_the_join():
    found = shape("pb", "pc", "bj", "cj", "bx", "jp", start="p")
    assert found.region("j") == ("b", "c")


def test_a_long_chain_needs_no_recursion():
    names = [f"n{i}" for i in range(1_000)]
    edges = [Edge(source=one, target=next_) for one, next_ in pairwise(names)]
    edges.append(Edge(source=names[-1], target=names[0]))
    found = Shape(names[0], names, edges)
    assert found.back == {999}
    assert len(found.loops[0].nodes) == 1_000


NODES = "abcdefg"
PAIRS = st.lists(st.tuples(st.sampled_from(NODES), st.sampled_from(NODES)), max_size=16)


def reached(start: str, pairs: list[tuple[str, str]], without: str | None = None) -> set[str]:
    seen = {start} - {without}
    pending = list(seen)
    while pending:
        node = pending.pop()
        for source, target in pairs:
            if source == node and target != without and target not in seen:
                seen.add(target)
                pending.append(target)
    return seen


@given(PAIRS)
def test_dominators_agree_with_their_definition(pairs):
    found = Shape("a", NODES, [Edge(source=s, target=t) for s, t in pairs])
    everything = reached("a", pairs)
    assert set(found.reachable) == everything
    for upper in everything:
        cut_off = everything - reached("a", pairs, without=upper)
        assert {lower for lower in everything if found.dominates(upper, lower)} == cut_off | {upper}


@given(PAIRS)
def test_without_tangles_every_cycle_has_a_back_edge_and_loops_nest(pairs):
    found = Shape("a", NODES, [Edge(source=s, target=t) for s, t in pairs])
    alive = [(i, pair) for i, pair in enumerate(pairs) if pair[0] in set(found.reachable)]
    forward = [pair for i, pair in alive if i not in found.back]
    acyclic = all(s not in reached(t, forward) for s, t in forward)
    assert acyclic == (found.tangles == [])
    if not found.tangles:
        for loop in found.loops:
            assert all(found.dominates(loop.header, node) for node in loop.nodes)
        for i, inner in enumerate(found.loops):
            for outer in found.loops[i + 1 :]:
                shared = set(inner.nodes) & set(outer.nodes)
                assert shared in (set(), set(inner.nodes))
