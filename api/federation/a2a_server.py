"""The A2A server: its tasks are executions, and its callers may do what their tokens may do by REST.

The SDK reads and writes the protocol, 1.0 and 0.3; every method here asks our own REST API (``api.inner``).
"""

import asyncio
import contextlib
import functools
import hashlib
import inspect
import logging
import re
from collections.abc import AsyncGenerator, Iterator
from typing import Any, NoReturn
from urllib.parse import quote

from a2a.server.context import ServerCallContext
from a2a.server.request_handlers.request_handler import RequestHandler, validate_request_params
from a2a.server.routes.common import ServerCallContextBuilder
from a2a.server.routes.jsonrpc_dispatcher import JsonRpcDispatcher
from a2a.types import (
    AgentCard,
    CancelTaskRequest,
    DeleteTaskPushNotificationConfigRequest,
    GetExtendedAgentCardRequest,
    GetTaskPushNotificationConfigRequest,
    GetTaskRequest,
    ListTaskPushNotificationConfigsRequest,
    ListTaskPushNotificationConfigsResponse,
    ListTasksRequest,
    ListTasksResponse,
    Message,
    Part,
    SendMessageRequest,
    SubscribeToTaskRequest,
    Task,
    TaskArtifactUpdateEvent,
    TaskPushNotificationConfig,
    TaskState,
    TaskStatus,
    TaskStatusUpdateEvent,
)
from a2a.utils.errors import (
    A2AError,
    InternalError,
    InvalidParamsError,
    InvalidRequestError,
    PushNotificationNotSupportedError,
    TaskNotCancelableError,
    TaskNotFoundError,
    UnsupportedOperationError,
)
from fastapi import Request

from actors.settings import Settings
from api import inner
from api.federation import tasks
from api.federation.card import agent_card
from api.idempotency import KEY_LENGTH_MAX
from api.inner import InnerAnswer
from api.resources import resources, tenant

log = logging.getLogger("jamjet.api")
# The SDK logs a trace of each request that is malformed, which our own log of requests tells in a line.
logging.getLogger("a2a.server.routes").setLevel(logging.CRITICAL)
logging.getLogger("a2a.compat").setLevel(logging.CRITICAL)

WAIT_S = 55
"""Of one look at an execution that a caller waits for; it is looked at again."""
BLOCKING_S = 600
"""How long a message may be waited for that wants to be: its task is looked at later then."""
TASKS_DEFAULT = 50
TASKS_MAX = 100
ID_CHARS_MAX = KEY_LENGTH_MAX - len("a2a:")
_PAGE_TOKEN = re.compile(r"[0-9]{1,10}")
_REST_STATUS = {
    TaskState.TASK_STATE_WORKING: "running",
    TaskState.TASK_STATE_INPUT_REQUIRED: "paused",
    TaskState.TASK_STATE_COMPLETED: "completed",
    TaskState.TASK_STATE_FAILED: "failed",
    TaskState.TASK_STATE_CANCELED: "cancelled",
}

Event = Task | Message | TaskStatusUpdateEvent | TaskArtifactUpdateEvent


def dispatcher(settings: Settings) -> JsonRpcDispatcher:
    """What answers the requests of one replica."""
    return JsonRpcDispatcher(Tasks(settings), context_builder=_WithRequest(), enable_v0_3_compat=True)


class _WithRequest(ServerCallContextBuilder):
    """Hands the HTTP request on: it says who calls."""

    def build(self, request: Request) -> ServerCallContext:
        return ServerCallContext(state={"headers": dict(request.headers), "request": request})


@contextlib.contextmanager
def _bugs_named(method: str) -> Iterator[None]:
    """Of a bug of ours only its class leaves the server; the SDK would tell all."""
    try:
        yield
    except A2AError:
        raise
    except Exception as error:
        log.error("A2A %s broke", method, exc_info=error)
        raise InternalError(f"internal error: {type(error).__name__}") from error


