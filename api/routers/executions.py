"""Starting, reading and signalling executions."""

import asyncio
import secrets
import time
import uuid
from collections.abc import AsyncGenerator
from typing import Any, Literal

import orjson
from fastapi import Request
from starlette.responses import Response

from actors import logs
from actors.port import KeyTaken, StartRequest
from api import render, streaming
from api.idempotency import Idempotency, replay
from api.requests import page, read_json, validated, wait_s, whole_number
from api.resources import Resources, principal, resources, tenant
from api.routing import answers, declared, event_stream, router
from api.schemas import (
    Accepted,
    ApprovalList,
    ApproveBody,
    Cancelled,
    EventBody,
    EventList,
    Execution,
    ExecutionList,
    StartAnswer,
    StartBody,
)
from api.waiting import read_settled, whole
from api.withheld import Withheld
from runtime.errors import BadRequest, NotFound
from runtime.graph import Graph
from runtime.ids import execution_id_from_hex, parse_execution_id, timed_hex
from runtime.jsonvalue import encode
from runtime.signals import Approve, Cancel, SendEvent
from runtime.store.port import HELD_STATUSES, STATUSES, EventRow, ExecutionRow, TenantStore

routes = router("executions")

KEY = "the same key has one effect, and gets the same answer for 24 h"
WAIT = "seconds, at most 60: answer once it ends or pauses, or as it stands after that time"
EVENTS_MAX = 10_000
ROW_STATUSES = {"running": ("running", *HELD_STATUSES)}
"""The statuses of rows that one of the API stands for, where it is not the same one."""


@routes.post(
    "/executions",
    status_code=201,
    responses=answers(StartAnswer, status=201, refusals=(404, 413, 415, 422, 429)),
    openapi_extra=declared("write", StartBody, wait=WAIT, header_prefer="wait=N", header_idempotency_key=KEY),
)
async def start_execution(request: Request) -> Response:
    """Start a workflow. With ``Prefer: wait=N`` the answer is the whole execution.

    429 names the limit of the tenant that is reached.
    """
    data, value = await read_json(request)
    body = validated(StartBody, value)
    wait = wait_s(request)
    keyed = Idempotency.of(request, data)
    here, store = resources(request), tenant(request)
    record = None if keyed is None else await keyed.recorded(store)
    if record is None:
        start = await _start_request(here, store, body, keyed)
        try:
            await _shielded(here.executions.start(start))
        except KeyTaken:
            assert keyed is not None
            record = await keyed.recorded(store)
        else:
            return await _started(here, store, start.execution_id, wait, just_started=True)
    assert record is not None
    execution_id = orjson.loads(record.body)["execution_id"]
    if wait is None:
        return replay(record, _location(execution_id))
    return await _started(here, store, execution_id, wait, just_started=False)


async def _start_request(
    here: Resources, store: TenantStore, body: StartBody, keyed: Idempotency | None
) -> StartRequest:
    row = await store.workflow(body.workflow_id, body.workflow_version)
    if row is None:
        version = f" version {body.workflow_version}" if body.workflow_version else ""
        raise NotFound(f"workflow {body.workflow_id}{version}")
    graph = (await here.plans.get(store.tenant_id, row.workflow_id, row.version)).graph
    isolation, demand = _placement(here, graph, body)
    execution_id = execution_id_from_hex(timed_hex(int(time.time() * 1_000), secrets.token_hex(10)))
    logs.also_about(execution_id=execution_id)
    record = None
    if keyed is not None:
        record = keyed.record(201, encode({"execution_id": execution_id}).decode())
    return StartRequest(
        tenant_id=store.tenant_id,
        execution_id=execution_id,
        workflow_id=row.workflow_id,
        workflow_version=row.version,
        input=body.input,
        isolation=isolation,
        resources=demand,
        queue=body.queue,
        idempotency=record,
        origin=store.by,
    )


