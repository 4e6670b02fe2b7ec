"""The commands on executions: run, inspect, events, ls, cancel, approve, resume."""

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.client import ApiClient, parse_json, parse_json_object
from api.cli.event_stream import TimedOut
from api.cli.exits import EXIT_DETACHED, EXIT_FAILED, EXIT_OK, EXIT_TIMED_OUT, EXIT_USAGE, CliError
from api.cli.follow import describe, follow, how_to_attach, show
from api.cli.live_text import LiveText
from api.cli.options import ExecutionId, Form, Token, Url
from api.cli.output import Output, note, print_json, print_line, print_rows
from api.cli.workflows import definition_of, is_file_name


class Decision(StrEnum):
    """What a reviewer may decide."""

    APPROVED = "approved"
    REJECTED = "rejected"


class Isolation(StrEnum):
    """Where an execution lives: with others in one process, or in one of its own."""

    SHARED = "shared"
    DEDICATED = "dedicated"


def run(
    workflow: Annotated[
        str, typer.Argument(metavar="FILE_OR_ID", help="A workflow file, or a registered id.")
    ],
    input_text: Annotated[str | None, typer.Option("--input", "-i", help="The input, a JSON object.")] = None,
    input_file: Annotated[Path | None, typer.Option(help="A file with the input.", metavar="FILE")] = None,
    version: Annotated[str | None, typer.Option(help="The version of a registered workflow.")] = None,
    isolation: Annotated[Isolation | None, typer.Option(help="Its process: shared or its own.")] = None,
    queue: Annotated[
        bool, typer.Option("--queue", help="Wait for a slot where the tenant runs as many as it may.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow it to its end.")] = True,
    stream: Annotated[bool, typer.Option("--stream", help="Show what models say, as they say it.")] = False,
    timeout_s: Annotated[
        float | None, typer.Option("--timeout", help="Follow at most so many seconds.", metavar="S", min=0)
    ] = None,
    url: Url = None,
    token: Token = None,
    output: Form = Output.TABLE,
) -> None:
    """Start an execution and follow it to its end.

    Events, and with --stream the models' words, go to stderr; the final state goes
    to stdout as JSON (with --output json the whole execution). Ctrl-C stops
    following, not the execution.
    """
    if stream and not wait:
        raise CliError("give --stream or --no-wait, not both", EXIT_USAGE)
    given = _input(input_text, input_file)
    with ApiClient(url, token) as client:
        start = {**_target(client, workflow, version), "input": given}
        if isolation is not None:
            start["isolation"] = isolation.value
        if queue:
            start["queue"] = True
        execution_id = client.post("/executions", start)["execution_id"]
        if not wait:
            _print_id(execution_id, output)
            return
        note(f"started {execution_id}")
        execution = _follow_to_the_end(client, execution_id, after=0, timeout_s=timeout_s, live=stream)
    print_json(execution if output is Output.JSON else execution["state"])
    raise typer.Exit(_verdict(execution))


def inspect(
    execution_id: ExecutionId, url: Url = None, token: Token = None, output: Form = Output.TABLE
) -> None:
    """Show one execution: its status, its state and its events."""
    with ApiClient(url, token) as client:
        execution = client.get(f"/executions/{execution_id}")
        events = client.get(f"/executions/{execution_id}/events")["events"]
    if output is Output.JSON:
        print_json({**execution, "events": events})
        return
    told_below = ("state", "current_state", "output")
    facts = {
        name: value
        for name, value in execution.items()
        if name not in told_below and value not in (None, [], {})
    }
    print_rows([{"field": name, "value": value} for name, value in facts.items()], ("field", "value"))
    print_line("\nstate")
    print_json(execution.get("state"))
    print_line("\nevents")
    for event in events:
        print_line(describe(event))


def events(
    execution_id: ExecutionId,
    following: Annotated[bool, typer.Option("--follow", "-f", help="Go on until its end.")] = False,
    after: Annotated[int, typer.Option(help="Only those after this sequence.", min=0)] = 0,
    timeout_s: Annotated[
        float | None, typer.Option("--timeout", help="Follow at most so many seconds.", metavar="S", min=0)
    ] = None,
    url: Url = None,
    token: Token = None,
    output: Form = Output.TABLE,
) -> None:
    """Show the events of an execution, in order."""
    with ApiClient(url, token) as client:
        if following:
            raise typer.Exit(
                _verdict(_follow_to_the_end(client, execution_id, after=after, timeout_s=timeout_s))
            )
        found = client.get(f"/executions/{execution_id}/events", after=after or None)["events"]
    if output is Output.JSON:
        print_json({"events": found})
        return
    for event in found:
        print_line(describe(event))


