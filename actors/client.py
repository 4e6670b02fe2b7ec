"""Executions over Ray: finds, activates and follows the owner of each.

Reads need no actor. A start goes to the least loaded actor, and when that does not
answer in time it is recorded in the store, from where the Supervisor's sweep takes it.
A signal goes to the execution's owner, or to an actor that becomes it.
"""

import asyncio
import contextlib
import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from typing import Any

import msgspec
import ray

from actors import bootstrap, fleet, metrics, names, tracing
from actors.cluster import ask_ray, cluster_view
from actors.courier import ActorLost, Courier
from actors.directory import Directory
from actors.handle import ExecutionHandle
from actors.host import Redirect
from actors.listener import Listener
from actors.metrics import Metrics, Process
from actors.named import NamedActors
from actors.nodes import ClusterNode, ClusterView
from actors.plans import PlanCache
from actors.port import Installation, KeyTaken, SignalRequest, StartRequest
from actors.recorder import record_start
from actors.settings import Settings
from actors.silence import Silences
from actors.watcher import Watcher
from runtime import demand
from runtime.errors import JamjetError, NotFound, OutcomeUnknown, Overloaded, Unavailable
from runtime.ids import DEFAULT_TENANT
from runtime.store import open_store
from runtime.store.port import Store

log = logging.getLogger("jamjet.client")

START_WITHIN_S = 0.5
START_TTL_MS = 2_000
"""An actor makes no start durable that it was asked for longer ago."""
SIGNAL_WITHIN_S = 5.0
HOPS_MAX = 3
OWNERS_MAX = 4_000
"""Executions whose owner is remembered: about as many as its actors remember after they have parked."""
PAUSE_S = 0.05
FIGURES_S = 1.0
SUPERVISOR_CHECK_S = 2.0
TELL_AFTER_S = 0.01
SEEN_S = 1.0
EXPECTED_S = 30.0


@contextlib.asynccontextmanager
async def connect(settings: Settings, recorded: Metrics | None = None) -> AsyncIterator["RayExecutions"]:
    """The executions of an installation, for one process that has joined its Ray, as in::

        async with connect(load_settings()) as actors:
            await actors.execution("exec_...").signal(Cancel(signal_id="stop-1"))

    Args:
        recorded: where this process counts what it does itself.

    Raises:
        BadRequest, Unavailable: the database cannot be used.
    """
    recorded = recorded or Metrics()
    store = await open_store(settings.database_url, migrate=False, on_commit=recorded.on_commit)
    executions = RayExecutions(settings, store, recorded)
    await executions.open()
    try:
        yield executions
    finally:
        await executions.close()
        await store.close()


