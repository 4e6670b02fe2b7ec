"""Processes that Ray starts ahead of the actors that will run in them, for dedicated executions.

Ray can be asked for it only by the message that its own parts send (``PrestartWorkers``, Ray 2.60): there is
no public function. Where that fails, actors start as they do without: half a second later.
"""

import logging
import time
from collections.abc import Collection, Sequence
from typing import Any

import grpc  # type: ignore[import-untyped]
from ray._private.grpc_utils import init_grpc_channel
from ray.core.generated import node_manager_pb2, node_manager_pb2_grpc

from actors.cluster import ask_ray
from actors.nodes import ClusterNode
from runtime.errors import Unavailable
from runtime.store.port import ExecutorRow

log = logging.getLogger("jamjet.warm")

KEPT_S = 600
"""After so long without use, Ray ends a process; before that, it is asked for again."""
RENEWED_AFTER_S = 540
BEGINS_AFTER_S = 10.0
"""On a new node there is more urgent work than to be ready."""
ANSWER_WITHIN_S = 2.0
PYTHON = 0
"""As the message has it."""


class WarmPool:
    """Has ``size`` processes ready on each node, and another one for each that was taken."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._seen_at: dict[str, float] = {}
        self._asked_at: dict[str, float] = {}
        """Both by node."""
        self._taken: set[str] = set()
        """Incarnations that have been made up for."""

    async def keep(self, nodes: Sequence[ClusterNode], executors: Collection[ExecutorRow]) -> None:
        """Ask for what is missing. Never raises: it is a help, and no more."""
        if not self._size:
            return
        now = time.monotonic()
        dedicated = {row.incarnation: row.node for row in executors if row.isolation == "dedicated"}
        fresh = [node_id for incarnation, node_id in dedicated.items() if incarnation not in self._taken]
        self._taken = set(dedicated)
        for node in nodes:
            if now - self._seen_at.setdefault(node.id, now) < BEGINS_AFTER_S:
                continue
            renewed = now - self._asked_at.get(node.id, -RENEWED_AFTER_S) >= RENEWED_AFTER_S
            missing = self._size if renewed else min(self._size, fresh.count(node.id))
            if missing:
                await self._ask(node, missing)
                self._asked_at[node.id] = now if renewed else self._asked_at[node.id]

    async def _ask(self, node: ClusterNode, count: int) -> None:
        try:
            await ask_ray(_prestart, f"{node.address}:{node.port}", count)
        except (Unavailable, grpc.RpcError) as error:
            log.info("no process was started ahead on %s: %s", node.id[:12], type(error).__name__)


def _prestart(address: str, count: int) -> None:
    messages: Any = node_manager_pb2
    channel = init_grpc_channel(address, options=[], asynchronous=False)
    try:
        stub: Any = node_manager_pb2_grpc.NodeManagerServiceStub(channel)  # type: ignore[no-untyped-call]
        request = messages.PrestartWorkersRequest(
            language=PYTHON, num_workers=count, keep_alive_duration_secs=KEPT_S
        )
        stub.PrestartWorkers(request, timeout=ANSWER_WITHIN_S)
    finally:
        channel.close()
