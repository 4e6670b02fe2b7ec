"""How many API replicas."""

import pytest

from api.replicas import wanted_replicas


@pytest.mark.parametrize(
    ("nodes", "requests", "wanted"), [(1, 0, 1), (3, 0, 3), (3, 700, 4), (3, 10_000, 12), (1, 150, 1)]
)
def test_one_on_each_node_and_more_for_many_requests(nodes, requests, wanted):
    assert wanted_replicas(nodes, requests, on_every_node=True) == wanted


def test_nodes_may_stand_empty():
    assert wanted_replicas(3, 0, on_every_node=False) == 1
    assert wanted_replicas(3, 500, on_every_node=False) == 3
