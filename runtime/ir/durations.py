"""Durations as sources write them: seconds, ``{"secs", "nanos"}``, or texts such as ``30s`` and ``1h30m``."""

import math
import re
from typing import Any

DURATION_MS_MAX = 10 * 366 * 86_400_000
"""Ten years: beyond it a number is a mistake, such as milliseconds for seconds."""

_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PART = r"(\d{1,12}(?:\.\d{1,9})?)(ms|s|m|h|d)"
_TEXT = re.compile(rf"(?:{_PART}\s*)+")
_PLAIN = re.compile(r"\d{1,12}(?:\.\d{1,9})?")


def duration_ms(value: Any) -> int:
    """Read a duration; a plain number is in seconds.

    Raises:
        ValueError: it is none, negative, or over ``DURATION_MS_MAX``.
    """
    length = _length_ms(value)
    if length is None or not math.isfinite(length) or length < 0:
        raise ValueError(
            f"{value!r} is not a duration (seconds, or a text such as '30s', '5m', '2h', '500ms')"
        )
    if length > DURATION_MS_MAX:
        raise ValueError(f"{value!r} is longer than ten years")
    return round(length)


def seconds(value: Any) -> int | float:
    """The same duration in seconds, whole where it is whole."""
    length = duration_ms(value)
    return length // 1_000 if length % 1_000 == 0 else length / 1_000


def _length_ms(value: Any) -> float | None:
    match value:
        case bool():
            return None
        case int() | float():
            # An integer may be too large for a float: clamp it, the bound refuses it anyway.
            return max(min(value, DURATION_MS_MAX), -1) * 1_000
        case str():
            return _text_ms(value.strip())
        case {"secs": int() | float() as secs, **rest}:
            nanos = rest.get("nanos", 0)
            whole = _length_ms(secs)
            return None if whole is None or not isinstance(nanos, int) else whole + nanos / 1_000_000
        case _:
            return None


def _text_ms(text: str) -> float | None:
    if _PLAIN.fullmatch(text):
        return float(text) * 1_000
    if not _TEXT.fullmatch(text):
        return None
    return sum(float(number) * _UNIT_MS[unit] for number, unit in re.findall(_PART, text))
