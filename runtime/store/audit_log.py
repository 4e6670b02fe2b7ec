"""Appends audit entries within the transactions of a process's one writer."""

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from msgspec.structs import replace
from sqlalchemy.dialects import postgresql, sqlite

from runtime.audit.entries import ROW_FIELDS, AuditEntry, Chains, moved_heads
from runtime.store.sql import Statement, clock_ms, param
from runtime.store.tables import audit, audit_chains

Audited = tuple[str, AuditEntry]
"""An entry, and the tenant in whose log it belongs."""

HEAD_FIELDS = ("tenant_id", "chain", "position")


class AuditLog:
    """The chains of one writer. After each ``append`` say whether it was ``committed``.

    An append whose transaction was rolled back needs no word: the next one takes its place.
    """

    def __init__(self, dialect: sa.Dialect) -> None:
        insert: Any = sqlite.insert if dialect.name == "sqlite" else postgresql.insert
        self.chains = Chains()
        self._now = Statement(sa.select(clock_ms()), dialect)
        self._insert = Statement(insert(audit).values({name: param(name) for name in ROW_FIELDS}), dialect)
        head = insert(audit_chains).values(
            {name: param(name) for name in HEAD_FIELDS}
            | dict.fromkeys(("sealed", "sealed_by", "pruned"), _ZERO)
        )
        self._move_head = Statement(
            head.on_conflict_do_update(
                index_elements=["tenant_id", "chain"], set_={"position": head.excluded.position}
            ),
            dialect,
        )
        assert set(self._insert.names) == set(ROW_FIELDS)
        self._order = [ROW_FIELDS.index(name) for name in self._insert.names]
        assert self._move_head.names == HEAD_FIELDS

    def append(self, cursor: Any, entries: Sequence[Audited]) -> None:
        """Insert the entries, and move the heads of their chains, on a DBAPI cursor."""
        # Also of nothing: what was proposed before and rolled back must not count as committed now.
        rows = self.chains.propose(self._dated(cursor, entries))
        if not rows:
            return
        order = self._order
        cursor.executemany(self._insert.sql, [[row[place] for place in order] for row in rows])
        cursor.executemany(self._move_head.sql, moved_heads(rows))

    def _dated(self, cursor: Any, entries: Sequence[Audited]) -> Iterable[Audited]:
        """Entries that say nothing of their time happen now."""
        if all(entry.created_at for _, entry in entries):
            return entries
        cursor.execute(self._now.sql)
        now = cursor.fetchone()[0]
        return [
            (tenant_id, entry if entry.created_at else replace(entry, created_at=now))
            for tenant_id, entry in entries
        ]


_ZERO: Any = sa.literal_column("0")
