"""The statements of the audit log, compiled for one dialect."""

from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from runtime.audit.entries import ROW_FIELDS
from runtime.audit.seals import Head, Seal, decode_heads, encode_heads
from runtime.store.sealing import ChainState
from runtime.store.sql import Session, Statement, clock_ms, param
from runtime.store.tables import audit, audit_chains, audit_seals

SEAL_FIELDS = Seal.__struct_fields__

FILTERS = ("execution_id", "actor_id", "event_type")
"""What a page of entries may be narrowed by, all together: what narrows the most comes first."""


class AuditQueries:
    """The statements of one dialect."""

    def __init__(self, dialect: sa.Dialect) -> None:
        self._dialect = dialect
        self._insert: Any = sqlite.insert if dialect.name == "sqlite" else postgresql.insert
        self._columns = [audit.c[name] for name in ROW_FIELDS]
        self._make_entries()
        self._make_chains()
        self._make_seals()
        self.page = lru_cache(maxsize=8)(self._page)
        self.count = lru_cache(maxsize=8)(self._count)

    def _make(self, clause: Any) -> Statement:
        return Statement(clause, self._dialect)

    # --- entries --------------------------------------------------------------------------------

    def _page(self, filters: tuple[str, ...]) -> Statement:
        order = (audit.c.created_at.desc(), audit.c.chain.desc(), audit.c.position.desc())
        page = sa.select(*self._columns).where(*_matching(filters)).order_by(*order)
        return self._make(page.limit(param("limit")).offset(param("offset")))

    def _count(self, filters: tuple[str, ...]) -> Statement:
        return self._make(sa.select(sa.func.count()).select_from(audit).where(*_matching(filters)))

    def _make_entries(self) -> None:
        table = audit.c
        own = table.tenant_id == param("tenant_id")
        chain = sa.and_(own, table.chain == param("chain"))
        after = sa.or_(
            table.chain > param("chain"),
            sa.and_(table.chain == param("chain"), table.position > param("position")),
        )
        rows = sa.select(*self._columns).where(own).order_by(table.chain, table.position)
        rows = rows.limit(param("limit"))
        self.first_rows = self._make(rows)
        self.rows_after = self._make(rows.where(table.chain >= param("chain"), after))
        self.hash_at = self._make(sa.select(table.hash).where(chain, table.position == param("position")))
        self.first_since = self._make(
            sa.select(sa.func.min(table.position)).where(chain, table.created_at >= param("since"))
        )
        self.delete_entries = self._make(sa.delete(audit).where(chain, table.position <= param("position")))

    # --- chains ---------------------------------------------------------------------------------

    def _make_chains(self) -> None:
        table = audit_chains.c
        own = table.tenant_id == param("tenant_id")
        one = sa.and_(own, table.chain == param("chain"))
        self.chains = self._make(
            sa.select(*(table[name] for name in ChainState._fields)).where(own).order_by(table.chain)
        )
        self.tenants_to_seal = self._make(
            sa.select(table.tenant_id)
            .distinct()
            .where(table.position > table.sealed)
            .order_by(table.tenant_id)
        )
        self.tenants_logged = self._make(
            sa.select(table.tenant_id)
            .union(sa.select(audit_seals.c.tenant_id), sa.select(audit.c.tenant_id))
            .order_by(sa.literal_column("1"))
        )
        self.mark_sealed = self._make(
            sa.update(audit_chains)
            .values(sealed=param("position"), sealed_by=param("number"))
            .where(one, table.sealed < param("position"))
        )
        self.mark_pruned = self._make(sa.update(audit_chains).values(pruned=param("position")).where(one))
        self.forget_chain = self._make(sa.delete(audit_chains).where(one))

    # --- seals ----------------------------------------------------------------------------------

    def _make_seals(self) -> None:
        table = audit_seals.c
        own = table.tenant_id == param("tenant_id")
        columns = [table[name] for name in SEAL_FIELDS]
        newest = sa.select(*columns).where(own).order_by(table.number.desc()).limit(sa.literal_column("1"))
        self.last_seal = self._make(newest)
        self.last_pruning = self._make(newest.where(table.kept_from > sa.literal_column("0")))
        self.seals = self._make(
            sa.select(*columns)
            .where(own, table.number > param("number"))
            .order_by(table.number)
            .limit(param("limit"))
        )
        self.first_seal_since = self._make(
            sa.select(sa.func.min(table.number)).where(own, table.created_at >= param("since"))
        )
        self.seal_hash = self._make(sa.select(table.hash).where(own, table.number == param("number")))
        self.insert_seal = self._make(
            self._insert(audit_seals).values({name: param(name) for name in SEAL_FIELDS})
        )
        self.delete_seals = self._make(sa.delete(audit_seals).where(own, table.number < param("number")))
        self.now = self._make(sa.select(clock_ms()))


