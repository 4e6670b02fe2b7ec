"""What a function returns: the recorded difference, and what is refused."""

import dataclasses
from typing import Any

import pytest

from actors.functions.child import Refused, difference, encode, same


@pytest.mark.parametrize(
    ("before", "after", "patch"),
    [
        ({}, {"a": 1}, {"a": 1}),
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, {"b": 3}),
        ({"a": 1, "b": 2}, {"b": 2}, {}),
        ({"a": 1}, {"a": None}, {"a": None}),
        ({}, {"a": None}, {}),
        ({"a": None}, {"a": None, "b": 1}, {"b": 1}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"x": 1, "y": 3}}, {"a": {"y": 3}}),
        ({"a": {"x": 1}}, {"a": {}}, {}),
        ({"a": {"x": 1}}, {"a": {"x": None}}, {"a": {"x": None}}),
        ({"a": [1, 2]}, {"a": [1, 2, 3]}, {"a": [1, 2, 3]}),
        ({"a": {"x": 1}}, {"a": 5}, {"a": 5}),
        ({"a": 5}, {"a": {"x": 1}}, {"a": {"x": 1}}),
        ({"a": 1}, {"a": True}, {"a": True}),
        ({"a": 1}, {"a": 1.0}, {"a": 1.0}),
        ({"a": [{"x": 0}]}, {"a": [{"x": False}]}, {"a": [{"x": False}]}),
    ],
)
def test_the_difference_holds_what_changed_and_nothing_else(
    before: dict[str, Any], after: dict[str, Any], patch: dict[str, Any]
) -> None:
    found = difference(before, after)
    assert same(found, patch)


@dataclasses.dataclass
class Point:
    x: float
    y: object = None


class Model:
    """Has what pydantic's models have."""

    def __init__(self, **values: object) -> None:
        self.values = values

    def model_dump(self) -> dict[str, object]:
        return self.values


def test_models_and_dataclasses_become_dicts_at_any_depth() -> None:
    assert encode({"p": Point(1.5, [Point(2.5)]), "m": Model(a=Model(b=1))}) == (
        b'{"p":{"x":1.5,"y":[{"x":2.5,"y":null}]},"m":{"a":{"b":1}}}'
    )


def test_pydantic_models_are_dumped_as_json() -> None:
    import datetime
    import decimal

    from pydantic import BaseModel

    class Order(BaseModel):
        total: decimal.Decimal
        day: datetime.date

    order = Order(total=decimal.Decimal("1.50"), day=datetime.date(2024, 5, 6))
    assert encode(order) == b'{"total":"1.50","day":"2024-05-06"}'


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (float("nan"), "nan"),
        ({"a": [float("inf")]}, "inf"),
        (Point(float("nan")), "nan"),
        (Model(a=float("-inf")), "-inf"),
        ("a\x00b", "U+0000"),
        ({"k\x00": 1}, "U+0000"),
        (2**64, "64-bit"),
        (-(2**63) - 1, "64-bit"),
        ("\ud800", "surrogates"),
        ({1: "a"}, "str"),
        ({1, 2}, "set"),
        (object(), "object"),
        (Point, "class Point"),
        (b"bytes", "bytes"),
        ((number for number in (1,)), "generator"),
        ("x" * (4 * 1024 * 1024), "over the limit"),
    ],
)
def test_what_json_or_the_store_cannot_hold_is_refused(value: object, reason: str) -> None:
    with pytest.raises(Refused, match=r"(?i)" + reason.replace("+", r"\+")) as refused:
        encode(value)
    assert refused.value.error_class == "value_rejected"


def test_nesting_is_bounded() -> None:
    def nested(levels: int) -> list[Any]:
        value: list[Any] = []
        for _ in range(levels - 1):
            value = [value]
        return value

    assert encode(nested(64)) == b"[" * 64 + b"]" * 64
    with pytest.raises(Refused, match="deeper than 64"):
        encode(nested(65))
    with pytest.raises(Refused):
        encode(nested(2000))


def test_honest_nulls_and_large_integers_pass() -> None:
    assert (
        encode({"a": None, "b": [2**64 - 1, -(2**63)]})
        == b'{"a":null,"b":[18446744073709551615,-9223372036854775808]}'
    )