def _placement(
    here: Resources, graph: Graph, body: StartBody
) -> tuple[Literal["shared", "dedicated"], dict[str, Any] | None]:
    """Where it is to run, and what it asks of the machine: what the start says, else the workflow.

    Raises:
        BadRequest: it asks for resources, and to be shared.
    """
    asked = None if body.resources is None else body.resources.demand()
    if asked is not None and body.isolation == "shared":
        raise BadRequest("resources: only a dedicated execution has some, and isolation is shared")
    isolation = (
        body.isolation or ("dedicated" if asked else None) or graph.isolation or here.settings.isolation
    )
    return isolation, (asked or graph.resources) if isolation == "dedicated" else None


async def _started(
    here: Resources, store: TenantStore, execution_id: str, wait: float | None, *, just_started: bool
) -> Response:
    if wait is None:
        return render.answer({"execution_id": execution_id}, 201, _location(execution_id))
    stored = await read_settled(here, store, execution_id, wait_s=wait, just_started=just_started)
    headers = {**_location(execution_id), "Preference-Applied": f"wait={wait:g}"}
    return render.answer(await whole(here, stored), 201, headers)


def _location(execution_id: str) -> dict[str, str]:
    return {"Location": f"/executions/{execution_id}"}


@routes.get(
    "/executions",
    responses=answers(ExecutionList),
    openapi_extra=declared(
        "read",
        status="running, paused, completed, failed, cancelled or limit_exceeded",
        workflow_id="of this workflow only",
        limit="1 to 500, default 50",
        offset="how many to leave out",
    ),
)
async def list_executions(request: Request) -> Response:
    """Executions, the newest first."""
    limit, offset = page(request)
    status = request.query_params.get("status")
    if status is not None and status not in STATUSES:
        raise BadRequest(f"status: must be one of {', '.join(STATUSES)}, not {status[:40]!r}")
    rows, total = await tenant(request).executions(
        statuses=None if status is None else ROW_STATUSES.get(status, (status,)),
        workflow_id=request.query_params.get("workflow_id"),
        limit=limit,
        offset=offset,
    )
    shown = [render.execution_summary(row) for row in rows]
    return render.answer({"executions": shown, "total": total, "limit": limit, "offset": offset})


@routes.get(
    "/executions/{execution_id}",
    responses=answers(Execution, refusals=(404,)),
    openapi_extra=declared("read", wait=WAIT),
)
async def get_execution(request: Request, execution_id: str) -> Response:
    """One execution whole: its state, what it waits for, and who runs it."""
    here, store = resources(request), tenant(request)
    known = parse_execution_id(execution_id)
    stored = await read_settled(here, store, known, wait_s=wait_s(request) or 0)
    return render.answer(await whole(here, stored))


@routes.get(
    "/executions/{execution_id}/events",
    responses=answers(EventList, refusals=(404,)),
    openapi_extra=declared(
        "read",
        after="only events with a greater sequence",
        limit=f"at most so many, default {EVENTS_MAX}",
        wait="seconds, at most 60: answer once there is an event after ``after``",
        shape="flat (default) or typed",
    ),
)
async def get_events(request: Request, execution_id: str) -> Response:
    """The log, in order."""
    here, store = resources(request), tenant(request)
    known = parse_execution_id(execution_id)
    row = await _existing(store, known)
    after = whole_number(request, "after", default=0, least=0, most=2**31)
    limit = whole_number(request, "limit", default=EVENTS_MAX, least=1, most=EVENTS_MAX)
    wait = wait_s(request)
    if wait and row.sequence <= after and row.completed_at is None:
        await _wait_for_event(here, store, known, after, wait)
    rows = await store.events(known, after=after, limit=limit)
    shape, withheld = _shape(request), await _withheld(request, row)
    final_state = None
    if any(event.type == "workflow_completed" for event in rows):
        final_state = (await here.execution(known, store.tenant_id).state()).data
    shown = [render.event(known, event, shape, final_state, withheld) for event in rows]
    return render.answer({"events": shown})


async def _withheld(request: Request, row: ExecutionRow) -> Withheld | None:
    """What data policies withhold of an execution's events; None: nothing."""
    plan = await resources(request).plans.get(row.tenant_id, row.workflow_id, row.workflow_version)
    withheld = Withheld(row.tenant_id, request.state.policy, plan.graph)
    return withheld if withheld.applies else None


