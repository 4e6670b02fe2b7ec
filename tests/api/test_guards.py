"""What stands before the routes: failed attempts, rates, reviewers, policies, redaction."""

from typing import Any

import httpx2
import pytest
from fastapi import Request

from api.address import HEADER, client_address
from api.attempts import FAILED_MAX, KNOWN_S, WINDOW_S, Attempts
from api.rates import Rates
from runtime.errors import LimitReached, TooManyAttempts
from tests.fixtures.api import OTHER_TENANT, Api, approval, assert_refused, eventually
from tests.fixtures.workflows import chain, python

DEVELOPER = "other-developer"
COUNT = chain("count", only=python("count"))
GATE = chain("gate", gate=approval())
SAY = chain(
    "say",
    say={"kind": {"type": "model", "model_ref": "scripted/echo", "prompt_ref": "mail {{ state.mail }}"}},
)


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


async def change(api: Api, **fields: Any) -> None:
    answer = await api.ask("PUT", f"/tenants/{OTHER_TENANT}", role="operator", json=fields)
    assert answer.status_code == 200, answer.text


async def bad(api: Api, address: str = "192.0.2.1", token: str = "0" * 64) -> httpx2.Response:
    headers = {"Authorization": f"Bearer jj_{token}", HEADER: address}
    return await api.ask("GET", "/executions", role=None, headers=headers)


# --- where it comes from --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "peer", "expected"),
    [
        ("192.0.2.1", "127.0.0.1", "192.0.2.1"), ("2001:DB8:0::1", "127.0.0.1", "2001:db8::1"),
        (None, "198.51.100.7", "198.51.100.7"), ("evil\tname", "198.51.100.7", None), ("", "192.0.2.9", None),
        (None, "testclient", None),
    ],
)  # fmt: skip
def test_the_clients_address(told: str | None, peer: str, expected: str | None) -> None:
    headers = [] if told is None else [(HEADER.encode(), told.encode())]
    request = Request({"type": "http", "headers": headers, "client": (peer, 1)})
    assert client_address(request) == expected


# --- failed attempts ------------------------------------------------------------------------------


async def test_many_bad_tokens_of_one_address_are_429_and_others_are_not_concerned(bare_api: Api) -> None:
    for _ in range(FAILED_MAX):
        assert (await bad(bare_api)).status_code == 401
    answer = await bad(bare_api, token="1" * 64)
    assert_refused(answer, 429, "too many failed attempts from this address", "too_many_attempts")
    assert 0 < int(answer.headers["retry-after"]) <= WINDOW_S + 1
    assert (await bad(bare_api, "192.0.2.2")).status_code == 401


async def test_a_good_token_is_not_locked_out_by_its_neighbours(bare_api: Api) -> None:
    here = {HEADER: "192.0.2.1"}
    assert (await bare_api.get("/executions", headers=here)).status_code == 200
    for _ in range(FAILED_MAX + 5):
        await bad(bare_api)
    assert (await bare_api.get("/executions", headers=here)).status_code == 200
    answer = await bare_api.get("/executions", role="viewer", headers=here)
    assert answer.status_code == 429, "this one was never seen to be good"


def test_failed_attempts_are_forgotten_after_their_window() -> None:
    clock = Clock()
    attempts = Attempts(clock)
    attempts.succeeded("good")
    for _ in range(FAILED_MAX):
        attempts.check("a", None)
        attempts.failed("a")
    with pytest.raises(TooManyAttempts):
        attempts.check("a", "new")
    attempts.check("a", "good")
    clock.now += WINDOW_S
    attempts.check("a", "new")
    attempts.failed("a")
    attempts.check("a", "new")
    clock.now += KNOWN_S
    for _ in range(FAILED_MAX):
        attempts.failed("a")
    with pytest.raises(TooManyAttempts):
        attempts.check("a", "good")


# --- rates ----------------------------------------------------------------------------------------


def test_a_tenant_may_ask_as_often_as_its_limit_says() -> None:
    clock = Clock()
    rates = Rates(clock)
    for _ in range(60):
        rates.take("acme", 60)
    with pytest.raises(LimitReached) as caught:
        rates.take("acme", 60)
    assert caught.value.fields == {"limit": "requests_per_minute", "retry_after_s": 1}
    rates.take("globex", 60)
    clock.now += 1.0
    rates.take("acme", 60)
    with pytest.raises(LimitReached):
        rates.take("acme", 60)
    clock.now += 60.0
    for _ in range(60):
        rates.take("acme", 60)


