"""The audit log over REST: every change leaves one entry, refusals are counted, tenants see their own."""

import json
from typing import Any

import pytest

from api.address import HEADER
from api.refusals import CALLERS_MAX
from tests.fixtures.api import (
    APPROVE,
    COUNT,
    OTHER_TENANT,
    PAY,
    Api,
    assert_refused,
    eventually,
    openapi,
)
from tests.fixtures.http_server import http_server, reply
from tests.fixtures.workflows import chain, python

MINE = chain("mine", only=python("count"))
SEED_KEYS = ["id", "execution_id", "event_type", "actor_id", "created_at"]


async def entries(api: Api, role: str = "viewer", **filters: Any) -> list[dict[str, Any]]:
    query = "&".join(f"{name}={value}" for name, value in filters.items())
    answer = await api.get(f"/audit?limit=200&{query}", role=role)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def test_entries_are_as_the_contract_shows_them(api: Api) -> None:
    execution_id = await api.start("count")
    await api.settled(execution_id)

    answer = await api.get(f"/audit?execution_id={execution_id}")

    body = answer.json()
    assert list(body) == ["items", "total", "limit", "offset"]
    assert (body["total"], body["limit"], body["offset"]) == (3, 50, 0)
    assert [list(item)[:5] for item in body["items"]] == [SEED_KEYS] * 3
    assert [item["event_type"] for item in body["items"]] == [
        "workflow_completed", "node_completed", "workflow_started"
    ]  # fmt: skip
    node = body["items"][1]
    assert (node["actor_id"], node["actor_type"], node["node_id"]) == ("agent:count", "agent", "only")
    assert node["event_id"] == (await api.events(execution_id))[node["sequence"] - 1]["id"]
    started = body["items"][2]
    assert started["actor_id"].startswith("token:tok_")
    assert (started["http_method"], started["http_path"]) == ("POST", "/executions")


async def test_pages_and_filters(api: Api) -> None:
    ids = [await api.start("count") for _ in range(3)]
    for execution_id in ids:
        await api.settled(execution_id)

    page = (await api.get("/audit?limit=4&offset=2")).json()
    assert len(page["items"]) == 4
    assert page["total"] >= 9
    assert page["items"] == (await entries(api))[2:6]
    assert (await api.get("/audit?limit=100000")).json()["limit"] == 200
    both = await entries(api, actor_id="agent:count", event_type="node_completed")
    assert {item["execution_id"] for item in both} == set(ids)
    assert await entries(api, execution_id=ids[0], event_type="token_created") == []
    answer = await api.get("/audit?event_type=bogus")
    assert answer.status_code == 400
    assert "node_completed, " in answer.json()["error"]
    assert (await api.get("/audit?limit=x")).status_code == 400


async def test_a_tenant_sees_its_own_log(api: Api) -> None:
    execution_id = await api.start("count")
    await api.settled(execution_id)

    assert await entries(api, "other-operator", execution_id=execution_id) == []
    there = await api.get("/audit", role="operator", headers={"X-Tenant-Id": OTHER_TENANT})
    assert {item["tenant_id"] for item in there.json()["items"]} == {OTHER_TENANT}


# --- every change leaves one entry ----------------------------------------------------------------


NOT_AUDITED = {"POST /agents/{agent_id}/heartbeat"}
"""A thousand of them a second say nothing but that nothing has changed."""


