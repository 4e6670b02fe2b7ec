"""Agents through the API: the contract's examples, and what goes wrong."""

import asyncio
from typing import Any

import pytest

from runtime.agents.card import read_card
from runtime.errors import Unavailable
from runtime.net.cards import FoundCard
from runtime.store.agent_port import Beat
from tests.fixtures.api import Api, assert_refused, eventually
from tests.fixtures.http_server import Asked, http_server, reply, response
from tests.unit.test_agent_cards import A2A_03, A2A_10

EXAMPLE: dict[str, Any] = {
    "id": "research-agent",
    "uri": "http://localhost:7701",
    "name": "Research Agent",
    "description": "Searches the web and synthesizes reports.",
    "version": "0.1.0",
    "capabilities": {
        "skills": [
            {
                "name": "research",
                "description": "Deep research on any topic",
                "input_schema": {"type": "object", "properties": {"query": {"type": "string"}}},
                "output_schema": {"type": "object", "properties": {"report": {"type": "string"}}},
            }
        ],
        "protocols": ["a2a"],
        "tools_provided": ["web_search"],
        "tools_consumed": [],
    },
    "autonomy": "guided",
    "auth": {"type": "bearer_token"},
}
"""The contract's, verbatim."""


async def registered(api: Api, **changes: Any) -> str:
    answer = await api.post("/agents", {**EXAMPLE, **changes})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["agent_id"])


# --- the contract's examples ----------------------------------------------------------------------


async def test_the_contracts_examples(bare_api: Api) -> None:
    made = await bare_api.post("/agents", EXAMPLE)
    assert (made.status_code, made.json()) == (201, {"agent_id": "research-agent"})
    assert made.headers["location"] == "/agents/research-agent"

    activated = await bare_api.post("/agents/research-agent/activate")
    assert (activated.status_code, activated.json()) == (
        200,
        {"agent_id": "research-agent", "status": "active"},
    )
    beat = await bare_api.post("/agents/research-agent/heartbeat")
    assert (beat.status_code, beat.json()) == (200, {"agent_id": "research-agent", "ok": True})
    deactivated = await bare_api.post("/agents/research-agent/deactivate")
    assert (deactivated.status_code, deactivated.json()) == (
        200,
        {"agent_id": "research-agent", "status": "deactivated"},
    )


async def test_the_agent_object(bare_api: Api) -> None:
    await registered(bare_api)

    shown = (await bare_api.get("/agents/research-agent")).json()

    for name in ("id", "uri", "name", "description", "version", "autonomy", "auth"):
        assert shown[name] == EXAMPLE[name]
    assert shown["card"] == EXAMPLE
    [skill] = shown["capabilities"]["skills"]
    assert skill == {"id": "research", **EXAMPLE["capabilities"]["skills"][0]}
    assert (shown["agent_id"], shown["status"], shown["stale"]) == ("research-agent", "registered", False)
    assert (shown["last_heartbeat"], shown["found_at"]) == (None, None)
    assert shown["registered_at"] == shown["updated_at"]


async def test_schemas_may_be_texts_and_auth_may_have_scopes(bare_api: Api) -> None:
    card = {
        **EXAMPLE,
        "auth": {"type": "bearer_token", "scopes": ["a"]},
        "capabilities": {"skills": [{"name": "s", "input_schema": "any", "output_schema": "{}"}]},
    }
    assert (await bare_api.post("/agents", card)).status_code == 201

    [skill] = (await bare_api.get("/agents/research-agent")).json()["capabilities"]["skills"]
    assert (skill["input_schema"], skill["output_schema"]) == ("any", "{}")


# --- registering ----------------------------------------------------------------------------------


async def test_the_same_card_again_is_201_and_another_one_409_or_replaced(bare_api: Api) -> None:
    await registered(bare_api)
    assert (await bare_api.post("/agents", EXAMPLE)).status_code == 201

    other = {**EXAMPLE, "version": "0.2.0"}
    assert_refused(
        await bare_api.post("/agents", other),
        409,
        "conflict: agent 'research-agent' is registered with another card: send it with ?replace=true",
    )
    assert (await bare_api.get("/agents/research-agent")).json()["version"] == "0.1.0"

    replaced = await bare_api.post("/agents?replace=true", other)
    assert (replaced.status_code, replaced.json()) == (201, {"agent_id": "research-agent"})
    assert (await bare_api.get("/agents/research-agent")).json()["version"] == "0.2.0"
    assert_refused(
        await bare_api.post("/agents?replace=maybe", other),
        400,
        "bad request: replace: must be true or false, not 'maybe'",
    )


