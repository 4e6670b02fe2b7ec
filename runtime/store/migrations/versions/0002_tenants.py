"""Tenants as rows, and when a token was used last."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ID: Any = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_NOW = {
    "sqlite": "CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER)",
    "postgresql": "CAST(FLOOR(EXTRACT(EPOCH FROM statement_timestamp()) * 1000) AS BIGINT)",
}


def upgrade() -> None:
    op.create_table(
        "tenants",
        sa.Column("tenant_id", _ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("limits", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id"),
    )
    op.add_column("api_tokens", sa.Column("last_used_at", sa.BigInteger(), nullable=True))
    _keep_known_tenants()


def _keep_known_tenants() -> None:
    """Tenants were only names so far: whoever has a token or a workflow stays one."""
    now = _NOW[op.get_bind().dialect.name]
    op.execute(
        "INSERT INTO tenants (tenant_id, name, status, policy, limits, created_at, updated_at)"
        f" SELECT tenant_id, tenant_id, 'active', '{{}}', '{{}}', {now}, {now} FROM ("
        "SELECT 'default' AS tenant_id"
        " UNION SELECT tenant_id FROM api_tokens UNION SELECT tenant_id FROM workflows"
        ") AS known"
    )
