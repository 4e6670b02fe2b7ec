"""How many ExecutionActors there should be, and on which nodes. Nothing here asks or does anything."""

import math
from collections.abc import Mapping, Sequence

import msgspec

from actors.nodes import ClusterNode
from actors.settings import Settings

BUSY_AIM = 0.7
"""The share of a CPU that an actor is meant to use: beyond it, another one helps."""
SEATS_AIM = 0.8
"""The share of its seats."""
SPARES = 1
"""Warm ExecutionActors a node beside those that take work, for the moment when one is lost."""
CPUS_PER_ACTOR = 2
"""The other one is for the functions that an actor calls, and for the rest of the node."""


ONE_NODE = (
    "the database is a SQLite file, which only the node that holds it can use:"
    " set DATABASE_URL to a PostgreSQL database to run on several"
)


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What all shared actors that take work do."""

    busy: float = 0.0
    """CPUs that they use, in all."""
    live: int = 0
    """Executions that they hold."""
    backlog: int = 0
    """Executions that wait for a seat."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How many actors are to take work on each node."""

    actors: dict[str, int]
    """By node id; a node that is not in it is to have none."""
    more_nodes: int = 0
    """How many nodes more, of the size of the largest that there is, the work could use."""


def wanted_actors(work: Work, settings: Settings) -> int:
    """How many actors the work could use, wherever they are."""
    by_cpu = math.ceil(work.busy / BUSY_AIM)
    by_seats = math.ceil((work.live + work.backlog) / (settings.live_max * SEATS_AIM))
    return max(1, by_cpu, by_seats)


def ceiling(node: ClusterNode, settings: Settings) -> int:
    """How many actors may take work on a node: with SQLite one, as they would wait for each other."""
    by_cpus = 1 if settings.one_node else int(node.cpus // CPUS_PER_ACTOR)
    return max(1, settings.execution_actors_min, settings.execution_actors_max or by_cpus)


def is_usable(node: ClusterNode, settings: Settings) -> bool:
    """Whether executions may run on a node. One without CPUs is kept free of them: a head, mostly."""
    return not node.draining and node.cpus >= settings.execution_actor_cpus


def plan(nodes: Sequence[ClusterNode], present: Mapping[str, int], wanted: int, settings: Settings) -> Plan:
    """Spread ``wanted`` actors over the usable nodes, within floor and ceiling.

    Args:
        nodes: alive, the head first.
        present: actors that take work now, by node: where there are some, they are kept rather than moved.
    """
    usable = [node for node in nodes if is_usable(node, settings)]
    actors = {node.id: settings.execution_actors_min for node in usable}
    most = {node.id: ceiling(node, settings) for node in usable}
    while sum(actors.values()) < wanted:
        room = [node.id for node in usable if actors[node.id] < most[node.id]]
        if not room:
            break
        # Kept where they are; else where there are fewest, and of these the head.
        best = min(room, key=lambda node_id: (actors[node_id] >= present.get(node_id, 0), actors[node_id]))
        actors[best] += 1
    short = wanted - sum(actors.values())
    per_node = max(most.values(), default=1)
    return Plan(actors=actors, more_nodes=math.ceil(max(0, short) / per_node))
