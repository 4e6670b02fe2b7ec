"""What operators, functions and methods mean on JSON values: total, typed and bounded.

No operation raises because of the values it meets: a mismatch of types is
null, or false where a comparison was asked. Equality is typed (``"5"`` is not
``5``, ``true`` is not ``1``, but ``1`` is ``1.0``). The one way out is
``LimitExceeded``: a text built here would pass ``TEXT_MAX``, or the evaluation
has spent its ``Work``. Conditions and templates share these meanings.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

INT_MIN, INT_MAX = -(2**63), 2**64 - 1
"""The integers that the store keeps exactly."""
TEXT_MAX = 256 * 1024
"""Characters of one text that an evaluation may build."""
WORK_MAX = 2_000_000
"""Elements that one evaluation may visit; sixteen characters count as one."""

_NUMBERS = frozenset((int, float))


class LimitExceeded(Exception):
    """An evaluation went over a bound; the text says which."""


class Work:
    """What one evaluation may still cost."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = WORK_MAX

    def spend(self, units: int) -> None:
        """Pay for visiting ``units`` elements, before visiting them."""
        self.left -= units
        if self.left < 0:
            raise LimitExceeded(f"it takes more than {WORK_MAX} steps")

    def read(self, text: str) -> str:
        """Pay for scanning ``text``."""
        self.spend(1 + (len(text) >> 4))
        return text

    def room(self, size: int) -> None:
        """Pay for building a text of ``size`` characters."""
        if size > TEXT_MAX:
            raise LimitExceeded(f"it builds a text over {TEXT_MAX} characters")
        self.spend(1 + (size >> 4))


def is_number(value: Any) -> bool:
    return type(value) in _NUMBERS


def equal(work: Work, left: Any, right: Any) -> bool:
    kind = type(left)
    if kind is not type(right):
        if isinstance(left, str):
            return isinstance(right, str) and left == right
        return kind in _NUMBERS and type(right) in _NUMBERS and bool(left == right)
    if kind is list:
        if len(left) != len(right):
            return False
        work.spend(len(left))
        return all(equal(work, one, other) for one, other in zip(left, right, strict=True))
    if kind is dict:
        work.spend(len(left))
        if left.keys() != right.keys():
            return False
        return all(equal(work, value, right[key]) for key, value in left.items())
    return bool(left == right)


def _comparable(left: Any, right: Any) -> bool:
    if type(left) in _NUMBERS:
        return type(right) in _NUMBERS
    return isinstance(left, str) and isinstance(right, str)


def less(work: Work, left: Any, right: Any) -> bool:
    return _comparable(left, right) and bool(left < right)


def at_most(work: Work, left: Any, right: Any) -> bool:
    return _comparable(left, right) and bool(left <= right)


def greater(work: Work, left: Any, right: Any) -> bool:
    return _comparable(left, right) and bool(left > right)


def at_least(work: Work, left: Any, right: Any) -> bool:
    return _comparable(left, right) and bool(left >= right)


def unequal(work: Work, left: Any, right: Any) -> bool:
    return not equal(work, left, right)


def within(work: Work, item: Any, container: Any) -> bool:
    """``in``: an element of a list, a key of an object, a part of a text."""
    if isinstance(container, list):
        work.spend(len(container))
        return any(equal(work, item, element) for element in container)
    if not isinstance(item, str):
        return False
    if isinstance(container, str):
        return item in work.read(container)
    return isinstance(container, dict) and item in container


def member(value: Any, key: Any, missing: Any = None) -> Any:
    """The element of an object, list or text under a key or index; never an attribute of the value."""
    if isinstance(value, dict):
        if type(key) is int:
            key = str(key)
        return value.get(key, missing) if isinstance(key, str) else missing
    if isinstance(value, list | str) and type(key) is int and -len(value) <= key < len(value):
        return value[key]
    return missing


def bounded(number: Any) -> Any:
    """The number, or null if JSON could not keep it."""
    if isinstance(number, int):
        return number if INT_MIN <= number <= INT_MAX else None
    return number if math.isfinite(number) else None


