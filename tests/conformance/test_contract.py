"""The contract of the REST API, example by example.

The examples stand below word for word. An answer is *like* its example if it has every key of
it, each with a value of the same JSON type and the same format; it may have more keys. Where the
example's values can be produced, the values themselves are compared too.
"""

import json
import re
from typing import Any

import pytest

from tests.fixtures.api import Api, approval, event, eventually
from tests.fixtures.workflows import chain

# --- the examples -------------------------------------------------------------------------------

HEALTH = json.loads('{ "status": "ok", "version": "0.1.1" }')

WORKFLOW_REQUEST = json.loads("""
{
"ir": {
"workflow_id": "research-agent",
"version": "0.1.0",
"state_schema": {},
"nodes": {},
"edges": []
}
}""")
"""The contract leaves the three tables open: ``{ ... }`` and ``[ ... ]``. They are filled in below."""

WORKFLOW_ANSWER = json.loads("""
{
"workflow_id": "research-agent",
"version": "0.1.0"
}""")

START_REQUEST = json.loads("""
{
"workflow_id": "research-agent",
"workflow_version": "0.1.0",
"input": {
"query": "Latest AI agent frameworks?"
}
}""")

START_ANSWER = json.loads("""
{
"execution_id": "exec_a1b2c3d4"
}""")

LIST_ANSWER = json.loads("""
{
"executions": [
{
"execution_id": "exec_a1b2c3d4",
"workflow_id": "research-agent",
"status": "completed",
"created_at": "2026-03-12T10:00:00Z",
"completed_at": "2026-03-12T10:00:04Z"
}
]
}""")

EXECUTION_ANSWER = json.loads("""
{
"execution_id": "exec_a1b2c3d4",
"workflow_id": "research-agent",
"status": "completed",
"state": {
"query": "Latest AI agent frameworks?",
"answer": "..."
},
"steps_executed": 3,
"created_at": "2026-03-12T10:00:00Z",
"completed_at": "2026-03-12T10:00:04Z"
}""")

EVENTS_ANSWER = json.loads("""
{
"events": [
{
"sequence": 1,
"kind": "WorkflowStarted",
"node_id": null,
"created_at": "2026-03-12T10:00:00.000Z"
},
{
"sequence": 2,
"kind": "NodeCompleted",
"node_id": "search",
"created_at": "2026-03-12T10:00:00.200Z"
},
{
"sequence": 3,
"kind": "NodeCompleted",
"node_id": "synthesize",
"created_at": "2026-03-12T10:00:02.040Z"
}
]
}""")

CANCEL_ANSWER = json.loads("""
{
"execution_id": "exec_a1b2c3d4",
"status": "cancelled"
}""")

APPROVE_REQUEST = json.loads("""
{
"decision": "approved",
"node_id": "manager-review",
"user_id": "user-42",
"comment": "Looks good, proceed.",
"state_patch": {
"priority": "high"
}
}""")

APPROVE_ANSWER = json.loads("""
{
"execution_id": "exec_a1b2c3d4",
"accepted": true
}""")

EVENT_REQUEST = json.loads("""
{
"correlation_key": "payment-received",
"payload": {
"amount": 500,
"currency": "USD"
}
}""")

EVENT_ANSWER = json.loads("""
{
"execution_id": "exec_a1b2c3d4",
"accepted": true
}""")

ERRORS = {
    400: json.loads('{ "error": "bad request: ir.workflow_id is required" }'),
    401: json.loads('{ "error": "invalid or expired token" }'),
    403: json.loads('{ "error": "insufficient role — developer or operator required" }'),
    404: json.loads('{ "error": "not found: execution exec_abc123" }'),
    500: json.loads('{ "error": "internal error: ..." }'),
}

TENANT_REQUEST = json.loads("""
{
"id": "acme",
"name": "Acme Corp"
}""")

TENANT_ANSWER = json.loads("""
{
"tenant_id": "acme"
}""")

TENANT_CHANGE = json.loads("""
{
"name": "Acme Corporation",
"status": "active",
"policy": {},
"limits": {}
}""")
"""The contract leaves the last two open: ``{ ... }``."""

