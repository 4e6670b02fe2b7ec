"""How rows and states look on the wire."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import orjson
from starlette.responses import Response

from actors.agents.messages import SeenAgent
from actors.nodes import ClusterNode
from actors.placement import ONE_NODE, is_usable
from actors.port import Installation
from actors.settings import VERSION, Settings
from api.withheld import Withheld
from runtime.agents.card import flattened, read_card
from runtime.audit.entries import AuditRow
from runtime.events import decode_event, kind_name
from runtime.ir.exposure import input_schema
from runtime.plan import Plan
from runtime.redaction import Redactor
from runtime.state import ExecutionState, status_of, waiting_on
from runtime.store.history import fold_stored
from runtime.store.port import (
    TERMINAL_STATUSES,
    EventRow,
    ExecutionRow,
    ExecutorRow,
    Load,
    StoredExecution,
    TenantRow,
    TokenRow,
    WorkflowRow,
    shown_status,
)

ANSWER_TYPE = "application/json"


def answer(
    value: Any, status: int = 200, headers: dict[str, str] | None = None, *, background: Any = None
) -> Response:
    """A JSON answer; state is private, so nothing in between keeps it."""
    data = value if isinstance(value, bytes) else orjson.dumps(value)
    return Response(data, status, {"Cache-Control": "no-store", **(headers or {})}, ANSWER_TYPE, background)


def timestamp(ms: int | None) -> str | None:
    """RFC 3339 with milliseconds and ``Z``."""
    if ms is None:
        return None
    moment = datetime.fromtimestamp(ms // 1_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ms % 1_000:03d}Z"


def execution_summary(row: ExecutionRow) -> dict[str, Any]:
    """One execution in a list."""
    return {
        "execution_id": row.execution_id,
        "workflow_id": row.workflow_id,
        "workflow_version": row.workflow_version,
        "status": shown_status(row.status),
        "isolation": row.isolation,
        "created_at": timestamp(row.created_at),
        "started_at": timestamp(row.created_at),
        "updated_at": timestamp(row.updated_at),
        "completed_at": timestamp(row.completed_at),
        "error": row.error,
    }


def execution(
    stored: StoredExecution, plan: Plan, owner: ExecutorRow | None, lacks: Mapping[str | None, str]
) -> dict[str, Any]:
    """One execution whole.

    Args:
        lacks: why a demand cannot be met: of each node, and under None of the execution itself.
    """
    state = fold_stored(stored, plan)
    status = status_of(state)
    return {
        **execution_summary(stored.row),
        "status": status,
        "state": state.data,
        "current_state": state.data,
        "initial_input": state.input,
        "output": state.data if status == "completed" else None,
        "steps_executed": state.steps,
        "sequence": state.sequence,
        "labels": plan.graph.labels,
        "waiting_on": _waits(stored.row, state, lacks),
        "actor": None if owner is None else _actor(owner),
    }


def _waits(row: ExecutionRow, state: ExecutionState, lacks: Mapping[str | None, str]) -> list[dict[str, Any]]:
    """Why it does not go on by itself, in the words of the API."""
    if row.status not in TERMINAL_STATUSES and row.runnable and row.owner is None:
        what = "resources" if row.isolation == "dedicated" else "executor"
        waited: dict[str, Any] = {"node_id": None, "type": what, "since": timestamp(row.updated_at)}
        if row.isolation == "dedicated":
            waited["reason"] = lacks.get(None, "its actor is being started")
        return [waited]
    entries = waiting_on(state)
    for node_id, record in state.nodes.items():
        if record.phase == "running" and node_id in lacks:
            entries.append(
                {"node_id": node_id, "type": "resources", "since": record.since, "reason": lacks[node_id]}
            )
    for entry in entries:
        for name in ("since", "due_at"):
            if name in entry:
                entry[name] = timestamp(entry[name])
    return entries


def _actor(owner: ExecutorRow) -> dict[str, Any]:
    return {
        "name": owner.name,
        "incarnation": owner.incarnation,
        "node": owner.node,
        "pid": owner.pid,
        "isolation": owner.isolation,
    }


def event(
    execution_id: str,
    row: EventRow,
    shape: str,
    final_state: Any = None,
    withheld: Withheld | None = None,
) -> dict[str, Any]:
    """One event. The typed shape differs from the flat one in ``kind`` alone."""
    fields: dict[str, Any] = orjson.loads(row.data)
    fields.pop("type", None)
    if shape == "typed":
        fields = {**_defaults(row), **fields}
        if row.type == "tool_approval_required":
            # As JamJet's clients know it, beside what is ours.
            fields |= {
                "tool_name": fields["tool"],
                "approver": "human",
                "context": {"input": fields.get("input")},
            }
    if row.type == "workflow_completed":
        fields["final_state"] = final_state
    if withheld is not None:
        fields = withheld.fields(row.type, row.node_id, fields)
    shown: dict[str, Any] = {
        "id": event_id(execution_id, row.sequence),
        "execution_id": execution_id,
        "sequence": row.sequence,
        "kind": kind_name(row.type),
        "type": row.type,
        "node_id": row.node_id,
        "created_at": timestamp(row.created_at),
    }
    if shape == "typed":
        kind = {"type": row.type, "node_id": row.node_id, **fields}
        return {**shown, "kind": kind, "name": shown["kind"]}
    fields.pop("node_id", None)
    return {**shown, "data": fields}


def _defaults(row: EventRow) -> dict[str, Any]:
    """What the log leaves out of an event because it is as usual, but JamJet's clients read."""
    fields = msgspec.structs.asdict(decode_event(row.type, row.data))
    return {name: value for name, value in fields.items() if value is not None}