def _method(method: Any) -> Any:
    """A method of A2A, whose parameters the SDK checks."""
    name = method.__name__
    if inspect.isasyncgenfunction(method):

        @functools.wraps(method)
        async def stream(self: "Tasks", params: Any, context: ServerCallContext) -> AsyncGenerator[Event]:
            with _bugs_named(name):
                async with contextlib.aclosing(method(self, params, context)) as events:
                    async for event in events:
                        yield event

        return validate_request_params(stream)

    @functools.wraps(method)
    async def call(self: "Tasks", params: Any, context: ServerCallContext) -> Any:
        with _bugs_named(name):
            return await method(self, params, context)

    return validate_request_params(call)


class Tasks(RequestHandler):
    """The methods of A2A. Of ``AgentExecutor`` and task store there is no need: executions are both."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @_method
    async def on_message_send(self, params: SendMessageRequest, context: ServerCallContext) -> Task | Message:
        """Start an execution, or answer one that waits; returns it once it settles, or at once."""
        request = _request(context)
        execution_id = await self._told(request, params)
        if params.configuration.return_immediately:
            return tasks.task_of(await _execution(request, execution_id))
        return tasks.task_of(await _settled(request, execution_id))

    @_method
    async def on_message_send_stream(
        self, params: SendMessageRequest, context: ServerCallContext
    ) -> AsyncGenerator[Event]:
        """As ``on_message_send``, told step by step."""
        request = _request(context)
        execution_id = await self._told(request, params)
        async for event in _followed(request, execution_id):
            yield event

    @_method
    async def on_subscribe_to_task(
        self, params: SubscribeToTaskRequest, context: ServerCallContext
    ) -> AsyncGenerator[Event]:
        """Follow a task that has not ended."""
        request = _request(context)
        execution = await _execution(request, params.id)
        if execution["completed_at"] is not None:
            raise UnsupportedOperationError(f"task {params.id} has ended")
        async for event in _followed(request, params.id):
            yield event

    @_method
    async def on_get_task(self, params: GetTaskRequest, context: ServerCallContext) -> Task | None:
        return tasks.task_of(await _execution(_request(context), params.id))

    @_method
    async def on_cancel_task(self, params: CancelTaskRequest, context: ServerCallContext) -> Task | None:
        request = _request(context)
        answer = await inner.ask(request, "POST", f"/executions/{_quoted(params.id)}/cancel")
        if answer.status == 409:
            raise TaskNotCancelableError(answer.body["error"])
        _require(answer, of_task=True)
        return tasks.task_of(await _execution(request, params.id))

    @_method
    async def on_list_tasks(self, params: ListTasksRequest, context: ServerCallContext) -> ListTasksResponse:
        request = _request(context)
        size = min(params.page_size or TASKS_DEFAULT, TASKS_MAX)
        if params.page_token and not _PAGE_TOKEN.fullmatch(params.page_token):
            raise InvalidParamsError("page_token is none that was given out")
        offset = int(params.page_token or 0)
        listed, total = await _listed(request, params, size, offset)
        # Only an execution as a whole tells what it came to, and what it waits for.
        listed = [
            await _execution(request, one["execution_id"])
            if params.include_artifacts or one["status"] == "paused"
            else one
            for one in listed
        ]
        more = offset + len(listed) < total
        return ListTasksResponse(
            tasks=[tasks.task_of(one, with_artifacts=params.include_artifacts) for one in listed],
            total_size=total,
            page_size=size,
            next_page_token=str(offset + len(listed)) if more and listed else "",
        )

    async def on_get_extended_agent_card(
        self, params: GetExtendedAgentCardRequest, context: ServerCallContext
    ) -> AgentCard:
        """The card with what the caller's own tenant exposes."""
        own = await tenant(_request(context)).exposed_workflows("a2a")
        return agent_card(self._settings, own)

    # --- messages -------------------------------------------------------------------------------

    async def _told(self, request: Request, params: SendMessageRequest) -> str:
        """Start what a message asks for, or pass it on to the task that it names; returns its id."""
        message = params.message
        if message.task_id:
            await _answered(request, message)
            return str(message.task_id)
        workflow_id = await self._skill(request, params)
        body = {"workflow_id": workflow_id, "input": tasks.input_of(message)}
        answer = await inner.ask(request, "POST", "/executions", body, headers=_key(message))
        _require(answer)
        return str(answer.body["execution_id"])

    async def _skill(self, request: Request, params: SendMessageRequest) -> str:
        """The workflow that is meant: the one that the metadata names as ``skill``, else the only one."""
        exposed = [row.workflow_id for row in await tenant(request).exposed_workflows("a2a")]
        places = (params.message.metadata, params.metadata)
        named = next((place["skill"] for place in places if "skill" in place), None)
        if named is None and len(exposed) == 1:
            return exposed[0]
        if named not in exposed:
            known = ", ".join(exposed) or "there are none"
            asked = "metadata.skill is required" if named is None else f"there is no skill {named!r}"
            raise InvalidParamsError(f"{asked}: one of the skills of this agent ({known})")
        return str(named)

    # --- push notifications are off ---------------------------------------------------------------

    async def on_create_task_push_notification_config(
        self, params: TaskPushNotificationConfig, context: ServerCallContext
    ) -> TaskPushNotificationConfig:
        raise PushNotificationNotSupportedError

    async def on_get_task_push_notification_config(
        self, params: GetTaskPushNotificationConfigRequest, context: ServerCallContext
    ) -> TaskPushNotificationConfig:
        raise PushNotificationNotSupportedError

    async def on_list_task_push_notification_configs(
        self, params: ListTaskPushNotificationConfigsRequest, context: ServerCallContext
    ) -> ListTaskPushNotificationConfigsResponse:
        raise PushNotificationNotSupportedError

    async def on_delete_task_push_notification_config(
        self, params: DeleteTaskPushNotificationConfigRequest, context: ServerCallContext
    ) -> None:
        raise PushNotificationNotSupportedError