STATUSES = ("running", "paused", "completed", "failed", "cancelled")
KINDS = (
    "WorkflowStarted",
    "NodeScheduled",
    "NodeCompleted",
    "ApprovalReceived",
    "ExternalEventReceived",
    "WorkflowCancelled",
)
"""``ToolCallCompleted`` comes with the tool nodes."""

ROLES = {
    "operator": (True, True, True),
    "developer": (True, True, False),
    "reviewer": (True, False, False),
    "viewer": (True, False, False),
}
"""Who may read, write and manage."""

# --- what they are compared with ----------------------------------------------------------------

FORMATS = {
    "seconds": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"),
    "milliseconds": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"),
    "execution id": re.compile(r"exec_[0-9a-f]+"),
}
"""A time to the second may be told to the millisecond."""


def assert_like(example: Any, answer: Any, place: str = "the answer") -> None:
    """Every key of the example is there, with the same JSON type and format."""
    assert type(answer) is type(example), f"{place}: {answer!r} is not of the type of {example!r}"
    if isinstance(example, dict):
        assert example.keys() <= answer.keys(), f"{place} lacks {example.keys() - answer.keys()}"
        for key, value in example.items():
            assert_like(value, answer[key], f"{place}.{key}")
    elif isinstance(example, list):
        assert answer, f"{place} is empty"
        for index, item in enumerate(answer):
            assert_like(example[0], item, f"{place}[{index}]")
    elif isinstance(example, str):
        for name in ("milliseconds", "seconds", "execution id"):
            if FORMATS[name].fullmatch(example):
                assert FORMATS[name].fullmatch(answer), f"{place}: {answer!r} is not written as {example!r}"
                return


RESEARCH = chain(
    "research-agent",
    plan={"kind": {"type": "parallel"}},
    search={"kind": {"type": "model", "model": "scripted/x", "prompt": "{{ state.query }}"}},
    synthesize={
        "kind": {"type": "model", "model": "scripted/x", "prompt": "...", "output_key": "answer"},
    },
)
REVIEW = chain("review", **{"manager-review": approval()})
PAYMENT = chain("payment", paid=event("payment-received"))


def registration() -> dict[str, Any]:
    """The contract's request with its open tables filled in."""
    ir = WORKFLOW_REQUEST["ir"] | {key: RESEARCH[key] for key in ("nodes", "edges")}
    return {"ir": ir | {"state_schema": {"query": "str", "answer": "str"}}}


async def researched(api: Api) -> dict[str, Any]:
    """The example's execution, completed."""
    assert (await api.post("/workflows", registration())).status_code == 201
    answer = await api.post("/executions", START_REQUEST)
    return await api.settled(answer.json()["execution_id"])


# --- health, workflows, executions --------------------------------------------------------------


async def test_health_needs_no_authentication(bare_api: Api) -> None:
    answer = await bare_api.get("/health", role=None)
    assert answer.status_code == 200
    assert answer.json().keys() == HEALTH.keys()
    assert_like(HEALTH, answer.json())
    assert answer.json()["status"] == "ok"


async def test_registering_a_workflow(bare_api: Api) -> None:
    answer = await bare_api.post("/workflows", registration())
    assert (answer.status_code, answer.json()) == (201, WORKFLOW_ANSWER)


async def test_starting_an_execution(bare_api: Api) -> None:
    await bare_api.post("/workflows", registration())
    answer = await bare_api.post("/executions", START_REQUEST)
    assert answer.status_code == 201
    assert answer.json().keys() == START_ANSWER.keys()
    assert_like(START_ANSWER, answer.json())


async def test_the_version_is_optional_and_defaults_to_the_latest_registered(bare_api: Api) -> None:
    body = registration()
    for version in ("0.2.0", "0.1.0"):
        await bare_api.post("/workflows", {"ir": body["ir"] | {"version": version}})
    request = {key: value for key, value in START_REQUEST.items() if key != "workflow_version"}
    answer = await bare_api.post("/executions", request)
    shown = await bare_api.settled(answer.json()["execution_id"])
    assert shown["workflow_version"] == "0.1.0"


async def test_listing_executions(bare_api: Api) -> None:
    await researched(bare_api)
    answer = await bare_api.get("/executions")
    assert answer.status_code == 200
    assert_like(LIST_ANSWER, answer.json())
    [shown] = answer.json()["executions"]
    assert (shown["workflow_id"], shown["status"]) == ("research-agent", "completed")


