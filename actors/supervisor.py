"""The Supervisor: keeps the fleet of actors, and finds executions that nobody drives.

All its work may be done twice, or by two at once, without harm: actors are found by
name, and an execution is taken over only under its fence. It holds nothing that is not
in the store or in Ray, so it may be killed at any time.
"""

import asyncio
import logging
import os
from collections import defaultdict
from typing import Any

import msgspec
import ray

from actors import fleet, logs, metrics, names
from actors.audit_key import signing_key
from actors.metrics import Metrics
from actors.ray_metrics import RayMetrics
from actors.retention import retain
from actors.settings import Settings
from actors.tenants import Tenants
from runtime.audit.seals import SigningKey
from runtime.errors import JamjetError, Unavailable
from runtime.store import open_store
from runtime.store.port import OWNER_GONE_MS, ExecutorRow, Store, SweepRow

log = logging.getLogger("jamjet.supervisor")

ROUND_S = 0.5
SWEEP_MAX = 2_000
SEAL_EVERY_S = 0.9
"""With the length of a round: what is written is sealed within a second or so."""
PRUNE_EVERY_S = 60.0
MEASURE_EVERY_S = 5.0
CALL_S = 5.0
SPARES = 1
"""Warm ExecutionActors a node beside those that take work, for the moment when one is lost."""