async def test_a_card_without_an_id_gets_one_of_its_name(bare_api: Api) -> None:
    answer = await bare_api.post("/agents", {"name": "Fact Checker"})
    assert (answer.status_code, answer.json()) == (201, {"agent_id": "fact-checker"})


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ({}, "bad request: card.name is required"),
        ([], "bad request: the body must be a JSON object"),
        ({"id": 5, "name": "n"}, "bad request: id: input should be a valid string"),
        ({"name": "n", "uri": "nowhere"}, "bad request: card.uri 'nowhere' is no url"),
    ],
)
async def test_what_is_no_card_is_400(bare_api: Api, card: Any, said: str) -> None:
    assert_refused(await bare_api.post("/agents", card), 400, said)
    assert (await bare_api.get("/agents")).json()["total"] == 0


async def test_agents_belong_to_their_tenant(bare_api: Api) -> None:
    await registered(bare_api)

    assert (await bare_api.get("/agents", role="other-viewer")).json()["agents"] == []
    for method, path in (
        ("GET", ""),
        ("GET", "/trace"),
        ("POST", "/activate"),
        ("POST", "/deactivate"),
        ("POST", "/heartbeat"),
        ("DELETE", ""),
    ):
        answer = await bare_api.ask(method, f"/agents/research-agent{path}", role="other-developer")
        assert_refused(answer, 404, "not found: agent research-agent")
    assert (await bare_api.post("/agents", EXAMPLE, role="other-developer")).status_code == 201


# --- lists ----------------------------------------------------------------------------------------


async def test_agents_are_listed_by_state_skill_and_protocol(bare_api: Api) -> None:
    await registered(bare_api)
    await registered(
        bare_api, id="writer", capabilities={"skills": [{"name": "write"}], "protocols": ["mcp"]}
    )
    await bare_api.post("/agents/writer/activate")

    async def found(query: str) -> list[str]:
        answer = await bare_api.get(f"/agents?{query}", role="viewer")
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body["total"] >= len(body["agents"])
        return sorted(agent["id"] for agent in body["agents"])

    assert await found("") == ["research-agent", "writer"]
    assert await found("status=active") == ["writer"]
    assert await found("status=paused") == []
    assert await found("skill=research") == ["research-agent"]
    assert await found("protocol=mcp") == ["writer"]
    assert await found("protocol=anp") == []
    assert await found("skill=write&protocol=mcp&status=active") == ["writer"]
    assert await found("skill=write&protocol=a2a") == []
    assert len(await found("limit=1&offset=1")) == 1
    assert_refused(
        await bare_api.get("/agents?status=asleep"),
        400,
        "bad request: status: must be one of registered, active, paused, deactivated, archived, not 'asleep'",
    )
    assert_refused(
        await bare_api.get("/agents?protocol=soap"),
        400,
        "bad request: protocol: must be one of mcp, a2a, anp, not 'soap'",
    )


async def test_search_wants_all_skills_and_the_trust_domain(bare_api: Api) -> None:
    both = {"skills": [{"name": "a"}, {"id": "b", "name": "B"}]}
    await registered(bare_api, id="both", capabilities=both, labels={"trust_domain": "inside"})
    await registered(bare_api, id="one", capabilities={"skills": [{"name": "a"}]})

    async def found(query: str) -> list[str]:
        answer = await bare_api.get(f"/agents/search?{query}", role="viewer")
        return sorted(agent["id"] for agent in answer.json()["agents"])

    assert await found("skills=a,b") == ["both"]
    assert await found("skills=a") == ["both", "one"]
    assert await found("skills=a&trust_domain=inside") == ["both"]
    assert await found("trust_domain=outside") == []
    assert await found("") == ["both", "one"]
    many = ",".join(f"s{number}" for number in range(21))
    assert_refused(
        await bare_api.get(f"/agents/search?skills={many}"),
        400,
        "bad request: skills: at most 20 may be asked for, not 21",
    )


# --- states ---------------------------------------------------------------------------------------