@pytest.mark.parametrize("status", STATUSES)
async def test_the_list_can_be_filtered_by_every_status(bare_api: Api, status: str) -> None:
    await researched(bare_api)
    answer = (await bare_api.get(f"/executions?status={status}")).json()
    assert len(answer["executions"]) == (1 if status == "completed" else 0)


async def test_the_list_has_the_defaults_of_the_contract(bare_api: Api) -> None:
    answer = (await bare_api.get("/executions")).json()
    assert (answer["executions"], answer["limit"], answer["offset"]) == ([], 50, 0)


async def test_reading_an_execution(bare_api: Api) -> None:
    shown = await researched(bare_api)
    assert_like(EXECUTION_ANSWER, shown)
    for key in ("workflow_id", "status", "steps_executed"):
        assert shown[key] == EXECUTION_ANSWER[key]
    assert shown["state"].items() >= EXECUTION_ANSWER["state"].items()
    assert shown["created_at"] <= shown["completed_at"]


async def test_an_execution_without_an_end_has_no_completion_time(bare_api: Api) -> None:
    await bare_api.register(PAYMENT)
    assert (await bare_api.settled(await bare_api.start("payment")))["completed_at"] is None


async def test_reading_events(bare_api: Api) -> None:
    shown = await researched(bare_api)
    events = await bare_api.events(shown["execution_id"])
    assert_like(EVENTS_ANSWER["events"][0], events[0], "the first event")
    assert (events[0]["sequence"], events[0]["kind"]) == (1, "WorkflowStarted")
    for example in EVENTS_ANSWER["events"][1:]:
        [found] = [e for e in events if (e["kind"], e["node_id"]) == (example["kind"], example["node_id"])]
        assert_like(example, found, example["node_id"])
    assert [found["sequence"] for found in events] == list(range(1, len(events) + 1))


async def test_every_kind_of_event_has_the_contracts_name(bare_api: Api) -> None:
    await bare_api.register(chain("all", gate=approval(), paid=event("k"), forever=event("never")))
    execution_id = await bare_api.paused("all")
    path = f"/executions/{execution_id}"
    await bare_api.post(f"{path}/approve", {"decision": "approved"})
    await bare_api.post(f"{path}/external-event", {"correlation_key": "k", "payload": {}})
    await bare_api.post(f"{path}/cancel")
    assert set(await bare_api.kinds(execution_id)) >= set(KINDS)


async def test_cancelling(bare_api: Api) -> None:
    await bare_api.register(PAYMENT)
    execution_id = await bare_api.start("payment")
    answer = await bare_api.post(f"/executions/{execution_id}/cancel")
    assert (answer.status_code, answer.json()) == (200, {**CANCEL_ANSWER, "execution_id": execution_id})


@pytest.mark.parametrize("given", [APPROVE_REQUEST, {"decision": "approved"}, {"decision": "rejected"}])
async def test_approving(bare_api: Api, given: dict[str, Any]) -> None:
    await bare_api.register(REVIEW)
    execution_id = await bare_api.paused("review")
    answer = await bare_api.post(f"/executions/{execution_id}/approve", given)
    assert answer.status_code == 200
    assert answer.json().items() >= {**APPROVE_ANSWER, "execution_id": execution_id}.items()
    shown = await bare_api.settled(execution_id)
    assert shown["state"].get("priority") == given.get("state_patch", {}).get("priority")


async def test_sending_an_external_event_wakes_a_paused_execution(bare_api: Api) -> None:
    await bare_api.register(PAYMENT)
    execution_id = await bare_api.paused("payment")
    answer = await bare_api.post(f"/executions/{execution_id}/external-event", EVENT_REQUEST)
    assert (answer.status_code, answer.json()) == (200, {**EVENT_ANSWER, "execution_id": execution_id})
    shown = await bare_api.settled(execution_id)
    assert (shown["status"], shown["state"]) == ("completed", EVENT_REQUEST["payload"])


async def test_listing_workers(bare_api: Api) -> None:
    async def living() -> Any:
        answer = await bare_api.get("/workers")
        assert answer.status_code == 200
        return answer.json()["workers"]

    [worker] = await eventually(living)
    assert worker["status"] == "active"


