"""Errors on the wire: one table from class to status, one shape of body.

``{"error": "<class>: <detail>", "code": ..., "request_id": ...}`` and the error's
own fields. Nothing of an unexpected exception but its class leaves the server.
"""

import logging
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from api.requests import request_id
from runtime import errors
from runtime.errors import JamjetError

log = logging.getLogger("jamjet.api")

STATUS: dict[type[JamjetError], int] = {
    errors.BadRequest: 400,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.PayloadTooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.IdempotencyMismatch: 422,
    errors.Overloaded: 429,
    errors.LimitReached: 429,
    errors.TooManyAttempts: 429,
    errors.Unreachable: 502,
    errors.Unavailable: 503,
    JamjetError: 500,
}
_PREFIX = {
    400: "bad request: ",
    404: "not found: ",
    405: "method not allowed: ",
    409: "conflict: ",
    413: "payload too large: ",
    415: "unsupported media type: ",
    422: "idempotency mismatch: ",
    429: "overloaded: ",
    500: "internal error: ",
    502: "unreachable: ",
    503: "unavailable: ",
}
"""401 and 403 have none: the contract gives their whole texts."""
_PREFIX_OF_CODE = {errors.LimitReached.code: "limit reached: ", errors.TooManyAttempts.code: ""}
"""Where it is not the status's."""
_SHOWN_FIELDS = ("problems", "node_id", "retry_after_s", "limit")


def status_of(error: JamjetError) -> int:
    """The status of an error: its own class's, or the nearest base's."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def error_response(request: Request, error: JamjetError) -> Response:
    """The answer that an error becomes."""
    status = status_of(error)
    headers: dict[str, str] = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.retryable or "retry_after_s" in error.fields:
        headers["Retry-After"] = str(error.fields.get("retry_after_s", 1))
    shown = {name: error.fields[name] for name in _SHOWN_FIELDS if name in error.fields}
    return _body(request, status, error.detail, error.code, headers, shown)


def unexpected_response(request: Request, error: Exception) -> Response:
    """The answer to a bug of ours."""
    log.error("%s %s broke", request.method, request.scope["path"], exc_info=error)
    return _body(request, 500, type(error).__name__, "internal", {}, {})


def install(app: FastAPI) -> None:
    """Make every error of the app, the framework's own too, come out in our shape."""

    async def on_jamjet(request: Request, error: Exception) -> Response:
        assert isinstance(error, JamjetError)
        return error_response(request, error)

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.scope["path"]
        detail = {404: f"path {path}", 405: f"{request.method} {path}"}.get(error.status_code, error.detail)
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        return _body(request, error.status_code, detail, code, dict(error.headers or {}), {})

    async def on_validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
        return _body(request, 400, f"{place}: {str(first['msg']).lower()}", "bad_request", {}, {})

    async def on_bug(request: Request, error: Exception) -> Response:
        return unexpected_response(request, error)

    app.add_exception_handler(JamjetError, on_jamjet)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(Exception, on_bug)


def _body(
    request: Request, status: int, detail: str, code: str, headers: dict[str, str], fields: dict[str, Any]
) -> Response:
    body = {
        "error": _PREFIX_OF_CODE.get(code, _PREFIX.get(status, "")) + detail,
        "code": code,
        "request_id": request_id(request),
        **fields,
    }
    return Response(orjson.dumps(body, default=str), status, headers, media_type="application/json")