def workflow(row: WorkflowRow, *, whole: bool) -> dict[str, Any]:
    """One registered version."""
    shown: dict[str, Any] = {
        "workflow_id": row.workflow_id,
        "version": row.version,
        "created_at": timestamp(row.created_at),
        "exposed": exposed_to(row),
    }
    if whole:
        shown["ir"] = orjson.loads(row.ir)
        shown["graph"] = orjson.loads(row.graph)
    return shown


def exposed_workflow(row: WorkflowRow) -> dict[str, Any]:
    """One version as callers by other protocols are told of it."""
    ir = orjson.loads(row.ir)
    shown = {**workflow(row, whole=False), "input_schema": input_schema(ir)}
    return shown | ({"description": ir["description"]} if ir.get("description") else {})


def exposed_to(row: WorkflowRow) -> list[str]:
    return row.exposed.split(",") if row.exposed else []


def cluster(
    settings: Settings,
    installation: Installation,
    proxies: Mapping[str, str],
    load: Load,
    executors: Iterable[ExecutorRow],
) -> dict[str, Any]:
    """The installation as a whole. ``proxies``: see ``api.proxies.proxies``."""
    alive = [row for row in executors if not row.gone]
    live = sum(row.live for row in alive)
    supervisor = installation.supervisor
    return {
        "release": VERSION,
        "ray": installation.ray,
        "database": "sqlite" if settings.one_node else "postgresql",
        "nodes": [
            {**_node(node, alive, settings, installation), "proxy": proxies.get(node.id)}
            for node in installation.nodes
        ],
        "supervisor": supervisor and {name: supervisor[name] for name in ("node", "pid", "idle_ms")},
        "executions": {
            "by_status": load.open,
            "live": live,
            "parked": max(0, sum(load.open.values()) - live - load.backlog),
            "backlog": load.backlog,
        },
        "lag": {"timers_ms": load.overdue_ms, "sweep_ms": load.waited_ms},
        "problems": [*_problems(settings, installation, alive), *_unanswering(installation, proxies)],
    }


def _node(
    node: ClusterNode, alive: list[ExecutorRow], settings: Settings, installation: Installation
) -> dict[str, Any]:
    own = [row for row in alive if row.node == node.id]
    return {
        "id": node.id,
        "address": node.address,
        "head": node.head,
        "draining": node.draining,
        "runs": is_usable(node, settings) and not (settings.one_node and _is_elsewhere(node, installation)),
        "cpus": node.cpus,
        "cpus_free": node.machine.free.get("CPU", 0),
        "actors": sum(row.state != "spare" for row in own),
        "spares": sum(row.state == "spare" for row in own),
        "live": sum(row.live for row in own),
    }


def _is_elsewhere(node: ClusterNode, installation: Installation) -> bool:
    """Whether it is another node than the Supervisor's, which is the one that holds a SQLite file."""
    return installation.supervisor is not None and installation.supervisor["node"] != node.id


SUPERVISOR_LATE_MS = 10_000


def _problems(settings: Settings, installation: Installation, alive: list[ExecutorRow]) -> list[str]:
    """What is wrong, a sentence for each."""
    found = []
    if settings.one_node and len(installation.nodes) > 1:
        found.append(f"{ONE_NODE}: {len(installation.nodes) - 1} of the cluster's nodes run none")
    if installation.ray is not None and installation.supervisor is None:
        found.append("the Supervisor does not answer: it is started anew within seconds where Ray can")
    elif installation.supervisor is not None and installation.supervisor["idle_ms"] > SUPERVISOR_LATE_MS:
        found.append("the Supervisor has not ended a round for 10 s: see whether the database answers")
    if not any(row.state == "active" for row in alive):
        found.append("no ExecutionActor takes work: see whether Ray has nodes with free CPUs for them")
    return found


