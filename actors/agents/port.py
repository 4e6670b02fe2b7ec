"""What the registry is to the API. ``actors.agents.client`` serves it over Ray, ``registry`` without."""

from collections.abc import Sequence
from typing import Protocol

from actors.agents.messages import AgentPage, SeenAgent
from runtime.agents.lifecycle import AgentStatus
from runtime.audit.entries import Origin
from runtime.store.agent_port import NewAgent


class Agents(Protocol):
    """The agents of an installation. Any method may raise ``Unavailable``."""

    async def register(self, tenant_id: str, agent: NewAgent, *, replace: bool, by: Origin) -> SeenAgent:
        """Register an agent; see ``AgentStore.register``.

        Raises:
            Conflict
        """

    async def find(self, tenant_id: str, agent_id: str) -> SeenAgent | None: ...

    async def search(
        self,
        tenant_id: str,
        *,
        statuses: Sequence[AgentStatus],
        traits: Sequence[str],
        limit: int,
        offset: int,
    ) -> AgentPage:
        """See ``AgentStore.agents``."""

    async def move(
        self, tenant_id: str, agent_id: str, status: AgentStatus, *, by: Origin
    ) -> SeenAgent | None:
        """Bring an agent into another state; None: there is none.

        Raises:
            Conflict: it cannot get there.
        """

    async def heartbeat(self, tenant_id: str, agent_id: str) -> bool:
        """Note a sign of life, durable within about a second; False: there is no such agent."""

    async def discover(self, tenant_id: str, url: str, *, by: Origin) -> SeenAgent:
        """Fetch the card at a URL, and register its agent.

        Raises:
            BadRequest, Unreachable, Overloaded: as ``CardFetcher.fetch``.
            Conflict: another agent has its id.
        """

    async def close(self) -> None: ...
