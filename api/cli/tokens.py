"""The commands on API tokens. They work on the database itself: the first token needs no server."""

import hashlib
import re
import secrets
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.database import command_line, on_database
from api.cli.exits import EXIT_NOT_FOUND, EXIT_USAGE, CliError
from api.cli.options import Database, Form
from api.cli.output import Output, note, print_json, print_line, print_rows

if TYPE_CHECKING:
    from runtime.store.port import Store, TokenRow

DEFAULT_TENANT = "default"

_PREFIX = "jj_"
_SECRET_BYTES = 32
_UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_TTL = re.compile(r"([1-9][0-9]{0,5})([smhd])")

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke API tokens, on the database.")

Tenant = Annotated[str, typer.Option(help="The tenant whose rows the token reaches.")]


class Role(StrEnum):
    """What a token may do."""

    OPERATOR = "operator"
    DEVELOPER = "developer"
    REVIEWER = "reviewer"
    VIEWER = "viewer"


@app.command("create")
def create(
    role: Annotated[Role, typer.Option(help="What the token may do.")],
    tenant: Tenant = DEFAULT_TENANT,
    name: Annotated[str | None, typer.Option(help="A name to know it by.")] = None,
    expires_in: Annotated[str | None, typer.Option(help="Such as 12h or 30d.", metavar="TIME")] = None,
    agent: Annotated[
        str | None, typer.Option(help="The registered agent whose calls it is for.", metavar="ID")
    ] = None,
    database: Database = None,
    output: Form = Output.TABLE,
) -> None:
    """Make a token and print it, alone, on stdout. It cannot be shown again."""
    ttl_ms = None if expires_in is None else _ttl_ms(expires_in)
    token, row = on_database(
        database,
        lambda store: make_token(store, role, tenant=tenant, name=name, ttl_ms=ttl_ms, agent_id=agent),
    )
    if output is Output.JSON:
        print_json({"token": token, **_shown(row)})
        return
    note(f"made {row.role} token {row.id} of tenant {row.tenant_id}; it is not shown again")
    print_line(token)


@app.command("list")
def list_tokens(
    tenant: Tenant = DEFAULT_TENANT, database: Database = None, output: Form = Output.TABLE
) -> None:
    """List a tenant's tokens, without the tokens themselves."""
    rows = [_shown(row) for row in on_database(database, lambda store: store.tenant(tenant).tokens())]
    if output is Output.JSON:
        print_json({"tokens": rows})
    else:
        times = ("created_at", "expires_at", "revoked_at", "last_used_at")
        print_rows(rows, ("id", "name", "role", *times, "agent_id"))


@app.command("revoke")
def revoke(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="The token's id or name.")],
    tenant: Tenant = DEFAULT_TENANT,
    database: Database = None,
    output: Form = Output.TABLE,
) -> None:
    """Revoke a token: within 5 seconds no server takes it any more."""
    if not on_database(database, lambda store: store.tenant(tenant, command_line()).revoke_token(token_id)):
        raise CliError(
            f"tenant {tenant!r} has no live token {token_id!r}: see `jamjet token list`", EXIT_NOT_FOUND
        )
    if output is Output.JSON:
        print_json({"id": token_id, "revoked": True})
    else:
        note(f"revoked {token_id}")


async def make_token(
    store: "Store",
    role: str,
    *,
    tenant: str,
    name: str | None = None,
    ttl_ms: int | None = None,
    agent_id: str | None = None,
) -> tuple[str, "TokenRow"]:
    """Make a token of 256 random bits; the store keeps its SHA-256 only.

    Raises:
        NotFound: the tenant has no such agent.
    """
    from runtime.errors import NotFound
    from runtime.store.port import TokenRow

    if agent_id is not None and await store.agents(tenant).agent(agent_id) is None:
        raise NotFound(f"tenant {tenant!r} has no agent {agent_id!r}: see `jamjet agents list`")
    token = _PREFIX + secrets.token_hex(_SECRET_BYTES)
    now = await store.system.now()
    token_id = f"tok_{secrets.token_hex(8)}"
    row = TokenRow(
        id=token_id,
        tenant_id=tenant,
        name=name or token_id,
        role=str(role),
        token_hash=hash_token(token),
        created_at=now,
        expires_at=None if ttl_ms is None else now + ttl_ms,
        agent_id=agent_id,
    )
    await store.tenant(tenant, command_line()).create_token(row)
    return token, row


def hash_token(token: str) -> str:
    """What the store keeps of a token: its SHA-256, in hexadecimal."""
    return hashlib.sha256(token.encode()).hexdigest()


def _ttl_ms(text: str) -> int:
    match = _TTL.fullmatch(text)
    if match is None:
        raise CliError(f"--expires-in is {text!r}: give a number and one of s, m, h, d", EXIT_USAGE)
    return int(match[1]) * _UNIT_MS[match[2]]


def _shown(row: "TokenRow") -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "role": row.role,
        "tenant_id": row.tenant_id,
        "created_at": _iso(row.created_at),
        "expires_at": _iso(row.expires_at),
        "revoked_at": _iso(row.revoked_at),
        "last_used_at": _iso(row.last_used_at),
        "agent_id": row.agent_id,
    }


def _iso(time_ms: int | None) -> str | None:
    from datetime import UTC, datetime

    if time_ms is None:
        return None
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