class RayExecutions:
    """The ``Executions`` of an installation, over Ray."""

    def __init__(self, settings: Settings, store: Store, recorded: Metrics | None = None) -> None:
        self.store = store
        self._metrics = recorded or Metrics()
        self._settings = settings
        self._plans = PlanCache(store.system)
        self._actors = NamedActors(settings.namespace)
        self._directory = Directory(store.system)
        self._watcher = Watcher(self._tell_listeners)
        self._couriers: dict[str, Courier] = {}
        self._followed: dict[str, asyncio.Task[None]] = {}
        self._owners: OrderedDict[str, str] = OrderedDict()
        """The last known owner's actor name, by execution; only ever a guess."""
        self._placed: Counter[str] = Counter()
        """Starts that each actor has taken since its load was read."""
        self._placed_since = 0
        self._seen, self._seen_at = ClusterView(), -SEEN_S
        self._expected: dict[str, float] = {}
        """Actors that were just made, and are followed although they have not begun; until when."""
        self._tasks: list[asyncio.Task[None]] = []
        self._telling = False

    async def open(self) -> None:
        """Start following the actors."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(JamjetError):
            await self._directory.refresh()
        self._tasks = [
            loop.create_task(self._directory.keep_fresh()),
            loop.create_task(self._keep_following()),
            loop.create_task(self._keep_supervisor()),
        ]

    async def close(self) -> None:
        """Stop following; requests under way are left to end."""
        running = [*self._tasks, *self._followed.values()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def execution(self, execution_id: str, tenant_id: str = DEFAULT_TENANT) -> ExecutionHandle:
        """One execution as an addressable actor; it need not be live, nor exist."""
        return ExecutionHandle(
            execution_id, tenant_id=tenant_id, store=self.store, executions=self, plans=self._plans
        )

    # --- Executions -----------------------------------------------------------------------------

    async def start(self, request: StartRequest) -> None:
        """See ``actors.port.Executions.start``."""
        request = tracing.carried(request)
        if self._directory.backlog >= self._settings.backlog_max:
            raise Overloaded("too many executions wait to be taken up", retry_after_s=2)
        courier = await self._least_loaded() if request.isolation == "shared" else None
        if courier is None:
            await self._record(request)
            return
        request = msgspec.structs.replace(request, deadline=self._directory.clock.now() + START_TTL_MS)
        asked = asyncio.ensure_future(courier.send(request))
        asked.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            async with asyncio.timeout(START_WITHIN_S):
                await asyncio.shield(asked)
        except (TimeoutError, ActorLost, OutcomeUnknown) as error:
            log.info("recording %s itself: %s", request.execution_id, type(error).__name__)
            await self._record_asked(request, asked)
        else:
            self._remember(request.execution_id, courier.name)
            self._placed[courier.name] += 1

    async def _record_asked(self, request: StartRequest, asked: asyncio.Future[dict[str, Any]]) -> None:
        """Record a start that an actor may still make durable, so that no refusal is the last word."""
        try:
            await self._record(request)
        except KeyTaken:
            raise
        except JamjetError as error:
            try:
                async with asyncio.timeout(START_TTL_MS / 1_000):
                    await asked
            except (TimeoutError, ActorLost, OutcomeUnknown):
                raise _unknown() from error
        finally:
            asked.cancel()

    async def _record(self, request: StartRequest) -> None:
        begins = await record_start(self.store, self._plans, request)
        self._metrics.executions_started.add(request.isolation)
        if begins and request.isolation == "dedicated":
            # Where Ray does not answer now, the Supervisor's sweep does it.
            with contextlib.suppress(Unavailable):
                await ask_ray(fleet.dedicated_actor, self._settings, request.execution_id, request.resources)
                name = names.dedicated_execution_actor(request.execution_id)
                self._expected[name] = asyncio.get_running_loop().time() + EXPECTED_S
                await self._follow(name)

    async def signal(self, request: SignalRequest) -> dict[str, Any]:
        """See ``actors.port.Executions.signal``."""
        request = tracing.carried(request)
        loop = asyncio.get_running_loop()
        until = loop.time() + SIGNAL_WITHIN_S
        hint = self._owners.get(request.execution_id)
        hops = 0
        while (left := until - loop.time()) > 0:
            courier = await (self._courier(hint) if hint else self._locate(request.execution_id))
            hint = None
            if courier is None:
                await asyncio.sleep(PAUSE_S)
                continue
            try:
                async with asyncio.timeout(left):
                    answer = await courier.send(request)
            except Redirect as redirect:
                hops += 1
                owner = redirect.fields.get("owner")
                hint = names.actor_of(owner) if owner and hops <= HOPS_MAX else None
                self._owners.pop(request.execution_id, None)
                await asyncio.sleep(0 if hint else PAUSE_S)
            except ActorLost:
                self._owners.pop(request.execution_id, None)
                self._couriers.pop(courier.name, None)
                self._actors.forget(courier.name)
                await asyncio.sleep(PAUSE_S)
            except TimeoutError:
                break
            else:
                return answer
        raise _unknown()

    async def changed(
        self, execution_id: str, *, after: int, timeout_s: float, settled: bool = False
    ) -> None:
        """See ``actors.port.Executions.changed``."""
        await self._watcher.changed(execution_id, after=after, timeout_s=timeout_s, settled=settled)

    @property
    def draining(self) -> bool:
        """See ``actors.port.Executions.draining``."""
        return self._watcher.draining

    def drain(self) -> None:
        """See ``actors.port.Executions.drain``."""
        self._watcher.drain()

    def listening(self, execution_id: str) -> AbstractContextManager[Listener]:
        """See ``actors.port.Executions.listening``."""
        return self._watcher.listening(execution_id)

    def _tell_listeners(self) -> None:
        """Tell every actor soon; who comes and goes meanwhile is told of in the same call."""
        if not self._telling:
            self._telling = True
            asyncio.get_running_loop().call_later(TELL_AFTER_S, self._tell_actors)

    def _tell_actors(self) -> None:
        self._telling = False
        for name in self._followed:
            courier = self._couriers.get(name)
            if courier is not None:
                courier.handle.listen.remote(self._watcher.follower, self._watcher.listened)

    async def figures(self) -> list[Process]:
        """See ``actors.port.Executions.figures``. Dedicated actors tell theirs to Ray's agents alone."""
        shared = [row.name for row in self._directory.shared()]
        asked = await asyncio.gather(*map(self._figures, [*shared, names.SUPERVISOR, names.AGENT_REGISTRY]))
        return [process for process in asked if process is not None]

    async def _figures(self, name: str) -> Process | None:
        answer = await self._actors.call(name, "figures", within_s=FIGURES_S)
        try:
            return None if answer is None else Process(name, metrics.decode(answer))
        except msgspec.MsgspecError as error:
            log.info("%s told figures of another release: %s", name, error)
            return None

    async def unmet(self, asked: dict[str, Any], *, in_use: bool = True) -> str | None:
        """See ``actors.port.Executions.unmet``. What the cluster has is as it was at most a moment ago."""
        now = asyncio.get_running_loop().time()
        if now - self._seen_at > SEEN_S:
            self._seen, self._seen_at = await cluster_view(), now
        nodes = self._seen.nodes
        if self._settings.one_node:
            here = ray.get_runtime_context().get_node_id()
            nodes = tuple(node for node in nodes if node.id == here)
        machines = [node.machine for node in nodes if not node.draining]
        return demand.unmet(asked, machines, in_use=in_use)

    async def installation(self) -> Installation:
        """See ``actors.port.Executions.installation``."""
        supervisor = await self._actors.call(names.SUPERVISOR, "describe", within_s=FIGURES_S)
        nodes: tuple[ClusterNode, ...] = ()
        with contextlib.suppress(Unavailable):
            nodes = (await cluster_view()).nodes
        return Installation(nodes=nodes, supervisor=supervisor, ray=ray.__version__)

    # --- finding actors -------------------------------------------------------------------------

    async def _locate(self, execution_id: str) -> Courier | None:
        """The owner's courier, or one to an actor that will activate the execution."""
        stored = await self.store.system.stored_execution(execution_id)
        if stored is None:
            raise NotFound(f"execution {execution_id}")
        row = stored.row
        await self._directory.refresh()
        if row.owner is not None and self._directory.is_alive(row.owner):
            return await self._courier(names.actor_of(row.owner))
        # One that has an actor of its own gets it when there is something to run.
        return await self._least_loaded()

    def _remember(self, execution_id: str, owner: str) -> None:
        self._owners[execution_id] = owner
        if len(self._owners) > OWNERS_MAX:
            self._owners.popitem(last=False)

    async def _least_loaded(self) -> Courier | None:
        best: Courier | None = None
        best_load = 0
        if self._placed_since != self._directory.reads:
            self._placed_since = self._directory.reads
            self._placed.clear()
        for row in self._directory.takers():
            courier = await self._courier(row.name)
            if courier is None:
                continue
            load = row.live + courier.outstanding + self._placed[row.name]
            if best is None or load < best_load:
                best, best_load = courier, load
        return best

    async def _courier(self, name: str) -> Courier | None:
        courier = self._couriers.get(name)
        if courier is not None:
            return courier
        with contextlib.suppress(Unavailable):
            handle = await self._actors.find(name)
            if handle is not None:
                # Others may have asked meanwhile: one courier for all, so that requests travel together.
                courier = self._couriers.setdefault(name, Courier(name, handle))
        return courier

    # --- upkeep ---------------------------------------------------------------------------------

    async def _keep_following(self) -> None:
        """One long call to each actor that may own executions."""
        while True:
            owners = self._directory.owners()
            now = asyncio.get_running_loop().time()
            self._expected = {
                name: until for name, until in self._expected.items() if name not in owners and until > now
            }
            wanted = owners | self._expected.keys()
            for name in self._followed.keys() - wanted:
                self._followed.pop(name).cancel()
                self._couriers.pop(name, None)
                self._actors.forget(name)
            for name in wanted - self._followed.keys():
                await self._follow(name)
            await asyncio.sleep(PAUSE_S * 4)

    async def _follow(self, name: str) -> None:
        courier = await self._courier(name)
        if courier is not None and name not in self._followed:
            follow = self._watcher.follow(courier.handle)
            self._followed[name] = asyncio.get_running_loop().create_task(follow)

    async def _keep_supervisor(self) -> None:
        """Start the Supervisor anew if it is missing, and end one that stands still."""
        silences, watched = Silences(), None
        while True:
            try:
                if names.SUPERVISOR not in await self._actors.names():
                    log.warning("the supervisor is missing: starting it")
                    await ask_ray(bootstrap.ensure_supervisor, self._settings)
                handle = await self._actors.find(names.SUPERVISOR)
                if handle is not watched:
                    # Another replica has put a new one in its place: the last one's silence is not its own.
                    silences, watched = Silences(), handle
                described = await self._actors.call(names.SUPERVISOR, "describe")
                now = asyncio.get_running_loop().time()
                if silences.note(names.SUPERVISOR, heard=described is not None, now=now):
                    log.warning("the supervisor stands still: ending it")
                    await ask_ray(ray.kill, handle)
                    self._actors.forget(names.SUPERVISOR)
            except Unavailable as error:
                log.warning("the supervisor was not looked for: %s", error)
            await asyncio.sleep(SUPERVISOR_CHECK_S)


def _unknown() -> OutcomeUnknown:
    return OutcomeUnknown(
        "no owner answered: outcome unknown, repeat with the same Idempotency-Key", retry_after_s=1
    )
