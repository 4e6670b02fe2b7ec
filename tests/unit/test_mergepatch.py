"""Merge patches (RFC 7396), and keys that accumulate."""

import copy
import json

import pytest

from runtime.errors import ValueRejected
from runtime.jsonvalue import INTEGER_MAX
from runtime.mergepatch import accumulate, apply_result, merge_patch

RFC_7396 = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]
"""The RFC's appendix A, whole."""


@pytest.mark.parametrize(("target", "patch", "result"), RFC_7396)
def test_the_examples_of_the_rfc(target, patch, result):
    before = copy.deepcopy((target, patch))
    assert merge_patch(target, patch) == result
    assert (target, patch) == before


@pytest.mark.parametrize(
    ("old", "new", "result"),
    [
        (None, 1, [1]),
        (None, [1, 2], [1, 2]),
        ([1], 2, [1, 2]),
        ([1], [2, 3], [1, 2, 3]),
        ([1], None, [1, None]),
        ("one", "two", ["one", "two"]),
        ([1], {"x": 1}, [1, {"x": 1}]),
    ],
)
def test_append_makes_one_list(old, new, result):
    assert accumulate("append", old, new) == result


@pytest.mark.parametrize(
    ("old", "new", "result"),
    [
        (None, 1, 1),
        (1, 2, 3),
        (1, 0.5, 1.5),
        ("1", 2, 2),
        (1, "2", "2"),
        (True, 1, 1),
        (1, True, True),
        (1, None, None),
    ],
)
def test_add_sums_numbers_and_replaces_anything_else(old, new, result):
    summed = accumulate("add", old, new)
    assert (summed, type(summed)) == (result, type(result))


def test_accumulating_leaves_the_old_value_alone():
    old = [1]
    accumulate("append", old, [2])
    assert old == [1]


@pytest.mark.parametrize(("old", "new"), [(INTEGER_MAX, 1), (-INTEGER_MAX, -2), (1e308, 1e308)])
def test_a_sum_that_json_cannot_hold_is_rejected(old, new):
    with pytest.raises(ValueRejected, match="is no number that can be kept"):
        accumulate("add", old, new)


def applied(state, *, patch=None, output_key=None, output=None, **merges):
    return apply_result(state, patch=patch, output_key=output_key, output=output, merges=merges)


def test_the_patch_is_merged_and_then_the_output_set():
    assert applied({"a": {"x": 1}}, patch={"a": {"y": 2}, "r": 1}, output_key="r", output={"z": None}) == {
        "a": {"x": 1, "y": 2},
        "r": {"z": None},
    }


def test_without_a_key_the_output_is_not_set():
    assert applied({"a": 1}, output="said") == {"a": 1}


def test_keys_that_accumulate_do_so_in_patches_and_outputs():
    state = {"log": ["a"], "sum": 1}
    after = applied(
        state, patch={"log": "b", "sum": 2}, output_key="log", output=["c"], log="append", sum="add"
    )
    assert after == {"log": ["a", "b", "c"], "sum": 3}
    assert state == {"log": ["a"], "sum": 1}


def test_null_removes_a_key_that_accumulates():
    assert applied({"log": ["a"]}, patch={"log": None}, log="append") == {}


def test_new_keys_come_in_the_order_of_the_patch_in_every_process():
    """Else the same history would make another text of the state after a restart."""
    names = [f"key-{number}" for number in range(20)]
    after = applied({}, patch=dict.fromkeys(names, 1), **dict.fromkeys(names, "add"))
    assert json.dumps(after) == json.dumps(dict.fromkeys(names, 1))