# --- tenants ------------------------------------------------------------------------------------


async def test_creating_a_tenant(bare_api: Api) -> None:
    request = TENANT_REQUEST | {"id": "globex"}  # There is an acme already.
    answer = await bare_api.post("/tenants", request, role="operator")
    assert (answer.status_code, answer.json()) == (201, TENANT_ANSWER | {"tenant_id": "globex"})


async def test_reading_tenants(bare_api: Api) -> None:
    listed = (await bare_api.get("/tenants", role="operator")).json()["tenants"]
    shown = (await bare_api.get("/tenants/acme", role="operator")).json()
    assert shown.pop("usage")["executions"] == 0
    assert shown in listed
    assert shown.items() >= TENANT_REQUEST.items()


@pytest.mark.parametrize(
    "fields", [("name", "status", "policy", "limits"), *((key,) for key in TENANT_CHANGE), ()]
)
async def test_every_field_of_a_change_is_optional(bare_api: Api, fields: tuple[str, ...]) -> None:
    request = {name: TENANT_CHANGE[name] for name in fields}
    answer = await bare_api.ask("PUT", "/tenants/acme", role="operator", json=request)
    assert (answer.status_code, answer.json()["tenant_id"]) == (200, "acme")
    assert (await bare_api.get("/tenants/acme", role="operator")).json().items() >= request.items()


# --- roles --------------------------------------------------------------------------------------

READS = ("/executions", "/workflows", "/workers")
WRITES = (
    "/workflows",
    "/executions",
    "/executions/exec_abc123/cancel",
    "/executions/exec_abc123/approve",
    "/executions/exec_abc123/external-event",
)
MANAGES = ("/tokens", "/tenants", "/tenants/default")


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_may_do_what_its_row_says(bare_api: Api, role: str) -> None:
    reads, writes, manages = ROLES[role]
    for path in READS:
        assert ((await bare_api.get(path, role=role)).status_code == 200) == reads, path
    for path in WRITES:
        assert ((await bare_api.post(path, {}, role=role)).status_code != 403) == writes, path
    for path in MANAGES:
        assert ((await bare_api.get(path, role=role)).status_code == 200) == manages, path


# --- errors -------------------------------------------------------------------------------------


async def test_400_has_the_contracts_words(bare_api: Api) -> None:
    ir = {key: value for key, value in registration()["ir"].items() if key != "workflow_id"}
    answer = await bare_api.post("/workflows", {"ir": ir})
    assert (answer.status_code, answer.json()["error"]) == (400, ERRORS[400]["error"])


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer no-token-of-ours"}])
async def test_401_has_the_contracts_words(bare_api: Api, headers: dict[str, str]) -> None:
    answer = await bare_api.get("/executions", role=None, headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (401, ERRORS[401]["error"])


@pytest.mark.parametrize("path", WRITES)
async def test_403_has_the_contracts_words(bare_api: Api, path: str) -> None:
    answer = await bare_api.post(path, {}, role="reviewer")
    assert (answer.status_code, answer.json()["error"]) == (403, ERRORS[403]["error"])


@pytest.mark.parametrize("path", ["", "/events"])
async def test_404_has_the_contracts_words(bare_api: Api, path: str) -> None:
    answer = await bare_api.get(f"/executions/exec_abc123{path}")
    assert (answer.status_code, answer.json()["error"]) == (404, ERRORS[404]["error"])


class Broken:
    """Executions with a bug in them."""

    async def start(self, *_: object) -> Any:
        raise ZeroDivisionError

    signal = changed = close = start


async def test_500_has_the_contracts_words(bare_api: Api) -> None:
    await bare_api.register(PAYMENT)
    bare_api.rebuild(executions=Broken())
    answer = await bare_api.post("/executions", {"workflow_id": "payment"})
    assert answer.status_code == 500
    assert answer.json()["error"].startswith(ERRORS[500]["error"].removesuffix("..."))


@pytest.mark.parametrize("path", ["/nothing", "/executions/exec_abc123", "/executions?limit=none"])
async def test_every_error_is_json(bare_api: Api, path: str) -> None:
    answer = await bare_api.get(path)
    assert answer.headers["content-type"] == "application/json"
    assert_like(ERRORS[404], answer.json())