async def changes(api: Api, url: str) -> dict[str, tuple[str, str, Any, str, str]]:
    """By path template: method, path, body, role, and the type of the entry that it leaves."""
    gate, other_gate, pay = await api.paused("approve"), await api.paused("approve"), await api.paused("pay")
    made = (await api.post("/tokens", {"role": "viewer"}, role="operator")).json()["id"]
    for name in ("sleeping", "awake", "retired"):
        await api.post("/agents", {"id": name, "name": name})
    await api.post("/agents/awake/activate")
    await api.post("/agents/retired/deactivate")
    event, decision = {"correlation_key": "k", "payload": 1}, {"decision": "approved"}
    return {
        "POST /workflows": ("POST", "/workflows", {"ir": MINE}, "developer", "workflow_registered"),
        "POST /executions": (
            "POST", "/executions", {"workflow_id": "count"}, "developer", "workflow_started"),
        "POST /executions/{execution_id}/approve": (
            "POST", f"/executions/{gate}/approve", decision, "developer", "approval_received"),
        "POST /executions/{execution_id}/cancel": (
            "POST", f"/executions/{other_gate}/cancel", None, "developer", "workflow_cancelled"),
        "POST /executions/{execution_id}/external-event": (
            "POST", f"/executions/{pay}/external-event", event, "developer", "external_event_received"),
        "POST /agents": ("POST", "/agents", {"id": "new", "name": "New"}, "developer", "agent_registered"),
        "POST /agents/discover": (
            "POST", "/agents/discover", {"url": url}, "developer", "agent_registered"),
        "POST /agents/{agent_id}/activate": (
            "POST", "/agents/sleeping/activate", None, "developer", "agent_activated"),
        "POST /agents/{agent_id}/deactivate": (
            "POST", "/agents/awake/deactivate", None, "developer", "agent_deactivated"),
        "DELETE /agents/{agent_id}": (
            "DELETE", "/agents/retired", None, "developer", "agent_archived"),
        "POST /tokens": ("POST", "/tokens", {"role": "viewer"}, "operator", "token_created"),
        "DELETE /tokens/{token_id}": ("DELETE", f"/tokens/{made}", None, "operator", "token_revoked"),
        "POST /tenants": ("POST", "/tenants", {"id": "t1", "name": "T"}, "operator", "tenant_created"),
        "PUT /tenants/{tenant_id}": ("PUT", "/tenants/default", {"name": "D"}, "operator", "tenant_updated"),
    }  # fmt: skip


async def test_every_route_that_changes_something_leaves_an_entry_with_its_request(api: Api) -> None:
    async with http_server(reply(200, {"name": "Found"})) as server:
        await _each_leaves_an_entry(api, await changes(api, server.url))


async def _each_leaves_an_entry(api: Api, listed: dict[str, tuple[str, str, Any, str, str]]) -> None:
    mutating = {
        f"{method.upper()} {path}"
        for path, methods in openapi()["paths"].items()
        for method in methods
        if method != "get"
    }
    assert mutating - NOT_AUDITED == set(listed), "what changes something must leave an entry"
    for method, path, body, role, event_type in listed.values():
        asked = f"req-{path}"
        headers = {HEADER: "192.0.2.77", "X-Request-Id": asked}
        sent = {} if body is None else {"json": body}
        answer = await api.ask(method, path, role=role, headers=headers, **sent)
        assert answer.status_code in (200, 201), answer.text
        where = {"X-Tenant-Id": "t1"} if event_type == "tenant_created" else {}
        found = await api.get(f"/audit?event_type={event_type}", role="operator", headers=where)
        own = [item for item in found.json()["items"] if item["http_request_id"] == asked]
        (entry,) = own
        assert (entry["http_method"], entry["http_path"], entry["ip_address"]) == (method, path, "192.0.2.77")
        assert entry["actor_id"].startswith("token:tok_")
        assert entry["actor_type"] == "human"


async def test_a_repeat_leaves_no_second_entry_and_a_refusal_none(api: Api) -> None:
    gate = await api.paused("approve")
    headers = {"Idempotency-Key": "once"}
    for _ in range(3):
        body = {"decision": "approved", "user_id": "ann"}
        assert (await api.post(f"/executions/{gate}/approve", body, headers=headers)).status_code == 200
    (entry,) = await entries(api, execution_id=gate, event_type="approval_received")
    assert entry["details"] == {"decision": "approved", "user_id": "ann", "comment": None}
    before = len(await entries(api))

    for path, body, status in (
        (f"/executions/{gate}/approve", {"decision": "approved"}, 409),
        (f"/executions/{gate}/approve", {"decision": "maybe"}, 400),
        ("/executions", {"workflow_id": "nothing"}, 404),
        ("/workflows", {"ir": {}}, 400),
        ("/workflows", {"ir": COUNT}, 201),
    ):
        assert (await api.post(path, body)).status_code == status
    assert len(await entries(api)) == before


