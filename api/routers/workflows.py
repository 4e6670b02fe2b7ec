"""Registering and reading workflow definitions."""

import hashlib
from typing import Any
from urllib.parse import quote

import msgspec
from fastapi import Request
from starlette.responses import Response

from api import render
from api.requests import YAML_TYPES, media_type, page, read_body, read_json, validated
from api.resources import resources, tenant
from api.routing import answers, declared, router
from api.schemas import Workflow, WorkflowBody, WorkflowList, WorkflowRegistered
from runtime.errors import BadRequest, NotFound
from runtime.graph import encode_graph
from runtime.ir import CompiledWorkflow, RegistrationPolicy, compile_ir, compile_yaml
from runtime.ir.exposure import PROTOCOLS
from runtime.store.port import WorkflowRow

routes = router("workflows")

REGISTER = declared("write", WorkflowBody)
REGISTER["requestBody"]["content"][YAML_TYPES[0]] = {"schema": {"type": "string"}}


@routes.post(
    "/workflows",
    status_code=201,
    responses=answers(WorkflowRegistered, status=201, refusals=(409, 413, 415, 429)),
    openapi_extra=REGISTER,
)
async def register_workflow(request: Request) -> Response:
    """Register a version: ``{"ir": ...}``, ``{"yaml": "..."}``, or YAML as the body.

    The same content again is 201 too; another content for a version that exists is 409. A new workflow
    over the tenant's limit ``max_workflows`` is 429.
    """
    compiled = await _compiled(request)
    graph = compiled.graph
    ir = msgspec.json.encode(compiled.ir, order="sorted")
    row = WorkflowRow(
        workflow_id=graph.workflow_id,
        version=graph.version,
        digest=hashlib.sha256(ir).hexdigest(),
        ir=ir.decode(),
        graph=encode_graph(graph),
        created_at=await resources(request).store.system.now(),
        exposed=",".join(compiled.exposed),
    )
    stored = await tenant(request).register_workflow(row)
    body: dict[str, Any] = {"workflow_id": stored.workflow_id, "version": stored.version}
    if compiled.warnings:
        body["warnings"] = list(compiled.warnings)
    location = f"/workflows/{quote(stored.workflow_id, safe='')}/versions/{quote(stored.version, safe='')}"
    return render.answer(body, 201, {"Location": location})


async def _compiled(request: Request) -> CompiledWorkflow:
    settings = resources(request).settings
    policy = RegistrationPolicy(settings.python_modules, settings.readable_names, settings.secret_names)
    if media_type(request) in YAML_TYPES:
        return compile_yaml(_text(await read_body(request)), policy)
    _, value = await read_json(request)
    body = validated(WorkflowBody, value)
    if body.yaml is not None and body.ir is None:
        return compile_yaml(body.yaml, policy)
    if body.ir is None or body.yaml is not None:
        raise BadRequest("give either ir or yaml")
    return compile_ir(body.ir, policy)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadRequest("the body is not UTF-8") from error


@routes.get(
    "/workflows",
    responses=answers(WorkflowList),
    openapi_extra=declared(
        "read",
        workflow_id="only the versions of this workflow",
        exposed="a2a or mcp: only latest versions that are exposed there, with what callers are told of them",
        limit="1 to 500, default 50",
        offset="how many to leave out",
    ),
)
async def list_workflows(request: Request) -> Response:
    """All registered versions, the newest first."""
    limit, offset = page(request)
    protocol = request.query_params.get("exposed")
    if protocol is not None:
        return await _exposed(request, protocol, limit, offset)
    rows, total = await tenant(request).workflows(
        workflow_id=request.query_params.get("workflow_id"), limit=limit, offset=offset
    )
    shown = [render.workflow(row, whole=False) for row in rows]
    return render.answer({"workflows": shown, "total": total, "limit": limit, "offset": offset})


async def _exposed(request: Request, protocol: str, limit: int, offset: int) -> Response:
    if protocol not in PROTOCOLS:
        raise BadRequest(f"exposed: must be one of {', '.join(PROTOCOLS)}, not {protocol[:40]!r}")
    rows = await tenant(request).exposed_workflows(protocol)
    shown = [render.exposed_workflow(row) for row in rows[offset : offset + limit]]
    return render.answer({"workflows": shown, "total": len(rows), "limit": limit, "offset": offset})


@routes.get(
    "/workflows/{workflow_id}", responses=answers(Workflow, refusals=(404,)), openapi_extra=declared("read")
)
async def get_workflow(request: Request, workflow_id: str) -> Response:
    """The latest registered version, with its IR and its normal form."""
    return await _shown(request, workflow_id, None)


@routes.get(
    "/workflows/{workflow_id}/versions/{version}",
    responses=answers(Workflow, refusals=(404,)),
    openapi_extra=declared("read"),
)
async def get_workflow_version(request: Request, workflow_id: str, version: str) -> Response:
    """One version, with its IR and its normal form."""
    return await _shown(request, workflow_id, version)


async def _shown(request: Request, workflow_id: str, version: str | None) -> Response:
    row = await tenant(request).workflow(workflow_id, version)
    if row is None:
        raise NotFound(f"workflow {workflow_id}" + (f" version {version}" if version else ""))
    return render.answer(render.workflow(row, whole=True))
