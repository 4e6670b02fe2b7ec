"""Agents in memory, with the SQL stores' behaviour."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec
from msgspec.structs import replace

from runtime.agents.lifecycle import AgentStatus, check_move, check_not_archived
from runtime.audit import admin
from runtime.audit.entries import SYSTEM, Chains, Origin
from runtime.store.agent_port import AgentKey, AgentRow, Beat, NewAgent, card_taken
from runtime.store.agent_queries import SILENCED_AT_ONCE_MAX
from runtime.store.values import check_row, check_texts

if TYPE_CHECKING:
    from runtime.store.memory import MemoryDatabase


class Gate(Protocol):
    """Where every call passes."""

    async def before(self) -> None: ...

    async def after(self) -> None: ...

    async def read(self) -> None: ...


class MemoryAgents(msgspec.Struct):
    """The rows."""

    agents: dict[AgentKey, AgentRow] = {}
    traits: dict[AgentKey, frozenset[str]] = {}
    beats: dict[AgentKey, int] = {}

    def row(self, key: AgentKey) -> AgentRow:
        return replace(self.agents[key], last_heartbeat=self.beats.get(key))


class MemoryAgentStore:
    """One tenant's agents."""

    def __init__(
        self, tenant_id: str, by: Origin, database: "MemoryDatabase", gate: Gate, chains: Chains
    ) -> None:
        self.tenant_id = tenant_id
        self.by = by
        self._database = database
        self._rows = database.agents
        self._gate = gate
        self._chains = chains

    async def register(self, agent: NewAgent, *, replace: bool = False) -> AgentRow:
        check_row(agent, agent.agent_id)
        check_texts(agent.traits, "a trait", agent.agent_id)
        await self._gate.before()
        key = (self.tenant_id, agent.agent_id)
        stored = self._rows.agents.get(key)
        if stored is not None:
            check_not_archived(agent.agent_id, stored.status)
            if stored.digest != agent.digest and not replace:
                raise card_taken(agent.agent_id)
        if stored is None or stored.digest != agent.digest:
            self._keep(key, agent, stored)
        await self._gate.after()
        return self._rows.row(key)

    def _keep(self, key: AgentKey, agent: NewAgent, stored: AgentRow | None) -> None:
        now = self._database.clock()
        self._rows.traits[key] = frozenset(agent.traits)
        self._rows.agents[key] = AgentRow(
            agent_id=agent.agent_id,
            status="registered" if stored is None else stored.status,
            silenced=False if stored is None else stored.silenced,
            card=agent.card,
            digest=agent.digest,
            uri=agent.uri,
            found_at=agent.found_at,
            registered_at=now if stored is None else stored.registered_at,
            updated_at=now,
        )
        entry = admin.agent_registered if stored is None else admin.agent_card_replaced
        self._database.append(self._chains, self.tenant_id, entry(self.by, agent))

    async def agent(self, agent_id: str) -> AgentRow | None:
        await self._gate.read()
        key = (self.tenant_id, agent_id)
        return self._rows.row(key) if key in self._rows.agents else None

    async def agents(
        self,
        *,
        statuses: Sequence[AgentStatus],
        traits: Sequence[str] = (),
        limit: int = 50,
        offset: int = 0,
    ) -> tuple[list[AgentRow], int]:
        await self._gate.read()
        found = [
            self._rows.row(key)
            for key, row in self._rows.agents.items()
            if key[0] == self.tenant_id and row.status in statuses and self._rows.traits[key] >= set(traits)
        ]
        found.sort(key=lambda row: (row.registered_at, row.agent_id), reverse=True)
        return found[offset : offset + limit], len(found)

    async def move(self, agent_id: str, status: AgentStatus) -> AgentRow | None:
        await self._gate.before()
        key = (self.tenant_id, agent_id)
        stored = self._rows.agents.get(key)
        if stored is not None:
            check_move(agent_id, stored.status, status)
            if stored.status != status:
                _move(self._database, self._chains, key, status, by=self.by)
        await self._gate.after()
        return None if stored is None else self._rows.row(key)


class MemoryAllAgents:
    """Agents across tenants."""

    def __init__(self, database: "MemoryDatabase", gate: Gate, chains: Chains) -> None:
        self._database = database
        self._rows = database.agents
        self._gate = gate
        self._chains = chains

    async def known(self, keys: Sequence[AgentKey]) -> set[AgentKey]:
        await self._gate.read()
        return {key for key in keys if key in self._rows.agents}

    async def beat(self, beats: Sequence[Beat]) -> None:
        await self._gate.before()
        for beat in beats:
            key = (beat.tenant_id, beat.agent_id)
            self._rows.beats[key] = max(beat.at, self._rows.beats.get(key, 0))
            row = self._rows.agents.get(key)
            if row is not None and row.status == "paused" and row.silenced:
                _move(self._database, self._chains, key, "active")
        await self._gate.after()

    async def silence(self, before: int) -> list[AgentKey]:
        await self._gate.before()
        silent = [
            key
            for key, row in sorted(self._rows.agents.items())
            if row.status == "active" and self._rows.beats.get(key, before) < before
        ][:SILENCED_AT_ONCE_MAX]
        for key in silent:
            _move(self._database, self._chains, key, "paused", silenced=True)
        await self._gate.after()
        return silent

    async def active_of(self, tenant_ids: Sequence[str], *, limit: int) -> list[AgentRow]:
        await self._gate.read()
        keys = [key for key, row in sorted(self._rows.agents.items()) if row.status == "active"]
        return [self._rows.row(key) for key in keys if key[0] in tenant_ids][:limit]


def _move(
    database: "MemoryDatabase",
    chains: Chains,
    key: AgentKey,
    status: AgentStatus,
    *,
    silenced: bool = False,
    by: Origin = SYSTEM,
) -> None:
    rows = database.agents.agents
    rows[key] = replace(rows[key], status=status, silenced=silenced, updated_at=database.clock())
    database.append(chains, key[0], admin.agent_moved(by, key[1], status))
