"""The audit log: entries in chains, and the seals over them. Triggers make both append-only."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ID: Any = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_REFUSAL = "the audit log is append-only"

_MAY_DELETE = {
    "audit": (
        "EXISTS (SELECT 1 FROM audit_chains AS kept WHERE kept.tenant_id = OLD.tenant_id"
        " AND kept.chain = OLD.chain AND kept.pruned >= OLD.position)"
    ),
    "audit_seals": (
        "EXISTS (SELECT 1 FROM audit_seals AS kept WHERE kept.tenant_id = OLD.tenant_id"
        " AND kept.kept_from > OLD.number)"
    ),
}
"""What a pruning seal has declared deleted."""


def upgrade() -> None:
    _create_entries()
    _create_seals()
    for table, may_delete in _MAY_DELETE.items():
        if op.get_bind().dialect.name == "sqlite":
            _guard_sqlite(table, may_delete)
        else:
            _guard_postgres(table, may_delete)


def _text(name: str, nullable: bool = True) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def _integer(name: str, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=nullable)


def _create_entries() -> None:
    op.create_table(
        "audit",
        sa.Column("tenant_id", _ID, nullable=False),
        sa.Column("chain", _ID, nullable=False),
        _integer("position"),
        sa.Column("execution_id", _ID, nullable=True),
        sa.Column("event_type", _ID, nullable=False),
        sa.Column("actor_id", _ID, nullable=False),
        _text("actor_type", nullable=False),
        _integer("created_at"),
        _integer("sequence", nullable=True),
        *(_text(name) for name in ("event_digest", "node_id", "tool_call_hash", "policy_decision")),
        *(_text(name) for name in ("request_id", "http_method", "http_path", "ip_address", "details")),
        _text("hash", nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "chain", "position"),
        sqlite_with_rowid=False,
    )
    place = ["created_at", "chain", "position"]
    op.create_index("ix_audit_newest", "audit", ["tenant_id", *place])
    op.create_index("ix_audit_execution", "audit", ["tenant_id", "execution_id", *place])
    op.create_index("ix_audit_actor", "audit", ["tenant_id", "actor_id", *place, "event_type"])
    op.create_index("ix_audit_type", "audit", ["tenant_id", "event_type", *place])


def _create_seals() -> None:
    op.create_table(
        "audit_chains",
        sa.Column("tenant_id", _ID, nullable=False),
        sa.Column("chain", _ID, nullable=False),
        _integer("position"),
        _integer("sealed"),
        _integer("sealed_by"),
        _integer("pruned"),
        sa.PrimaryKeyConstraint("tenant_id", "chain"),
    )
    op.create_table(
        "audit_seals",
        sa.Column("tenant_id", _ID, nullable=False),
        _integer("number"),
        _text("heads", nullable=False),
        _text("pruned", nullable=False),
        _integer("kept_from"),
        _text("kept_after", nullable=False),
        _integer("created_at"),
        _text("hash", nullable=False),
        _text("key_id"),
        _text("signature"),
        sa.PrimaryKeyConstraint("tenant_id", "number"),
    )


def _guard_sqlite(table: str, may_delete: str) -> None:
    op.execute(
        f"CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table}"
        f" BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
    )
    op.execute(
        f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} WHEN NOT {may_delete}"
        f" BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
    )


def _guard_postgres(table: str, may_delete: str) -> None:
    op.execute(
        f"""
        CREATE FUNCTION {table}_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP = 'DELETE' THEN
                IF {may_delete} THEN
                    RETURN OLD;
                END IF;
            END IF;
            RAISE EXCEPTION '{_REFUSAL}';
        END $$
        """
    )
    op.execute(
        f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table}"
        f" FOR EACH ROW EXECUTE FUNCTION {table}_append_only()"
    )
    op.execute(
        f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table}"
        f" FOR EACH STATEMENT EXECUTE FUNCTION {table}_append_only()"
    )
