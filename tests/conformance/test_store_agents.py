"""Agents: registered once, found by what they can, moved from state to state, and heard of."""

import asyncio
from typing import Any

import pytest

from runtime.agents.lifecycle import LISTED, STATUSES, AgentStatus
from runtime.errors import Conflict, ValueRejected
from runtime.store import Store
from runtime.store.agent_port import Beat, NewAgent
from tests.conformance.store_cases import Database, workflow


def agent(agent_id: str = "researcher", digest: str = "d1", **fields: Any) -> NewAgent:
    given: dict[str, Any] = {"card": f'{{"digest":"{digest}"}}', "uri": "http://localhost:7701", **fields}
    return NewAgent(agent_id=agent_id, digest=digest, **given)


async def entries(store: Store, tenant_id: str = "default") -> list[str]:
    rows, _ = await store.tenant(tenant_id).audit(limit=100)
    return [row.event_type for row in reversed(rows)]


async def test_an_agent_is_registered_and_found(store: Store) -> None:
    made = await store.agents("default").register(agent(found_at="http://localhost:7701"))

    assert (made.agent_id, made.status, made.silenced, made.last_heartbeat) == (
        "researcher",
        "registered",
        False,
        None,
    )
    assert made.registered_at == made.updated_at > 0
    assert await store.agents("default").agent("researcher") == made
    assert await store.agents("default").agent("Researcher") is None
    assert await store.agents("other").agent("researcher") is None
    assert await entries(store) == ["agent_registered"]


async def test_the_same_card_again_changes_nothing(store: Store) -> None:
    agents = store.agents("default")
    made = await agents.register(agent())

    assert await agents.register(agent()) == made
    assert await entries(store) == ["agent_registered"]


async def test_another_card_replaces_only_where_it_is_meant_to(store: Store) -> None:
    agents = store.agents("default")
    await agents.register(agent(traits=("skill:a", "skill:b")))
    await agents.move("researcher", "active")

    with pytest.raises(Conflict, match="another card"):
        await agents.register(agent(digest="d2"))
    replaced = await agents.register(agent(digest="d2", traits=("skill:b", "skill:c")), replace=True)

    assert (replaced.digest, replaced.status) == ("d2", "active")
    found = {
        trait: (await agents.agents(statuses=LISTED, traits=(trait,)))[1]
        for trait in ("skill:a", "skill:b", "skill:c")
    }
    assert found == {"skill:a": 0, "skill:b": 1, "skill:c": 1}
    assert await entries(store) == ["agent_registered", "agent_activated", "agent_card_replaced"]


async def test_of_many_who_register_one_agent_with_other_cards_one_does(database: Database) -> None:
    stores = [await database.open() for _ in range(3)]

    made = await asyncio.gather(
        *(store.agents("default").register(agent(digest=f"d{n}")) for n, store in enumerate(stores)),
        return_exceptions=True,
    )

    assert sum(isinstance(one, Conflict) for one in made) == 2


async def test_agents_are_listed_newest_first_by_state_and_by_all_traits(database: Database) -> None:
    store = await database.open()
    agents = store.agents("default")
    for number, traits in enumerate((("a",), ("a", "b"), ("b",))):
        await agents.register(agent(f"agent-{number}", traits=traits))
        await asyncio.sleep(0.002)
    await agents.move("agent-1", "active")

    async def names(*traits: str, statuses: tuple[AgentStatus, ...] = LISTED, **more: int) -> list[str]:
        rows, total = await agents.agents(statuses=statuses, traits=traits, **more)
        assert total >= len(rows)
        return [row.agent_id for row in rows]

    assert set(await names()) == {"agent-0", "agent-1", "agent-2"}
    assert await names("a", "b") == ["agent-1"]
    assert set(await names("b")) == {"agent-1", "agent-2"}
    assert await names("c") == []
    assert await names(statuses=("active",)) == ["agent-1"]
    assert await names("b", statuses=("registered",)) == ["agent-2"]
    assert len(await names(limit=2)) == 2
    assert len(await names(limit=2, offset=2)) == 1


_ALLOWED = {
    "active": {"registered", "active", "paused", "deactivated"},
    "paused": {"active"},
    "deactivated": {"registered", "active", "paused", "deactivated"},
    "archived": {"deactivated", "archived"},
}


@pytest.mark.parametrize("wanted", sorted(_ALLOWED))
@pytest.mark.parametrize("present", STATUSES)
async def test_states_follow_from_one_another_as_they_may(
    store: Store, present: AgentStatus, wanted: AgentStatus
) -> None:
    agents = store.agents("default")
    await agents.register(agent())
    ways = {"paused": ("active", "paused"), "archived": ("deactivated", "archived"), "registered": ()}
    for step in ways.get(present, (present,)):
        await agents.move("researcher", step)  # type: ignore[arg-type]

    if present in _ALLOWED[wanted]:
        moved = await agents.move("researcher", wanted)
        assert moved is not None
        assert moved.status == wanted
        assert await agents.agent("researcher") == moved
    else:
        with pytest.raises(Conflict, match=f"is {present}, so it cannot become {wanted}"):
            await agents.move("researcher", wanted)


async def test_what_is_archived_is_not_registered_again(store: Store) -> None:
    agents = store.agents("default")
    await agents.register(agent())
    await agents.move("researcher", "deactivated")
    await agents.move("researcher", "archived")

    for digest in ("d1", "d2"):
        with pytest.raises(Conflict, match="is archived"):
            await agents.register(agent(digest=digest), replace=True)


async def test_an_unknown_agent_cannot_be_moved(store: Store) -> None:
    await store.agents("other").register(agent())

    assert await store.agents("default").move("researcher", "active") is None
    assert await store.agents("default").move("a\x00b", "active") is None
    assert await store.agents("default").agent("a\x00b") is None