async def _listed(
    request: Request, params: ListTasksRequest, size: int, offset: int
) -> tuple[list[dict[str, Any]], int]:
    """Some executions of those that are asked for, and how many there are."""
    if params.status and params.status not in _REST_STATUS:
        return [], 0
    status = _REST_STATUS.get(params.status)
    if params.context_id:
        # A task has its context to itself.
        answer = await inner.ask(request, "GET", f"/executions/{_quoted(params.context_id)}")
        found = [] if answer.status == 404 else [answer.body]
        if found:
            _require(answer)
        fits = [one for one in found if status in (None, one["status"])]
        return fits[offset : offset + size], len(fits)
    query = f"limit={size}&offset={offset}" + (f"&status={status}" if status else "")
    answer = await inner.ask(request, "GET", f"/executions?{query}")
    _require(answer)
    return answer.body["executions"], answer.body["total"]


async def _settled(request: Request, execution_id: str) -> dict[str, Any]:
    """The execution once it has settled, or as it stands when that is not waited for any longer.

    That is after ``BLOCKING_S``, or when its caller leaves or this process drains.
    """
    loop = asyncio.get_running_loop()
    until, here = loop.time() + BLOCKING_S, resources(request).executions
    while True:
        execution = await _execution(request, execution_id, WAIT_S)
        is_over = tasks.has_settled(execution) or loop.time() > until or here.draining
        if is_over or await request.is_disconnected():
            return execution
        if execution["status"] == "paused":
            # It waits for a time, and so is answered at once.
            await asyncio.sleep(1)


async def _answered(request: Request, message: Message) -> None:
    """Take a message for the approval or the event that its task waits for."""
    execution = await _execution(request, message.task_id)
    if await _was_taken(request, message):
        return
    data, text = tasks.said(message)
    waits = {wait["type"]: wait for wait in execution["waiting_on"]}
    path = f"/executions/{_quoted(message.task_id)}"
    body: dict[str, Any]
    if "approval" in waits:
        decision = data.get("decision") or text.strip().lower()
        body = {**data, "decision": decision}
        answer = await inner.ask(request, "POST", f"{path}/approve", body, headers=_key(message))
    elif key := next((wait.get("correlation_key") for wait in waits.values()), None):
        body = {"correlation_key": key, "payload": data or text}
        answer = await inner.ask(request, "POST", f"{path}/external-event", body, headers=_key(message))
    else:
        raise UnsupportedOperationError(f"task {message.task_id} waits for nothing that a message can bring")
    _require(answer)


