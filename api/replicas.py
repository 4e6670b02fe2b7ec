"""How many API replicas there are: one on each node, and more where many requests are under way.

Serve's controller asks; see ``policy_function`` of a deployment's ``autoscaling_config``.
"""

import math
import time
from typing import TYPE_CHECKING, Any

import ray

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

REQUESTS_EACH = 200
"""Requests under way for which one replica is meant; most of them wait, for an execution or an event."""
PER_NODE_MAX = 4
REPLICAS_MAX = 1_000
LOOK_EVERY_S = 2.0

_seen: tuple[float, int] = (-LOOK_EVERY_S, 1)
"""When the nodes were counted, and how many there were: the controller asks ten times a second."""


def wanted_replicas(nodes: int, requests: float) -> int:
    """How many replicas there should be for ``requests`` under way on so many nodes."""
    return max(nodes, min(math.ceil(requests / REQUESTS_EACH), nodes * PER_NODE_MAX))


def policy(context: "AutoscalingContext") -> tuple[int, dict[str, Any]]:
    """Serve's question, once for each of its control rounds; nothing is kept between them."""
    return wanted_replicas(_nodes(), context.total_num_requests), {}


def _nodes() -> int:
    global _seen
    now = time.monotonic()
    if now - _seen[0] >= LOOK_EVERY_S:
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        _seen = (now, max(1, sum(node["Alive"] for node in nodes)))
    return _seen[1]
