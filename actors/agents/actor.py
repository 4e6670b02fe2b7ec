"""The agent registry as a Ray actor: named, detached, and restarted for ever."""

import asyncio
import logging
import os
from typing import Any

from actors import logs, metrics, names
from actors.agents import messages as asked
from actors.agents.registry import AgentRegistry
from actors.metrics import Metrics
from actors.ray_metrics import PUSH_S, RayMetrics
from actors.settings import Settings
from runtime.errors import JamjetError
from runtime.store import open_store

log = logging.getLogger("jamjet.agents")

PAUSE_S = 0.2


class AgentRegistryActor:
    """See the module. The constructor returns at once and opens the store in the background."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = Settings.from_dict(settings)
        logs.configure_process(self._settings.log_level, names.AGENT_REGISTRY)
        self._metrics = Metrics()
        self._ray_metrics = RayMetrics(self._metrics)
        self._ready: asyncio.Future[AgentRegistry] = asyncio.get_event_loop().create_future()
        self._life = asyncio.get_event_loop().create_task(self._live())

    async def ask(self, question: bytes) -> bytes:
        """Answer one ``messages.Ask`` with a ``messages.Answered``."""
        registry = await asyncio.shield(self._ready)
        try:
            answer = asked.answered(await _answer(registry, asked.decode_ask(question)))
        except JamjetError as error:
            failed = asked.Failed(code=error.code, detail=error.detail, fields=error.fields)
            answer = asked.Answered(failed=failed)
        return asked.encode_answer(answer)

    async def figures(self) -> bytes:
        """What this process has counted, as ``metrics.Snapshot``."""
        return metrics.encode(self._metrics.snapshot())

    async def digest(self) -> str:
        """Of the settings and the release that it was made with."""
        return self._settings.digest()

    async def describe(self) -> dict[str, Any]:
        await asyncio.shield(self._ready)
        return {"pid": os.getpid()}

    async def _live(self) -> None:
        store = None
        while True:
            try:
                store = store or await open_store(self._settings.database_url, migrate=False)
                registry = AgentRegistry(store, self._settings, self._metrics)
                await registry.open()
            except JamjetError as error:
                log.warning("the store cannot be used yet: %s", error)
                await asyncio.sleep(PAUSE_S)
            except Exception:
                log.exception("the registry could not be opened")
                await asyncio.sleep(PAUSE_S)
            else:
                self._ready.set_result(registry)
                break
        while True:
            self._ray_metrics.push()
            await asyncio.sleep(PUSH_S)


async def _answer(registry: AgentRegistry, ask: asked.Ask) -> Any:
    match ask:
        case asked.Register():
            return await registry.register(ask.tenant_id, ask.agent, replace=ask.replace, by=ask.by)
        case asked.Find():
            return await registry.find(ask.tenant_id, ask.agent_id)
        case asked.Search():
            return await registry.search(
                ask.tenant_id,
                statuses=ask.statuses,
                traits=ask.traits,
                limit=ask.limit,
                offset=ask.offset,
            )
        case asked.Move():
            return await registry.move(ask.tenant_id, ask.agent_id, ask.status, by=ask.by)
        case asked.Discover():
            return await registry.discover(ask.tenant_id, ask.url, by=ask.by)
        case asked.Heartbeats():
            return sorted(await registry.heartbeats(ask.agents))