async def test_an_archived_agent_never_comes_back(bare_api: Api) -> None:
    await registered(bare_api)
    assert_refused(
        await bare_api.ask("DELETE", "/agents/research-agent"),
        409,
        "conflict: agent research-agent is registered, so it cannot become archived: deactivate it first",
    )
    await bare_api.post("/agents/research-agent/deactivate")
    archived = await bare_api.ask("DELETE", "/agents/research-agent")
    assert (archived.status_code, archived.json()) == (
        200,
        {"agent_id": "research-agent", "status": "archived"},
    )

    assert (await bare_api.get("/agents")).json()["agents"] == []
    assert (await bare_api.get("/agents?status=archived")).json()["total"] == 1
    for act, becomes in (("activate", "active"), ("deactivate", "deactivated")):
        assert_refused(
            await bare_api.post(f"/agents/research-agent/{act}"),
            409,
            f"conflict: agent research-agent is archived, so it cannot become {becomes}",
        )
    assert (await bare_api.post("/agents?replace=true", EXAMPLE)).status_code == 409


async def test_states_may_be_asked_for_twice(bare_api: Api) -> None:
    await registered(bare_api)
    for act in ("activate", "activate", "deactivate", "deactivate", "activate"):
        assert (await bare_api.post(f"/agents/research-agent/{act}")).status_code == 200


async def test_unknown_agents_are_404_on_every_route(bare_api: Api) -> None:
    for method, path in (
        ("GET", "/agents/nobody"),
        ("GET", "/agents/nobody/trace"),
        ("DELETE", "/agents/nobody"),
        ("POST", "/agents/nobody/activate"),
        ("POST", "/agents/nobody/deactivate"),
        ("POST", "/agents/nobody/heartbeat"),
    ):
        assert_refused(await bare_api.ask(method, path), 404, "not found: agent nobody")
    body = {"role": "developer", "agent_id": "nobody"}
    assert_refused(await bare_api.post("/tokens", body, role="operator"), 404, "not found: agent nobody")


# --- heartbeats -----------------------------------------------------------------------------------


async def test_a_heartbeat_is_seen_at_once_and_stored_soon(bare_api: Api) -> None:
    await registered(bare_api)
    await bare_api.post("/agents/research-agent/heartbeat")

    shown = (await bare_api.get("/agents/research-agent")).json()
    assert shown["last_heartbeat"] is not None
    assert shown["stale"] is False

    async def stored() -> int | None:
        row = await bare_api.store.agents("default").agent("research-agent")
        return None if row is None else row.last_heartbeat

    await eventually(stored)


async def test_many_heartbeats_are_written_together(bare_api: Api) -> None:
    ids = [await registered(bare_api, id=f"agent-{number}") for number in range(30)]

    answers = await asyncio.gather(*(bare_api.post(f"/agents/{name}/heartbeat") for name in [*ids, *ids]))

    assert {answer.status_code for answer in answers} == {200}


async def test_who_misses_three_heartbeats_is_stale(bare_api: Api) -> None:
    await registered(bare_api)
    registry = bare_api.agents
    await bare_api.post("/agents/research-agent/heartbeat")
    # As if it had been long ago, and listened for since.
    for heard in (registry._heard, registry._unwritten):
        heard[("default", "research-agent")] -= 31_000
    registry._listening_since -= 60_000

    shown = (await bare_api.get("/agents/research-agent")).json()
    assert (shown["stale"], shown["status"]) == (True, "registered")
    await bare_api.post("/agents/research-agent/heartbeat")
    assert (await bare_api.get("/agents/research-agent")).json()["stale"] is False


async def test_who_is_silent_for_too_long_is_paused_until_it_beats(bare_api: Api) -> None:
    await registered(bare_api)
    await bare_api.post("/agents/research-agent/activate")
    now = await bare_api.store.system.now()
    await bare_api.store.all_agents.beat([Beat("default", "research-agent", now - 60_000)])
    registry = bare_api.agents
    registry._expiry_ms = 30_000
    await registry._look()
    assert (await bare_api.get("/agents/research-agent")).json()["status"] == "active", "not yet listened to"

    registry._listening_since -= 120_000
    await registry._look()
    shown = (await bare_api.get("/agents/research-agent")).json()
    assert (shown["status"], shown["stale"]) == ("paused", True)

    await bare_api.post("/agents/research-agent/heartbeat")
    await registry._flush()
    assert (await bare_api.get("/agents/research-agent")).json()["status"] == "active"