def ls(
    status: Annotated[str | None, typer.Option(help="Only those of this status.")] = None,
    workflow: Annotated[str | None, typer.Option(help="Only those of this workflow.")] = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1)] = 50,
    offset: Annotated[int, typer.Option(help="How many to leave out first.", min=0)] = 0,
    url: Url = None,
    token: Token = None,
    output: Form = Output.TABLE,
) -> None:
    """List executions, newest first."""
    with ApiClient(url, token) as client:
        answer = client.get("/executions", status=status, workflow_id=workflow, limit=limit, offset=offset)
    if output is Output.JSON:
        print_json(answer)
        return
    columns = ("execution_id", "workflow_id", "status", "created_at", "completed_at")
    print_rows(answer["executions"], columns)
    left = answer.get("total", 0) - offset - len(answer["executions"])
    if left > 0:
        note(f"{left} more: use --limit and --offset")


def cancel(
    execution_id: ExecutionId, url: Url = None, token: Token = None, output: Form = Output.TABLE
) -> None:
    """Cancel an execution."""
    with ApiClient(url, token) as client:
        _print_answer(client.post(f"/executions/{execution_id}/cancel"), output)


def approve(
    execution_id: ExecutionId,
    decision: Annotated[Decision, typer.Option(help="What you decide.")],
    node: Annotated[str | None, typer.Option(help="The node, where several wait.")] = None,
    comment: Annotated[str | None, typer.Option(help="Why.")] = None,
    patch: Annotated[str | None, typer.Option(help="A JSON object, merged into the state.")] = None,
    user: Annotated[str | None, typer.Option(help="Who decides.")] = None,
    url: Url = None,
    token: Token = None,
    output: Form = Output.TABLE,
) -> None:
    """Approve or reject what an execution waits for."""
    body: dict[str, Any] = {"decision": decision.value, "node_id": node, "comment": comment, "user_id": user}
    if patch is not None:
        body["state_patch"] = parse_json_object(patch, "--patch")
    given = {name: value for name, value in body.items() if value is not None}
    with ApiClient(url, token) as client:
        _print_answer(client.post(f"/executions/{execution_id}/approve", given), output)


def resume(
    execution_id: ExecutionId,
    event: Annotated[str, typer.Option(help="The correlation key that it waits for.", metavar="KEY")],
    data: Annotated[str, typer.Option(help="The event's payload, JSON.", metavar="JSON")] = "{}",
    url: Url = None,
    token: Token = None,
    output: Form = Output.TABLE,
) -> None:
    """Send an execution the event that it waits for."""
    body = {"correlation_key": event, "payload": parse_json(data, "--data")}
    with ApiClient(url, token) as client:
        _print_answer(client.post(f"/executions/{execution_id}/external-event", body), output)


def _input(text: str | None, file: Path | None) -> dict[str, Any]:
    if text is not None and file is not None:
        raise CliError("give --input or --input-file, not both", EXIT_USAGE)
    if file is None:
        return parse_json_object(text or "{}", "--input")
    try:
        return parse_json_object(file.read_text("utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"{file} cannot be read: {error}", EXIT_USAGE) from None


def _target(client: ApiClient, workflow: str, version: str | None) -> dict[str, Any]:
    """What to start: a file is registered first, an id is taken as it is."""
    if not is_file_name(workflow):
        return {"workflow_id": workflow, **({} if version is None else {"workflow_version": version})}
    if version is not None:
        raise CliError("--version goes with a registered id: a file names its own version", EXIT_USAGE)
    registered = client.post("/workflows", definition_of(Path(workflow)))
    note(f"registered {registered['workflow_id']} {registered['version']}")
    return {"workflow_id": registered["workflow_id"], "workflow_version": registered["version"]}


def _follow_to_the_end(
    client: ApiClient, execution_id: str, *, after: int, timeout_s: float | None, live: bool = False
) -> dict[str, Any]:
    """Show each event until the last, and return the ended execution; leave early with the right code."""
    text = LiveText()
    on_token = text.add if live else None
    try:
        for event in follow(client, execution_id, after=after, timeout_s=timeout_s, on_token=on_token):
            text.end_line()
            show(event, execution_id)
        return client.get(f"/executions/{execution_id}")
    except KeyboardInterrupt:
        note(f"\ndetached from {execution_id}: {how_to_attach(execution_id)}")
        raise typer.Exit(EXIT_DETACHED) from None
    except TimedOut:
        raise CliError(
            f"{execution_id} has not ended after {timeout_s:g} s: {how_to_attach(execution_id)}",
            EXIT_TIMED_OUT,
        ) from None
    finally:
        text.end_line()


def _verdict(execution: dict[str, Any]) -> int:
    """Say how an execution ended, and the exit code for it."""
    status = execution["status"]
    if status == "completed":
        note(f"{execution['execution_id']} completed")
        return EXIT_OK
    error = execution.get("error")
    note(
        f"{execution['execution_id']} {status}"
        + (f": {error}" if error else "")
        + f"; see: jamjet inspect {shlex.quote(execution['execution_id'])}"
    )
    return EXIT_FAILED


def _print_id(execution_id: str, output: Output) -> None:
    if output is Output.JSON:
        print_json({"execution_id": execution_id})
    else:
        print_line(execution_id)


def _print_answer(answer: dict[str, Any], output: Output) -> None:
    if output is Output.JSON:
        print_json(answer)
    else:
        print_rows([answer], tuple(answer))