class Supervisor:
    """A named, detached actor; see the module."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = Settings.from_dict(settings)
        logs.configure_process(self._settings.log_level, names.SUPERVISOR)
        self._metrics = Metrics()
        self._ray_metrics = RayMetrics(self._metrics)
        self._store: Store | None = None
        self._handles: dict[str, Any] = {}
        self._activating: set[asyncio.Task[None]] = set()
        self._offered: set[str] = set()
        """Executions offered to an actor whose answer has not come yet."""
        self._tenants = Tenants()
        self._audit_key: SigningKey | None = None
        self._sealed_at = 0.0
        self._retained_at = 0.0
        self._pruned_at = 0.0
        self._measured_at = 0.0
        self._trusts_silence_at = 0.0
        """After an outage of the store every owner looks silent: let them beat first."""
        self._rounds = 0
        self._life = asyncio.get_event_loop().create_task(self._live())

    async def describe(self) -> dict[str, Any]:
        return {"pid": os.getpid(), "rounds": self._rounds, "node": ray.get_runtime_context().get_node_id()}

    async def figures(self) -> bytes:
        """What this process has counted, as ``metrics.Snapshot``."""
        return metrics.encode(self._metrics.snapshot())

    async def _live(self) -> None:
        while True:
            began = asyncio.get_running_loop().time()
            try:
                await self._round()
                self._rounds += 1
            except JamjetError as error:
                self._trusts_silence_at = asyncio.get_running_loop().time() + OWNER_GONE_MS / 1_000
                log.warning("a round was cut short: %s", error)
            except Exception:
                log.exception("a round broke")
            self._metrics.supervisor_round_seconds.observe(asyncio.get_running_loop().time() - began)
            self._ray_metrics.push()
            await asyncio.sleep(ROUND_S)

    async def _round(self) -> None:
        if self._store is None:
            self._store = await open_store(self._settings.database_url, migrate=False)
        nodes = self._nodes()
        self._keep_fleet(nodes)
        executors = await self._store.system.executors()
        await self._bury(executors)
        await self._promote(executors, nodes)
        await self._sweep(executors)
        await self._prune()
        await self._measure()
        await self._seal()
        await self._retain()

    # --- the fleet ------------------------------------------------------------------------------

    def _nodes(self) -> list[str]:
        """The nodes that run executions. With SQLite it is only the one that holds the file."""
        here: str = ray.get_runtime_context().get_node_id()
        if self._settings.one_node:
            return [here]
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        return [node["NodeID"] for node in nodes if node["Alive"]]

    def _keep_fleet(self, nodes: list[str]) -> None:
        self._keep(names.AGENT_REGISTRY, lambda: fleet.agent_registry(self._settings))
        for node_id in nodes:
            self._keep(names.node_worker(node_id), lambda n=node_id: fleet.node_worker(self._settings, n))
            for index in range(self._settings.execution_actors + SPARES):
                name = names.shared_execution_actor(node_id, index)
                self._keep(
                    name,
                    lambda n=node_id, i=index: fleet.shared_actor(self._settings, n, i),
                )

    def _keep(self, name: str, ensure: Any) -> None:
        """Have the actor of this name. Ray restarts it by itself; a dead name is made anew."""
        if name in self._handles:
            try:
                ray.get_actor(name, namespace=self._settings.namespace)
                return
            except ValueError:
                log.warning("actor %s is gone: starting it anew", name)
        self._handles[name] = ensure()

    async def _bury(self, executors: list[ExecutorRow]) -> None:
        """Declare lives dead whose process on this node has ended: sooner than their silence tells."""
        here = ray.get_runtime_context().get_node_id()
        dead = [
            row.incarnation
            for row in executors
            if not row.gone and row.node == here and not _process_exists(row.pid)
        ]
        if dead:
            assert self._store is not None
            log.warning("processes ended: %s", ", ".join(dead))
            await self._store.system.mark_dead(tuple(dead))
            for row in executors:
                if row.incarnation in dead:
                    executors[executors.index(row)] = msgspec.structs.replace(row, gone=True)

    async def _promote(self, executors: list[ExecutorRow], nodes: list[str]) -> None:
        """Let spares work where fewer actors do than should."""
        for node_id in nodes:
            present = [row for row in executors if row.node == node_id and not row.gone]
            shared = [row for row in present if row.isolation == "shared"]
            active = [row for row in shared if row.state == "active"]
            spares = [row for row in shared if row.state == "spare"]
            for row in spares[: max(0, self._settings.execution_actors - len(active))]:
                await self._call(row.name, "promote")
                executors[executors.index(row)] = msgspec.structs.replace(row, state="active")

    # --- the sweep ------------------------------------------------------------------------------

    async def _sweep(self, executors: list[ExecutorRow]) -> None:
        """Offer executions that nobody drives to actors with room."""
        assert self._store is not None
        system = self._store.system
        swept = [*await system.sweep(limit=SWEEP_MAX), *await system.dequeue(limit=SWEEP_MAX)]
        rows = [row for row in swept if self._is_offered_now(row)]
        takers = [
            row for row in executors if row.isolation == "shared" and row.state == "active" and not row.gone
        ]
        offers: dict[str, list[str]] = defaultdict(list)
        room = {row.name: row.capacity - row.live for row in takers}
        for row in rows:
            if row.isolation == "dedicated":
                self._metrics.sweep_offers.add(row.reason)
                self._start_dedicated(row)
                continue
            name = max(room, key=lambda taker: room[taker], default=None)
            if name is None or room[name] <= 0:
                break
            room[name] -= 1
            self._metrics.sweep_offers.add(row.reason)
            offers[name].append(row.execution_id)
        for name, execution_ids in offers.items():
            task = asyncio.get_running_loop().create_task(self._offer(name, execution_ids))
            self._activating.add(task)
            task.add_done_callback(self._activating.discard)

    def _is_offered_now(self, row: SweepRow) -> bool:
        trusted = asyncio.get_running_loop().time() >= self._trusts_silence_at
        return row.execution_id not in self._offered and (trusted or row.reason != "owner_gone")

    async def _offer(self, name: str, execution_ids: list[str]) -> None:
        self._offered.update(execution_ids)
        try:
            await self._call(name, "activate", execution_ids)
        finally:
            self._offered.difference_update(execution_ids)

    def _start_dedicated(self, row: SweepRow) -> None:
        resources = msgspec.json.decode(row.resources) if row.resources else None
        fleet.dedicated_actor(self._settings, row.execution_id, resources)

    async def _seal(self) -> None:
        """Seal the audit logs that have moved."""
        assert self._store is not None
        now = asyncio.get_running_loop().time()
        if now - self._sealed_at > SEAL_EVERY_S:
            self._sealed_at = now
            if self._audit_key is None:
                # A key that cannot be read holds up sealing and retention, and nothing else.
                self._audit_key = await asyncio.to_thread(signing_key, self._settings)
            await self._store.system.seal_audit(self._audit_key)

    async def _prune(self) -> None:
        assert self._store is not None
        now = asyncio.get_running_loop().time()
        if now - self._pruned_at > PRUNE_EVERY_S:
            self._pruned_at = now
            await self._store.system.prune()

    async def _retain(self) -> None:
        """Forget what tenants want forgotten. After the first seal: then the key is there."""
        assert self._store is not None
        now = asyncio.get_running_loop().time()
        if now - self._retained_at > PRUNE_EVERY_S:
            self._retained_at = now
            await self._tenants.refresh(self._store.system)
            await retain(self._store.system, self._tenants, self._audit_key)

    async def _measure(self) -> None:
        """Note for Ray's agents what waits; replicas read it themselves."""
        assert self._store is not None
        now = asyncio.get_running_loop().time()
        if now - self._measured_at > MEASURE_EVERY_S:
            self._measured_at = now
            self._metrics.set_load(await self._store.system.load())

    async def _call(self, name: str, method: str, *args: Any) -> Any:
        """Call one of our actors, bounded; that it does not answer is its own trouble."""
        try:
            handle = ray.get_actor(name, namespace=self._settings.namespace)
            return await asyncio.wait_for(getattr(handle, method).remote(*args), CALL_S)
        except (TimeoutError, ValueError, ray.exceptions.RayError) as error:
            log.info("%s did not answer %s: %s", name, method, type(error).__name__)
            return None
        except Unavailable as error:
            log.info("%s could not %s: %s", name, method, error)
            return None


def _process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
