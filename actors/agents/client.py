"""The agent registry over Ray, for one replica.

Heartbeats that come while a call is under way travel together in the next one. The registry comes back within
seconds when it is killed, so its callers wait that long.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
import ray

from actors import fleet, names, wire
from actors.agents import messages as asked
from actors.agents.messages import AgentPage, SeenAgent
from actors.settings import Settings
from runtime.agents.lifecycle import AgentStatus
from runtime.audit.entries import Origin
from runtime.errors import Unavailable
from runtime.net.cards import WITHIN_S as DISCOVERY_S
from runtime.store.agent_port import AgentKey, NewAgent

T = TypeVar("T")

PATIENCE_S = 5.0
PAUSE_S = 0.1
BATCH_MAX = 1_000


class RayAgents:
    """The ``Agents`` of an installation, over Ray. What it asks may be asked twice without harm."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._handle: Any = None
        self._waiting: dict[AgentKey, list[asyncio.Future[bool]]] = {}
        self._beating: asyncio.Task[None] | None = None

    async def register(self, tenant_id: str, agent: NewAgent, *, replace: bool, by: Origin) -> SeenAgent:
        """See ``Agents.register``."""
        ask = asked.Register(tenant_id=tenant_id, agent=agent, replace=replace, by=by)
        return await self._ask(ask, SeenAgent)

    async def find(self, tenant_id: str, agent_id: str) -> SeenAgent | None:
        """See ``Agents.find``."""
        found: SeenAgent | None = await self._ask(asked.Find(tenant_id=tenant_id, agent_id=agent_id), _MAYBE)
        return found

    async def search(
        self,
        tenant_id: str,
        *,
        statuses: Sequence[AgentStatus],
        traits: Sequence[str],
        limit: int,
        offset: int,
    ) -> AgentPage:
        """See ``Agents.search``."""
        ask = asked.Search(
            tenant_id=tenant_id, statuses=tuple(statuses), traits=tuple(traits), limit=limit, offset=offset
        )
        return await self._ask(ask, AgentPage)

    async def move(
        self, tenant_id: str, agent_id: str, status: AgentStatus, *, by: Origin
    ) -> SeenAgent | None:
        """See ``Agents.move``."""
        ask = asked.Move(tenant_id=tenant_id, agent_id=agent_id, status=status, by=by)
        found: SeenAgent | None = await self._ask(ask, _MAYBE)
        return found

    async def discover(self, tenant_id: str, url: str, *, by: Origin) -> SeenAgent:
        """See ``Agents.discover``."""
        ask = asked.Discover(tenant_id=tenant_id, url=url, by=by)
        return await self._ask(ask, SeenAgent, within_s=DISCOVERY_S + PATIENCE_S)

    async def heartbeat(self, tenant_id: str, agent_id: str) -> bool:
        """See ``Agents.heartbeat``."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[bool] = loop.create_future()
        self._waiting.setdefault((tenant_id, agent_id), []).append(found)
        if self._beating is None or self._beating.done():
            self._beating = loop.create_task(self._beat())
        return await found

    async def close(self) -> None:
        """Requests under way are left to end."""

    async def _beat(self) -> None:
        while self._waiting:
            # One turn of the loop, so that heartbeats that arrive together travel together.
            await asyncio.sleep(0)
            keys = list(self._waiting)[:BATCH_MAX]
            batch = {key: self._waiting.pop(key) for key in keys}
            try:
                known = set(await self._ask(asked.Heartbeats(agents=keys), list[AgentKey]))
                outcomes = [(waiting, key in known) for key, waiters in batch.items() for waiting in waiters]
            except Exception as error:
                for waiting in (waiting for waiters in batch.values() for waiting in waiters):
                    if not waiting.done():
                        waiting.set_exception(error)
                continue
            for waiting, is_known in outcomes:
                if not waiting.done():
                    waiting.set_result(is_known)

    async def _ask(self, ask: asked.Ask, kind: type[T], *, within_s: float = PATIENCE_S) -> T:
        """The registry's answer, also across a restart of it.

        Raises:
            Unavailable: there was none in time.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + within_s
        question = asked.encode_ask(ask)
        while (left := until - loop.time()) > 0:
            try:
                async with asyncio.timeout(left):
                    data: bytes = await self._registry().ask.remote(question)
            except (ray.exceptions.RayError, ValueError):
                self._handle = None
                await asyncio.sleep(PAUSE_S)
            except TimeoutError:
                break
            else:
                return _value(asked.decode_answer(data), kind)
        raise Unavailable("the agent registry does not answer", retry_after_s=1)

    def _registry(self) -> Any:
        if self._handle is None:
            try:
                self._handle = ray.get_actor(names.AGENT_REGISTRY, namespace=self._settings.namespace)
            except ValueError:
                self._handle = fleet.agent_registry(self._settings)
        return self._handle


_MAYBE: Any = SeenAgent | None


def _value(answer: asked.Answered, kind: type[T]) -> T:
    if answer.failed is not None:
        raise wire.error_of(answer.failed.code, answer.failed.detail, answer.failed.fields)
    return msgspec.msgpack.decode(answer.value, type=kind)
