"""The prefix ``/compat``: the same routes, with events in the shape that JamJet's clients read."""

import httpx2
import pytest

from tests.fixtures.api import Api

CLIENT_READS = ("completed", "failed", "cancelled", "limit_exceeded")


async def test_a_client_of_jamjet_runs_an_execution_from_end_to_end(api: Api) -> None:
    """As its wheels do: a base URL with the prefix, no node in the approval, no body to cancel."""
    base = "/compat"
    assert (await api.get(f"{base}/health", role=None)).json()["status"] == "ok"
    started = (await api.post(f"{base}/executions", {"workflow_id": "approve", "input": {"n": 1}})).json()
    path = f"{base}/executions/{started['execution_id']}"
    assert (await api.get(f"{path}?wait=10")).json()["status"] == "paused"
    body = {"decision": "approved", "comment": None, "state_patch": None}
    assert (await api.post(f"{path}/approve", body)).json()["accepted"] is True
    shown = (await api.get(f"{path}?wait=10")).json()
    assert shown["status"] in CLIENT_READS
    events = (await api.get(f"{path}/events")).json()["events"]
    assert [event["kind"].get("type") for event in events][:2] == ["workflow_started", "node_scheduled"]
    assert {"node_started", "node_completed", "approval_received"} <= {e["kind"]["type"] for e in events}
    assert (await api.post(f"{path}/cancel")).status_code == 409


async def test_without_the_prefix_events_are_flat(api: Api) -> None:
    execution_id = await api.paused("pay")
    assert {type(event["kind"]) for event in await api.events(execution_id)} == {str}


async def test_the_shape_that_is_asked_for_wins_over_the_prefix(api: Api) -> None:
    execution_id = await api.paused("pay")
    events = (await api.get(f"/compat/executions/{execution_id}/events?shape=flat")).json()["events"]
    assert {type(event["kind"]) for event in events} == {str}


async def test_the_prefix_is_no_way_around_authentication(api: Api) -> None:
    execution_id = await api.paused("approve")
    answers: list[httpx2.Response] = [
        await api.get("/compat/executions", role=None),
        await api.post(f"/compat/executions/{execution_id}/cancel", role="viewer"),
        await api.get("/compat/tokens", role="developer"),
        await api.get(f"/compat/executions/{execution_id}", role="other-operator"),
    ]
    assert [answer.status_code for answer in answers] == [401, 403, 403, 404]


@pytest.mark.parametrize(
    "path", ["/compat/", "/compat/nothing", "/compat/compat/health", "/compatible/health"]
)
async def test_nothing_else_is_under_the_prefix(bare_api: Api, path: str) -> None:
    assert (await bare_api.get(path)).status_code == 404
