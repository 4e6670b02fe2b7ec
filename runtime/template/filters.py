"""The filters of templates: total and bounded. A missing path warns in each of them but ``default``."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from runtime.expr import values
from runtime.template.frame import Frame, Missing


def _default(frame: Frame, value: Any, default_value: Any = "", boolean: Any = False) -> Any:
    """For a missing path and for null; with ``boolean`` for every false value."""
    absent = value is None or type(value) is Missing
    return default_value if absent or (boolean and not value) else value


def _of_text(change: Callable[..., Any]) -> Callable[[Frame, Any], Any]:
    def apply(frame: Frame, value: Any) -> Any:
        return change(frame, frame.show(value))

    return apply


def _of_value(compute: Callable[..., Any]) -> Callable[[Frame, Any], Any]:
    def apply(frame: Frame, value: Any) -> Any:
        return compute(frame, frame.known(value))

    return apply


def _trim(frame: Frame, value: Any, chars: Any = None) -> Any:
    return values.strip(frame, frame.show(value), chars)


def _replace(frame: Frame, value: Any, old: Any, new: Any, count: Any = None) -> Any:
    most = -1 if count is None else count
    return values.replace(frame, frame.show(value), frame.show(old), frame.show(new), most)


def _truncate(
    frame: Frame, value: Any, length: Any = 255, killwords: Any = False, end: Any = "...", leeway: Any = 5
) -> str:
    """At most ``length`` characters, ``end`` included; cut at a space unless ``killwords``."""
    text, tail = frame.read(frame.show(value)), frame.show(end)
    if type(length) is not int or type(leeway) is not int or len(text) <= length + leeway:
        return text
    kept = text[: max(0, length - len(tail))]
    frame.room(len(kept) + len(tail))
    return (kept if killwords else kept.rsplit(" ", 1)[0]) + tail


def _join(frame: Frame, value: Any, d: Any = "") -> str:
    value, separator = frame.known(value), frame.show(d)
    if not isinstance(value, list):
        return frame.show(value)
    frame.spend(len(value))
    return values.joined(frame, separator, map(frame.show, value))


def _length(frame: Frame, value: Any) -> int:
    return values.length(frame, frame.known(value)) or 0


def _first(frame: Frame, value: Any) -> Any:
    value = frame.known(value)
    return value[0] if isinstance(value, str | list) and value else None


def _last(frame: Frame, value: Any) -> Any:
    value = frame.known(value)
    return value[-1] if isinstance(value, str | list) and value else None


def _int(frame: Frame, value: Any, default: Any = 0) -> Any:
    number = values.integer(frame, frame.known(value))
    return default if number is None else number


def _float(frame: Frame, value: Any, default: Any = 0.0) -> Any:
    number = values.real(frame, frame.known(value))
    return default if number is None else number


def _round(frame: Frame, value: Any, precision: Any = 0) -> Any:
    return values.rounded(frame, frame.known(value), precision)


def _tojson(frame: Frame, value: Any, indent: Any = None) -> str:
    """JSON as it is, with no escapes for HTML: templates make prompts and requests."""
    return values.as_json(frame, frame.known(value), indent if type(indent) is int else None)


FILTERS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "abs": _of_value(values.absolute),
        "capitalize": _of_text(values.capitalize),
        "count": _length,
        "d": _default,
        "default": _default,
        "first": _first,
        "float": _float,
        "int": _int,
        "join": _join,
        "last": _last,
        "length": _length,
        "lower": _of_text(values.lower),
        "max": _of_value(values.largest),
        "min": _of_value(values.smallest),
        "replace": _replace,
        "round": _round,
        "string": _of_text(lambda frame, text: text),
        "sum": _of_value(values.total),
        "title": _of_text(values.title),
        "tojson": _tojson,
        "trim": _trim,
        "truncate": _truncate,
        "upper": _of_text(values.upper),
    }
)