def _arithmetic(compute: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
    if not (is_number(left) and is_number(right)):
        return None
    try:
        return bounded(compute(left, right))
    except (ZeroDivisionError, OverflowError):
        return None


def add(work: Work, left: Any, right: Any) -> Any:
    """Sum numbers, join texts, join lists."""
    if isinstance(left, str) and isinstance(right, str):
        work.room(len(left) + len(right))
        return left + right
    if isinstance(left, list) and isinstance(right, list):
        work.spend(len(left) + len(right))
        return left + right
    return _arithmetic(lambda a, b: a + b, left, right)


def subtract(work: Work, left: Any, right: Any) -> Any:
    return _arithmetic(lambda a, b: a - b, left, right)


def multiply(work: Work, left: Any, right: Any) -> Any:
    return _arithmetic(lambda a, b: a * b, left, right)


def divide(work: Work, left: Any, right: Any) -> Any:
    return _arithmetic(lambda a, b: a / b, left, right)


def remainder(work: Work, left: Any, right: Any) -> Any:
    return _arithmetic(lambda a, b: a % b, left, right)


def negate(value: Any) -> Any:
    return bounded(-value) if is_number(value) else None


def text(work: Work, value: Any) -> str:
    """A text as it is, anything else as JSON."""
    return value if isinstance(value, str) else as_json(work, value)


def as_json(work: Work, value: Any, indent: int | None = None) -> str:
    """JSON in one line, or indented; characters beyond ASCII stay as they are."""
    try:
        if indent is None:
            result = json.dumps(value, ensure_ascii=False)
            work.room(len(result))
        else:
            result = "".join(_chunks(work, value, max(0, min(indent, 8))))
    except (TypeError, ValueError, RecursionError) as error:
        raise LimitExceeded("it shows a value that is not JSON") from error
    return result


def _chunks(work: Work, value: Any, indent: int) -> Iterator[str]:
    """In pieces, because indentation can multiply the size of what is nested."""
    size = 0
    for chunk in json.JSONEncoder(ensure_ascii=False, indent=indent).iterencode(value):
        size += len(chunk)
        if size > TEXT_MAX:
            raise LimitExceeded(f"it builds a text over {TEXT_MAX} characters")
        work.spend(1)
        yield chunk


def joined(work: Work, separator: str, texts: Iterable[str]) -> str:
    """The texts in one, refused as soon as they are too many: they may be made as they come."""
    parts, size = [], 0
    for part in texts:
        size += len(part) + len(separator)
        if size > TEXT_MAX + len(separator):
            break
        parts.append(part)
    work.room(size - len(separator) if size else 0)
    return separator.join(parts)


def length(work: Work, value: Any) -> int | None:
    return len(value) if isinstance(value, str | list | dict) else None


def integer(work: Work, value: Any) -> int | None:
    if isinstance(value, str):
        try:
            return bounded(int(value)) if len(value) <= 64 else None
        except ValueError:
            value = real(work, value)
    if isinstance(value, bool):
        return int(value)
    if not is_number(value) or bounded(value) is None:
        return None
    return bounded(int(value))  # type: ignore[no-any-return]


def real(work: Work, value: Any) -> float | None:
    if not isinstance(value, int | float | str) or (isinstance(value, str) and len(value) > 64):
        return None
    try:
        return bounded(float(value))  # type: ignore[no-any-return]
    except (ValueError, OverflowError):
        return None


def rounded(work: Work, value: Any, digits: Any = 0) -> Any:
    """To the nearest integer, or to ``digits`` decimals; halves go to the even side."""
    if not is_number(value) or type(digits) is not int or bounded(value) is None:
        return None
    if digits == 0:
        return bounded(round(value))
    return bounded(round(value, max(-20, min(digits, 20))))


def absolute(work: Work, value: Any) -> Any:
    return bounded(abs(value)) if is_number(value) else None


def _extreme(work: Work, values: tuple[Any, ...], choose: Callable[[Any], Any]) -> Any:
    items = values[0] if len(values) == 1 else values
    if not isinstance(items, list | tuple) or not items:
        return None
    work.spend(len(items))
    return choose(items) if all(_comparable(items[0], item) for item in items) else None


def smallest(work: Work, *values: Any) -> Any:
    return _extreme(work, values, min)


def largest(work: Work, *values: Any) -> Any:
    return _extreme(work, values, max)


def total(work: Work, values: Any) -> Any:
    if not isinstance(values, list):
        return None
    work.spend(len(values))
    try:
        return bounded(sum(values)) if all(is_number(value) for value in values) else None
    except OverflowError:
        return None


def _any(work: Work, values: Any) -> bool | None:
    if not isinstance(values, list):
        return None
    work.spend(len(values))
    return any(values)


def _all(work: Work, values: Any) -> bool | None:
    if not isinstance(values, list):
        return None
    work.spend(len(values))
    return all(values)


def _recased(change: Callable[[str], str]) -> Callable[..., Any]:
    def apply(work: Work, value: Any) -> str | None:
        if not isinstance(value, str):
            return None
        work.room(len(value))
        result = change(value)
        work.room(len(result))  # some letters are several in the other case
        return result

    return apply


def _stripped(change: Callable[[str, str | None], str]) -> Callable[..., Any]:
    def apply(work: Work, value: Any, characters: Any = None) -> str | None:
        if not isinstance(value, str) or not isinstance(characters, str | None):
            return None
        # Each character at either end is looked up in the argument.
        work.spend((1 + (len(value) >> 4)) * (1 + (len(characters or "") >> 4)))
        return change(value, characters)

    return apply


upper, lower = _recased(str.upper), _recased(str.lower)
title, capitalize = _recased(str.title), _recased(str.capitalize)
strip, lstrip, rstrip = _stripped(str.strip), _stripped(str.lstrip), _stripped(str.rstrip)


def _startswith(work: Work, value: Any, prefix: Any) -> bool | None:
    return value.startswith(prefix) if isinstance(value, str) and isinstance(prefix, str) else None


def _endswith(work: Work, value: Any, suffix: Any) -> bool | None:
    return value.endswith(suffix) if isinstance(value, str) and isinstance(suffix, str) else None


def _contains(work: Work, value: Any, item: Any) -> bool | None:
    return within(work, item, value) if isinstance(value, str | list | dict) else None


def split(work: Work, value: Any, separator: Any = None, most: Any = -1) -> list[str] | None:
    if not isinstance(value, str) or not isinstance(separator, str | None) or type(most) is not int:
        return None
    if separator == "":
        return None
    pieces = len(value) >> 1 if separator is None else work.read(value).count(separator)
    work.spend(pieces if most < 0 else min(pieces, most))
    return value.split(separator, max(-1, min(most, len(value))))


def replace(work: Work, value: Any, old: Any, new: Any, most: Any = -1) -> str | None:
    texts = isinstance(value, str) and isinstance(old, str) and isinstance(new, str)
    if not texts or type(most) is not int:
        return None
    times = work.read(value).count(old)
    times = times if most < 0 else min(times, most)
    work.room(len(value) + times * (len(new) - len(old)))
    return str(value.replace(old, new, times))


class Operation(NamedTuple):
    """A function or method: ``run(work, *values)``, and how many arguments are written between brackets."""

    run: Callable[..., Any]
    least: int
    most: int


FUNCTIONS: Mapping[str, Operation] = MappingProxyType(
    {
        "len": Operation(length, 1, 1),
        "abs": Operation(absolute, 1, 1),
        "min": Operation(smallest, 1, 16),
        "max": Operation(largest, 1, 16),
        "sum": Operation(total, 1, 1),
        "round": Operation(rounded, 1, 2),
        "str": Operation(text, 1, 1),
        "int": Operation(integer, 1, 1),
        "float": Operation(real, 1, 1),
        "bool": Operation(lambda work, value: bool(value), 1, 1),
        "any": Operation(_any, 1, 1),
        "all": Operation(_all, 1, 1),
    }
)

METHODS: Mapping[str, Operation] = MappingProxyType(
    {
        "lower": Operation(lower, 0, 0),
        "upper": Operation(upper, 0, 0),
        "title": Operation(title, 0, 0),
        "capitalize": Operation(capitalize, 0, 0),
        "strip": Operation(strip, 0, 1),
        "lstrip": Operation(lstrip, 0, 1),
        "rstrip": Operation(rstrip, 0, 1),
        "startswith": Operation(_startswith, 1, 1),
        "endswith": Operation(_endswith, 1, 1),
        "contains": Operation(_contains, 1, 1),
        "split": Operation(split, 0, 2),
        "replace": Operation(replace, 2, 3),
    }
)
