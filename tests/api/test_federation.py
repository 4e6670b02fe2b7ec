"""What everybody may see of a runtime: its DID document and its card."""

import asyncio
import base64
from dataclasses import replace
from typing import Any

import httpx
import pytest
from a2a.client import A2ACardResolver
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from api.federation.identity import did_of, runtime_id
from runtime.agents.card import read_card
from tests.fixtures.api import COUNT, OTHER_TENANT, PAY, Api
from tests.fixtures.served import served

PUBLISH = '{"publish":true}'


async def publish(api: Api, *tenants: str) -> None:
    for tenant_id in tenants:
        await api.store.system.update_tenant(tenant_id, policy=PUBLISH)


async def register_agent(api: Api, agent_id: str, role: str = "developer", *, active: bool = True) -> None:
    card = {"id": agent_id, "name": agent_id.title(), "uri": f"https://{agent_id}.example.com"}
    assert (await api.post("/agents", card, role=role)).status_code == 201
    if active:
        await api.post(f"/agents/{agent_id}/activate", role=role)


@pytest.mark.parametrize(
    ("url", "did"),
    [
        ("http://127.0.0.1:7700", "did:web:localhost%3A7700"),
        ("http://[::1]:7700", "did:web:localhost%3A7700"),
        ("https://Agents.Example.com", "did:web:agents.example.com"),
        ("https://agents.example.com:8443", "did:web:agents.example.com%3A8443"),
        ("https://example.com/team a/agents/", "did:web:example.com:team%20a:agents"),
    ],
)
def test_the_did_of_a_url(url: str, did: str) -> None:
    assert did_of(url) == did


def test_the_id_of_a_runtime() -> None:
    assert runtime_id("http://127.0.0.1:7701") == "jamjet-127-0-0-1-7701"
    assert runtime_id("https://agents.example.com/a") == "jamjet-agents-example-com-a"


async def test_the_did_document_has_active_agents_of_tenants_that_publish(bare_api: Api) -> None:
    await register_agent(bare_api, "active")
    await register_agent(bare_api, "registered", active=False)
    await register_agent(bare_api, "foreign", "other-developer")
    await publish(bare_api, "default")

    answer = await bare_api.get("/.well-known/did.json", role=None)

    assert answer.status_code == 200
    document = answer.json()
    did = "did:web:localhost%3A7700"
    assert document["id"] == did
    assert document["@context"][0] == "https://www.w3.org/ns/did/v1"
    assert document["service"] == [
        {
            "id": f"{did}#active",
            "type": "A2AService",
            "serviceEndpoint": "https://active.example.com",
            "name": "Active",
        }
    ]
    [method] = document["verificationMethod"]
    assert (method["id"], method["controller"]) == (f"{did}#key-1", did)
    assert document["assertionMethod"] == [method["id"]]
    jwk = method["publicKeyJwk"]
    assert (jwk["kty"], jwk["crv"]) == ("OKP", "Ed25519")
    Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(jwk["x"] + "=="))


async def test_all_replicas_have_one_key(bare_api: Api) -> None:
    async def key() -> Any:
        return (await bare_api.get("/.well-known/did.json", role=None)).json()["verificationMethod"]

    first = await key()
    bare_api.rebuild()
    assert await key() == first


async def test_nothing_is_told_of_tenants_that_do_not_publish(bare_api: Api) -> None:
    await register_agent(bare_api, "active")
    await bare_api.register({**COUNT, "expose": ["a2a"]})

    assert (await bare_api.get("/.well-known/did.json", role=None)).json()["service"] == []
    assert (await bare_api.get("/.well-known/agent.json", role=None)).json()["skills"] == []


async def test_nor_of_one_that_is_suspended(bare_api: Api) -> None:
    await register_agent(bare_api, "foreign", "other-developer")
    await publish(bare_api, OTHER_TENANT)
    await bare_api.store.system.update_tenant(OTHER_TENANT, status="suspended")

    assert (await bare_api.get("/.well-known/did.json", role=None)).json()["service"] == []


