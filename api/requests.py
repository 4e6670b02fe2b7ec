"""Reading requests: bodies within bounds, media types, and the parameters of lists."""

import re
import uuid
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from runtime import jsonvalue
from runtime.errors import BadRequest, PayloadTooLarge, UnsupportedMediaType

BODY_BYTES_MAX = 1024 * 1024
WAIT_S_MAX = 60.0
YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml")

VIA = "jamjet.via"
"""In the scope of a request that is asked from within (``api.inner``): the path of the outer one.
No client can set it."""

Body = TypeVar("Body", bound=BaseModel)

_PREFERRED_WAIT = re.compile(
    r"(?:^|,)\s*wait\s*=\s*\"?([0-9]{1,9}(?:\.[0-9]{1,9})?)\"?\s*(?:[;,]|$)", re.IGNORECASE
)


def request_id(request: Request) -> str:
    """The id under which this request is found in logs: as ``api.observe`` has it, else a new one."""
    given: str | None = getattr(request.state, "request_id", None)
    if given is None:
        given = request.state.request_id = uuid.uuid4().hex
    return given


def media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_body(request: Request) -> bytes:
    """The body, read within its bound.

    Raises:
        PayloadTooLarge: over 1 MiB, announced or not.
    """
    if _number(request.headers.get("content-length", "")) > BODY_BYTES_MAX:
        raise PayloadTooLarge(f"the body is over the limit of {BODY_BYTES_MAX} bytes")
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > BODY_BYTES_MAX:
            raise PayloadTooLarge(f"the body is over the limit of {BODY_BYTES_MAX} bytes")
        parts.append(part)
    return b"".join(parts)


async def read_json(request: Request, *, empty: Any = None) -> tuple[bytes, Any]:
    """The body as bytes and as JSON. ``empty``: what an absent body means, if it may be absent.

    Raises:
        PayloadTooLarge, UnsupportedMediaType, BadRequest
    """
    data = await read_body(request)
    if not data and empty is not None:
        return data, empty
    require_json(request)
    return data, jsonvalue.parse(data, what="the body")


def require_json(request: Request) -> None:
    """Refuse what does not say that it is JSON: pages of other sites may send all else without asking.

    Raises:
        UnsupportedMediaType
    """
    given = media_type(request)
    if given != "application/json" and not given.endswith("+json"):
        raise UnsupportedMediaType(f"{given or 'no content-type'}: send application/json")


def validated(model: type[Body], value: Any) -> Body:
    """The value as a model, or a BadRequest that names the field."""
    if not isinstance(value, dict):
        raise BadRequest("the body must be a JSON object")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        raise BadRequest(f"{place}: {message[0].lower()}{message[1:]}") from error


def page(request: Request, *, default: int = 50, limit_max: int = 500) -> tuple[int, int]:
    """The parameters (limit, offset) of a list."""
    return (
        whole_number(request, "limit", default=default, least=1, most=limit_max),
        whole_number(request, "offset", default=0, least=0, most=2**31),
    )


def whole_number(request: Request, name: str, *, default: int, least: int, most: int) -> int:
    """A query parameter that is a whole number within bounds."""
    text = request.query_params.get(name)
    if text is None:
        return default
    number = _number(text)
    if not least <= number <= most:
        raise BadRequest(f"{name}: must be a whole number from {least} to {most}, not {text[:40]!r}")
    return number


def _number(text: str) -> int:
    """The whole number that a text is, at most 10^18; -1: it is none."""
    if not text.isascii() or not text.isdigit():
        return -1
    digits = text.lstrip("0") or "0"
    return int(digits) if len(digits) <= 18 else 10**18


def wait_s(request: Request) -> float | None:
    """How long the client wants to wait: ``?wait=N``, else ``Prefer: wait=N``; None: not at all."""
    text = request.query_params.get("wait")
    if text is None:
        return _preferred_wait_s(request.headers.get("prefer", ""))
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= WAIT_S_MAX:
        raise BadRequest(f"wait: must be a number of seconds from 0 to {WAIT_S_MAX:g}, not {text[:40]!r}")
    return seconds


def _preferred_wait_s(header: str) -> float | None:
    """A preference is met as far as can be, and ignored where it says nothing (RFC 7240)."""
    found = _PREFERRED_WAIT.search(header)
    return None if found is None else min(float(found[1]), WAIT_S_MAX)
