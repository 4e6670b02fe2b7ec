"""The Supervisor: keeps the fleet of actors, and finds executions that nobody drives.

All its work may be done twice, or by two at once, without harm: actors are found by
name, and an execution is taken over only under its fence. It holds nothing that is not
in the store or in Ray, so it may be killed at any time.
"""

import asyncio
import logging
import os
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import ray

from actors import logs, metrics, names
from actors.audit_key import signing_key
from actors.dedicated import DedicatedStarter
from actors.keeper import FleetKeeper
from actors.lock_guard import LockGuard
from actors.metrics import Metrics
from actors.named import NamedActors
from actors.ray_metrics import RayMetrics
from actors.retention import retain
from actors.settings import Settings
from actors.tenants import Tenants
from runtime.audit.seals import SigningKey
from runtime.errors import JamjetError, Unavailable
from runtime.store import open_store
from runtime.store.port import OWNER_GONE_MS, ExecutorRow, Store, SweepRow
from runtime.store.url import SqliteUrl, parse_url

log = logging.getLogger("jamjet.supervisor")

ROUND_S = 0.5
SWEEP_MAX = 2_000
SEAL_EVERY_S = 0.9
"""With the length of a round: what is written is sealed within a second or so."""
PRUNE_EVERY_S = 60.0
MEASURE_EVERY_S = 5.0