async def _was_taken(request: Request, message: Message) -> bool:
    """Whether its task has had the message before: it is not taken for what the task waits for since."""
    routes = (f"POST /executions/{message.task_id}/{kind}" for kind in ("approve", "external-event"))
    store = tenant(request)
    return any([await store.idempotency(key, route) for route in routes for key in _key(message).values()])


def _key(message: Message) -> dict[str, str]:
    """The message's id as the key of what it asks for; its digest where no header could carry it."""
    given = message.message_id
    if len(given) > ID_CHARS_MAX or not given.isascii() or not given.isprintable():
        given = f"sha256:{hashlib.sha256(given.encode()).hexdigest()}"
    return {"Idempotency-Key": f"a2a:{given}"} if given else {}


async def _followed(request: Request, execution_id: str) -> AsyncGenerator[Event]:
    """The task, then what happens in it, until it ends or asks for input."""
    execution = await _execution(request, execution_id)
    yield tasks.task_of(execution)
    if tasks.has_settled(execution):
        return
    path = f"/executions/{_quoted(execution_id)}/events/stream?after={execution['sequence']}"
    may_ask = tasks.asks(execution)
    async with inner.following(request, path) as frames:
        async for frame in frames:
            if frame.event in ("refused", "error"):
                raise InternalError(frame.data["error"])
            if frame.event == "end":
                break
            if frame.event == "token":
                yield _working(execution_id, [Part(text=frame.data["text"])])
                continue
            if frame.data.get("node_id") is not None:
                yield _working(execution_id, [], event=frame.event, node_id=frame.data["node_id"])
            # It asks for input only when nothing else runs beside what waits.
            may_ask = may_ask or frame.event in ("InterruptRaised", "ToolApprovalRequired")
            if may_ask and tasks.has_settled(await _execution(request, execution_id)):
                break
    execution = await _execution(request, execution_id)
    if execution["output"] is not None:
        yield TaskArtifactUpdateEvent(
            task_id=execution_id,
            context_id=execution_id,
            artifact=tasks.artifact_of(execution),
            last_chunk=True,
        )
    yield TaskStatusUpdateEvent(
        task_id=execution_id, context_id=execution_id, status=tasks.status_of(execution)
    )


def _working(execution_id: str, parts: list[Part], **metadata: str) -> TaskStatusUpdateEvent:
    """News of a task that goes on."""
    status = TaskStatus(state=TaskState.TASK_STATE_WORKING)
    status.timestamp.GetCurrentTime()
    if parts:
        status.message.CopyFrom(tasks.agent_message(execution_id, parts))
    update = TaskStatusUpdateEvent(task_id=execution_id, context_id=execution_id, status=status)
    update.metadata.update(metadata)
    return update


async def _execution(request: Request, execution_id: str, wait_s: int = 0) -> dict[str, Any]:
    query = f"?wait={wait_s}" if wait_s else ""
    answer = await inner.ask(request, "GET", f"/executions/{_quoted(execution_id)}{query}")
    _require(answer, of_task=True)
    shown: dict[str, Any] = answer.body
    return shown


def _require(answer: InnerAnswer, *, of_task: bool = False) -> None:
    if answer.refused:
        _refuse(answer, of_task)


def _refuse(answer: InnerAnswer, of_task: bool) -> NoReturn:
    """What REST refused, in A2A's errors: it has none for a lack of rights."""
    said = answer.body["error"]
    if answer.status == 404 and of_task:
        raise TaskNotFoundError(said)
    if answer.status in (400, 404, 413, 422):
        raise InvalidParamsError(said)
    if answer.status == 409:
        raise UnsupportedOperationError(said)
    if answer.status in (401, 403):
        raise InvalidRequestError(said)
    raise InternalError(said)


def _quoted(execution_id: str) -> str:
    return quote(execution_id, safe="")


def _request(context: ServerCallContext) -> Request:
    request: Request = context.state["request"]
    return request
