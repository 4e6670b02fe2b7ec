"""How many API replicas there are: one on each node, and more where many requests are under way.

Serve's controller asks; see ``policy`` of a deployment's ``autoscaling_config``.
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


def wanted_replicas(nodes: int, requests: float, *, on_every_node: bool) -> int:
    """How many replicas there should be for ``requests`` under way on so many nodes."""
    least = nodes if on_every_node else 1
    return max(least, min(math.ceil(requests / REQUESTS_EACH), nodes * PER_NODE_MAX))


class ReplicaPolicy:
    """Answers Serve's question, once for each of its control rounds: ten times a second.

    Args:
        on_every_node: whether each node is to have one. A node that has one is never idle, so an autoscaler
            does not take it back.
    """

    def __init__(self, on_every_node: bool = True) -> None:
        self._on_every_node = on_every_node
        self._nodes = 1
        self._counted_at = -LOOK_EVERY_S

    def __call__(self, context: "AutoscalingContext") -> tuple[int, dict[str, Any]]:
        now = time.monotonic()
        if now - self._counted_at >= LOOK_EVERY_S:
            nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
            self._nodes, self._counted_at = max(1, sum(node["Alive"] for node in nodes)), now
        wanted = wanted_replicas(self._nodes, context.total_num_requests, on_every_node=self._on_every_node)
        return wanted, {}
