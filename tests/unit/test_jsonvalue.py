"""JSON values: what can be kept, and what is refused where it arises."""

import pytest

from runtime.errors import ValueRejected
from runtime.jsonvalue import DEPTH_MAX, decode, encode, parse


def nested(levels: int, kind: type = list):
    value = 1
    for _ in range(levels):
        value = [value] if kind is list else {"x": value}
    return value


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0.5,
        -(2**63),
        2**64 - 1,
        "ü\u2028\U0001f600\\u0000",
        [],
        {"": {"x": [None, {"null": "NaN"}]}},
        nested(DEPTH_MAX),
        nested(DEPTH_MAX, dict),
        [[]] * 200,
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_can_be_kept_comes_back_the_same(value):
    assert decode(encode(value)) == value
    assert parse(encode(value), what="it") == value


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (float("nan"), "contains the number nan"),
        ([{"x": float("inf")}], "contains the number inf"),
        (2**64, "is not JSON"),
        (-(2**63) - 1, "is not JSON"),
        ("a\x00b", "contains the character U\\+0000"),
        ({"a\x00": 1}, "contains the character U\\+0000"),
        ("\ud800", "is not JSON"),
        ({1: 2}, "is not JSON"),
        ({"x": {1, 2}}, "is not JSON"),
        (b"bytes", "is not JSON"),
        (nested(DEPTH_MAX + 1), "is nested deeper than 64 levels"),
        (nested(DEPTH_MAX + 1, dict), "is nested deeper than 64 levels"),
        (nested(100_000), "is not JSON"),
    ],
    ids=lambda value: repr(value)[:20] if not isinstance(value, list) else "list",
)
def test_what_cannot_be_kept_is_refused_with_the_reason(value, why):
    with pytest.raises(ValueRejected, match=f"^the result {why}"):
        encode(value, what="the result")


def test_a_value_over_its_limit_is_refused():
    assert encode("xxxx", bytes_max=6) == b'"xxxx"'
    with pytest.raises(ValueRejected, match="the result is 7 bytes, over the limit of 6"):
        encode("xxxxx", what="the result", bytes_max=6)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"{", "is not JSON"),
        (b"NaN", "is not JSON"),
        (b"1e999", "is not JSON"),
        (b'"\\ud800"', "is not JSON"),
        (b'"\xff"', "is not JSON"),
        (b'["\\u0000"]', "contains the character U\\+0000"),
        (b"[" * 65 + b"]" * 65, "is nested deeper than 64 levels"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"id":18446744073709551616}', "contains the number 18446744073709551616, which is over 64 bits"),
        (b"[-9223372036854775809]", "contains the number -9223372036854775809, which is over 64 bits"),
    ],
    ids=lambda value: value[:20].decode(errors="replace") if isinstance(value, bytes) else "",
)
def test_what_a_stranger_sends_meets_the_same_bounds(text, why):
    with pytest.raises(ValueRejected, match=f"^the body {why}"):
        parse(text, what="the body")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"12345678901234567890.5", 12345678901234567890.5),
        (b'"12345678901234567890123"', "12345678901234567890123"),
        (b"18446744073709551615", 18446744073709551615),
        (b"1e20", 1e20),
    ],
)
def test_long_numbers_that_can_be_kept_are_read(text, value):
    assert parse(text, what="the body") == value
