"""JSON values: made into bytes once, where they arise, and refused there if they cannot be kept.

Refused are NaN and infinities, integers over 64 bits, U+0000 (PostgreSQL's TEXT
cannot hold it), lone surrogates, keys that are not strings, nesting over
``DEPTH_MAX`` and texts over a size limit.
"""

import json
import math
import re
from typing import Any

import orjson

from runtime.errors import ValueRejected

JsonValue = Any
"""None, bool, int, float, str, list of JsonValue or dict of str to JsonValue."""

DEPTH_MAX = 64
INTEGER_MAX = 2**63 - 1
_INTEGERS = range(-(2**63), 2**64)
"""What orjson keeps exactly."""
_LONG_NUMBER = re.compile(rb"[0-9]{19}")
STATE_BYTES_MAX = 4 * 1024 * 1024


def encode(value: JsonValue, *, what: str = "value", bytes_max: int = STATE_BYTES_MAX) -> bytes:
    """Encode a value, or say why it cannot be kept.

    Raises:
        ValueRejected: naming ``what`` and the reason.
    """
    try:
        data = orjson.dumps(value)
    except (orjson.JSONEncodeError, RecursionError) as error:
        raise ValueRejected(f"{what} is not JSON: {str(error).lower()}") from error
    if len(data) > bytes_max:
        raise ValueRejected(f"{what} is {len(data)} bytes, over the limit of {bytes_max}")
    if b"\\u0000" in data:
        _refuse(value, what)
    elif b"null" in data or data.count(b"[") + data.count(b"{") > DEPTH_MAX:
        # orjson writes NaN and infinities as null, so a null wants a second look.
        _refuse(value, what)
    return data


def parse(data: bytes, *, what: str) -> JsonValue:
    """Decode JSON that a stranger sent, within the same bounds as ``encode``.

    Raises:
        ValueRejected: it is no JSON, or holds what cannot be kept.
    """
    try:
        value = orjson.loads(data)
    except (orjson.JSONDecodeError, RecursionError) as error:
        raise ValueRejected(f"{what} is not JSON: {str(error).lower()}") from error
    if b"\\u0000" in data or data.count(b"[") + data.count(b"{") > DEPTH_MAX:
        _refuse(value, what)
    if _LONG_NUMBER.search(data):
        # orjson reads an integer over 64 bits as a float, and loses digits.
        json.loads(data, parse_int=lambda text: _check_integer(text, what))
    return value


def decode(data: bytes | str) -> JsonValue:
    """Decode what ``encode`` made."""
    return orjson.loads(data)


def _refuse(value: JsonValue, what: str) -> None:
    """Walk the value and raise for the first thing that cannot be kept."""
    stack: list[tuple[JsonValue, int]] = [(value, 1)]
    while stack:
        item, depth = stack.pop()
        if depth > DEPTH_MAX:
            raise ValueRejected(f"{what} is nested deeper than {DEPTH_MAX} levels")
        if isinstance(item, dict):
            stack.extend((part, depth) for part in item)
            stack.extend((part, depth + 1) for part in item.values())
        elif isinstance(item, list | tuple):
            stack.extend((part, depth + 1) for part in item)
        elif isinstance(item, str) and "\x00" in item:
            raise ValueRejected(f"{what} contains the character U+0000")
        elif isinstance(item, float) and not math.isfinite(item):
            raise ValueRejected(f"{what} contains the number {item}, which is not JSON")


def _check_integer(text: str, what: str) -> None:
    if len(text) > 20 or int(text) not in _INTEGERS:
        raise ValueRejected(f"{what} contains the number {text[:40]}, which is over 64 bits")
