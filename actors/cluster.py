"""What Ray says of its nodes.

The questions block while Ray's control store (GCS) is away, so they are asked on a thread.
"""

import asyncio
from typing import Any

import ray
from ray._private import state

from actors.nodes import ClusterNode, ClusterView
from runtime.demand import Machine
from runtime.errors import Unavailable

ANSWER_WITHIN_S = 5.0


async def cluster_view() -> ClusterView:
    """The nodes as they are now.

    Raises:
        Unavailable: Ray does not say.
    """
    found: ClusterView = await ask_ray(_look)
    return found


async def ask_ray(question: Any, *args: Any) -> Any:
    """The answer of a function that blocks until Ray's control store answers.

    Raises:
        Unavailable: it did not answer in time.
    """
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            return await asyncio.to_thread(question, *args)
    except (TimeoutError, ray.exceptions.RayError, RuntimeError, ValueError) as error:
        # A ValueError: another process has just made an actor of this name.
        raise Unavailable(f"Ray does not say: {type(error).__name__}") from error


def _look() -> ClusterView:
    free = state.available_resources_per_node()  # type: ignore[no-untyped-call]
    draining = state.state.get_draining_nodes()
    listed: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    found = [
        ClusterNode(
            id=node["NodeID"],
            address=node["NodeManagerAddress"],
            port=node["NodeManagerPort"],
            machine=Machine(
                total=node["Resources"], free=free.get(node["NodeID"], {}), labels=node.get("Labels") or {}
            ),
            drained_by=draining.get(node["NodeID"]),
        )
        for node in listed
        if node["Alive"]
    ]
    return ClusterView(
        nodes=tuple(sorted(found, key=lambda node: (not node.head, node.id))),
        lost=frozenset(node["NodeID"] for node in listed if not node["Alive"]),
    )
