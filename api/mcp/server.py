"""The MCP server itself: the library's, over our tools.

Imported at the first request for MCP only: the library costs a replica half a second and tens of megabytes.
"""

import logging
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, TypeVar

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError
from mcp_types import methods
from pydantic import ValidationError
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from actors.settings import VERSION
from api.inner import InnerAnswer, ask
from api.mcp.arguments import problem_of
from api.mcp.progress import followed
from api.mcp.results import refusal, result_of
from api.mcp.tools import TOOLS, Tool
from api.mcp.workflows import LIST, PREFIX, workflow_tools
from api.requests import BODY_BYTES_MAX

INSTRUCTIONS = (
    "jamjet-ray runs durable workflows of AI agents: an execution goes on by itself, whatever becomes of this"
    " conversation. Start a workflow with its own tool run_… or with jamjet_run_workflow, and look after it"
    " with jamjet_get_execution and jamjet_get_events. A paused execution waits for something from outside,"
    " mostly for a person's decision, which jamjet_approve gives."
)

log = logging.getLogger("jamjet.api")
# The library tells at "info" of every exchange, what our own log of requests tells already.
logging.getLogger("mcp").setLevel(logging.WARNING)

Context = ServerRequestContext[Any, Request]
Params = TypeVar("Params")
Result = TypeVar("Result")


async def serve(scope: Scope, receive: Receive, send: Send, *, streams: bool = False) -> None:
    """Serve one HTTP exchange, which may be an ``initialize`` of the older versions or all of a modern one.

    The manager is this exchange's own: without sessions it has nothing to keep between two of them, and so
    all of its tasks end here, and a failure in one exchange is no other's. ``streams``: the answer may be a
    stream of events.
    """
    manager = StreamableHTTPSessionManager(
        _SERVER, stateless=True, json_response=not streams, max_request_body_size=BODY_BYTES_MAX
    )
    async with manager.run():
        await manager.handle_request(scope, receive, send)


def _guarded(
    handle: Callable[[Context, Params], Awaitable[Result]],
) -> Callable[[Context, Params], Awaitable[Result]]:
    """Of a bug of ours only its class leaves the server."""

    @wraps(handle)
    async def guarded(context: Context, params: Params) -> Result:
        try:
            return await handle(context, params)
        except MCPError:
            raise
        except Exception as error:
            log.error("MCP %s broke", context.method, exc_info=error)
            raise MCPError(types.INTERNAL_ERROR, f"internal error: {type(error).__name__}") from error

    return guarded


@_guarded
async def _list_tools(context: Context, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    listed = await _workflows(context)
    if listed.refused:
        raise MCPError(types.INTERNAL_ERROR, listed.body["error"])
    own = [_shown(tool, context.protocol_version) for tool in workflow_tools(listed.body).values()]
    return types.ListToolsResult(tools=[*(_as_type(tool) for tool in TOOLS.values()), *own])


@_guarded
async def _call_tool(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    given = params.arguments or {}
    tool = TOOLS.get(params.name)
    if tool is None and params.name.startswith(PREFIX):
        listed = await _workflows(context)
        if listed.refused:
            return refusal(listed.body["error"])
        tool = workflow_tools(listed.body).get(params.name)
    if tool is None:
        raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name[:100]}")
    problem = problem_of(tool.name, given)
    if problem is not None:
        return refusal(problem)
    asked = tool.ask(given)
    if asked.wait_s is not None and (context.meta or {}).get("progress_token") is not None:
        return result_of(tool, await followed(_outer(context), asked, context.session.report_progress))
    answer = await ask(_outer(context), asked.method, asked.path, asked.body, headers=asked.headers)
    return result_of(tool, answer)


async def _workflows(context: Context) -> InnerAnswer:
    """What is opened to MCP in the caller's tenant."""
    return await ask(_outer(context), "GET", LIST)


def _outer(context: Context) -> Request:
    assert context.request is not None
    return context.request


def _as_type(tool: Tool) -> types.Tool:
    return types.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.input_schema,
        annotations=types.ToolAnnotations.model_validate(tool.hints),
    )


def _shown(tool: Tool, version: str) -> types.Tool:
    """A workflow's tool. A schema that this version of MCP cannot say must not take all others along."""
    shown = _as_type(tool)
    data = types.ListToolsResult(tools=[shown]).model_dump(by_alias=True, mode="json", exclude_none=True)
    try:
        methods.validate_server_result("tools/list", version, data)
    except ValidationError:
        return shown.model_copy(update={"input_schema": {"type": "object"}})
    return shown


async def _no_resources(_: Context, __: types.PaginatedRequestParams | None) -> types.ListResourcesResult:
    return types.ListResourcesResult(resources=[])


async def _no_templates(
    _: Context, __: types.PaginatedRequestParams | None
) -> types.ListResourceTemplatesResult:
    return types.ListResourceTemplatesResult(resource_templates=[])


async def _no_prompts(_: Context, __: types.PaginatedRequestParams | None) -> types.ListPromptsResult:
    return types.ListPromptsResult(prompts=[])


_SERVER: Server[Any] = Server(
    "jamjet-ray",
    version=VERSION,
    instructions=INSTRUCTIONS,
    # Headers that repeat arguments are never read here, so there is nothing to hold them against.
    get_tool_input_schema=lambda _: None,
    on_list_tools=_list_tools,
    on_call_tool=_call_tool,
    on_list_resources=_no_resources,
    on_list_resource_templates=_no_templates,
    on_list_prompts=_no_prompts,
)