async def _wait_for_event(
    here: Resources, store: TenantStore, execution_id: str, after: int, wait: float
) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + wait
    while (left := until - loop.time()) > 0 and not here.executions.draining:
        await here.executions.changed(execution_id, after=after, timeout_s=left)
        if (await _existing(store, execution_id)).sequence > after:
            return


@routes.get(
    "/executions/{execution_id}/events/stream",
    responses=event_stream(refusals=(404, 429)),
    openapi_extra=declared(
        "read",
        after="only events with a greater sequence; Last-Event-ID says the same",
        shape="flat (default) or typed",
        header_last_event_id="the sequence that was seen last",
    ),
)
async def stream_events(request: Request, execution_id: str) -> Response:
    """Server-Sent Events: each event as it is stored, and what models say meanwhile (``event: token``).

    The stream ends with ``event: end`` after the last event.
    """
    here, store = resources(request), tenant(request)
    known = parse_execution_id(execution_id)
    row = await _existing(store, known)
    after = _last_event_id(request)
    shape, withheld = _shape(request), await _withheld(request, row)
    leave = here.streams.admitted(principal(request).id)

    async def show(row: EventRow) -> dict[str, Any]:
        final_state = None
        if row.type == "workflow_completed":
            final_state = (await here.execution(known, store.tenant_id).state()).data
        return render.event(known, row, shape, final_state, withheld)

    async def body() -> AsyncGenerator[bytes]:
        with here.executions.listening(known) as listener:
            stream = streaming.Stream(
                listener,
                after=after,
                read=lambda seen: store.events(known, after=seen, limit=streaming.PAGE),
                show=show,
                tells_tokens=withheld is None or not withheld.of_answers,
                still_allowed=lambda: here.authenticator.authorise(request, "read", counted=False),
            )
            async for frame in stream.frames(row):
                yield frame

    return streaming.EventStream(body(), leave)


def _last_event_id(request: Request) -> int:
    text = request.headers.get("last-event-id", "")
    if not text:
        return whole_number(request, "after", default=0, least=0, most=2**31)
    if not text.isascii() or not text.isdigit() or len(text) > 10:
        raise BadRequest(f"Last-Event-ID: must be a sequence, not {text[:40]!r}")
    return int(text)


def _shape(request: Request) -> str:
    shape = request.query_params.get("shape") or request.scope.get("jamjet.shape", "flat")
    if shape not in ("flat", "typed"):
        raise BadRequest(f"shape: must be flat or typed, not {shape[:40]!r}")
    return str(shape)


@routes.get(
    "/executions/{execution_id}/approvals",
    responses=answers(ApprovalList, refusals=(404,)),
    openapi_extra=declared("read"),
)
async def get_approvals(request: Request, execution_id: str) -> Response:
    """Which approvals are pending, and which were decided by whom."""
    here, store = resources(request), tenant(request)
    known = parse_execution_id(execution_id)
    row = await _existing(store, known)
    withheld = await _withheld(request, row)
    state = await here.execution(known, store.tenant_id).state()
    asked: dict[str, tuple[int, dict[str, Any]]] = {}
    decided: list[dict[str, Any]] = []
    for event in await store.events(known):
        fields = orjson.loads(event.data)
        if withheld is not None:
            fields = withheld.fields(event.type, event.node_id, fields)
        if event.type in ("interrupt_raised", "tool_approval_required"):
            asked[event.node_id or ""] = (event.sequence, fields)
        elif event.type == "approval_received":
            decided.append(_decided(event.sequence, fields))
    data = state.data if withheld is None else withheld.value(state.data)
    pending = [
        {
            "node_id": node_id,
            "tool_name": asked[node_id][1].get("tool"),
            "approver": "human",
            "context": _context(asked[node_id][1], data),
            "due_at": render.timestamp(record.due_at),
            "sequence": asked[node_id][0],
        }
        for node_id, record in state.nodes.items()
        if record.waits_for == "approval"
    ]
    return render.answer({"pending": pending, "decided": decided})


def _context(asked: dict[str, Any], state: Any) -> dict[str, Any]:
    """What a person should know to decide: of a call, what it would be made with."""
    shown = {"description": asked.get("description"), "state": state}
    if "tool" in asked:
        shown |= {"input": asked.get("input"), "rule": asked.get("rule")}
    return shown


