"""How many ExecutionActors, and where."""

import pytest

from actors.nodes import HEAD_RESOURCE, ClusterNode
from actors.placement import Work, ceiling, is_usable, plan, wanted_actors
from actors.settings import Settings
from runtime.demand import Machine

URL = "postgresql://db/x"
DEFAULT = Settings(database_url=URL)


def node(name: str, cpus: float = 4, *, head: bool = False, drained_by: int | None = None) -> ClusterNode:
    total = {"CPU": cpus} | ({HEAD_RESOURCE: 1.0} if head else {})
    return ClusterNode(id=name, address="192.0.2.1", machine=Machine(total=total), drained_by=drained_by)


HEAD, A, B = node("head", head=True), node("a"), node("b")


class TestWanted:
    def test_one_at_least(self):
        assert wanted_actors(Work(), DEFAULT) == 1

    def test_another_one_when_they_are_busy(self):
        assert wanted_actors(Work(busy=0.6), DEFAULT) == 1
        assert wanted_actors(Work(busy=0.8), DEFAULT) == 2
        assert wanted_actors(Work(busy=2.9), DEFAULT) == 5

    def test_another_one_when_seats_run_out(self):
        settings = Settings(live_max=100)
        assert wanted_actors(Work(live=80), settings) == 1
        assert wanted_actors(Work(live=81), settings) == 2
        assert wanted_actors(Work(live=100, backlog=300), settings) == 5


class TestCeiling:
    def test_it_follows_the_cpus_of_the_node(self):
        assert [ceiling(node("x", cpus), DEFAULT) for cpus in (1, 2, 4, 9)] == [1, 1, 2, 4]

    def test_a_file_has_one_writer(self):
        assert ceiling(node("x", 64), Settings()) == 1
        assert ceiling(node("x", 64), Settings(execution_actors_max=2)) == 2

    def test_the_setting_wins_and_the_floor_is_never_above_it(self):
        assert ceiling(node("x", 64), Settings(execution_actors_max=3)) == 3
        assert ceiling(node("x", 2), Settings(execution_actors_min=4)) == 4


class TestUsable:
    def test_a_node_without_cpus_is_left_alone(self):
        assert not is_usable(node("head", 0, head=True), DEFAULT)
        assert is_usable(node("head", 0, head=True), Settings(execution_actor_cpus=0.0))

    def test_a_node_that_is_to_go_gets_no_more(self):
        assert not is_usable(node("a", drained_by=0), DEFAULT)


class TestPlan:
    def test_every_node_has_its_floor(self):
        assert plan([HEAD, A, B], {}, 1, DEFAULT).actors == {"head": 1, "a": 1, "b": 1}

    def test_more_are_spread_and_stop_at_the_ceiling(self):
        assert plan([HEAD, A, B], {}, 5, DEFAULT).actors == {"head": 2, "a": 2, "b": 1}
        full = plan([HEAD, A, B], {}, 9, DEFAULT)
        assert (full.actors, full.more_nodes) == ({"head": 2, "a": 2, "b": 2}, 2)

    def test_what_is_there_stays_where_it_is(self):
        assert plan([HEAD, A, B], {"head": 1, "a": 1, "b": 2}, 4, DEFAULT).actors == {
            "head": 1,
            "a": 1,
            "b": 2,
        }

    def test_without_a_floor_nodes_stand_empty_but_for_one(self):
        settings = Settings(database_url=URL, execution_actors_min=0)
        assert plan([HEAD, A, B], {}, 1, settings).actors == {"head": 1, "a": 0, "b": 0}
        assert plan([HEAD, A, B], {"a": 1}, 1, settings).actors == {"head": 0, "a": 1, "b": 0}

    @pytest.mark.parametrize("gone", [node("a", drained_by=5), node("a", 0)])
    def test_an_unusable_node_gets_none(self, gone):
        assert plan([HEAD, gone], {"a": 1}, 1, DEFAULT).actors == {"head": 1}

    def test_with_no_usable_node_one_is_asked_for(self):
        assert plan([node("head", 0, head=True)], {}, 1, DEFAULT).more_nodes == 1
