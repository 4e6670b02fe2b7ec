"""What tenants use up of their limits, and executions that are held."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_ID: Any = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_HELD = sa.text("status IN ('queued', 'suspended')")


def upgrade() -> None:
    op.create_table(
        "tenant_usage",
        sa.Column("tenant_id", _ID, nullable=False),
        sa.Column("month", _ID, nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost_usd", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "month", "shard"),
    )
    op.create_index(
        "ix_executions_held",
        "executions",
        ["tenant_id", "status", "created_at", "execution_id"],
        sqlite_where=_HELD,
        postgresql_where=_HELD,
    )