def _decided(sequence: int, fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "node_id": fields["node_id"],
        "status": fields["decision"],
        "user_id": fields["user_id"],
        "comment": fields.get("comment"),
        "sequence": sequence,
    }


@routes.post(
    "/executions/{execution_id}/cancel",
    responses=answers(Cancelled, refusals=(404, 409, 413, 415, 422)),
    openapi_extra=declared("write", while_suspended=True, header_idempotency_key=KEY),
)
async def cancel_execution(request: Request, execution_id: str) -> Response:
    """Cancel it: nothing more is started, and late results are refused."""
    data, _ = await read_json(request, empty={})
    return await _signal(request, execution_id, data, Cancel(signal_id=_signal_id(request, data)))


@routes.post(
    "/executions/{execution_id}/approve",
    responses=answers(Accepted, refusals=(404, 409, 413, 415, 422)),
    openapi_extra=declared("approve", ApproveBody, header_idempotency_key=KEY),
)
async def approve_execution(request: Request, execution_id: str) -> Response:
    """Decide an approval. Of many decisions on one, one wins; the others get 409."""
    data, value = await read_json(request)
    body = validated(ApproveBody, value)
    if body.decision not in ("approved", "rejected"):
        raise BadRequest(f"unknown decision {body.decision[:40]!r}: must be approved or rejected")
    decision: Literal["approved", "rejected"] = "approved" if body.decision == "approved" else "rejected"
    caller = principal(request)
    signal = Approve(
        signal_id=_signal_id(request, data),
        decision=decision,
        node_id=body.node_id,
        user_id=body.user_id or caller.name or caller.id,
        actor=caller.id,
        comment=body.comment,
        state_patch=body.state_patch,
    )
    return await _signal(request, execution_id, data, signal)


@routes.post(
    "/executions/{execution_id}/external-event",
    responses=answers(Accepted, refusals=(404, 409, 413, 415, 422)),
    openapi_extra=declared("write", EventBody, header_idempotency_key=KEY),
)
async def send_external_event(request: Request, execution_id: str) -> Response:
    """Deliver an event to all that wait for its key; if nobody does, it is kept for the next wait."""
    data, value = await read_json(request)
    body = validated(EventBody, value)
    signal = SendEvent(
        signal_id=_signal_id(request, data),
        correlation_key=body.correlation_key,
        payload=body.payload,
        size=len(data),
    )
    return await _signal(request, execution_id, data, signal)


async def _signal(
    request: Request, execution_id: str, data: bytes, signal: Approve | Cancel | SendEvent
) -> Response:
    here, store = resources(request), tenant(request)
    known = parse_execution_id(execution_id)
    await _existing(store, known)
    keyed = Idempotency.of(request, data)
    record = None if keyed is None else await keyed.recorded(store)
    if record is not None:
        return replay(record)
    handle = here.execution(known, store.tenant_id)
    try:
        answered = await _shielded(
            handle.signal(
                signal, idempotency=None if keyed is None else keyed.record(200, ""), origin=store.by
            )
        )
    except KeyTaken:
        assert keyed is not None
        record = await keyed.recorded(store)
        assert record is not None
        return replay(record)
    if keyed is not None and isinstance(signal, Approve) and "node_id" not in answered:
        # Sent twice at once: the log knows that it was taken, but only the record how it was answered.
        record = await keyed.recorded(store)
    return render.answer(answered) if record is None else replay(record)


def _signal_id(request: Request, data: bytes) -> str:
    """The same for a repeat, and for no other request: a key may come again on another route or in a race."""
    keyed = Idempotency.of(request, data)
    return uuid.uuid4().hex if keyed is None else f"{keyed.key}:{keyed.fingerprint}"


async def _existing(store: TenantStore, execution_id: str) -> ExecutionRow:
    row = await store.execution(execution_id)
    if row is None:
        raise NotFound(f"execution {execution_id}")
    return row


async def _shielded(work: Any) -> Any:
    """A client that goes away must not stop half a write."""
    return await asyncio.shield(asyncio.ensure_future(work))
