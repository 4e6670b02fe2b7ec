"""Routes that cannot be declared without saying who may call them."""

from collections.abc import Callable, Coroutine
from typing import Any, get_args

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.responses import Response

from actors import logs
from api.auth import Access
from api.errors import error_response, unexpected_response
from api.requests import VIA
from api.resources import resources
from runtime.errors import JamjetError

SCHEMA_REF = "#/components/schemas/{model}"

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class SecuredRoute(APIRoute):
    """Authorises before its handler runs, and turns every exception into an answer."""

    @property
    def access(self) -> Access:
        declared: Access = (self.openapi_extra or {})["x-access"]
        assert declared in get_args(Access), declared
        return declared

    @property
    def while_suspended(self) -> bool:
        return bool((self.openapi_extra or {}).get("x-while-suspended"))

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()
        access, while_suspended = self.access, self.while_suspended

        async def secured(request: Request) -> Response:
            try:
                if access != "public":
                    authenticator = resources(request).authenticator
                    caller = await authenticator.authorise(
                        request, access, while_suspended=while_suspended, counted=VIA not in request.scope
                    )
                    request.state.principal = caller
                    logs.also_about(tenant_id=caller.tenant_id, **_named_execution(request))
                answer: Response = await handle(request)
            except JamjetError as error:
                if access != "public":
                    resources(request).refusals.note(request, error)
                return error_response(request, error)
            except Exception as error:
                return unexpected_response(request, error)
            return answer

        return secured


def _named_execution(request: Request) -> dict[str, str]:
    execution_id = request.path_params.get("execution_id")
    return {} if execution_id is None else {"execution_id": execution_id}


def router(tag: str) -> APIRouter:
    return APIRouter(route_class=SecuredRoute, tags=[tag])


def declared(
    access: Access, body: type[BaseModel] | None = None, *, while_suspended: bool = False, **parameters: str
) -> dict[str, Any]:
    """What the OpenAPI document says of a route beside its answers.

    Args:
        access: who may call it.
        body: the model of its JSON body, if it has one.
        while_suspended: whether it may change something for a tenant that is suspended.
        parameters: query parameters (``header_*``: headers), each with a sentence.
    """
    extra: dict[str, Any] = {"x-access": access}
    if access != "public":
        extra["security"] = [{"bearer": []}]
        parameters["header_x_tenant_id"] = _TENANT
    if while_suspended:
        extra["x-while-suspended"] = True
    if body is not None:
        schema = {"schema": body.model_json_schema(ref_template=SCHEMA_REF)}
        extra["requestBody"] = {"required": True, "content": {"application/json": schema}}
    if parameters:
        extra["parameters"] = [_parameter(name, text) for name, text in parameters.items()]
    return extra


def _parameter(name: str, text: str) -> dict[str, Any]:
    if name.startswith("header_"):
        name = _HEADERS[name.removeprefix("header_")]
        return {"name": name, "in": "header", "description": text, "schema": {"type": "string"}}
    return {"name": name, "in": "query", "description": text, "schema": {"type": "string"}}


def answers(
    model: type[BaseModel], *, status: int = 200, refusals: tuple[int, ...] = ()
) -> dict[int | str, Any]:
    """The documented answers of a route: its own, and the errors in their one shape."""
    return {status: {"model": model, "description": "done"}, **_refusals(refusals)}


def event_stream(*, refusals: tuple[int, ...] = ()) -> dict[int | str, Any]:
    """The documented answers of a route that answers with Server-Sent Events."""
    frames = {"text/event-stream": {"schema": {"type": "string"}}}
    return {200: {"description": "frames, until the end", "content": frames}, **_refusals(refusals)}


def plain_text(*, refusals: tuple[int, ...] = ()) -> dict[int | str, Any]:
    """The documented answers of a route that answers with text."""
    text = {"text/plain": {"schema": {"type": "string"}}}
    return {200: {"description": "text", "content": text}, **_refusals(refusals)}


def _refusals(statuses: tuple[int, ...]) -> dict[int | str, Any]:
    from api.schemas import ErrorAnswer

    common = (400, 401, 403, 404, 429, 500, 503)
    return {
        status: {"model": ErrorAnswer, "description": _MEANING[status]}
        for status in sorted({*common, *statuses})
    }


_TENANT = "operators of tenant default: the tenant to act in; everybody else: only their own"
_HEADERS = {
    "prefer": "Prefer",
    "idempotency_key": "Idempotency-Key",
    "last_event_id": "Last-Event-ID",
    "x_tenant_id": "X-Tenant-Id",
}
_MEANING = {
    400: "the request can never be right",
    401: "no valid token",
    403: "the role or the tenant does not reach this far",
    404: "no such thing",
    409: "not in the present state",
    413: "over 1 MiB",
    415: "not a media type that is read here",
    422: "the Idempotency-Key came with another request before",
    429: "a limit is reached",
    500: "a bug",
    502: "another server does not answer, or not as it should",
    503: "the store or an owner cannot be reached; try again with the same Idempotency-Key",
}
