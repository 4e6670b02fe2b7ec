"""The commands on agents: what is registered, what it can do, and what became of calls to it."""

import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from api.cli.client import ApiClient, duration
from api.cli.exits import EXIT_NOT_FOUND, EXIT_USAGE, CliError
from api.cli.options import Form, Token, Url
from api.cli.output import Output, cell, note, print_json, print_line, print_rows

COLUMNS = ("id", "name", "status", "protocols", "skills", "last_heartbeat", "uri")
FIELDS = ("id", "name", "description", "version", "uri", "status", "autonomy", "protocols", "tools_provided",
          "tools_consumed", "auth", "labels", "found_at", "registered_at", "updated_at",
          "last_heartbeat")  # fmt: skip
"""What a page shows above the skills; ``--output json`` has the rest."""
SKILL_COLUMNS = ("id", "name", "description")
TRACE_COLUMNS = ("timestamp", "direction", "event_type", "summary", "execution_id", "node_id")

_STDIN = Path("-")
_SKILLS_SHOWN = 3
"""In a row of a list: a card may have hundreds."""
_NO_IDS = ("", ".", "..", "search", "discover")
"""What no agent is called: as part of a path they name something else."""

app = typer.Typer(
    no_args_is_help=True,
    help="Register agents, find them by what they can do, and look at calls to and from them.",
)

AgentId = Annotated[str, typer.Argument(metavar="ID", help="The agent's id.")]
Limit = Annotated[int, typer.Option(help="How many at most.", min=1)]
Offset = Annotated[int, typer.Option(help="How many to leave out first.", min=0)]


class Status(StrEnum):
    """The state of an agent; workflows call those that are registered or active."""

    REGISTERED = "registered"
    ACTIVE = "active"
    PAUSED = "paused"
    DEACTIVATED = "deactivated"
    ARCHIVED = "archived"


class Protocol(StrEnum):
    """What an agent may speak."""

    MCP = "mcp"
    A2A = "a2a"
    ANP = "anp"


@app.command("list")
def list_agents(
    status: Annotated[
        Status | None, typer.Option(help="Only those of this status.", show_default="all but archived")
    ] = None,
    skill: Annotated[str | None, typer.Option(help="Only those with this skill, an id or a name.")] = None,
    protocol: Annotated[Protocol | None, typer.Option(help="Only those that speak this protocol.")] = None,
    limit: Limit = 50,
    offset: Offset = 0,
    url: Url = None,
    token: Token = None,
    output: Form = Output.TABLE,
) -> None:
    """List agents with their status, their skills and when each was last heard of."""
    with ApiClient(url, token) as client:
        answer = client.get(
            "/agents", status=status, skill=skill, protocol=protocol, limit=limit, offset=offset
        )
    _print_list(answer, offset, output)


@app.command("search")
def search(
    skills: Annotated[str, typer.Option(help="Ids or names with commas between.", metavar="A,B")],
    trust_domain: Annotated[str | None, typer.Option(help="Only agents of this trust domain.")] = None,
    limit: Limit = 50,
    offset: Offset = 0,
    url: Url = None,
    token: Token = None,
    output: Form = Output.TABLE,
) -> None:
    """Find the agents that have all of the given skills."""
    wanted = ",".join(name.strip() for name in skills.split(",") if name.strip())
    if not wanted:
        raise CliError("--skills names no skill: give ids or names with commas between", EXIT_USAGE)
    with ApiClient(url, token) as client:
        answer = client.get(
            "/agents/search", skills=wanted, trust_domain=trust_domain, limit=limit, offset=offset
        )
    _print_list(answer, offset, output)


@app.command("inspect")
def inspect(agent_id: AgentId, url: Url = None, token: Token = None, output: Form = Output.TABLE) -> None:
    """Show one agent: where it is, what state it is in, and what it can do."""
    with ApiClient(url, token) as client:
        agent = client.get(_path(agent_id))
    _print_agent(agent, output)


@app.command("register")
def register(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The agent's card, JSON or YAML; - is standard input.")
    ],
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="Take this card in place of another of the same agent (?replace=true)."
        ),
    ] = False,
    url: Url = None,
    token: Token = None,
    output: Form = Output.TABLE,
) -> None:
    """Register an agent by its card, a file that says who it is, where, and what it can do."""
    card = _card(file)
    with ApiClient(url, token) as client:
        answer = client.post(f"/agents{'?replace=true' if replace else ''}", card)
    _done(answer, "registered", output)


@app.command("discover")
def discover(
    address: Annotated[str, typer.Argument(metavar="URL", help="Where the agent answers.")],
    url: Url = None,
    token: Token = None,
    output: Form = Output.TABLE,
) -> None:
    """Have the server fetch an agent's card from a URL, register the agent, and show it."""
    with ApiClient(url, token) as client:
        agent = client.post("/agents/discover", {"url": address})
    if output is Output.TABLE:
        note(f"registered {cell(agent['agent_id'])}")
    _print_agent(agent, output)


@app.command("activate")
def activate(agent_id: AgentId, url: Url = None, token: Token = None, output: Form = Output.TABLE) -> None:
    """Activate an agent: it is shown as ready, and where it was deactivated, may be called again."""
    with ApiClient(url, token) as client:
        answer = client.post(_path(agent_id, "/activate"))
    _done(answer, "activated", output)