def _unanswering(installation: Installation, proxies: Mapping[str, str]) -> list[str]:
    """The nodes on which callers get no answer though they should."""
    return [
        f"the API does not answer on node {node.id[:12]}, its proxy is {status}:"
        " see logs/serve/proxy_*.log of Ray's session there"
        for node in installation.nodes
        if (status := proxies.get(node.id, "healthy")) in ("starting", "unhealthy")
    ]


def worker(row: ExecutorRow) -> dict[str, Any]:
    """One life of one ExecutionActor."""
    return {
        "id": row.incarnation,
        "name": row.name,
        "node": row.node,
        "pid": row.pid,
        "status": "dead" if row.gone else row.state,
        "isolation": row.isolation,
        "capacity": row.capacity,
        "live": row.live,
        "queue_types": ["general", "model", "python_tool"],
        "started_at": timestamp(row.started_at),
        "last_heartbeat": timestamp(row.heartbeat_at),
    }


def token(row: TokenRow) -> dict[str, Any]:
    """One token, without what it hashes from."""
    fields = msgspec.structs.asdict(row)
    del fields["token_hash"]
    for name in ("created_at", "expires_at", "revoked_at", "last_used_at"):
        fields[name] = timestamp(fields[name])
    return fields


def audit_entry(row: AuditRow, redactor: Redactor | None = None) -> dict[str, Any]:
    """One audit entry. ``id`` names its place: the chain, and the position there."""
    details = None if row.details is None else orjson.loads(row.details)
    return {
        "id": row.id,
        "execution_id": row.execution_id,
        "event_type": row.event_type,
        "actor_id": row.actor_id,
        "created_at": timestamp(row.created_at),
        "actor_type": row.actor_type,
        "event_id": None if row.sequence is None else event_id(row.execution_id or "", row.sequence),
        "sequence": row.sequence,
        "event_digest": row.event_digest,
        "node_id": row.node_id,
        "tool_call_hash": row.tool_call_hash,
        "policy_decision": row.policy_decision,
        "http_request_id": row.request_id,
        "http_method": row.http_method,
        "http_path": row.http_path,
        "ip_address": row.ip_address,
        "details": details if redactor is None else redactor.value(details),
        "redacted": redactor is not None,
        "tenant_id": row.tenant_id,
        "entry_hash": row.hash,
    }


def event_id(execution_id: str, sequence: int) -> str:
    """The name of one event of an execution."""
    return f"evt_{execution_id.removeprefix('exec_')}_{sequence}"


def agent(seen: SeenAgent) -> dict[str, Any]:
    """One agent: its card's fields, what is known of it, and the card as it was given."""
    row = seen.row
    value = orjson.loads(row.card)
    return {
        **flattened(read_card(value, found_at=row.found_at), value),
        "id": row.agent_id,
        "agent_id": row.agent_id,
        "status": row.status,
        "stale": seen.stale,
        "registered_at": timestamp(row.registered_at),
        "updated_at": timestamp(row.updated_at),
        "last_heartbeat": timestamp(row.last_heartbeat),
        "found_at": row.found_at,
        "card": value,
    }


def agent_call(row: AuditRow, direction: str) -> dict[str, Any]:
    """One call to an agent (``in``) or from it (``out``), of its audit entry."""
    details = {} if row.details is None else orjson.loads(row.details)
    return {
        "timestamp": timestamp(row.created_at),
        "direction": direction,
        "event_type": row.event_type,
        "summary": _told_call(row, details),
        "execution_id": row.execution_id,
        "node_id": row.node_id,
    }


def _told_call(row: AuditRow, details: dict[str, Any]) -> str:
    if "skill" in details:
        outcome = "failed" if details["is_error"] else "answered"
        return f"{details['skill'] or 'call'} {outcome} after {details['duration_ms']} ms"
    asked = f" by {row.http_method} {row.http_path}" if row.http_path else ""
    return f"{row.event_type.replace('_', ' ')}{asked}"


def tenant(row: TenantRow) -> dict[str, Any]:
    """One tenant."""
    return {
        "id": row.tenant_id,
        "name": row.name,
        "status": row.status,
        "policy": orjson.loads(row.policy),
        "limits": orjson.loads(row.limits),
        "created_at": timestamp(row.created_at),
        "updated_at": timestamp(row.updated_at),
    }
