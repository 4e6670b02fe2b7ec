"""Agent cards: every known form is read, and what is no card is refused by the field."""

from typing import Any

import pytest

from runtime.agents.card import CARD_BYTES_MAX, card_digest, flattened, read_card, slug, trait
from runtime.errors import BadRequest

JAMJET: dict[str, Any] = {
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
                "input_schema": {"type": "object"},
                "output_schema": "A report",
            }
        ],
        "protocols": ["a2a"],
        "tools_provided": ["web_search"],
        "tools_consumed": [],
    },
    "autonomy": "guided",
    "auth": {"type": "bearer_token"},
}
A2A_02 = {
    "name": "Security Reviewer",
    "description": "Reviews code.",
    "url": "https://agents.example.com/review",
    "version": "1.2.0",
    "capabilities": {"streaming": True, "pushNotifications": False},
    "defaultInputModes": ["text"],
    "skills": [{"id": "security_review", "name": "Security review", "description": "d", "tags": ["code"]}],
}
A2A_03 = {
    **A2A_02,
    "protocolVersion": "0.3.0",
    "preferredTransport": "HTTP+JSON",
    "additionalInterfaces": [{"url": "https://agents.example.com/rpc", "transport": "JSONRPC"}],
}
A2A_10 = {
    "name": "Security Reviewer",
    "description": "Reviews code.",
    "version": "1.2.0",
    "supportedInterfaces": [
        {
            "url": "https://agents.example.com/v1",
            "protocolBinding": "HTTP+JSON",
            "protocolVersion": "1.0",
        },
        {"url": "https://agents.example.com/rpc", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"},
    ],
    "capabilities": {"streaming": True},
    "skills": [{"id": "security_review", "name": "Security review", "description": "d", "tags": []}],
}


def test_jamjets_card() -> None:
    card = read_card(JAMJET)

    assert (card.id, card.uri, card.name, card.version) == (
        "research-agent",
        "http://localhost:7701",
        "Research Agent",
        "0.1.0",
    )
    [skill] = card.skills
    assert (skill.id, skill.name, skill.input_schema, skill.output_schema) == (
        "research",
        "research",
        {"type": "object"},
        "A report",
    )
    assert (card.protocols, card.tools_provided, card.tools_consumed) == (("a2a",), ("web_search",), ())
    assert [(one.url, one.binding, one.version) for one in card.interfaces] == [
        ("http://localhost:7701", "JSONRPC", "0.2.0")
    ]
    assert card.traits() == {"skill:research", "protocol:a2a"}


@pytest.mark.parametrize(
    ("value", "interfaces"),
    [
        (A2A_02, [("https://agents.example.com/review", "JSONRPC", "0.2.0")]),
        (
            A2A_03,
            [
                ("https://agents.example.com/review", "HTTP+JSON", "0.3.0"),
                ("https://agents.example.com/rpc", "JSONRPC", "0.3.0"),
            ],
        ),
        (
            A2A_10,
            [
                ("https://agents.example.com/v1", "HTTP+JSON", "1.0"),
                ("https://agents.example.com/rpc", "JSONRPC", "1.0"),
            ],
        ),
    ],
)
def test_a2as_cards(value: dict[str, Any], interfaces: list[tuple[str, str, str]]) -> None:
    card = read_card(value)

    assert (card.id, card.name, card.streaming) == ("security-reviewer", "Security Reviewer", True)
    assert [(one.url, one.binding, one.version) for one in card.interfaces] == interfaces
    assert card.uri == interfaces[0][0]
    assert card.traits() == {"skill:security_review", "skill:Security review", "protocol:a2a"}


def test_a_card_that_does_not_say_where_it_is_is_where_it_was_found() -> None:
    value = {"name": "n", "capabilities": {"protocols": ["a2a"]}}

    card = read_card(value, found_at="http://127.0.0.1:9")
    assert card.uri == card.interfaces[0].url == "http://127.0.0.1:9"
    assert read_card(value).uri == ""


def test_an_agent_that_is_found_by_a_protocol_can_be_called_by_it() -> None:
    card = read_card({"name": "n", "uri": "http://127.0.0.1:9", "capabilities": {"protocols": ["A2A"]}})
    assert card.traits() == {"protocol:a2a"}
    assert [one.url for one in card.interfaces] == ["http://127.0.0.1:9"]


def test_the_card_flattened_has_jamjets_fields_and_its_own() -> None:
    shown = flattened(read_card(A2A_03), A2A_03)

    assert shown["capabilities"]["streaming"] is True
    assert shown["capabilities"]["protocols"] == ["a2a"]
    assert shown["capabilities"]["skills"][0]["id"] == "security_review"
    assert (shown["uri"], shown["url"]) == (A2A_03["url"], A2A_03["url"])
    assert shown["skills"] == A2A_03["skills"]
    assert (shown["autonomy"], shown["auth"], shown["labels"]) == ("guided", {"type": "none"}, {})
    assert flattened(read_card(JAMJET), JAMJET)["autonomy"] == "guided"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ([], "an agent card must be a JSON object"),
        ({}, "card.name is required"),
        ({"name": ""}, "card.name is required"),
        ({"name": 5}, "card.name must be a text"),
        ({"name": "n" * 257}, "card.name has 257 characters, over the limit of 256"),
        ({"id": "a/b"}, "card.id 'a/b' must be printable, without '/' and without blanks around it"),
        ({"id": " a"}, "card.id ' a' must be printable, without '/' and without blanks around it"),
        ({"id": "search"}, "card.id 'search' is the name of a route"),
        ({"id": True}, "card.id must be a text"),
        ({"id": "x" * 257}, "card.id has 257 characters, over the limit of 256"),
        ({"name": "n", "uri": "no url"}, "card.uri 'no url' is no url"),
        ({"name": "n", "capabilities": []}, "card.capabilities must be an object"),
        ({"name": "n", "capabilities": {"skills": {}}}, "card.skills must be a list"),
        ({"name": "n", "capabilities": {"skills": [5]}}, "card.capabilities.skills[0] must be an object"),
        ({"name": "n", "capabilities": {"skills": [{}]}}, "card.capabilities.skills[0].name is required"),
        (
            {"name": "n", "capabilities": {"skills": [{"name": "s", "input_schema": 5}]}},
            "card.capabilities.skills[0].input_schema must be an object or a text",
        ),
        (
            {"name": "n", "capabilities": {"protocols": [5]}},
            "card.capabilities.protocols must be a list of texts of at most 256 characters",
        ),
        ({"name": "n", "labels": []}, "card.labels must be an object"),
        (
            {"name": "n", "labels": {"trust_domain": "t" * 257}},
            "card.labels.trust_domain has 257 characters, over the limit of 256",
        ),
        ({"name": "n", "supportedInterfaces": [{}]}, "card.supportedInterfaces[0].url is required"),
        ({"name": "n", "supportedInterfaces": [5]}, "card.supportedInterfaces[0] must be an object"),
        ({"name": "n", "x": "y" * CARD_BYTES_MAX}, "the card has 65555 bytes, over the limit of 65536"),
        ({"name": "n", "x": float("nan")}, None),
    ],
)
def test_what_is_no_card_is_refused_by_the_field(change: Any, said: str | None) -> None:
    with pytest.raises(BadRequest) as error:
        read_card(change)
    assert said is None or error.value.detail == said


def test_an_id_is_made_of_the_name() -> None:
    assert slug("Security  Reviewer!") == "security-reviewer"
    assert slug("研究") == slug("研究") != slug("代理")
    assert slug("研究").startswith("agent-")
    assert read_card({"name": "My Agent"}).id == "my-agent"
    assert read_card({"name": "Search"}).id == "search-agent", "no name of a route"
    assert read_card({"id": 7, "name": "n"}).id == "7"


def test_protocols_are_found_under_their_family() -> None:
    card = read_card({"name": "n", "capabilities": {"protocols": ["mcp_server", "A2A"]}})
    assert card.traits() == {"protocol:mcp", "protocol:a2a"}
    assert trait("protocol", "mcp_client") == "protocol:mcp"


def test_equal_cards_have_one_digest() -> None:
    assert card_digest({"a": 1, "b": [2]}) == card_digest({"b": [2], "a": 1})
    assert card_digest({"a": 1}) != card_digest({"a": 2})