# --- refusals -------------------------------------------------------------------------------------


async def refused(api: Api) -> list[dict[str, Any]]:
    await api.app.state.resources.refusals.close()
    return await entries(api, event_type="request_refused")


async def test_refused_requests_are_counted_into_one_entry_for_each_caller(bare_api: Api) -> None:
    unknown = "jj_" + "12" * 32
    for _ in range(3):
        await bare_api.post("/tokens", {"role": "viewer"}, role="viewer", headers={HEADER: "192.0.2.1"})
    for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2"):
        headers = {"Authorization": f"Bearer {unknown}", HEADER: address}
        await bare_api.ask("GET", "/executions", role=None, headers=headers)
    await bare_api.ask("GET", "/tokens", role=None)

    found = await refused(bare_api)

    said = sorted((item["details"]["status"], item["details"]["count"], item["ip_address"]) for item in found)
    assert said == [
        (401, 1, "127.0.0.1"),
        (401, 1, "192.0.2.2"),
        (401, 2, "192.0.2.1"),
        (403, 3, "192.0.2.1"),
    ]
    (forbidden,) = [item for item in found if item["details"]["status"] == 403]
    assert forbidden["actor_id"].startswith("token:tok_")
    assert forbidden["details"]["paths"] == ["POST /tokens"]
    assert unknown not in json.dumps(found)
    hashes = {item["details"]["token_hash"] for item in found if item["details"]["token_hash"]}
    assert [len(hashed) for hashed in hashes] == [16]
    assert await refused(bare_api) == found, "they are written once"


async def test_refusals_are_written_when_their_minute_is_over(
    bare_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bare_api.app.state.resources.refusals, "_every_s", 0.01)
    answer = await bare_api.post("/tokens", {"role": "viewer"}, role="viewer")
    assert_refused(answer, 403, "insufficient role — operator required", "forbidden")

    async def written() -> bool:
        return len(await entries(bare_api, event_type="request_refused")) == 1

    await eventually(written)


async def test_another_tenants_refusals_are_in_its_log(bare_api: Api) -> None:
    await bare_api.post("/tokens", {"role": "viewer"}, role="other-viewer")
    await bare_api.app.state.resources.refusals.close()

    assert len(await entries(bare_api, "other-viewer", event_type="request_refused")) == 1
    assert await entries(bare_api, event_type="request_refused") == []


async def test_a_crowd_of_strangers_does_not_fill_the_memory(
    bare_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.refusals.CALLERS_MAX", 5)
    assert CALLERS_MAX == 1_000
    for number in range(20):
        headers = {HEADER: f"192.0.2.{number}"}
        await bare_api.ask("GET", "/tokens", role=None, headers=headers)

    found = await refused(bare_api)

    assert len(found) == 6
    (others,) = [item for item in found if item["actor_id"] == "others"]
    assert others["details"]["count"] == 15


# --- secrets --------------------------------------------------------------------------------------


async def test_tokens_and_their_hashes_are_in_no_entry(api: Api) -> None:
    made = (await api.post("/tokens", {"role": "viewer", "name": "ci"}, role="operator")).json()
    await api.register({**APPROVE, "version": "9.0.0"}, {**PAY, "version": "9.0.0"})
    rows = await api.store.tenant("default").audit_rows(limit=10_000)
    text = " ".join(str(row) for row in rows)
    assert made["token"] not in text
    for token in api.tokens.values():
        assert token not in text
