"""The agent card of this runtime: A2A's, old and new, with JamJet's fields beside them."""

import logging
from typing import Any

import msgspec
from a2a.server.request_handlers.response_helpers import agent_card_to_dict
from a2a.types import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    AgentSkill,
    HTTPAuthSecurityScheme,
    SecurityRequirement,
    SecurityScheme,
    StringList,
)

from actors.settings import VERSION, Settings
from api.federation.identity import runtime_id
from runtime.ir.exposure import input_schema
from runtime.store.port import WorkflowRow

# The SDK warns of a card without skills, each time that it is asked for.
logging.getLogger("a2a.utils.proto_utils").setLevel(logging.ERROR)

PATH = "/a2a"
VERSIONS = ("1.0", "0.3")
MODES = ["application/json", "text/plain"]
DESCRIPTION = "Durable workflows of AI agents. Each skill is a workflow, and each task an execution of it."


def agent_card(settings: Settings, workflows: list[WorkflowRow]) -> AgentCard:
    """The card with a skill for each workflow."""
    url = settings.reachable_url + PATH
    card = AgentCard(
        name="jamjet-ray",
        description=DESCRIPTION,
        version=VERSION,
        supported_interfaces=[
            AgentInterface(url=url, protocol_binding="JSONRPC", protocol_version=version)
            for version in VERSIONS
        ],
        capabilities=AgentCapabilities(streaming=True, push_notifications=False, extended_agent_card=True),
        default_input_modes=MODES,
        default_output_modes=MODES,
        skills=[_skill(row) for row in workflows],
    )
    if not settings.dev_mode:
        scheme = SecurityScheme(http_auth_security_scheme=HTTPAuthSecurityScheme(scheme="bearer"))
        card.security_schemes["bearer"].CopyFrom(scheme)
        card.security_requirements.append(SecurityRequirement(schemes={"bearer": StringList()}))
    return card


def card_document(settings: Settings, workflows: list[WorkflowRow]) -> dict[str, Any]:
    """The card as JSON for clients of A2A 1.0, 0.3, and JamJet."""
    shown = agent_card_to_dict(agent_card(settings, workflows))
    url = settings.reachable_url
    shown |= {"id": runtime_id(url), "uri": url, "autonomy": "guided"}
    shown["auth"] = {"type": "none"} if settings.dev_mode else {"type": "bearer_token"}
    shown.setdefault("skills", [])
    shown["capabilities"] |= {
        "skills": [
            {
                "name": row.workflow_id,
                "id": row.workflow_id,
                "description": _description(row),
                "input_schema": input_schema(msgspec.json.decode(row.ir)),
            }
            for row in workflows
        ],
        "protocols": ["a2a", "mcp"],
        "tools_provided": [],
        "tools_consumed": [],
    }
    return shown


def _skill(row: WorkflowRow) -> AgentSkill:
    return AgentSkill(
        id=row.workflow_id, name=row.workflow_id, description=_description(row), tags=["workflow"]
    )


def _description(row: WorkflowRow) -> str:
    return str(msgspec.json.decode(row.ir).get("description") or f"Runs the workflow {row.workflow_id}.")
