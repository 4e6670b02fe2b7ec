"""Agents: registered with their cards or discovered by URL, found by what they can, and heard of."""

from typing import Any
from urllib.parse import quote

from fastapi import Request
from starlette.responses import Response

from actors.agents.messages import SeenAgent
from actors.agents.registry import new_agent
from api import render
from api.origin import origin_of
from api.requests import page, read_json, validated, whole_number
from api.resources import principal, resources, tenant
from api.routing import answers, declared, router
from api.schemas import (
    Agent,
    AgentHeard,
    AgentList,
    AgentMoved,
    AgentRegistered,
    AgentTrace,
    CardBody,
    DiscoverBody,
)
from runtime.agents.card import read_card, trait
from runtime.agents.lifecycle import LISTED, STATUSES, AgentStatus
from runtime.audit.entries import AuditRow
from runtime.errors import BadRequest, NotFound

routes = router("agents")

PROTOCOLS = ("mcp", "a2a", "anp")
SKILLS_MAX = 20
TRACE_MAX = 200
TOKENS_TRACED_MAX = 20
"""Tokens of one agent whose calls its trace shows."""
LIMIT, OFFSET = "1 to 500, default 50", "how many to leave out"


@routes.post(
    "/agents",
    status_code=201,
    responses=answers(AgentRegistered, status=201, refusals=(409, 413, 415)),
    openapi_extra=declared("write", CardBody, replace="true: over another card of the same agent"),
)
async def register_agent(request: Request) -> Response:
    """Register an agent with its card. The same card again is 201 too; another one is 409, or replaces it.

    The id is the card's, or made of its name.
    """
    _, value = await read_json(request)
    validated(CardBody, value)
    agent = new_agent(read_card(value), value)
    caller = principal(request)
    seen = await resources(request).agents.register(
        caller.tenant_id, agent, replace=_switch(request, "replace"), by=origin_of(request, caller)
    )
    return render.answer({"agent_id": seen.row.agent_id}, 201, _location(seen))


@routes.get(
    "/agents",
    responses=answers(AgentList),
    openapi_extra=declared(
        "read",
        status=", ".join(STATUSES) + "; default all but archived",
        skill="that have this skill, by id or name",
        protocol=", ".join(PROTOCOLS),
        limit=LIMIT,
        offset=OFFSET,
    ),
)
async def list_agents(request: Request) -> Response:
    """Agents, the newest first."""
    wanted = []
    skill, protocol = request.query_params.get("skill"), request.query_params.get("protocol")
    if skill is not None:
        wanted.append(trait("skill", skill))
    if protocol is not None:
        if protocol not in PROTOCOLS:
            raise BadRequest(f"protocol: must be one of {', '.join(PROTOCOLS)}, not {protocol[:40]!r}")
        wanted.append(trait("protocol", protocol))
    return await _listed(request, _statuses(request), wanted)


@routes.get(
    "/agents/search",
    responses=answers(AgentList),
    openapi_extra=declared(
        "read",
        skills="ids or names with commas between: agents that have all of them",
        trust_domain="agents whose label trust_domain is this",
        limit=LIMIT,
        offset=OFFSET,
    ),
)
async def search_agents(request: Request) -> Response:
    """Agents that have all the skills, in any state but archived; the newest first."""
    skills = [name for name in request.query_params.get("skills", "").split(",") if name]
    if len(skills) > SKILLS_MAX:
        raise BadRequest(f"skills: at most {SKILLS_MAX} may be asked for, not {len(skills)}")
    wanted = [trait("skill", name) for name in skills]
    domain = request.query_params.get("trust_domain")
    if domain:
        wanted.append(trait("trust_domain", domain))
    return await _listed(request, LISTED, wanted)


@routes.post(
    "/agents/discover",
    status_code=201,
    responses=answers(Agent, status=201, refusals=(409, 413, 415, 502)),
    openapi_extra=declared("write", DiscoverBody),
)
async def discover_agent(request: Request) -> Response:
    """Fetch a card from ``/.well-known/agent.json`` or ``agent-card.json`` of a URL, and register its agent.

    Public hosts are asked by https. A refused address is 400, as is what is no card; 502: nobody answers.
    """
    _, value = await read_json(request)
    body = validated(DiscoverBody, value)
    caller = principal(request)
    seen = await resources(request).agents.discover(caller.tenant_id, body.url, by=origin_of(request, caller))
    return render.answer(render.agent(seen), 201, _location(seen))


@routes.get("/agents/{agent_id}", responses=answers(Agent), openapi_extra=declared("read"))
async def get_agent(request: Request, agent_id: str) -> Response:
    """One agent with its card."""
    return render.answer(render.agent(await _known(request, agent_id)))