def _matching(filters: tuple[str, ...]) -> list[Any]:
    """The first filter, which narrows the most, by its index; the rest of what is found there.

    Without statistics SQLite may take the index of any.
    """
    conditions = [audit.c[name] == param(name) for name in ("tenant_id", *filters[:1])]
    empty: Any = sa.literal_column("''")
    return conditions + [sa.func.coalesce(audit.c[name], empty) == param(name) for name in filters[1:]]


def seal_of(row: Any) -> Seal:
    """A seal from its columns."""
    values = dict(zip(SEAL_FIELDS, row, strict=True))
    return Seal(**values | {name: decode_heads(values[name]) for name in ("heads", "pruned")})


class SqlAuditTables:
    """The ``AuditTables`` of one SQL transaction."""

    def __init__(self, session: Session, queries: AuditQueries, tenant_id: str) -> None:
        self.tenant_id = tenant_id
        self._session = session
        self._queries = queries

    def now(self) -> int:
        now: int = self._session.scalar(self._queries.now)
        return now

    def last_seal(self) -> Seal | None:
        return self._seal(self._queries.last_seal)

    def last_pruning(self) -> Seal | None:
        return self._seal(self._queries.last_pruning)

    def _seal(self, statement: Statement) -> Seal | None:
        row = self._session.row(statement, tenant_id=self.tenant_id)
        return None if row is None else seal_of(row)

    def chains(self) -> list[ChainState]:
        rows = self._session.rows(self._queries.chains, tenant_id=self.tenant_id)
        return [ChainState(*row) for row in rows]

    def hash_at(self, chain: str, position: int) -> str | None:
        row = self._session.row(
            self._queries.hash_at, tenant_id=self.tenant_id, chain=chain, position=position
        )
        return None if row is None else str(row[0])

    def first_since(self, chain: str, since: int) -> int | None:
        first: int | None = self._session.scalar(
            self._queries.first_since, tenant_id=self.tenant_id, chain=chain, since=since
        )
        return first

    def first_seal_since(self, since: int) -> int | None:
        first: int | None = self._session.scalar(
            self._queries.first_seal_since, tenant_id=self.tenant_id, since=since
        )
        return first

    def seal_hash(self, number: int) -> str | None:
        row = self._session.row(self._queries.seal_hash, tenant_id=self.tenant_id, number=number)
        return None if row is None else str(row[0])

    def insert_seal(self, seal: Seal) -> None:
        values = {name: getattr(seal, name) for name in SEAL_FIELDS}
        values |= {name: encode_heads(values[name]) for name in ("heads", "pruned")}
        self._session.execute(self._queries.insert_seal, **values)

    def mark_sealed(self, head: Head, number: int) -> None:
        self._on_chain(self._queries.mark_sealed, head.chain, position=head.position, number=number)

    def mark_pruned(self, chain: str, position: int) -> None:
        self._on_chain(self._queries.mark_pruned, chain, position=position)

    def forget_chain(self, chain: str) -> None:
        self._on_chain(self._queries.forget_chain, chain)

    def delete_entries(self, chain: str, up_to: int) -> None:
        self._on_chain(self._queries.delete_entries, chain, position=up_to)

    def _on_chain(self, statement: Statement, chain: str, **values: int) -> None:
        self._session.execute(statement, tenant_id=self.tenant_id, chain=chain, **values)

    def delete_seals(self, below: int) -> None:
        self._session.execute(self._queries.delete_seals, tenant_id=self.tenant_id, number=below)