@app.command("deactivate")
def deactivate(agent_id: AgentId, url: Url = None, token: Token = None, output: Form = Output.TABLE) -> None:
    """Deactivate an agent: workflows cannot call it by its id until it is activated again."""
    with ApiClient(url, token) as client:
        answer = client.post(_path(agent_id, "/deactivate"))
    _done(answer, "deactivated", output)


@app.command("archive")
def archive(agent_id: AgentId, url: Url = None, token: Token = None, output: Form = Output.TABLE) -> None:
    """Archive a deactivated agent for good: it keeps its id, and cannot be activated again."""
    with ApiClient(url, token) as client:
        answer = client.delete(_path(agent_id))
    _done(answer, "archived", output)


@app.command("trace")
def trace(
    agent_id: AgentId,
    limit: Limit = 20,
    url: Url = None,
    token: Token = None,
    output: Form = Output.TABLE,
) -> None:
    """Show the last calls to an agent (in) and from it (out), the newest first."""
    with ApiClient(url, token) as client:
        answer = client.get(_path(agent_id, "/trace"), limit=limit)
    if output is Output.JSON:
        print_json(answer)
    else:
        print_rows(answer["events"], TRACE_COLUMNS)


def _path(agent_id: str, below: str = "") -> str:
    if agent_id in _NO_IDS:
        raise CliError(f"there is no agent {agent_id!r}: see `jamjet agents list`", EXIT_NOT_FOUND)
    return f"/agents/{quote(agent_id, safe='')}{below}"


def _card(file: Path) -> dict[str, Any]:
    where = "standard input" if file == _STDIN else str(file)
    try:
        data = sys.stdin.buffer.read() if file == _STDIN else file.read_bytes()
    except OSError as error:
        raise CliError(f"{where} cannot be read: {error.strerror}", EXIT_USAGE) from None
    value = _value(data, file.suffix, where)
    if not isinstance(value, dict):
        raise CliError(f"{where} must hold an object with an id or a name", EXIT_USAGE)
    return value


def _value(data: bytes, suffix: str, where: str) -> Any:
    """Read JSON or YAML by the suffix; where that says nothing, JSON is what begins as its objects do.

    Not all as YAML: it would read the number 1e3 as a text, and refuse half of the escapes.
    """
    from runtime import jsonvalue
    from runtime.errors import InvalidWorkflow
    from runtime.ir.yaml_text import load

    is_yaml = suffix in (".yaml", ".yml")
    if suffix == ".json" or (not is_yaml and data.lstrip().startswith(b"{")):
        return jsonvalue.parse(data, what=where)
    try:
        value = load(data.decode())
    except UnicodeDecodeError as error:
        raise CliError(f"{where} cannot be read: {error}", EXIT_USAGE) from None
    except InvalidWorkflow as error:
        raise CliError(f"{where}: {error.detail}", EXIT_USAGE) from None
    jsonvalue.encode(value, what=where)  # YAML has values that JSON has not, such as .nan
    return value


def _print_list(answer: dict[str, Any], offset: int, output: Output) -> None:
    if output is Output.JSON:
        print_json(answer)
        return
    print_rows(map(_row, answer["agents"]), COLUMNS)
    left = answer.get("total", 0) - offset - len(answer["agents"])
    if left > 0:
        note(f"{left} more: use --limit and --offset")


def _print_agent(agent: dict[str, Any], output: Output) -> None:
    if output is Output.JSON:
        print_json(agent)
        return
    told = _told(agent)
    shown = [name for name in FIELDS if told.get(name) not in (None, "", [], {})]
    print_rows([{"field": name, "value": told[name]} for name in shown], ("field", "value"))
    print_line("\nskills")
    print_rows(_capabilities(agent).get("skills", []), SKILL_COLUMNS)


def _row(agent: dict[str, Any]) -> dict[str, Any]:
    """An agent in a list: skills by what a call names, the first of many."""
    names = [skill.get("id") or skill.get("name") for skill in _capabilities(agent).get("skills", [])]
    more = len(names) - _SKILLS_SHOWN
    shown = names if more <= 0 else [*names[:_SKILLS_SHOWN], f"{more} more"]
    return {**_told(agent), "skills": _joined(shown)}


def _told(agent: dict[str, Any]) -> dict[str, Any]:
    """An agent's fields as a person reads them."""
    lists = ("protocols", "tools_provided", "tools_consumed")
    stale = ", stale" if agent.get("stale") else ""
    return {
        **agent,
        **{name: _joined(_capabilities(agent).get(name, [])) for name in lists},
        "id": agent.get("agent_id"),
        "status": f"{agent.get('status')}{stale}",
        "last_heartbeat": _age(agent.get("last_heartbeat")),
    }


def _capabilities(agent: dict[str, Any]) -> dict[str, Any]:
    return agent.get("capabilities") or {}


def _joined(names: list[Any]) -> str | None:
    return ", ".join(map(str, names)) or None


def _age(time: str | None) -> str:
    """How long ago a time was. Clocks differ: what lies ahead of ours was just now."""
    if time is None:
        return "never"
    passed = datetime.now(UTC) - datetime.fromisoformat(time)
    return f"{duration(str(max(0, int(passed.total_seconds()))))} ago"


def _done(answer: dict[str, Any], what: str, output: Output) -> None:
    if output is Output.JSON:
        print_json(answer)
    else:
        note(f"{what} {cell(answer['agent_id'])}")