async def test_what_was_not_heard_while_the_store_was_away_was_not_missed(
    bare_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    await registered(bare_api)
    await bare_api.post("/agents/research-agent/activate")
    now = await bare_api.store.system.now()
    await bare_api.store.all_agents.beat([Beat("default", "research-agent", now - 60_000)])
    registry = bare_api.agents
    registry._expiry_ms = 30_000
    registry._listening_since -= 120_000

    async def away() -> int:
        raise Unavailable("the store is away")

    with monkeypatch.context() as patched:
        patched.setattr(bare_api.store.system, "now", away)
        with pytest.raises(Unavailable):
            await registry._look()
    await registry._look()

    shown = (await bare_api.get("/agents/research-agent")).json()
    assert (shown["status"], shown["stale"]) == ("active", False)


# --- discovery ------------------------------------------------------------------------------------


async def test_an_agent_is_discovered_at_the_contracts_path(bare_api: Api) -> None:
    async with http_server(reply(200, EXAMPLE, content_type="application/json")) as server:
        answer = await bare_api.post("/agents/discover", {"url": server.url})

        assert answer.status_code == 201, answer.text
        assert [asked.path for asked in server.asked] == ["/.well-known/agent.json"]
        shown = answer.json()
        assert (shown["id"], shown["card"], shown["found_at"]) == ("research-agent", EXAMPLE, server.url)
        assert (await bare_api.get("/agents/research-agent")).json() == shown
        # Once more is the same agent, with whatever card it has now.
        assert (await bare_api.post("/agents/discover", {"url": server.url})).status_code == 201
        assert (await bare_api.get("/agents")).json()["total"] == 1


@pytest.mark.parametrize("card", [A2A_03, A2A_10], ids=["0.3", "1.0"])
async def test_an_a2a_agent_is_discovered_at_the_newer_path(bare_api: Api, card: dict[str, Any]) -> None:
    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        found = asked.path == "/.well-known/agent-card.json"
        writer.write(response(200, card) if found else response(404, {"error": "no"}))

    async with http_server(answer) as server:
        discovered = await bare_api.post("/agents/discover", {"url": f"{server.url}/"})

    assert discovered.status_code == 201, discovered.text
    shown = discovered.json()
    assert (shown["id"], shown["capabilities"]["protocols"]) == ("security-reviewer", ["a2a"])
    assert shown["capabilities"]["skills"][0]["id"] == "security_review"
    assert shown["card"] == card


async def test_two_agents_of_one_name_are_two(bare_api: Api) -> None:
    first = {**A2A_03, "url": "https://one.example.com"}
    second = {**A2A_03, "url": "https://two.example.com"}
    async with http_server(reply(200, first)) as one, http_server(reply(200, second)) as two:
        ids = [
            (await bare_api.post("/agents/discover", {"url": server.url})).json()["id"]
            for server in (one, two, two, one)
        ]

    assert ids[0] == ids[3] == "security-reviewer"
    assert ids[1] == ids[2]
    assert ids[1].startswith("security-reviewer-")


async def test_an_id_of_another_agent_is_not_taken_over(bare_api: Api) -> None:
    await registered(bare_api)
    async with http_server(reply(200, {**EXAMPLE, "uri": "https://evil.example.com"})) as server:
        answer = await bare_api.post("/agents/discover", {"url": server.url})

    assert answer.status_code == 409
    assert (await bare_api.get("/agents/research-agent")).json()["uri"] == EXAMPLE["uri"]


async def test_nobody_speaks_for_an_agent_by_claiming_its_address(bare_api: Api) -> None:
    await registered(bare_api)
    async with http_server(reply(200, {**EXAMPLE, "version": "6.6.6"})) as server:
        answer = await bare_api.post("/agents/discover", {"url": server.url})

    assert answer.status_code == 409
    assert (await bare_api.get("/agents/research-agent")).json()["version"] == EXAMPLE["version"]


@pytest.mark.parametrize(("path", "asked"), [("", ""), ("/a2a", ""), ("/a2a", "/.well-known/agent.json")])
async def test_an_agent_that_registered_itself_is_discovered_where_it_is(
    bare_api: Api, path: str, asked: str
) -> None:
    card = {**EXAMPLE, "version": "0.2.0"}
    async with http_server(reply(200, card)) as server:
        await registered(bare_api, uri=server.url + path)
        answer = await bare_api.post("/agents/discover", {"url": server.url + asked})

    assert (answer.status_code, answer.json()["version"]) == (201, "0.2.0")


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        (reply(404, b"nothing here"), 502, "unreachable: 127.0.0.1 answered 404 for /.well-known/agent.json"),
        (reply(200, b"<html>"), 400, "bad request: not an agent card: the answer is not json"),
        (reply(200, {"hello": 1}), 400, "bad request: not an agent card: card.name is required"),
        (reply(200, [1]), 400, "bad request: not an agent card: an agent card must be a json object"),
        (reply(200, b"x" * 1_048_577), 400, "bad request: not an agent card: the answer is larger"),
    ],
)
async def test_what_is_there_is_no_card(bare_api: Api, answer: Any, status: int, said: str) -> None:
    async with http_server(answer) as server:
        refused = await bare_api.post("/agents/discover", {"url": server.url})

    assert refused.status_code == status
    assert refused.json()["error"].lower().startswith(said)
    assert (await bare_api.get("/agents")).json()["total"] == 0