@routes.delete(
    "/agents/{agent_id}",
    responses=answers(AgentMoved, refusals=(409,)),
    openapi_extra=declared("write"),
)
async def archive_agent(request: Request, agent_id: str) -> Response:
    """Archive a deactivated agent. It keeps its id, and never comes back."""
    return await _moved(request, agent_id, "archived")


@routes.post(
    "/agents/{agent_id}/activate",
    responses=answers(AgentMoved, refusals=(409,)),
    openapi_extra=declared("write"),
)
async def activate_agent(request: Request, agent_id: str) -> Response:
    """Activate an agent: one that its tenant publishes is in the DID document from now on."""
    return await _moved(request, agent_id, "active")


@routes.post(
    "/agents/{agent_id}/deactivate",
    responses=answers(AgentMoved, refusals=(409,)),
    openapi_extra=declared("write"),
)
async def deactivate_agent(request: Request, agent_id: str) -> Response:
    """Deactivate an agent: workflows cannot call it by its id any more."""
    return await _moved(request, agent_id, "deactivated")


@routes.post("/agents/{agent_id}/heartbeat", responses=answers(AgentHeard), openapi_extra=declared("write"))
async def heartbeat(request: Request, agent_id: str) -> Response:
    """A sign of life. An agent that was paused for its silence is active again."""
    if not await resources(request).agents.heartbeat(principal(request).tenant_id, agent_id):
        raise _unknown(agent_id)
    return render.answer({"agent_id": agent_id, "ok": True})


@routes.get(
    "/agents/{agent_id}/trace",
    responses=answers(AgentTrace),
    openapi_extra=declared("read", limit=f"1 to {TRACE_MAX}, default 20"),
)
async def get_trace(request: Request, agent_id: str) -> Response:
    """The last calls to and from an agent, the newest first, as the audit log has them.

    From it are the calls that were made with a token that names it.
    """
    limit = whole_number(request, "limit", default=20, least=1, most=TRACE_MAX)
    await _known(request, agent_id)
    store = tenant(request)
    calls, _ = await store.audit(actor_id=f"agent:{agent_id}", event_type="agent_call_completed", limit=limit)
    found: list[tuple[AuditRow, str]] = [(row, "in") for row in calls]
    tokens = [token for token in await store.tokens() if token.agent_id == agent_id]
    for token in tokens[-TOKENS_TRACED_MAX:]:
        made, _ = await store.audit(actor_id=f"token:{token.id}", limit=limit)
        found += [(row, "out") for row in made]
    found.sort(key=lambda call: (call[0].created_at, call[0].chain, call[0].position), reverse=True)
    shown = [render.agent_call(row, direction) for row, direction in found[:limit]]
    return render.answer({"events": shown})


async def _listed(request: Request, statuses: tuple[AgentStatus, ...], traits: list[str]) -> Response:
    limit, offset = page(request)
    found = await resources(request).agents.search(
        principal(request).tenant_id, statuses=statuses, traits=traits, limit=limit, offset=offset
    )
    shown = [render.agent(seen) for seen in found.agents]
    return render.answer({"agents": shown, "total": found.total, "limit": limit, "offset": offset})


def _statuses(request: Request) -> tuple[AgentStatus, ...]:
    wanted = request.query_params.get("status")
    if wanted is None:
        return LISTED
    for status in STATUSES:
        if status == wanted:
            return (status,)
    raise BadRequest(f"status: must be one of {', '.join(STATUSES)}, not {wanted[:40]!r}")


def _switch(request: Request, name: str) -> bool:
    text = request.query_params.get(name, "false").lower()
    if text not in ("true", "false", "1", "0"):
        raise BadRequest(f"{name}: must be true or false, not {text[:40]!r}")
    return text in ("true", "1")


async def _known(request: Request, agent_id: str) -> SeenAgent:
    seen = await resources(request).agents.find(principal(request).tenant_id, agent_id)
    if seen is None:
        raise _unknown(agent_id)
    return seen


async def _moved(request: Request, agent_id: str, status: AgentStatus) -> Response:
    caller = principal(request)
    seen = await resources(request).agents.move(
        caller.tenant_id, agent_id, status, by=origin_of(request, caller)
    )
    if seen is None:
        raise _unknown(agent_id)
    return render.answer({"agent_id": agent_id, "status": seen.row.status})


def _unknown(agent_id: str) -> NotFound:
    return NotFound(f"agent {agent_id}")


def _location(seen: SeenAgent) -> dict[str, Any]:
    return {"Location": f"/agents/{quote(seen.row.agent_id, safe='')}"}
