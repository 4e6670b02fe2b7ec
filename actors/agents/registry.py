"""The agent registry, over the store: it hears heartbeats, discovers agents, and pauses the silent.

Heartbeats are kept in memory and written once a second, all in one statement. What it holds beside them
can be read again, so it may be killed at any time: the heartbeats of the last second are lost, nothing else.
"""

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from msgspec.structs import replace as changed

from actors.agents.messages import AgentPage, SeenAgent
from actors.clock import DatabaseClock
from actors.metrics import Metrics
from actors.settings import Settings
from runtime.agents.card import AgentCard, card_digest
from runtime.agents.lifecycle import AgentStatus
from runtime.audit.entries import Origin
from runtime.errors import JamjetError
from runtime.jsonvalue import encode
from runtime.net.cards import CardFetcher, FoundCard
from runtime.net.policy import EgressPolicy
from runtime.store.agent_port import AgentKey, AgentRow, Beat, NewAgent
from runtime.store.port import Store

log = logging.getLogger("jamjet.agents")

FLUSH_S = 1.0
LOOK_S = 5.0
"""How often the silent are looked for, and the clock is compared with the database's."""
MISSED_MAX = 3
"""Heartbeats that an agent may miss before it is stale."""


class AgentRegistry:
    """The ``Agents`` of an installation, on the loop that it was opened on."""

    def __init__(self, store: Store, settings: Settings, metrics: Metrics | None = None) -> None:
        self._store = store
        self._metrics = metrics or Metrics()
        self._fetcher = CardFetcher.of_strangers(EgressPolicy.parse(settings.discovery_allow))
        self._stale_after_ms = settings.agent_heartbeat * MISSED_MAX * 1_000
        self._expiry_ms = settings.agent_expiry * 1_000 if settings.agent_expiry else None
        self._clock = DatabaseClock()
        self._heard: dict[AgentKey, int] = {}
        """The newest heartbeat of each agent that has beaten since this process began."""
        self._unwritten: dict[AgentKey, int] = {}
        self._listening_since = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Begin to write and to look.

        Raises:
            Unavailable
        """
        await self._ask_the_time()
        self._listening_since = self._clock.now()
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._repeat(FLUSH_S, self._flush)),
            loop.create_task(self._repeat(LOOK_S, self._look)),
        ]

    async def close(self) -> None:
        """Write what was heard, and stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(JamjetError):
            await self._flush()
        await self._fetcher.close()

    # --- Agents ---------------------------------------------------------------------------------

    async def register(self, tenant_id: str, agent: NewAgent, *, replace: bool, by: Origin) -> SeenAgent:
        """See ``actors.agents.port.Agents.register``."""
        return self._seen(tenant_id, await self._store.agents(tenant_id, by).register(agent, replace=replace))

    async def find(self, tenant_id: str, agent_id: str) -> SeenAgent | None:
        """See ``actors.agents.port.Agents.find``."""
        row = await self._store.agents(tenant_id).agent(agent_id)
        return None if row is None else self._seen(tenant_id, row)

    async def search(
        self,
        tenant_id: str,
        *,
        statuses: Sequence[AgentStatus],
        traits: Sequence[str],
        limit: int,
        offset: int,
    ) -> AgentPage:
        """See ``actors.agents.port.Agents.search``."""
        rows, total = await self._store.agents(tenant_id).agents(
            statuses=statuses, traits=traits, limit=limit, offset=offset
        )
        return AgentPage(agents=[self._seen(tenant_id, row) for row in rows], total=total)

    async def move(
        self, tenant_id: str, agent_id: str, status: AgentStatus, *, by: Origin
    ) -> SeenAgent | None:
        """See ``actors.agents.port.Agents.move``."""
        row = await self._store.agents(tenant_id, by).move(agent_id, status)
        return None if row is None else self._seen(tenant_id, row)

    async def heartbeat(self, tenant_id: str, agent_id: str) -> bool:
        """See ``actors.agents.port.Agents.heartbeat``."""
        return (tenant_id, agent_id) in await self.heartbeats([(tenant_id, agent_id)])

    async def heartbeats(self, keys: Sequence[AgentKey]) -> set[AgentKey]:
        """Note signs of life of many agents; returns those that there are."""
        now = self._clock.now()
        strange = [key for key in keys if key not in self._heard]
        known = await self._store.all_agents.known(strange) if strange else set()
        found = {key for key in keys if key in self._heard or key in known}
        for key in found:
            self._heard[key] = self._unwritten[key] = now
        self._metrics.agent_heartbeats.add(by=len(found))
        return found

    async def discover(self, tenant_id: str, url: str, *, by: Origin) -> SeenAgent:
        """See ``actors.agents.port.Agents.discover``."""
        try:
            seen = await self._discover(tenant_id, url, by)
        except JamjetError as error:
            self._metrics.agent_discoveries.add(error.code)
            raise
        self._metrics.agent_discoveries.add("registered")
        return seen

    async def _discover(self, tenant_id: str, url: str, by: Origin) -> SeenAgent:
        found = await self._fetcher.fetch(url)
        agents = self._store.agents(tenant_id, by)
        agent = new_agent(found.card, found.value, found_at=found.found_at)
        known = await agents.agent(agent.agent_id)
        is_same = known is None or agent.found_at == known.found_at or _is_beneath(known.uri, found.found_at)
        if not is_same and not _names_itself(found):
            # Two agents may have one name, so only one of them gets the id that is made of it.
            where = hashlib.sha256(agent.uri.encode()).hexdigest()[:8]
            agent, is_same = changed(agent, agent_id=f"{agent.agent_id}-{where}"), True
        return self._seen(tenant_id, await agents.register(agent, replace=is_same))

    def _seen(self, tenant_id: str, row: AgentRow) -> SeenAgent:
        heard = max(row.last_heartbeat or 0, self._heard.get((tenant_id, row.agent_id), 0))
        if not heard:
            return SeenAgent(row=row)
        # What was not heard while nobody listened was not missed.
        silent_ms = self._clock.now() - max(heard, self._listening_since)
        return SeenAgent(row=changed(row, last_heartbeat=heard), stale=silent_ms > self._stale_after_ms)

    # --- upkeep ---------------------------------------------------------------------------------

    async def _repeat(self, every_s: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                await work()
            except JamjetError as error:
                log.warning("the store could not be used: %s", error)
            except Exception:
                log.exception("upkeep broke")

    async def _flush(self) -> None:
        """Write the heartbeats since the last time."""
        beats, self._unwritten = self._unwritten, {}
        if not beats:
            return
        began = time.monotonic()
        try:
            await self._store.all_agents.beat([Beat(*key, at) for key, at in beats.items()])
        except BaseException:
            self._unwritten = beats | self._unwritten
            raise
        self._metrics.agent_flush_seconds.observe(time.monotonic() - began)

    async def _look(self) -> None:
        try:
            await self._ask_the_time()
        except JamjetError:
            # Without the store no replica admits an agent's token, so its heartbeats are not heard either.
            self._listening_since = self._clock.now()
            raise
        if self._expiry_ms is None:
            return
        await self._flush()
        before = self._clock.now() - self._expiry_ms
        if before > self._listening_since:
            for tenant_id, agent_id in await self._store.all_agents.silence(before):
                log.info("agent %s is silent, and so paused", agent_id, extra={"tenant_id": tenant_id})

    async def _ask_the_time(self) -> None:
        asked_at = self._clock.mark()
        self._clock.learn(await self._store.system.now(), asked_at)


def new_agent(card: AgentCard, value: object, *, found_at: str | None = None) -> NewAgent:
    """An agent to register, of a card and what was understood of it."""
    return NewAgent(
        agent_id=card.id,
        card=encode(value, what="the card").decode(),
        digest=card_digest(value),
        uri=card.uri,
        traits=tuple(sorted(card.traits())),
        found_at=found_at,
    )


def _is_beneath(uri: str, found_at: str) -> bool:
    """Whether an agent's address is where a card was found: what a card says of itself anybody may say."""
    place = found_at.partition("/.well-known/")[0].rstrip("/")
    return f"{uri}/".startswith(f"{place}/")


def _names_itself(found: FoundCard) -> bool:
    return any(found.value.get(name) is not None for name in ("id", "agent_id"))