@pytest.mark.parametrize("broken", [{"card": "a\x00b"}, {"traits": ("a\x00b",)}, {"uri": "\ud800"}])
async def test_what_a_store_cannot_hold_is_refused(store: Store, broken: dict[str, Any]) -> None:
    with pytest.raises(ValueRejected):
        await store.agents("default").register(agent(**broken))
    assert await store.agents("default").agent("researcher") is None


async def test_heartbeats_are_kept_and_older_ones_change_nothing(store: Store) -> None:
    for tenant_id in ("default", "other"):
        await store.agents(tenant_id).register(agent())

    await store.all_agents.beat([Beat("default", "researcher", 2_000), Beat("other", "researcher", 3_000)])
    await store.all_agents.beat([Beat("default", "researcher", 1_000), Beat("other", "researcher", 4_000)])

    async def last(tenant_id: str) -> int | None:
        row = await store.agents(tenant_id).agent("researcher")
        assert row is not None
        return row.last_heartbeat

    assert (await last("default"), await last("other")) == (2_000, 4_000)
    rows, _ = await store.agents("other").agents(statuses=LISTED)
    assert [row.last_heartbeat for row in rows] == [4_000]


async def test_a_thousand_heartbeats_are_one_write(store: Store) -> None:
    beats = [Beat("default", f"agent-{number}", number) for number in range(1_000)]
    await store.agents("default").register(agent("agent-7"))

    await store.all_agents.beat(beats)

    row = await store.agents("default").agent("agent-7")
    assert row is not None
    assert row.last_heartbeat == 7


async def test_known_tells_which_agents_exist(store: Store) -> None:
    await store.agents("default").register(agent())

    keys = [("default", "researcher"), ("other", "researcher"), ("default", "nobody")]
    assert await store.all_agents.known(keys) == {("default", "researcher")}
    assert await store.all_agents.known([]) == set()


async def test_who_is_silent_is_paused_until_it_beats_again(store: Store) -> None:
    agents = store.agents("default")
    for name in ("silent", "lively", "never", "off"):
        await agents.register(agent(name))
        await agents.move(name, "active")
    await agents.move("off", "deactivated")
    await store.all_agents.beat([Beat("default", "silent", 1_000), Beat("default", "lively", 9_000)])
    await store.all_agents.beat([Beat("default", "off", 1_000)])

    assert await store.all_agents.silence(5_000) == [("default", "silent")]
    assert await store.all_agents.silence(5_000) == []
    paused = await agents.agent("silent")
    assert paused is not None
    assert (paused.status, paused.silenced) == ("paused", True)

    await store.all_agents.beat([Beat("default", "silent", 9_500), Beat("default", "off", 9_500)])
    again, off = await agents.agent("silent"), await agents.agent("off")
    assert again is not None
    assert off is not None
    assert (again.status, again.silenced, off.status) == ("active", False, "deactivated")
    assert (await entries(store))[-2:] == ["agent_paused", "agent_activated"]


async def test_who_was_paused_by_silence_and_then_deactivated_stays_so(store: Store) -> None:
    agents = store.agents("default")
    await agents.register(agent())
    await agents.move("researcher", "active")
    await store.all_agents.beat([Beat("default", "researcher", 1_000)])
    await store.all_agents.silence(5_000)
    await agents.move("researcher", "deactivated")

    await store.all_agents.beat([Beat("default", "researcher", 9_000)])

    row = await agents.agent("researcher")
    assert row is not None
    assert (row.status, row.silenced) == ("deactivated", False)


async def test_active_agents_of_some_tenants(store: Store) -> None:
    for tenant_id in ("a", "b", "c"):
        for name in ("one", "two"):
            await store.agents(tenant_id).register(agent(name, uri=f"http://{tenant_id}/{name}"))
        await store.agents(tenant_id).move("one", "active")

    rows = await store.all_agents.active_of(["c", "a"], limit=10)
    assert [row.uri for row in rows] == ["http://a/one", "http://c/one"]
    assert len(await store.all_agents.active_of(["c", "a"], limit=1)) == 1
    assert await store.all_agents.active_of([], limit=10) == []


async def test_the_first_key_of_a_name_stays(database: Database) -> None:
    stores = [await database.open() for _ in range(3)]

    kept = await asyncio.gather(
        *(store.system.installation_key("did", f"pem-{number}") for number, store in enumerate(stores))
    )

    assert len(set(kept)) == 1
    assert await stores[0].system.installation_key("other", "pem-x") == "pem-x"


async def test_exposed_workflows_are_latest_versions(store: Store) -> None:
    own = store.tenant("default")
    for workflow_id, version, exposed in (
        ("both", "1", ""),
        ("both", "2", "a2a,mcp"),
        ("was", "1", "mcp"),
        ("was", "2", ""),
        ("mcp-only", "1", "mcp"),
    ):
        await own.register_workflow(
            workflow(workflow_id, version, digest=f"{workflow_id}{version}", exposed=exposed)
        )

    assert [row.workflow_id for row in await own.exposed_workflows("mcp")] == ["mcp-only", "both"]
    assert [(row.workflow_id, row.version) for row in await own.exposed_workflows("a2a")] == [("both", "2")]
    assert await store.tenant("other").exposed_workflows("mcp") == []


async def test_a_name_that_no_row_could_have_keeps_no_other_from_being_known(store: Store) -> None:
    await store.agents("default").register(agent())
    keys = [("default", "a\0b"), ("default", "\ud800"), ("default", "researcher"), ("a\0b", "researcher")]
    assert await store.all_agents.known(keys) == {("default", "researcher")}
