"""Following one execution live: each event as it comes, until the last.

The server's event stream is followed, and where there is none, its long poll.
"""

import time
from collections.abc import Iterator
from typing import Any

from api.cli.client import ApiClient
from api.cli.event_stream import LAST_KINDS, EventStream, OnToken, TimedOut
from api.cli.output import cell, note

_LONG_POLL_S = 20
_ANSWER_SLACK_S = 10.0
_PAUSE_S = 0.5
"""Between two polls of a server that answers at once with nothing new."""

_SHOWN = ("error", "decision", "user_id", "comment", "correlation_key", "delay_ms", "reason", "description",
          "rule")  # fmt: skip
"""What of an event's data belongs in its one line."""


def follow(
    client: ApiClient,
    execution_id: str,
    *,
    after: int = 0,
    timeout_s: float | None = None,
    on_token: OnToken | None = None,
) -> Iterator[dict[str, Any]]:
    """Each event with a sequence over ``after``, as it comes; ends with the execution.

    Args:
        on_token: given what models say meanwhile, by a server that tells.

    Raises:
        TimedOut: ``timeout_s`` passed first.
        CliError: the server cannot be reached, or knows no such execution.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    stream = EventStream(client, execution_id, after=after, deadline=deadline, on_token=on_token)
    yield from stream.events()
    if not stream.ended:
        yield from _polled(client, execution_id, stream.after, deadline)


def _polled(
    client: ApiClient, execution_id: str, after: int, deadline: float | None
) -> Iterator[dict[str, Any]]:
    while True:
        wait_s = _LONG_POLL_S if deadline is None else min(_LONG_POLL_S, deadline - time.monotonic())
        if wait_s < 0:
            raise TimedOut
        asked = time.monotonic()
        answer = client.get(
            f"/executions/{execution_id}/events",
            after=after,
            wait=max(1, round(wait_s)),
            timeout_s=_LONG_POLL_S + _ANSWER_SLACK_S,
        )
        for event in answer["events"]:
            after = event["sequence"]
            yield event
            if event["kind"] in LAST_KINDS:
                return
        if not answer["events"] and time.monotonic() - asked < _PAUSE_S:
            time.sleep(_PAUSE_S)


def describe(event: dict[str, Any]) -> str:
    """One event in one line: when, which, what, where, and what it says."""
    when = str(event.get("created_at", ""))[11:23]
    data = {**event, **(event.get("data") or {})}
    said = " ".join(f"{name}={cell(data[name])}" for name in _SHOWN if data.get(name) not in (None, ""))
    node_id = event.get("node_id") or "-"
    return f"{when}  {event['sequence']:>4}  {event['kind']:<22} {node_id:<20} {said}".rstrip()


def show(event: dict[str, Any], execution_id: str) -> None:
    """Tell the person at the terminal of one event, and what it asks of them."""
    note(describe(event))
    if event["kind"] in ("InterruptRaised", "ToolApprovalRequired"):
        note(how_to_continue(event, execution_id))


def how_to_continue(event: dict[str, Any], execution_id: str) -> str:
    """The command that answers a wait, ready to be copied."""
    data = {**event, **(event.get("data") or {})}
    if data.get("reason") == "approval" or event["kind"] == "ToolApprovalRequired":
        return (
            f"waiting for a decision: jamjet approve {execution_id}"
            f" --node {data.get('node_id')} --decision approved   (or rejected)"
        )
    key = data.get("correlation_key") or "KEY"
    return f"waiting for an event: jamjet resume {execution_id} --event {key} --data '{{}}'"


def how_to_attach(execution_id: str) -> str:
    """The command that follows an execution again."""
    return f"it goes on without you; follow it again with: jamjet events {execution_id} --follow"
