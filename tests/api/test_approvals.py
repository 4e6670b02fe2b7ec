"""Approvals: who decides what, and that of many decisions one wins."""

import asyncio
from typing import Any

import pytest

from tests.fixtures.api import Api, approval, assert_refused
from tests.fixtures.workflows import chain, python


async def approve(api: Api, execution_id: str, decision: str = "approved", **more: Any) -> Any:
    return await api.post(f"/executions/{execution_id}/approve", {"decision": decision, **more})


async def decided(api: Api, execution_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await api.get(f"/executions/{execution_id}/approvals")).json()["decided"]
    return found


async def test_a_decision_alone_finds_the_one_node_that_waits(api: Api) -> None:
    execution_id = await api.paused("approve", n=1)
    answer = await approve(api, execution_id)
    assert answer.json() == {"execution_id": execution_id, "accepted": True, "node_id": "gate"}
    shown = await api.settled(execution_id)
    assert (shown["status"], shown["state"]["n"]) == ("completed", 2)


async def test_after_an_acknowledged_approval_nobody_sees_the_old_pause(api: Api) -> None:
    await api.register(chain("then-hang", gate=approval(), work=python("hang")))
    execution_id = await api.paused("then-hang")
    await approve(api, execution_id)
    assert (await api.get(f"/executions/{execution_id}?wait=0")).json()["status"] == "running"


async def test_a_patch_is_merged_into_the_state(api: Api) -> None:
    execution_id = await api.paused("approve", n=1, gone=True, deep={"kept": 1})
    patch = {"n": 10, "gone": None, "deep": {"new": 2}}
    await approve(api, execution_id, state_patch=patch)
    state = (await api.settled(execution_id))["state"]
    assert (state["n"], state["deep"], "gone" in state) == (11, {"kept": 1, "new": 2}, False)


async def test_a_rejection_without_a_way_on_fails_and_says_who_and_why(api: Api) -> None:
    execution_id = await api.paused("approve")
    answer = await approve(api, execution_id, "rejected", user_id="user-42", comment="too dear")
    assert answer.status_code == 200
    shown = await api.settled(execution_id)
    assert shown["status"] == "failed"
    assert "user-42" in shown["error"]
    assert "too dear" in shown["error"]


async def test_a_rejection_follows_its_edge(api: Api) -> None:
    nodes = {"gate": approval(on_rejected="other"), "publish": python("count"), "other": python("count")}
    edges = [{"from": "gate", "to": "publish", "label": "approved"}]
    await api.register({"workflow_id": "fork", "version": "1", "nodes": nodes, "edges": edges})
    execution_id = await api.paused("fork")
    await approve(api, execution_id, "rejected")
    shown = await api.settled(execution_id)
    completed = [e["node_id"] for e in await api.events(execution_id) if e["kind"] == "NodeCompleted"]
    assert (shown["status"], completed) == ("completed", ["gate", "other"])


async def test_pending_and_decided_are_listed(api: Api) -> None:
    execution_id = await api.paused("approve", n=3)
    listed = (await api.get(f"/executions/{execution_id}/approvals")).json()
    [pending] = listed["pending"]
    assert (pending["node_id"], pending["due_at"], listed["decided"]) == ("gate", None, [])
    assert pending["context"] == {"description": "May 3 go on?", "state": {"n": 3}}
    await approve(api, execution_id, user_id="user-42", comment="fine")
    listed = (await api.get(f"/executions/{execution_id}/approvals")).json()
    [decision] = listed["decided"]
    assert listed["pending"] == []
    assert (decision["node_id"], decision["status"]) == ("gate", "approved")
    assert (decision["user_id"], decision["comment"]) == ("user-42", "fine")


async def test_a_deadline_is_shown(api: Api) -> None:
    await api.register(chain("hurry", gate=approval(timeout_secs=3600)))
    execution_id = await api.paused("hurry")
    [pending] = (await api.get(f"/executions/{execution_id}/approvals")).json()["pending"]
    assert pending["due_at"].endswith("Z")


async def test_who_is_not_named_is_the_token(api: Api) -> None:
    execution_id = await api.paused("approve")
    await approve(api, execution_id)
    assert (await decided(api, execution_id))[0]["user_id"] == "the developer"