async def test_one_request_too_many_is_429_and_says_which_limit(bare_api: Api) -> None:
    await change(bare_api, limits={"requests_per_minute": 3})
    answers = [await bare_api.get("/executions", role="other-viewer") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[-1].json()["limit"] == "requests_per_minute"
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert (await bare_api.get("/executions", role="viewer")).status_code == 200
    there = await bare_api.get("/executions", role="operator", headers={"X-Tenant-Id": OTHER_TENANT})
    assert there.status_code == 429, "who acts in a tenant asks at its expense"


# --- reviewers ------------------------------------------------------------------------------------


async def test_reviewers_may_approve_where_their_tenants_policy_says_so(api: Api) -> None:
    await change(api, policy={"reviewers_may_approve": True})
    await api.register(GATE, role=DEVELOPER)
    execution_id = await api.start("gate", role=DEVELOPER)
    await api.settled(execution_id, role=DEVELOPER)

    answer = await api.post(
        f"/executions/{execution_id}/approve", {"decision": "approved"}, role="other-reviewer"
    )

    assert answer.status_code == 200, answer.text
    assert (await api.post(f"/executions/{execution_id}/cancel", role="other-reviewer")).status_code == 403


# --- policies -------------------------------------------------------------------------------------


async def test_a_tenants_policy_blocks_a_tool_of_a_workflow_that_is_registered_already(api: Api) -> None:
    await api.register(COUNT, role=DEVELOPER)
    await change(api, policy={"blocked_tools": ["steps:*"]})

    async def blocked() -> bool:
        execution_id = await api.start("count", role=DEVELOPER)
        found = await api.settled(execution_id, role=DEVELOPER)
        return bool(found["status"] == "failed" and "blocked pattern 'steps:*'" in found["error"])

    await eventually(blocked)
    items = (await api.get("/audit?event_type=policy_violation", role=DEVELOPER)).json()["items"]
    assert (items[0]["policy_decision"], items[0]["details"]["policy_scope"]) == ("block", "tenant")


async def test_a_call_waits_for_its_approval_over_rest(api: Api) -> None:
    await api.register({**COUNT, "policy": {"require_approval_for": ["steps:count"]}}, role=DEVELOPER)
    execution_id = await api.start("count", role=DEVELOPER)
    found = await api.settled(execution_id, role=DEVELOPER)
    assert (found["status"], found["waiting_on"][0]["type"]) == ("paused", "approval")

    (pending,) = (await api.get(f"/executions/{execution_id}/approvals", role=DEVELOPER)).json()["pending"]
    assert (pending["tool_name"], pending["node_id"]) == ("steps:count", "only")
    typed = (await api.get(f"/executions/{execution_id}/events?shape=typed", role=DEVELOPER)).json()["events"]
    asked = typed[-1]["kind"]
    assert (asked["type"], asked["tool_name"], asked["approver"]) == (
        "tool_approval_required", "steps:count", "human"
    )  # fmt: skip
    assert set(asked["context"]) == {"input"}
    assert "require" not in pending["context"]["rule"]
    body = {"decision": "approved", "state_patch": {"n": 41}}
    answer = await api.post(f"/executions/{execution_id}/approve", body, role=DEVELOPER)
    assert answer.json()["node_id"] == "only"

    async def done() -> bool:
        return bool((await api.settled(execution_id, role=DEVELOPER))["state"].get("n") == 42)

    await eventually(done)
    items = (await api.get("/audit?event_type=tool_approval_required", role=DEVELOPER)).json()["items"]
    assert len(items[0]["tool_call_hash"]) == 64


@pytest.mark.parametrize(
    "policy", [{"blocked": []}, {"blocked_tools": "x"}, {"data_policy": {"pii_detectors": ["iban"]}}]
)
async def test_a_policy_that_cannot_be_meant_is_400(bare_api: Api, policy: Any) -> None:
    answer = await bare_api.ask("PUT", f"/tenants/{OTHER_TENANT}", role="operator", json={"policy": policy})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("bad request: policy: ")
    shown = (await bare_api.get(f"/tenants/{OTHER_TENANT}", role="operator")).json()
    assert shown["policy"] == {}


# --- what is withheld -----------------------------------------------------------------------------

MAIL = "ann@example.org"


async def said_of(api: Api, execution_id: str) -> str:
    """All that REST says of an execution beside its own state."""
    said = ""
    for path in ("events", "events?shape=typed", "approvals", "events/stream"):
        answer = await api.get(f"/executions/{execution_id}/{path}", role=DEVELOPER)
        assert answer.status_code == 200
        said += answer.text
    return said + (await api.get("/audit?limit=200", role=DEVELOPER)).text


async def test_what_a_data_policy_names_is_in_no_event_and_in_no_audit_entry(api: Api) -> None:
    await change(api, policy={"data_policy": {"pii_detectors": ["email"], "pii_fields": ["$.secret"]}})
    await api.register(SAY, role=DEVELOPER)
    execution_id = await api.start("say", role=DEVELOPER, mail=MAIL, secret="hush")
    found = await api.settled(execution_id, role=DEVELOPER)

    assert found["state"]["mail"] == MAIL, "the result is its caller's"
    said = await said_of(api, execution_id)
    assert MAIL not in said
    assert "hush" not in said
    assert "[REDACTED]" in said


async def test_without_a_data_policy_nothing_is_withheld(api: Api) -> None:
    await api.register(SAY, role=DEVELOPER)
    execution_id = await api.start("say", role=DEVELOPER, mail=MAIL)
    await api.settled(execution_id, role=DEVELOPER)
    assert MAIL in await said_of(api, execution_id)


async def test_prompts_are_withheld_unless_they_are_to_be_retained(api: Api) -> None:
    for number, (retained, expected) in enumerate(((False, False), (True, True))):
        policy = {"retain_prompts": retained, "retain_outputs": retained}
        await api.register({**SAY, "version": f"{number}.0.0", "data_policy": policy}, role=DEVELOPER)
        execution_id = await api.start("say", role=DEVELOPER, mail="x")
        await api.settled(execution_id, role=DEVELOPER)
        answer = await api.get(f"/executions/{execution_id}/events", role=DEVELOPER)
        data = {event["kind"]: event["data"] for event in answer.json()["events"]}
        assert ("input" in data["NodeStarted"]) is expected
        assert ("output" in data["NodeCompleted"]) is expected
