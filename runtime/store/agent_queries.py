"""The statements on agents, compiled for one dialect."""

from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from runtime.store.agent_port import AgentRow
from runtime.store.sql import Statement, clock_ms, param
from runtime.store.tables import SILENCED, agent_heartbeats, agent_traits, agents

SILENCED_AT_ONCE_MAX = 1_000

# The beats are one JSON array of [tenant, agent, time], so that a thousand of them are one statement.
_BEAT_SQLITE = """
INSERT INTO agent_heartbeats (tenant_id, agent_id, beat_at)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]')
FROM json_each(:p_beats) WHERE true
ON CONFLICT (tenant_id, agent_id) DO UPDATE SET beat_at = MAX(beat_at, excluded.beat_at)
"""
_BEAT_POSTGRES = """
INSERT INTO agent_heartbeats (tenant_id, agent_id, beat_at)
SELECT beat ->> 0, beat ->> 1, CAST(beat ->> 2 AS BIGINT)
FROM json_array_elements(CAST(:p_beats AS json)) AS beat ORDER BY 1, 2
ON CONFLICT (tenant_id, agent_id) DO UPDATE SET beat_at = GREATEST(agent_heartbeats.beat_at, excluded.beat_at)
"""
_KNOWN_SQLITE = """
SELECT agents.tenant_id, agents.agent_id FROM json_each(:p_keys) AS wanted
JOIN agents ON agents.tenant_id = json_extract(wanted.value, '$[0]')
AND agents.agent_id = json_extract(wanted.value, '$[1]')
"""
_KNOWN_POSTGRES = """
SELECT agents.tenant_id, agents.agent_id FROM json_array_elements(CAST(:p_keys AS json)) AS wanted
JOIN agents ON agents.tenant_id = wanted ->> 0 AND agents.agent_id = wanted ->> 1
"""


class AgentQueries:
    """The statements of one dialect."""

    def __init__(self, dialect: sa.Dialect) -> None:
        self._dialect = dialect
        self._sqlite = dialect.name == "sqlite"
        table = agents.c
        own = table.tenant_id == param("tenant_id")
        one = sa.and_(own, table.agent_id == param("agent_id"))
        self.agent = self._make(self._rows().where(one))
        insert = sqlite.insert if self._sqlite else postgresql.insert
        self.insert = self._make(
            insert(agents)
            .values(
                {name: param(name) for name in ("tenant_id", "agent_id", "card", "digest", "uri", "found_at")}
            )
            .values(status="registered", silenced=False, registered_at=clock_ms(), updated_at=clock_ms())
            .on_conflict_do_nothing()
        )
        self.replace_card = self._make(
            sa.update(agents)
            .values({name: param(name) for name in ("card", "digest", "uri", "found_at")})
            .values(updated_at=clock_ms())
            .where(one)
        )
        self.drop_traits = self._make(
            sa.delete(agent_traits).where(
                agent_traits.c.tenant_id == param("tenant_id"), agent_traits.c.agent_id == param("agent_id")
            )
        )
        self.insert_trait = self._make(
            insert(agent_traits).values({column.name: param(column.name) for column in agent_traits.c})
        )
        self.move = self._make(
            sa.update(agents)
            .values(status=param("status"), silenced=param("silenced"), updated_at=clock_ms())
            .where(one)
        )
        self.beat = self._make(sa.text(_BEAT_SQLITE if self._sqlite else _BEAT_POSTGRES))
        self.known = self._make(sa.text(_KNOWN_SQLITE if self._sqlite else _KNOWN_POSTGRES))
        self.silenced = self._make(sa.select(table.tenant_id, table.agent_id).where(sa.text(SILENCED)))
        self.silent = self._make(
            sa.select(table.tenant_id, table.agent_id)
            .join_from(agents, agent_heartbeats, _same_agent())
            .where(table.status == sa.literal_column("'active'"))
            .where(agent_heartbeats.c.beat_at < param("before"))
            .order_by(table.tenant_id, table.agent_id)
            .limit(sa.literal_column(str(SILENCED_AT_ONCE_MAX)))
        )
        self.active = self._make(
            self._rows()
            .where(own, table.status == sa.literal_column("'active'"))
            .order_by(table.agent_id)
            .limit(param("limit"))
        )
        self.page = lru_cache(maxsize=256)(self._page)
        self.count = lru_cache(maxsize=256)(self._count)

    def _make(self, clause: Any) -> Statement:
        return Statement(clause, self._dialect)

    def _columns_of(self, table: Any) -> list[Any]:
        return [
            agent_heartbeats.c.beat_at.label(name) if name == "last_heartbeat" else table[name]
            for name in AgentRow.__struct_fields__
        ]

    def _rows(self) -> Any:
        return sa.select(*self._columns_of(agents.c)).select_from(
            agents.outerjoin(agent_heartbeats, _same_agent())
        )

    def _filters(self, statuses: int, traits: int) -> list[Any]:
        """Conditions with the parameters ``status_0`` ..., ``trait_0`` ..."""
        states = [param(f"status_{number}") for number in range(statuses)]
        filters = [agents.c.tenant_id == param("tenant_id"), agents.c.status.in_(states)]
        return filters if not traits else [*filters, agents.c.agent_id.in_(_having_all(traits))]

    def _page(self, statuses: int, traits: int) -> Statement:
        newest = (agents.c.registered_at.desc(), agents.c.agent_id.desc())
        page = (
            sa.select(agents)
            .where(*self._filters(statuses, traits))
            .order_by(*newest)
            .limit(param("limit"))
            .offset(param("offset"))
            .subquery("agents")
        )
        # Heartbeats are looked up for what is shown, and not for all that is sorted.
        return self._make(
            sa.select(*self._columns_of(page.c))
            .select_from(page.outerjoin(agent_heartbeats, _same_agent(page.c)))
            .order_by(page.c.registered_at.desc(), page.c.agent_id.desc())
        )

    def _count(self, statuses: int, traits: int) -> Statement:
        return self._make(
            sa.select(sa.func.count()).select_from(agents).where(*self._filters(statuses, traits))
        )


def _same_agent(table: Any = agents.c) -> Any:
    beats = agent_heartbeats.c
    return sa.and_(beats.tenant_id == table.tenant_id, beats.agent_id == table.agent_id)


def _having_all(traits: int) -> Any:
    """Ids of agents that have all of them. Counted: joined, they took PostgreSQL half a second unanalysed."""
    table = agent_traits.c
    wanted = [param(f"trait_{number}") for number in range(traits)]
    return (
        sa.select(table.agent_id)
        .where(table.tenant_id == param("tenant_id"), table.trait.in_(wanted))
        .group_by(table.agent_id)
        .having(sa.func.count() == sa.literal_column(str(traits)))
    )
