"""What a provider's refusal means: its class of error, when to come back, and what it says."""

import json
from collections.abc import Mapping
from typing import Any

from runtime.net.status import bounded_ms, retry_after_ms, status_class
from runtime.nodes.models.port import ModelError

_CLASSES = {
    "rate_limit_error": "rate_limit",
    "rate_limit_exceeded": "rate_limit",
    "RESOURCE_EXHAUSTED": "rate_limit",
    "insufficient_quota": "rate_limit",
    "timeout_error": "timeout",
    "DEADLINE_EXCEEDED": "timeout",
    "authentication_error": "auth",
    "permission_error": "auth",
    "invalid_api_key": "auth",
    "PERMISSION_DENIED": "auth",
    "UNAUTHENTICATED": "auth",
    "invalid_request_error": "client_error",
    "not_found_error": "client_error",
    "request_too_large": "client_error",
    "INVALID_ARGUMENT": "client_error",
    "NOT_FOUND": "client_error",
}
"""Of errors that come within a stream, after its status was sent. Others are the server's fault."""
_NEVER = ("auth", "client_error")


def of_status(provider: str, status: int, headers: Mapping[str, str], body: bytes) -> ModelError:
    """The error that a response with this status is."""
    document = _parsed(body)
    problem = _problem(document)
    error_class = "auth" if status in (401, 403) or _bad_key(problem) else status_class(status)
    said = said_in(document) or body.decode("utf-8", "replace").strip()
    return ModelError(
        f"{provider} answered {status}" + (f": {said}" if said else ""),
        error_class,
        retryable=_retryable(error_class, problem),
        retry_after_ms=_come_back_ms(headers, problem),
    )


def in_stream(provider: str, frame: Any) -> ModelError:
    """The error that a frame of a stream tells of."""
    problem = _problem(frame)
    code = problem.get("code")
    if isinstance(code, int) and 400 <= code < 600:
        error_class = "auth" if code in (401, 403) else status_class(code)
    else:
        names = (code, problem.get("type"), problem.get("status"))
        known = [_CLASSES[name] for name in names if isinstance(name, str) and name in _CLASSES]
        error_class = known[0] if known else "server_error"
    return ModelError(
        f"{provider} broke off: {said_in(frame) or 'no reason given'}",
        error_class,
        retryable=_retryable(error_class, problem),
        retry_after_ms=_come_back_ms({}, problem),
    )


def said_in(document: Any) -> str:
    """A provider's own words, wherever it puts them; empty if there are none."""
    if isinstance(document, list) and document:
        document = document[0]
    if not isinstance(document, dict):
        return ""
    error = document.get("error")
    inner = error.get("message") if isinstance(error, dict) else error
    said = next((text for text in (inner, document.get("message"), document.get("detail")) if text), "")
    return said if isinstance(said, str) else json.dumps(said)


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _problem(document: Any) -> dict[str, Any]:
    """The object that describes the error; some wrap it in a list."""
    if isinstance(document, list) and document:
        document = document[0]
    error = document.get("error") if isinstance(document, dict) else None
    return error if isinstance(error, dict) else {}


def _bad_key(problem: Mapping[str, Any]) -> bool:
    """Google answers 400 to a key that it does not know."""
    return any(detail.get("reason") == "API_KEY_INVALID" for detail in _details(problem))


def _retryable(error_class: str, problem: Mapping[str, Any]) -> bool | None:
    # An account without credit is told as a rate limit, but waiting does not fill it.
    spent = "insufficient_quota" in (problem.get("code"), problem.get("type"))
    return False if spent or error_class in _NEVER else None


def _come_back_ms(headers: Mapping[str, str], problem: Mapping[str, Any]) -> int:
    """From the headers, else from Google's ``retryDelay`` (``"34s"``)."""
    told = bounded_ms(headers.get("retry-after-ms", ""), unit_ms=1)
    delays = [str(detail.get("retryDelay", "")) for detail in _details(problem)]
    asked = max((bounded_ms(delay.removesuffix("s")) for delay in delays), default=0)
    return told or retry_after_ms(headers) or asked


def _details(problem: Mapping[str, Any]) -> list[dict[str, Any]]:
    listed = problem.get("details")
    return [detail for detail in listed if isinstance(detail, dict)] if isinstance(listed, list) else []