class Supervisor:
    """A named, detached actor; see the module."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = Settings.from_dict(settings)
        logs.configure_process(self._settings.log_level, names.SUPERVISOR)
        self._metrics = Metrics()
        self._ray_metrics = RayMetrics(self._metrics)
        self._store: Store | None = None
        self._opening = asyncio.Lock()
        self._actors = NamedActors(self._settings.namespace)
        self._keeper = FleetKeeper(self._settings, self._actors)
        self._dedicated = DedicatedStarter(self._settings, self._actors)
        self._unplaced = 0
        """Executions that found no seat in the last sweep."""
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
        self._rounded_at = 0.0
        self._life = [
            asyncio.get_event_loop().create_task(self._live(self._keep_fleet)),
            asyncio.get_event_loop().create_task(self._live(self._round)),
        ]
        database = parse_url(self._settings.database_url)
        if isinstance(database, SqliteUrl):
            self._lock_guard = LockGuard(database.path, raylet=os.getppid())
            self._life.append(
                asyncio.get_event_loop().create_task(self._live(self._guard_lock, counted=False))
            )

    async def describe(self) -> dict[str, Any]:
        """``{"pid", "node", "rounds", "digest", "idle_ms"}``: the last is how long ago a round ended."""
        return {
            "pid": os.getpid(),
            "node": ray.get_runtime_context().get_node_id(),
            "rounds": self._rounds,
            "digest": self._settings.digest(),
            "idle_ms": int((asyncio.get_running_loop().time() - self._rounded_at) * 1_000),
        }

    async def figures(self) -> bytes:
        """What this process has counted, as ``metrics.Snapshot``."""
        return metrics.encode(self._metrics.snapshot())

    async def _live(
        self, work: Callable[[list[ExecutorRow]], Awaitable[None]], *, counted: bool = True
    ) -> None:
        """Do this for ever. Rounds of the fleet may wait for actors, and must not hold up the sweep."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await work(await self._executors())
            except JamjetError as error:
                log.warning("a round was cut short: %s", error)
            except Exception:
                log.exception("a round broke")
            if counted:
                self._metrics.supervisor_round_seconds.observe(loop.time() - began)
            await asyncio.sleep(ROUND_S)

    async def _executors(self) -> list[ExecutorRow]:
        """All owners. When they cannot be read, the store is away for them too."""
        try:
            async with self._opening:
                if self._store is None:
                    self._store = await open_store(self._settings.database_url, migrate=False)
            return await self._store.system.executors()
        except JamjetError:
            self._trusts_silence_at = asyncio.get_running_loop().time() + OWNER_GONE_MS / 1_000
            raise

    async def _round(self, executors: list[ExecutorRow]) -> None:
        await self._bury(executors)
        await self._sweep(executors)
        await self._prune()
        await self._measure()
        await self._seal()
        await self._retain()
        self._rounds += 1
        self._rounded_at = asyncio.get_running_loop().time()
        self._ray_metrics.push()

    # --- the fleet ------------------------------------------------------------------------------

    async def _keep_fleet(self, executors: list[ExecutorRow]) -> None:
        """The fleet as far as Ray answers: where it does not, what there is goes on."""
        if not self._trusts_silence():
            # Otherwise the first that beats after an outage would be taken for the only one.
            executors = [msgspec.structs.replace(row, gone=row.state == "dead") for row in executors]
        try:
            await self._keeper.keep(executors, self._unplaced)
        except Unavailable as error:
            log.warning("the fleet is left as it is: %s", error)

    async def _bury(self, executors: list[ExecutorRow]) -> None:
        """Declare lives dead whose process here, or whose node, has ended: sooner than silence tells."""
        here, lost_nodes = ray.get_runtime_context().get_node_id(), self._keeper.view.lost
        dead = [
            (index, row)
            for index, row in enumerate(executors)
            if not row.gone
            and (row.node in lost_nodes or (row.node == here and not _process_exists(row.pid)))
        ]
        if dead:
            assert self._store is not None
            log.warning("processes ended: %s", ", ".join(row.incarnation for _, row in dead))
            await self._store.system.mark_dead(tuple(row.incarnation for _, row in dead))
            for index, row in dead:
                executors[index] = msgspec.structs.replace(row, gone=True)

    async def _guard_lock(self, executors: list[ExecutorRow]) -> None:
        """Beside the rounds, which write and so wait for the lock themselves."""
        self._lock_guard.look(executors, asyncio.get_running_loop().time())

    # --- the sweep ------------------------------------------------------------------------------

    async def _sweep(self, executors: list[ExecutorRow]) -> None:
        """Offer executions that nobody drives to actors with room."""
        assert self._store is not None
        system = self._store.system
        swept = [*await system.sweep(limit=SWEEP_MAX), *await system.dequeue(limit=SWEEP_MAX)]
        rows = [row for row in swept if self._is_offered_now(row)]
        own = {node.id for node in self._keeper.view.nodes}
        takers = [
            row
            for row in executors
            if row.isolation == "shared" and row.state == "active" and not row.gone and row.node in own
        ]
        offers: dict[str, list[str]] = defaultdict(list)
        room = {row.name: row.capacity - row.live for row in takers}
        self._unplaced = 0
        for row in (row for row in rows if row.isolation != "dedicated"):
            name = max(room, key=lambda taker: room[taker], default=None)
            if name is None or room[name] <= 0:
                self._unplaced += 1
                continue
            room[name] -= 1
            self._metrics.sweep_offers.add(row.reason)
            offers[name].append(row.execution_id)
        for name, execution_ids in offers.items():
            self._spawn(self._offer(name, execution_ids))
        dedicated = [row for row in rows if row.isolation == "dedicated"]
        for row in dedicated:
            self._metrics.sweep_offers.add(row.reason)
        self._spawn(self._dedicated.start(dedicated))

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._activating.add(task)
        task.add_done_callback(self._activating.discard)

    def _is_offered_now(self, row: SweepRow) -> bool:
        trusted = row.reason != "owner_gone" or self._trusts_silence()
        return trusted and row.execution_id not in self._offered

    def _trusts_silence(self) -> bool:
        return asyncio.get_running_loop().time() >= self._trusts_silence_at

    async def _offer(self, name: str, execution_ids: list[str]) -> None:
        self._offered.update(execution_ids)
        try:
            await self._actors.call(name, "activate", execution_ids)
        finally:
            self._offered.difference_update(execution_ids)

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


def _process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
