"""Agents, their heartbeats, workflows that other protocols may start, and keys of the installation."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_ID: Any = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_SILENCED = sa.text("status = 'paused' AND silenced")
_EXPOSED = sa.text("exposed <> ''")


def upgrade() -> None:
    op.create_table(
        "agents",
        sa.Column("tenant_id", _ID, nullable=False),
        sa.Column("agent_id", _ID, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("silenced", sa.Boolean(), nullable=False),
        sa.Column("card", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("found_at", sa.Text(), nullable=True),
        sa.Column("registered_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "agent_id"),
    )
    op.create_index("ix_agents_newest", "agents", ["tenant_id", "registered_at", "agent_id"])
    op.create_index("ix_agents_status", "agents", ["tenant_id", "status", "registered_at", "agent_id"])
    op.create_index(
        "ix_agents_silenced",
        "agents",
        ["tenant_id", "agent_id"],
        sqlite_where=_SILENCED,
        postgresql_where=_SILENCED,
    )
    op.create_table(
        "agent_traits",
        sa.Column("tenant_id", _ID, nullable=False),
        sa.Column("trait", _ID, nullable=False),
        sa.Column("agent_id", _ID, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "trait", "agent_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_agent_traits_agent", "agent_traits", ["tenant_id", "agent_id"])
    op.create_table(
        "agent_heartbeats",
        sa.Column("tenant_id", _ID, nullable=False),
        sa.Column("agent_id", _ID, nullable=False),
        sa.Column("beat_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "agent_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "installation_keys",
        sa.Column("name", _ID, nullable=False),
        sa.Column("tenant_id", _ID, nullable=False),
        sa.Column("pem", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.add_column("workflows", sa.Column("exposed", sa.Text(), nullable=False, server_default=""))
    op.create_index(
        "ix_workflows_exposed",
        "workflows",
        ["tenant_id", "position"],
        sqlite_where=_EXPOSED,
        postgresql_where=_EXPOSED,
    )
    op.add_column("api_tokens", sa.Column("agent_id", _ID, nullable=True))
