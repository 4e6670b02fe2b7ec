"""Keeps the fleet: the actors that there should be, on the nodes that there are.

Everything it does may be done twice, or by two at once: actors are found by their names, and what an
actor is asked for (to take work, to leave) it does once. What it knows beside that is a guess of how
much there is to do, which the next one makes anew.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import ray

from actors import fleet, names
from actors.cluster import ask_ray, cluster_view
from actors.named import NamedActors
from actors.nodes import ClusterNode, ClusterView
from actors.placement import ONE_NODE, SPARES, Plan, Work, is_usable, plan, wanted_actors
from actors.settings import Settings
from actors.silence import Silences
from actors.warm import WarmPool
from runtime.errors import Unavailable
from runtime.store.port import ExecutorRow

log = logging.getLogger("jamjet.keeper")

LOAD_WITHIN_S = 1.0
LOAD_EVERY_S = 2.0
SMOOTHING = 0.4
"""How much the newest measurement counts in what is known of the load."""
GIVEN_BACK_AFTER_S = 30.0
"""So long an actor must have been too many before it is asked to leave."""
PATIENCE_S = 30.0
"""How long an actor that leaves may take to end what it runs; what is left is taken over by others."""
DRAIN_MARGIN_S = 5.0
PENDING_MAX = 32
"""Actors that are being made at once: each is a process that starts."""


class FleetKeeper:
    """See the module.

    Attributes:
        view: the cluster as it was last seen.
        refused: nodes that run no executions because the database is a file on another one.
    """

    def __init__(self, settings: Settings, actors: NamedActors) -> None:
        self._settings = settings
        self._actors = actors
        self._warm = WarmPool(settings.warm_actors)
        self._digest = settings.digest()
        self._silences = Silences()
        self._here: str = ray.get_runtime_context().get_node_id()
        self._busy = 0.0
        self._loads: dict[str, dict[str, Any]] = {}
        self._loads_at = 0.0
        self._surplus_since: float | None = None
        self._asked_nodes = 0
        self._leaving: dict[str, float] = {}
        """When each actor that was asked to leave is asked again."""
        self.view = ClusterView()
        self.refused: tuple[str, ...] = ()

    async def keep(self, executors: list[ExecutorRow], backlog: int) -> None:
        """Have what there should be.

        Args:
            executors: as the store has them; spares that are told to take work are changed in place.
            backlog: executions that found no seat.

        Raises:
            Unavailable: Ray does not say.
        """
        await self._look()
        there = await self._actors.names()
        self._silences.forget_others(there)
        nodes = [node for node in self.view.nodes if node.id not in self.refused]
        own = {node.id for node in self.view.nodes}
        # Those of another cluster on the same database are that one's to keep.
        shared = [row for row in executors if row.isolation == "shared" and not row.gone and row.node in own]
        if self._is_time_to_measure():
            await self._measure(shared)
            await self._roll_rest(nodes, shared, there)
        wanted = self._wanted(shared, backlog)
        present = Counter(row.node for row in shared if row.state == "active")
        planned = plan(nodes, present, wanted, self._settings)
        await self._end_silent(executors, there)
        await self._ensure(there, planned, present)
        await self._promote(executors, planned)
        await self._retire(nodes, shared, planned)
        await self._clear(nodes, there, shared, planned)
        await self._ask_for_nodes(nodes, planned)
        await self._warm.keep([node for node in nodes if not node.draining], executors)

    async def _look(self) -> None:
        self.view = await cluster_view()
        if self._settings.one_node:
            others = tuple(node.id for node in self.view.nodes if node.id != self._here)
            if others != self.refused and others:
                log.error("%s: %d nodes run no executions", ONE_NODE, len(others))
            self.refused = others

    # --- how much there is to do ----------------------------------------------------------------

    def _is_time_to_measure(self) -> bool:
        now = time.monotonic()
        if now - self._loads_at < LOAD_EVERY_S:
            return False
        self._loads_at = now
        return True

    async def _measure(self, shared: Sequence[ExecutorRow]) -> None:
        """Ask every actor what it does."""
        asked = await asyncio.gather(
            *(self._actors.call(row.name, "load", within_s=LOAD_WITHIN_S) for row in shared)
        )
        self._loads = {row.name: load for row, load in zip(shared, asked, strict=True) if load is not None}
        busy = sum(load["busy"] for load in self._loads.values())
        self._busy += SMOOTHING * (busy - self._busy)

    def _wanted(self, shared: Sequence[ExecutorRow], backlog: int) -> int:
        """How many actors there should be: fewer than there are only after they were too many for long."""
        working = [row for row in shared if row.state == "active"]
        work = Work(busy=self._busy, live=sum(row.live for row in working), backlog=backlog)
        wanted = wanted_actors(work, self._settings)
        if wanted >= len(working):
            self._surplus_since = None
            return wanted
        now = time.monotonic()
        if self._surplus_since is None:
            self._surplus_since = now
        return wanted if now - self._surplus_since > GIVEN_BACK_AFTER_S else len(working)

    # --- what there should be -------------------------------------------------------------------

    async def _ensure(self, there: set[str], planned: Plan, present: Mapping[str, int]) -> None:
        """Make what is missing. Ray restarts actors by itself; one that is dead for good is made anew.

        A node gets its spare when its others work: on a new one each process that starts delays the rest.
        """
        makers: dict[str, Callable[[], Any]] = {
            names.AGENT_REGISTRY: partial(fleet.agent_registry, self._settings)
        }
        for node_id, count in planned.actors.items():
            if not count:
                continue
            makers[names.node_worker(node_id)] = partial(fleet.node_worker, self._settings, node_id)
            for index in range(count + (SPARES if present.get(node_id, 0) >= count else 0)):
                name = names.shared_execution_actor(node_id, index)
                makers[name] = partial(fleet.shared_actor, self._settings, node_id, index)
        for name, make in makers.items():
            if name not in there:
                log.info("making %s", name)
                await ask_ray(make)

    async def _end_silent(self, executors: Sequence[ExecutorRow], there: set[str]) -> None:
        """End shared actors that do not beat. What they ran is driven by others; their names are theirs."""
        beating = {row.name for row in executors if not row.gone}
        for name in there:
            if name.startswith(names.SHARED_OWNERS):
                await self._note(name, heard=name in beating)

    async def _note(self, name: str, *, heard: bool) -> None:
        if self._silences.note(name, heard=heard, now=time.monotonic()):
            log.warning("ending %s, which stands still", name)
            await self._actors.end(name)

    async def _promote(self, executors: list[ExecutorRow], planned: Plan) -> None:
        """Let spares work where fewer actors do than should."""
        for node_id, count in planned.actors.items():
            present = [
                (index, row)
                for index, row in enumerate(executors)
                if row.node == node_id and row.isolation == "shared" and not row.gone
            ]
            spares = [(index, row) for index, row in present if row.state == "spare"]
            missing = count - sum(row.state == "active" for _, row in present)
            for index, row in spares[: max(0, missing)]:
                await self._actors.call(row.name, "promote")
                executors[index] = msgspec.structs.replace(row, state="active")

    # --- what there should not be ---------------------------------------------------------------

    async def _retire(self, nodes: Sequence[ClusterNode], shared: list[ExecutorRow], planned: Plan) -> None:
        """Ask those to leave that are too many, on a node that goes, or of another release or settings."""
        by_node = {node.id: node for node in nodes}
        for row in shared:
            node = by_node.get(row.node)
            if node is not None and not is_usable(node, self._settings):
                await self._ask_to_leave(row, _patience_s(node))
        for node_id in by_node:
            own = [row for row in shared if row.node == node_id and row.state != "draining"]
            for row in self._too_many(own, planned.actors.get(node_id, 0)):
                await self._ask_to_leave(row, PATIENCE_S)
            await self._roll([row for row in shared if row.node == node_id])

    def _too_many(self, own: list[ExecutorRow], count: int) -> list[ExecutorRow]:
        working = sorted((row for row in own if row.state == "active"), key=lambda row: row.live)
        surplus = working[: max(0, len(working) - count)]
        last = count + SPARES if count else 0
        kept = {names.shared_execution_actor(own[0].node, index) for index in range(last)} if own else set()
        return surplus or [row for row in own if row.state == "spare" and row.name not in kept]

    async def _roll(self, own: list[ExecutorRow]) -> None:
        """Replace a node's actors that were made with other settings: spares first, then one at a time."""
        stale = [row for row in own if self._is_stale(row.name)]
        if any(row.state == "draining" for row in stale):
            return
        spares = [row for row in stale if row.state == "spare"]
        for row in spares or stale[:1]:
            await self._ask_to_leave(row, 0 if spares else PATIENCE_S)

    async def _roll_rest(
        self, nodes: Sequence[ClusterNode], shared: Sequence[ExecutorRow], there: set[str]
    ) -> None:
        """The others, whose end costs nothing but repeats: each node's worker after its actors."""
        old = {row.node for row in shared if self._is_stale(row.name)}
        rest = [names.node_worker(node.id) for node in nodes if node.id not in old]
        for name in (*rest, names.AGENT_REGISTRY):
            digest = await self._actors.call(name, "digest", within_s=LOAD_WITHIN_S)
            if digest not in (None, self._digest):
                log.info("replacing %s, which has other settings", name)
                await self._actors.end(name)
            elif name in there:
                await self._note(name, heard=digest is not None)

    def _is_stale(self, name: str) -> bool:
        return name in self._loads and self._loads[name]["digest"] != self._digest

    async def _ask_to_leave(self, row: ExecutorRow, patience_s: float) -> None:
        now = time.monotonic()
        if now >= self._leaving.get(row.incarnation, 0.0):
            self._leaving[row.incarnation] = now + patience_s + LOAD_EVERY_S
            log.info("asking %s to leave, within %.0f s", row.name, patience_s)
            await self._actors.call(row.name, "retire", patience_s)
        if len(self._leaving) > PENDING_MAX:
            self._leaving = {name: at for name, at in self._leaving.items() if at > now}

    async def _clear(
        self, nodes: Sequence[ClusterNode], there: set[str], shared: list[ExecutorRow], planned: Plan
    ) -> None:
        """End the NodeWorkers of nodes without actors, so that nothing of ours keeps a node busy."""
        taken = {row.node for row in shared}
        for node in nodes:
            name = names.node_worker(node.id)
            if name in there and node.id not in taken and not planned.actors.get(node.id):
                await self._actors.end(name)

    async def _ask_for_nodes(self, nodes: Sequence[ClusterNode], planned: Plan) -> None:
        """Tell Ray's autoscaler, where there is one, how many nodes the work could use."""
        if planned.more_nodes == self._asked_nodes:
            return
        cpus = max(self._settings.execution_actor_cpus, 1, *(node.cpus for node in nodes if not node.head), 0)
        count = len(planned.actors) + planned.more_nodes if planned.more_nodes else 0
        log.info("asking for %d nodes more, of %g CPUs", planned.more_nodes, cpus)
        with contextlib.suppress(Unavailable):
            await ask_ray(fleet.request_nodes, count, cpus)
            self._asked_nodes = planned.more_nodes


def _patience_s(node: ClusterNode) -> float:
    """How long actors of a node that goes may take."""
    if not node.drained_by:
        return PATIENCE_S
    return max(0.0, min(PATIENCE_S, node.drained_by / 1_000 - time.time() - DRAIN_MARGIN_S))
