"""The commands on tenants. They take an operator's token of tenant ``default``."""

from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import quote

import typer

from api.cli.client import ApiClient, parse_json_object
from api.cli.exits import EXIT_USAGE, CliError
from api.cli.options import Form, Token, Url
from api.cli.output import Output, note, print_json, print_rows

COLUMNS = ("id", "name", "status", "limits", "policy", "created_at")

app = typer.Typer(no_args_is_help=True, help="Make, list and change tenants.")

TenantId = Annotated[str, typer.Argument(metavar="ID", help="The tenant's id.")]
Limits = Annotated[
    str | None,
    typer.Option(
        help="All its limits, such as '{\"max_workflows\": 20}'; '{}' takes them away.", metavar="JSON"
    ),
]
Policy = Annotated[
    str | None,
    typer.Option(
        help="All its policy, such as '{\"blocked_tools\": [\"http\"]}'; '{}' takes it away.", metavar="JSON"
    ),
]


class Status(StrEnum):
    """What a tenant may do: everything, only read, cancel and revoke tokens, nothing."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    ARCHIVED = "archived"


@app.command("list")
def list_tenants(
    limit: Annotated[int, typer.Option(help="How many at most.", min=1)] = 50,
    offset: Annotated[int, typer.Option(help="How many to leave out first.", min=0)] = 0,
    url: Url = None,
    token: Token = None,
    output: Form = Output.TABLE,
) -> None:
    """List tenants."""
    with ApiClient(url, token) as client:
        answer = client.get("/tenants", limit=limit, offset=offset)
    _print(answer, answer["tenants"], output)


@app.command("show")
def show(tenant_id: TenantId, url: Url = None, token: Token = None, output: Form = Output.TABLE) -> None:
    """Show a tenant."""
    with ApiClient(url, token) as client:
        tenant = client.get(_path(tenant_id))
    _print(tenant, [tenant], output)


@app.command("create")
def create(
    tenant_id: TenantId,
    name: Annotated[str | None, typer.Option(help="Its name.", show_default="the id")] = None,
    limits: Limits = None,
    policy: Policy = None,
    url: Url = None,
    token: Token = None,
    output: Form = Output.TABLE,
) -> None:
    """Make a tenant. Then make its first token: `jamjet token create --tenant ID --role operator`."""
    body = {"id": tenant_id, "name": name or tenant_id, **_given(**_objects(limits, policy))}
    with ApiClient(url, token) as client:
        answer = client.post("/tenants", body)
    _done(answer, f"made tenant {tenant_id}", output)


@app.command("update")
def update(
    tenant_id: TenantId,
    name: Annotated[str | None, typer.Option(help="Its new name.")] = None,
    status: Annotated[Status | None, typer.Option(help="What it may do from now on.")] = None,
    limits: Limits = None,
    policy: Policy = None,
    url: Url = None,
    token: Token = None,
    output: Form = Output.TABLE,
) -> None:
    """Change a tenant: within 5 seconds every server goes by it."""
    body = _given(name=name, status=status, **_objects(limits, policy))
    if not body:
        raise CliError("nothing to change: give --name, --status, --limits or --policy", EXIT_USAGE)
    with ApiClient(url, token) as client:
        answer = client.put(_path(tenant_id), body)
    _done(answer, f"changed tenant {tenant_id}", output)


def _path(tenant_id: str) -> str:
    return f"/tenants/{quote(tenant_id, safe='')}"


def _objects(limits: str | None, policy: str | None) -> dict[str, dict[str, Any] | None]:
    given = {"limits": limits, "policy": policy}
    return {
        name: None if text is None else parse_json_object(text, f"--{name}") for name, text in given.items()
    }


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _print(answer: dict[str, Any], rows: list[dict[str, Any]], output: Output) -> None:
    if output is Output.JSON:
        print_json(answer)
    else:
        print_rows(rows, COLUMNS)


def _done(answer: dict[str, Any], said: str, output: Output) -> None:
    if output is Output.JSON:
        print_json(answer)
    else:
        note(said)
