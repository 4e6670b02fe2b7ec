"""The commands on what works for an installation: workers and agents."""

from typing import Annotated, Any

import typer

from api.cli.client import DEFAULT_URL, ApiClient
from api.cli.options import Form, Token, Url
from api.cli.output import Output, print_json, print_rows

app = typer.Typer(no_args_is_help=True, help="List, inspect, discover and switch agents.")

AgentId = Annotated[str, typer.Argument(metavar="ID", help="The agent's id.")]


def workers(url: Url = DEFAULT_URL, token: Token = None, output: Form = Output.TABLE) -> None:
    """List the processes that run executions."""
    with ApiClient(url, token) as client:
        answer = client.get("/workers")
    if output is Output.JSON:
        print_json(answer)
    else:
        print_rows(
            answer["workers"], ("name", "pid", "status", "isolation", "live", "capacity", "last_heartbeat")
        )


@app.command("list")
def list_agents(
    status: Annotated[str | None, typer.Option(help="Only those of this status.")] = None,
    skill: Annotated[str | None, typer.Option(help="Only those with this skill.")] = None,
    protocol: Annotated[str | None, typer.Option(help="Only those that speak this protocol.")] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    output: Form = Output.TABLE,
) -> None:
    """List agents."""
    with ApiClient(url, token) as client:
        answer = client.get("/agents", status=status, skill=skill, protocol=protocol)
    if output is Output.JSON:
        print_json(answer)
    else:
        print_rows(answer["agents"], ("id", "name", "status", "uri"))


@app.command("inspect")
def inspect(agent_id: AgentId, url: Url = DEFAULT_URL, token: Token = None) -> None:
    """Show one agent with its card, as JSON."""
    with ApiClient(url, token) as client:
        print_json(client.get(f"/agents/{agent_id}"))


@app.command("activate")
def activate(
    agent_id: AgentId, url: Url = DEFAULT_URL, token: Token = None, output: Form = Output.TABLE
) -> None:
    """Let an agent take work."""
    with ApiClient(url, token) as client:
        _print_answer(client.post(f"/agents/{agent_id}/activate"), output)


@app.command("deactivate")
def deactivate(
    agent_id: AgentId, url: Url = DEFAULT_URL, token: Token = None, output: Form = Output.TABLE
) -> None:
    """Let an agent take no more work."""
    with ApiClient(url, token) as client:
        _print_answer(client.post(f"/agents/{agent_id}/deactivate"), output)


@app.command("discover")
def discover(
    agent_url: Annotated[str, typer.Argument(metavar="AGENT_URL", help="Where the agent serves its card.")],
    url: Url = DEFAULT_URL,
    token: Token = None,
    output: Form = Output.TABLE,
) -> None:
    """Register the agent that a URL answers for."""
    with ApiClient(url, token) as client:
        _print_answer(client.post("/agents/discover", {"url": agent_url}), output)


def _print_answer(answer: dict[str, Any], output: Output) -> None:
    if output is Output.JSON:
        print_json(answer)
    else:
        rows = [{"field": name, "value": value} for name, value in answer.items()]
        print_rows(rows, ("field", "value"))