async def test_the_user_is_as_claimed_and_the_actor_is_the_token(api: Api) -> None:
    execution_id = await api.paused("approve")
    await approve(api, execution_id, user_id="somebody-else", actor="tok_forged")
    [received] = [e for e in await api.events(execution_id) if e["kind"] == "ApprovalReceived"]
    assert received["data"]["user_id"] == "somebody-else"
    assert received["data"]["actor"].startswith("tok_")
    assert received["data"]["actor"] != "tok_forged"


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "decision: field required"),
        ({"decision": None}, "decision: "),
        ({"decision": True}, "decision: "),
        ({"decision": "maybe"}, "unknown decision 'maybe': must be approved or rejected"),
        ({"decision": "Approved"}, "unknown decision 'Approved'"),
        ({"decision": "approved", "node_id": 1}, "node_id: "),
        ({"decision": "approved", "user_id": {}}, "user_id: "),
        ({"decision": "approved", "comment": []}, "comment: "),
        ({"decision": "approved", "state_patch": [1]}, "state_patch: "),
        ({"decision": "approved", "state_patch": "x"}, "state_patch: "),
    ],
)
async def test_a_decision_of_the_wrong_shape_is_400_and_names_the_field(
    api: Api, body: Any, field: str
) -> None:
    execution_id = await api.paused("approve")
    answer = await api.post(f"/executions/{execution_id}/approve", body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"].startswith(f"bad request: {field}"), answer.text
    assert await decided(api, execution_id) == []


async def test_with_nothing_pending_it_is_409(api: Api) -> None:
    for execution_id in (await api.hanging(), await api.paused("pay")):
        message = f"conflict: execution {execution_id} is not waiting for an approval"
        assert_refused(await approve(api, execution_id), 409, message, "conflict")


async def test_for_a_node_that_does_not_wait_it_is_409(api: Api) -> None:
    execution_id = await api.paused("approve")
    for node_id in ("publish", "nowhere", ""):
        message = f"conflict: node {node_id} is not waiting for an approval"
        assert_refused(await approve(api, execution_id, node_id=node_id), 409, message, "conflict")


async def test_a_second_decision_is_409(api: Api) -> None:
    await api.register(chain("then-hang", gate=approval(), work=python("hang")))
    execution_id = await api.paused("then-hang")
    assert (await approve(api, execution_id)).status_code == 200
    for decision in ("approved", "rejected"):
        for more in ({}, {"node_id": "gate"}):
            assert (await approve(api, execution_id, decision, **more)).status_code == 409
    assert len(await decided(api, execution_id)) == 1


async def test_after_the_end_it_is_409(api: Api) -> None:
    execution_id = await api.start("count")
    await api.settled(execution_id)
    message = f"conflict: execution {execution_id} is already in terminal state: completed"
    assert_refused(await approve(api, execution_id), 409, message, "conflict")


async def test_with_several_pending_the_node_must_be_named(api: Api) -> None:
    execution_id = await api.paused("two-gates")
    message = "bad request: multiple approvals pending (left, right); specify node_id"
    assert_refused(await approve(api, execution_id), 400, message, "bad_request")
    assert (await approve(api, execution_id, node_id="right")).status_code == 200
    assert (await approve(api, execution_id)).json()["node_id"] == "left"
    assert (await api.settled(execution_id))["status"] == "completed"


# --- races --------------------------------------------------------------------------------------


async def test_of_fifty_opposite_decisions_at_once_one_wins(api: Api) -> None:
    execution_id = await api.paused("approve")
    decisions = ("approved", "rejected") * 25
    answers = await asyncio.gather(*(approve(api, execution_id, decision) for decision in decisions))
    statuses = [answer.status_code for answer in answers]
    assert sorted(statuses) == [200] + [409] * 49
    [decision] = await decided(api, execution_id)
    assert decision["status"] == decisions[statuses.index(200)]
    expected = "completed" if decision["status"] == "approved" else "failed"
    assert (await api.settled(execution_id))["status"] == expected


async def test_of_fifty_decisions_at_once_on_two_nodes_one_wins_on_each(api: Api) -> None:
    execution_id = await api.paused("two-gates")
    nodes = ("left", "right") * 25
    answers = await asyncio.gather(*(approve(api, execution_id, node_id=node_id) for node_id in nodes))
    won = [node_id for node_id, answer in zip(nodes, answers, strict=True) if answer.status_code == 200]
    assert sorted(won) == ["left", "right"]
    assert {answer.status_code for answer in answers} == {200, 409}