@pytest.mark.parametrize(
    ("url", "status", "said"),
    [
        ("http://127.0.0.1:1", 502, "unreachable: "),
        ("https://no-such-host.invalid", 502, "unreachable: "),
        ("ftp://example.com", 400, "bad request: url: the url must begin with http:// or https://"),
        ("http://10.0.0.1", 400, "bad request: url: 10.0.0.1 is not a public address: it may not be reached"),
        ("http://1.1.1.1", 400, "bad request: url: 1.1.1.1 is a public address: it is to be asked by https"),
        ("http://u:p@127.0.0.1", 400, "bad request: url: the url must not have a user name or password"),
        ("", 400, "bad request: url: string should have at least 1 character"),
    ],
)
async def test_what_cannot_be_asked(bare_api: Api, url: str, status: int, said: str) -> None:
    refused = await bare_api.post("/agents/discover", {"url": url})

    assert refused.status_code == status
    assert refused.json()["error"].startswith(said)


# --- the audit log and the trace ------------------------------------------------------------------


async def test_what_is_done_to_agents_is_audited(bare_api: Api) -> None:
    await registered(bare_api)
    await bare_api.post("/agents?replace=true", {**EXAMPLE, "version": "9"})
    await bare_api.post("/agents/research-agent/activate")
    await bare_api.post("/agents/research-agent/deactivate")
    await bare_api.ask("DELETE", "/agents/research-agent")

    items = (await bare_api.get("/audit?limit=10")).json()["items"]
    told = [item for item in reversed(items) if item["event_type"].startswith("agent_")]
    assert [item["event_type"] for item in told] == [
        "agent_registered",
        "agent_card_replaced",
        "agent_activated",
        "agent_deactivated",
        "agent_archived",
    ]
    assert {item["details"]["agent_id"] for item in told} == {"research-agent"}
    assert all(item["actor_id"].startswith("token:") for item in told)
    assert told[0]["http_path"] == "/agents"


async def test_the_trace_shows_calls_by_the_agents_own_token(api: Api) -> None:
    await registered(api)
    made = await api.post("/tokens", {"role": "developer", "agent_id": "research-agent"}, role="operator")
    assert made.json()["agent_id"] == "research-agent"
    api.tokens["agent"] = made.json()["token"]
    execution_id = await api.start("count", role="agent")

    events = (await api.get("/agents/research-agent/trace")).json()["events"]

    [call] = events
    assert (call["direction"], call["event_type"], call["execution_id"]) == (
        "out",
        "workflow_started",
        execution_id,
    )
    assert call["summary"] == "workflow started by POST /executions"
    assert call["timestamp"].endswith("Z")


async def test_a_trace_is_bounded(bare_api: Api) -> None:
    await registered(bare_api)
    assert (await bare_api.get("/agents/research-agent/trace?limit=5")).json() == {"events": []}
    assert (await bare_api.get("/agents/research-agent/trace?limit=0")).status_code == 400


async def test_the_contracts_example_of_discovery(bare_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fetch(url: str) -> FoundCard:
        return FoundCard(url, EXAMPLE, read_card(EXAMPLE, found_at=url))

    monkeypatch.setattr(bare_api.agents._fetcher, "fetch", fetch)
    answer = await bare_api.post("/agents/discover", {"url": "https://remote-agent.example.com"})

    assert answer.status_code == 201
    assert answer.json() == (await bare_api.get("/agents/research-agent")).json()
    assert answer.json()["card"] == EXAMPLE
    assert answer.json()["found_at"] == "https://remote-agent.example.com"