async def test_without_authentication_the_default_tenant_publishes(bare_api: Api) -> None:
    await bare_api.register({**COUNT, "expose": ["a2a"]})
    await register_agent(bare_api, "active")
    bare_api.rebuild(settings=replace(bare_api.settings, dev_mode=True))

    card = (await bare_api.get("/.well-known/agent.json", role=None)).json()
    assert [skill["id"] for skill in card["skills"]] == ["count"]
    assert card["auth"] == {"type": "none"}
    assert len((await bare_api.get("/.well-known/did.json", role=None)).json()["service"]) == 1


async def test_the_card_has_a_skill_for_each_exposed_workflow(bare_api: Api) -> None:
    described = {"description": "Counts.", "state_schema": {"n": "int"}}
    await bare_api.register({**COUNT, "expose": ["a2a", "mcp"], **described})
    await bare_api.register({**PAY, "expose": ["mcp"]})
    await bare_api.register({**PAY, "workflow_id": "labelled", "labels": {"jamjet.expose": "a2a"}})
    await publish(bare_api, "default")

    answers = [
        await bare_api.get(f"/.well-known/{name}", role=None) for name in ("agent.json", "agent-card.json")
    ]

    card = answers[0].json()
    assert answers[1].json() == card
    assert [(skill["id"], skill["description"]) for skill in card["skills"]] == [
        ("labelled", "Runs the workflow labelled."),
        ("count", "Counts."),
    ]
    own = card["capabilities"]["skills"][1]
    assert own["input_schema"] == {"type": "object", "properties": {"n": {"type": "integer"}}}
    assert card["url"] == "http://127.0.0.1:7700/a2a"
    assert [one["protocolVersion"] for one in card["supportedInterfaces"]] == ["1.0", "0.3"]
    assert card["securitySchemes"]["bearer"]
    read = read_card(card)
    assert (read.id, read.streaming) == ("jamjet-127-0-0-1-7700", True)
    assert {"skill:count", "protocol:a2a"} <= read.traits()


async def test_the_official_client_reads_the_card(bare_api: Api) -> None:
    await bare_api.register({**COUNT, "expose": ["a2a"]})
    await publish(bare_api, "default")
    async with served(bare_api.app) as url, httpx.AsyncClient() as http:
        card = await A2ACardResolver(http, url).get_agent_card()

    assert [skill.id for skill in card.skills] == ["count"]
    assert card.capabilities.streaming


async def test_a_latest_version_that_is_not_exposed_takes_the_skill_away(bare_api: Api) -> None:
    await bare_api.register({**COUNT, "expose": ["a2a"]})
    await bare_api.register({**COUNT, "version": "2.0.0"})

    listed = (await bare_api.get("/workflows?exposed=a2a")).json()
    assert (listed["workflows"], listed["total"]) == ([], 0)


@pytest.mark.parametrize(
    ("expose", "said"),
    [
        (["soap"], "ir.expose: 'soap' is none of a2a, mcp"),
        ({"a": 1}, "ir.expose must be a list of a2a and mcp"),
    ],
)
async def test_what_cannot_be_exposed(bare_api: Api, expose: Any, said: str) -> None:
    answer = await bare_api.post("/workflows", {"ir": {**COUNT, "expose": expose}})
    assert answer.status_code == 400
    assert answer.json()["problems"] == [said]


async def test_the_list_of_exposed_workflows_names_the_protocol(bare_api: Api) -> None:
    answer = await bare_api.get("/workflows?exposed=soap")
    assert answer.json()["error"] == "bad request: exposed: must be one of a2a, mcp, not 'soap'"


async def test_documents_are_read_once_for_many(bare_api: Api) -> None:
    reads = 0
    active_of = bare_api.store.all_agents.active_of

    async def counted(*args: Any, **more: Any) -> Any:
        nonlocal reads
        reads += 1
        return await active_of(*args, **more)

    bare_api.store.all_agents.active_of = counted  # type: ignore[method-assign]
    bare_api.rebuild()
    await asyncio.gather(*(bare_api.get("/.well-known/did.json", role=None) for _ in range(50)))
    assert reads == 1
