"""How results become state: JSON Merge Patch (RFC 7396), and keys that accumulate.

All functions leave their arguments unchanged and share what did not change.
"""

import math
from collections.abc import Mapping
from typing import Any

from runtime.errors import ValueRejected
from runtime.jsonvalue import INTEGER_MAX, JsonValue


def merge_patch(target: JsonValue, patch: JsonValue) -> JsonValue:
    """Apply a merge patch: objects merge, null removes, anything else replaces."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            merged[key] = merge_patch(merged.get(key), value)
        else:
            merged[key] = value
    return merged


def accumulate(rule: str, old: JsonValue, new: JsonValue) -> JsonValue:
    """Combine a key that accumulates: ``append`` extends a list, ``add`` sums numbers.

    Where the values do not fit the rule (adding to a string, say) the new one replaces.

    Raises:
        ValueRejected: the sum is no number that can be kept.
    """
    if rule == "append":
        before = old if isinstance(old, list) else [] if old is None else [old]
        return before + (new if isinstance(new, list) else [new])
    if old is None:
        return new
    if _is_number(old) and _is_number(new):
        return _kept_sum(old + new)
    return new


def _kept_sum(total: int | float) -> int | float:
    kept = math.isfinite(total) if isinstance(total, float) else abs(total) <= INTEGER_MAX
    if not kept:
        raise ValueRejected(f"the sum {total} is no number that can be kept")
    return total


def apply_result(
    state: Mapping[str, JsonValue],
    *,
    patch: dict[str, JsonValue] | None,
    output_key: str | None,
    output: JsonValue,
    merges: Mapping[str, str],
) -> dict[str, JsonValue]:
    """The state after a result: the patch merged, then the output set under its key, nulls kept.

    Raises:
        ValueRejected: a key that accumulates outgrew what can be kept.
    """
    data: dict[str, Any] = dict(state)
    if patch:
        plain = {key: value for key, value in patch.items() if key not in merges or value is None}
        data = merge_patch(data, plain)
        for key, value in patch.items():
            if key not in plain:
                data[key] = accumulate(merges[key], data.get(key), value)
    if output_key is not None:
        rule = merges.get(output_key)
        data[output_key] = accumulate(rule, data.get(output_key), output) if rule else output
    return data


def _is_number(value: JsonValue) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
