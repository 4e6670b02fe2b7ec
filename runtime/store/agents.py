"""Agents in an SQL database."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from runtime.agents.lifecycle import AgentStatus, check_move, check_not_archived
from runtime.audit import admin
from runtime.audit.entries import SYSTEM, Origin
from runtime.errors import ValueRejected
from runtime.store.agent_port import AgentKey, AgentRow, Beat, NewAgent, card_taken
from runtime.store.agent_queries import AgentQueries
from runtime.store.journal import GroupCommitJournal
from runtime.store.sql import Session
from runtime.store.threads import Readers
from runtime.store.values import check_row, check_texts

Total = Callable[[Any, Callable[[], int]], int]
"""A count by its key, which may be a second old where it is large."""


class SqlAgentStore:
    """One tenant's agents: every statement has the tenant in its condition."""

    def __init__(
        self,
        tenant_id: str,
        by: Origin,
        queries: AgentQueries,
        readers: Readers,
        journal: GroupCommitJournal,
        total: Total,
    ) -> None:
        self.tenant_id = tenant_id
        self.by = by
        self._queries = queries
        self._readers = readers
        self._journal = journal
        self._total = total

    async def register(self, agent: NewAgent, *, replace: bool = False) -> AgentRow:
        check_row(agent, agent.agent_id)
        check_texts(agent.traits, "a trait", agent.agent_id)
        queries, one = self._queries, {"tenant_id": self.tenant_id, "agent_id": agent.agent_id}
        content = {"card": agent.card, "digest": agent.digest, "uri": agent.uri, "found_at": agent.found_at}

        def register(session: Session) -> AgentRow:
            if session.execute(queries.insert, **one, **content).rowcount:
                self._index(session, agent)
                session.record(self.tenant_id, admin.agent_registered(self.by, agent))
                return _found(session, queries, one)
            stored = _found(session, queries, one)
            check_not_archived(agent.agent_id, stored.status)
            if stored.digest == agent.digest:
                return stored
            if not replace:
                raise card_taken(agent.agent_id)
            session.execute(queries.replace_card, **one, **content)
            session.execute(queries.drop_traits, **one)
            self._index(session, agent)
            session.record(self.tenant_id, admin.agent_card_replaced(self.by, agent))
            return _found(session, queries, one)

        return await self._journal.run(register)

    def _index(self, session: Session, agent: NewAgent) -> None:
        for trait in sorted(set(agent.traits)):
            session.execute(
                self._queries.insert_trait, tenant_id=self.tenant_id, trait=trait, agent_id=agent.agent_id
            )

    async def agent(self, agent_id: str) -> AgentRow | None:
        one = {"tenant_id": self.tenant_id, "agent_id": agent_id}
        try:
            row = await self._readers.read(lambda session: session.row(self._queries.agent, **one))
        except ValueRejected:
            # A name that no row could have.
            return None
        return None if row is None else agent_row(row)

    async def agents(
        self,
        *,
        statuses: Sequence[AgentStatus],
        traits: Sequence[str] = (),
        limit: int = 50,
        offset: int = 0,
    ) -> tuple[list[AgentRow], int]:
        states, having = tuple(sorted(set(statuses))), tuple(sorted(set(traits)))
        shape = len(states), len(having)
        values: dict[str, Any] = {"tenant_id": self.tenant_id}
        values |= {f"status_{number}": status for number, status in enumerate(states)}
        values |= {f"trait_{number}": trait for number, trait in enumerate(having)}

        def page(session: Session) -> tuple[list[Any], int]:
            rows = session.rows(self._queries.page(*shape), limit=limit, offset=offset, **values)
            key = ("agents", *values.items())
            return rows, self._total(key, lambda: session.scalar(self._queries.count(*shape), **values))

        try:
            rows, total = await self._readers.read(page)
        except ValueRejected:
            return [], 0
        return [agent_row(row) for row in rows], total

    async def move(self, agent_id: str, status: AgentStatus) -> AgentRow | None:
        one = {"tenant_id": self.tenant_id, "agent_id": agent_id}

        def move(session: Session) -> AgentRow | None:
            row = session.row(self._queries.agent, **one)
            if row is None:
                return None
            stored = agent_row(row)
            check_move(agent_id, stored.status, status)
            if stored.status == status:
                return stored
            session.execute(self._queries.move, **one, status=status, silenced=False)
            session.record(self.tenant_id, admin.agent_moved(self.by, agent_id, status))
            return _found(session, self._queries, one)

        try:
            return await self._journal.run(move)
        except ValueRejected:
            return None


class SqlAllAgents:
    """Agents across tenants."""

    def __init__(self, queries: AgentQueries, readers: Readers, journal: GroupCommitJournal) -> None:
        self._queries = queries
        self._readers = readers
        self._journal = journal

    async def known(self, keys: Sequence[AgentKey]) -> set[AgentKey]:
        # One that a stranger made up must not fail all others that are asked for beside it.
        text = msgspec.json.encode([key for key in keys if _may_exist(key)]).decode()
        rows = await self._readers.read(lambda session: session.rows(self._queries.known, keys=text))
        return {(tenant_id, agent_id) for tenant_id, agent_id in rows}

    async def beat(self, beats: Sequence[Beat]) -> None:
        text = msgspec.json.encode(beats).decode()
        heard = {(beat.tenant_id, beat.agent_id) for beat in beats}

        def beat(session: Session) -> None:
            session.execute(self._queries.beat, beats=text)
            for tenant_id, agent_id in session.rows(self._queries.silenced):
                if (tenant_id, agent_id) in heard:
                    self._move(session, tenant_id, agent_id, "active", silenced=False)

        await self._journal.run(beat)

    async def silence(self, before: int) -> list[AgentKey]:
        def silence(session: Session) -> list[AgentKey]:
            rows = session.rows(self._queries.silent, before=before)
            for tenant_id, agent_id in rows:
                self._move(session, tenant_id, agent_id, "paused", silenced=True)
            return [(tenant_id, agent_id) for tenant_id, agent_id in rows]

        return await self._journal.run(silence)

    def _move(
        self, session: Session, tenant_id: str, agent_id: str, status: AgentStatus, *, silenced: bool
    ) -> None:
        session.execute(
            self._queries.move, tenant_id=tenant_id, agent_id=agent_id, status=status, silenced=silenced
        )
        session.record(tenant_id, admin.agent_moved(SYSTEM, agent_id, status))

    async def active_of(self, tenant_ids: Sequence[str], *, limit: int) -> list[AgentRow]:
        def read(session: Session) -> list[Any]:
            rows: list[Any] = []
            for tenant_id in sorted(tenant_ids):
                left = limit - len(rows)
                rows += session.rows(self._queries.active, tenant_id=tenant_id, limit=left) if left else []
            return rows

        return [agent_row(row) for row in await self._readers.read(read)]


def _may_exist(key: AgentKey) -> bool:
    """Whether there could be a row of this name."""
    try:
        check_texts(key, "a name", key[1])
    except ValueRejected:
        return False
    return True


def _found(session: Session, queries: AgentQueries, one: dict[str, str]) -> AgentRow:
    row = session.row(queries.agent, **one)
    assert row is not None
    return agent_row(row)


_SILENCED = AgentRow.__struct_fields__.index("silenced")


def agent_row(values: Sequence[Any]) -> AgentRow:
    """A row from its values in the order of ``AgentRow``'s fields."""
    fields = dict(zip(AgentRow.__struct_fields__, values, strict=True))
    fields["silenced"] = bool(fields["silenced"])  # SQLite has no booleans
    return AgentRow(**fields)
