"""The first tables."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ID: Any = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_OPEN = "status IN ('running', 'paused')"


def upgrade() -> None:
    _create_workflows()
    _create_executions()
    _create_logs()
    _create_idempotency()
    _create_inbox()
    _create_tokens()
    _create_executors()


def _column(name: str, kind: Any, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=nullable)


def _partial(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def _create_workflows() -> None:
    op.create_table(
        "workflows",
        _column("tenant_id", _ID),
        _column("workflow_id", _ID),
        _column("version", _ID),
        _column("position", sa.BigInteger()),
        _column("digest", sa.Text()),
        _column("ir", sa.Text()),
        _column("graph", sa.Text()),
        _column("created_at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("tenant_id", "workflow_id", "version"),
        sa.UniqueConstraint("tenant_id", "position", name="uq_workflows_position"),
    )
    op.create_index("ix_workflows_latest", "workflows", ["tenant_id", "workflow_id", "position"])


def _create_executions() -> None:
    op.create_table(
        "executions",
        _column("execution_id", _ID),
        _column("tenant_id", _ID),
        _column("workflow_id", _ID),
        _column("workflow_version", _ID),
        _column("status", sa.Text()),
        _column("isolation", sa.Text()),
        _column("resources", sa.Text(), nullable=True),
        _column("owner", _ID, nullable=True),
        _column("owner_epoch", sa.BigInteger()),
        _column("sequence", sa.BigInteger()),
        _column("runnable", sa.Boolean()),
        _column("wake_at", sa.BigInteger(), nullable=True),
        _column("steps", sa.BigInteger()),
        _column("error", sa.Text(), nullable=True),
        _column("created_at", sa.BigInteger()),
        _column("updated_at", sa.BigInteger()),
        _column("completed_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("execution_id"),
    )
    op.create_index("ix_executions_newest", "executions", ["tenant_id", "created_at", "execution_id"])
    op.create_index(
        "ix_executions_status", "executions", ["tenant_id", "status", "created_at", "execution_id"]
    )
    op.create_index(
        "ix_executions_workflow", "executions", ["tenant_id", "workflow_id", "created_at", "execution_id"]
    )
    undriven = f"owner IS NULL AND {_OPEN}"
    _partial(
        "ix_executions_runnable", "executions", ["created_at", "execution_id"], f"{undriven} AND runnable"
    )
    _partial(
        "ix_executions_waking",
        "executions",
        ["wake_at"],
        f"{undriven} AND NOT runnable AND wake_at IS NOT NULL",
    )
    _partial("ix_executions_owned", "executions", ["owner"], f"owner IS NOT NULL AND {_OPEN}")


def _create_logs() -> None:
    op.create_table(
        "events",
        _column("execution_id", _ID),
        _column("sequence", sa.BigInteger()),
        _column("tenant_id", _ID),
        _column("type", sa.Text()),
        _column("node_id", sa.Text(), nullable=True),
        _column("data", sa.Text()),
        _column("created_at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("execution_id", "sequence"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "snapshots",
        _column("execution_id", _ID),
        _column("tenant_id", _ID),
        _column("sequence", sa.BigInteger()),
        _column("data", sa.Text()),
        sa.PrimaryKeyConstraint("execution_id"),
    )


def _create_idempotency() -> None:
    op.create_table(
        "idempotency",
        _column("tenant_id", _ID),
        _column("route", _ID),
        _column("key", _ID),
        _column("fingerprint", sa.Text()),
        _column("status", sa.Integer()),
        _column("body", sa.Text()),
        _column("expires_at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("tenant_id", "route", "key"),
    )
    op.create_index("ix_idempotency_expiry", "idempotency", ["expires_at"])


def _create_inbox() -> None:
    op.create_table(
        "inbox",
        _column("execution_id", _ID),
        _column("message_id", _ID),
        _column("tenant_id", _ID),
        _column("body", sa.Text()),
        _column("created_at", sa.BigInteger()),
        _column("ordinal", sa.Integer()),
        _column("consumed_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("execution_id", "message_id"),
    )
    _partial("ix_inbox_unread", "inbox", ["execution_id"], "consumed_at IS NULL")
    _partial("ix_inbox_consumed", "inbox", ["consumed_at"], "consumed_at IS NOT NULL")


def _create_tokens() -> None:
    op.create_table(
        "api_tokens",
        _column("id", _ID),
        _column("tenant_id", _ID),
        _column("name", sa.Text()),
        _column("role", sa.Text()),
        _column("token_hash", _ID),
        _column("created_at", sa.BigInteger()),
        _column("expires_at", sa.BigInteger(), nullable=True),
        _column("revoked_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("token_hash", name="uq_api_tokens_hash"),
    )
    op.create_index("ix_api_tokens_tenant", "api_tokens", ["tenant_id"])


def _create_executors() -> None:
    op.create_table(
        "executors",
        _column("incarnation", _ID),
        _column("tenant_id", _ID),
        _column("name", _ID),
        _column("node", sa.Text()),
        _column("pid", sa.BigInteger()),
        _column("isolation", sa.Text()),
        _column("capacity", sa.Integer()),
        _column("live", sa.Integer()),
        _column("state", sa.Text()),
        _column("started_at", sa.BigInteger()),
        _column("heartbeat_at", sa.BigInteger()),
        _column("dead_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("incarnation"),
    )
    op.create_index("ix_executors_name", "executors", ["name"])
