"""The tools that every caller has: what each takes, and the request of the REST API that it makes.

Nothing here needs the MCP library, so that it costs nothing where nobody asks for MCP.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from api.idempotency import KEY_LENGTH_MAX
from api.requests import WAIT_S_MAX
from runtime.store.port import STATUSES

WAIT_S = 30
EVENTS_SHOWN = 500
"""Unless a call says otherwise: REST's own default would fill a model's context."""

Given = dict[str, Any]
"""The arguments of a call, as its schema wants them."""


class Ask(NamedTuple):
    """A request of the REST API."""

    method: str
    path: str
    """With its query."""
    body: dict[str, Any] | None = None
    headers: dict[str, str] | None = None
    wait_s: int | None = None
    """Of a start: how long its end is waited for."""


@dataclass(frozen=True)
class Tool:
    """One tool.

    ``hints`` are the annotations ``readOnlyHint``, ``destructiveHint``, ``idempotentHint`` and
    ``openWorldHint``. ``workflow_id``: the workflow that the tool stands for, if it does.
    """

    name: str
    title: str
    description: str
    input_schema: dict[str, Any]
    hints: dict[str, bool]
    ask: Callable[[Given], Ask]
    workflow_id: str | None = None


def hints(
    *, reads: bool = False, destroys: bool = False, repeats: bool = False, open_world: bool = False
) -> dict[str, bool]:
    """Annotations. ``repeats``: a second call with the same arguments changes nothing more."""
    return {
        "readOnlyHint": reads,
        "destructiveHint": destroys,
        "idempotentHint": repeats,
        "openWorldHint": open_world,
    }


READS = hints(reads=True, repeats=True)
STARTS = hints(destroys=True, open_world=True)
"""What a workflow does is its own affair, so a client should ask before it starts one."""


def start(workflow_id: str, version: str | None, input: Any, wait_s: int, key: str | None = None) -> Ask:
    """Start a workflow, and wait for its end or a pause."""
    body = {"workflow_id": workflow_id, "workflow_version": version, "input": input}
    headers = {"Prefer": f"wait={wait_s}"}
    if key is not None:
        headers["Idempotency-Key"] = key
    return Ask("POST", "/executions", body, headers, wait_s)


def _run(given: Given) -> Ask:
    return start(
        given["workflow_id"],
        given.get("workflow_version"),
        given.get("input", {}),
        int(given.get("wait_seconds", WAIT_S)),
        given.get("idempotency_key"),
    )


def _execution(given: Given, rest: str = "") -> str:
    return f"/executions/{quote(given['execution_id'], safe='')}{rest}"


def _approve(given: Given) -> Ask:
    body = {name: value for name, value in given.items() if name != "execution_id"}
    return Ask("POST", _execution(given, "/approve"), body)


def _events(given: Given) -> Ask:
    return Ask(
        "GET", _query(_execution(given, "/events"), {"limit": EVENTS_SHOWN, **given}, "after", "limit")
    )


def _query(path: str, given: Given, *names: str) -> str:
    """The path with these of the arguments as its query."""
    # In JSON Schema 2.0 is an integer too, but no query says it so.
    shown = {name: int(value) if isinstance(value, float) else value for name, value in given.items()}
    query = urlencode({name: shown[name] for name in names if name in shown})
    return f"{path}?{query}" if query else path


def _schema(required: tuple[str, ...], **properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _text(description: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "description": description, **more}


def _number(description: str, least: int, most: int, **more: Any) -> dict[str, Any]:
    return {"type": "integer", "description": description, "minimum": least, "maximum": most, **more}


def _object(description: str) -> dict[str, Any]:
    return {"type": "object", "description": description}


_EXECUTION_ID = _text("The id of the execution, as in exec_0193f0…", minLength=1, maxLength=100)
_PAGE = {
    "limit": _number("At most so many.", 1, 500, default=50),
    "offset": _number("How many to leave out, for the next page.", 0, 2**31, default=0),
}

_ALL = (
    Tool(
        "jamjet_run_workflow",
        "Run a workflow",
        "Start an execution of a registered workflow and wait until it ends or pauses, or until wait_seconds"
        " are over. The answer is the execution: its status, its state and, once completed, its output. It"
        " goes on by itself after the wait: ask for it with jamjet_get_execution. With status paused,"
        " waiting_on says what it waits for. Send an idempotency_key if you may have to repeat the call: the"
        " same key never starts a second execution.",
        _schema(
            ("workflow_id",),
            workflow_id=_text("The id of the workflow.", minLength=1),
            workflow_version=_text("The version to run; the latest one if left out.", minLength=1),
            input=_object("The initial state of the workflow."),
            wait_seconds=_number(
                "How long to wait for the end; 0: not at all.", 0, int(WAIT_S_MAX), default=WAIT_S
            ),
            idempotency_key=_text(
                "Any text that names this one start, printable ASCII.",
                minLength=1,
                maxLength=KEY_LENGTH_MAX,
            ),
        ),
        STARTS,
        _run,
    ),
    Tool(
        "jamjet_get_execution",
        "Get an execution",
        "Read one execution as it stands now: its status, its state, its output once it is completed, its"
        " error if it failed, and in waiting_on what keeps it from going on.",
        _schema(("execution_id",), execution_id=_EXECUTION_ID),
        READS,
        lambda given: Ask("GET", _execution(given)),
    ),
    Tool(
        "jamjet_list_executions",
        "List executions",
        "List executions, the newest first, without their states. Total says how many there are.",
        _schema(
            (),
            status=_text("Only executions with this status.", enum=list(STATUSES)),
            workflow_id=_text("Only executions of this workflow.", minLength=1),
            **_PAGE,
        ),
        READS,
        lambda given: Ask("GET", _query("/executions", given, "status", "workflow_id", "limit", "offset")),
    ),
    Tool(
        "jamjet_cancel_execution",
        "Cancel an execution",
        "Cancel an execution for good: nothing more of it is started, and what is running is given up. One"
        " that has ended cannot be cancelled.",
        _schema(("execution_id",), execution_id=_EXECUTION_ID),
        hints(destroys=True, repeats=True),
        lambda given: Ask("POST", _execution(given, "/cancel")),
    ),
    Tool(
        "jamjet_get_events",
        "Get the events of an execution",
        "Read the log of an execution, in order: each node's start, end, failure and retry, each wait and"
        " each decision. For what comes next, ask again with after set to the last sequence that you saw.",
        _schema(
            ("execution_id",),
            execution_id=_EXECUTION_ID,
            after=_number("Only events with a greater sequence.", 0, 2**31, default=0),
            limit=_number("At most so many.", 1, 10_000, default=EVENTS_SHOWN),
        ),
        READS,
        _events,
    ),
    Tool(
        "jamjet_approve",
        "Decide an approval",
        "Approve or reject what a paused execution waits for. Decide only what a person has told you to:"
        " the decision is final, and the execution goes on with it at once. If several nodes wait, name one"
        " with node_id; waiting_on of jamjet_get_execution lists them.",
        _schema(
            ("execution_id", "decision"),
            execution_id=_EXECUTION_ID,
            decision=_text("The decision.", enum=["approved", "rejected"]),
            node_id=_text("The node that waits; may be left out if only one does.", minLength=1),
            comment=_text("Why; it is kept with the decision."),
            user_id=_text("The person who decided; the token's name if left out."),
            state_patch=_object("Values to set in the execution's state with the decision."),
        ),
        hints(destroys=True, open_world=True),
        _approve,
    ),
    Tool(
        "jamjet_list_agents",
        "List agents",
        "List the registered agents with their skills, protocols and addresses.",
        _schema(
            (),
            status=_text("Only agents with this status.", minLength=1),
            skill=_text("Only agents with this skill.", minLength=1),
            protocol=_text("Only agents that speak this protocol, as in a2a or mcp.", minLength=1),
            **_PAGE,
        ),
        READS,
        lambda given: Ask("GET", _query("/agents", given, "status", "skill", "protocol", "limit", "offset")),
    ),
    Tool(
        "jamjet_discover_agent",
        "Discover an agent",
        "Fetch the Agent Card of an agent at a URL and register the agent, so that workflows can use it.",
        _schema(("url",), url=_text("The address of the agent or of its Agent Card.", minLength=1)),
        hints(repeats=True, open_world=True),
        lambda given: Ask("POST", "/agents/discover", {"url": given["url"]}),
    ),
)
TOOLS = {tool.name: tool for tool in _ALL}
"""By name."""
