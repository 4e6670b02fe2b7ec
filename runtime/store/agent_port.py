"""What the store knows of agents: the records that pass, and the protocols that serve them.

As in ``runtime.store.port``, any method may raise ``Unavailable`` and, where it writes, ``OutcomeUnknown``.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from runtime.agents.lifecycle import AgentStatus
from runtime.audit.entries import Origin
from runtime.errors import Conflict

AgentKey = tuple[str, str]
"""(tenant, agent)."""


class NewAgent(msgspec.Struct, frozen=True, kw_only=True):
    """An agent to register. ``card`` is JSON text as it was given; ``digest`` names its content."""

    agent_id: str
    card: str
    digest: str
    uri: str
    traits: tuple[str, ...] = ()
    found_at: str | None = None
    """Where it was discovered; None: it registered itself."""


class AgentRow(msgspec.Struct, frozen=True, kw_only=True):
    """One agent."""

    agent_id: str
    status: AgentStatus
    silenced: bool
    """Paused because it was silent for too long: its next heartbeat makes it active again."""
    card: str
    digest: str
    uri: str
    found_at: str | None
    registered_at: int
    updated_at: int
    last_heartbeat: int | None = None


class Beat(msgspec.Struct, frozen=True, array_like=True):
    """One agent's last sign of life, in milliseconds since the epoch by the database's clock."""

    tenant_id: str
    agent_id: str
    at: int


def card_taken(agent_id: str) -> Conflict:
    """The refusal of another card for an agent that exists."""
    return Conflict(f"agent {agent_id!r} is registered with another card: send it with ?replace=true")


class AgentStore(Protocol):
    """One tenant's agents. What it changes is audited, in the same transaction, as done ``by`` its caller."""

    tenant_id: str
    by: Origin

    async def register(self, agent: NewAgent, *, replace: bool = False) -> AgentRow:
        """Insert an agent; the same card again changes nothing.

        Raises:
            Conflict: it exists with another card and is not to be replaced, or is archived.
        """

    async def agent(self, agent_id: str) -> AgentRow | None: ...

    async def agents(
        self,
        *,
        statuses: Sequence[AgentStatus],
        traits: Sequence[str] = (),
        limit: int = 50,
        offset: int = 0,
    ) -> tuple[list[AgentRow], int]:
        """Agents in one of the states that have all the traits, newest first, and how many there are."""

    async def move(self, agent_id: str, status: AgentStatus) -> AgentRow | None:
        """Bring it into another state; None: there is no such agent.

        Raises:
            Conflict: that state cannot be reached from its present one.
        """


class AllAgents(Protocol):
    """The queries on agents across tenants: for the registry."""

    async def known(self, keys: Sequence[AgentKey]) -> set[AgentKey]:
        """Those of the agents that exist."""

    async def beat(self, beats: Sequence[Beat]) -> None:
        """Note signs of life, all in one transaction; an older one than is known changes nothing.

        Agents that were paused for their silence are active again.
        """

    async def silence(self, before: int) -> list[AgentKey]:
        """Pause active agents that have beaten, but not since ``before``; at most a thousand at once."""

    async def active_of(self, tenant_ids: Sequence[str], *, limit: int) -> list[AgentRow]:
        """Active agents of some tenants, in the order of tenants and ids."""
