"""What an execution or a function asks of the machine that it runs on, and which machines have it.

A demand has the keys ``num_cpus``, ``num_gpus``, ``memory`` (bytes), ``custom`` (amounts by name) and
``labels`` (selectors by name), all optional. The rules are Ray's own (ray 2.60), so that what passes
here is never refused by it later.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

AMOUNT_MAX = 1_000_000
MEMORY_MAX = 2**50
SMALLEST = 0.0001
"""Ray counts in units of this."""

_WORD = r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
_LABEL = re.compile(rf"(?:[a-zA-Z0-9.-]{{1,253}}/)?{_WORD}")
_SELECTOR = re.compile(rf"(?P<not>!)?(?:(?P<one>{_WORD})|(?:in)?\((?P<many>{_WORD}(?:, ?{_WORD})*)\))|")
_OF_RAY = ("CPU", "GPU", "memory", "object_store_memory")
_SHOWN = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What a node has, and what of it is free, by Ray's names (``CPU``, ``GPU``, ``memory``, ...)."""

    total: dict[str, float] = {}
    free: dict[str, float] = {}
    labels: dict[str, str] = {}


def problem(demand: Mapping[str, Any]) -> str | None:
    """What is wrong with a demand, in a sentence that names the key; None: nothing."""
    amounts = [(name, demand.get(name)) for name in ("num_cpus", "num_gpus", "memory")]
    custom = demand.get("custom") or {}
    for name in custom:
        if name in _OF_RAY or not re.fullmatch(_WORD, name):
            return f"custom.{name}: a name of letters, digits, '.', '_' and '-' that is not one of Ray's own"
    amounts += [(f"custom.{name}", amount) for name, amount in custom.items()]
    found = (_wrong_amount(name, amount) for name, amount in amounts if amount is not None)
    labels = demand.get("labels") or {}
    return next(filter(None, [*found, *(_wrong_label(*label) for label in labels.items())]), None)


def amounts_of(demand: Mapping[str, Any]) -> dict[str, float]:
    """The amounts of a demand by Ray's names, without those that are nothing."""
    named = {"CPU": demand.get("num_cpus"), "GPU": demand.get("num_gpus"), "memory": demand.get("memory")}
    return {name: amount for name, amount in {**named, **(demand.get("custom") or {})}.items() if amount}


def unmet(demand: Mapping[str, Any], machines: Iterable[Machine], *, in_use: bool = True) -> str | None:
    """Why no machine can take a demand now, as a clause; None: one can.

    Args:
        in_use: whether it counts that something is there, and taken; else only what no machine has at all.
    """
    machines = list(machines)
    amounts, labels = amounts_of(demand), demand.get("labels") or {}
    able = [one for one in machines if _has(one.total, amounts) and _bears(one, labels)]
    if any(not in_use or _has(one.free, amounts) for one in able):
        return None
    if able:
        most = ", ".join(
            f"{_shown(name)} {_text(amount)} (free: {_most(able, name, free=True)})"
            for name, amount in amounts.items()
        )
        return f"every node that has it is in use: {most}"
    lacking = [
        f"{_shown(name)} {_text(amount)} (the most is {_most(machines, name, free=False)})"
        for name, amount in amounts.items()
        if not any(_has(one.total, {name: amount}) for one in machines)
    ]
    lacking += [
        f"the label {name}={selector}"
        for name, selector in labels.items()
        if not any(_bears(one, {name: selector}) for one in machines)
    ]
    if lacking:
        return f"no node has {' and '.join(lacking)}"
    return "no one node has all of it together"


def _wrong_amount(name: str, amount: float) -> str | None:
    most = MEMORY_MAX if name == "memory" else AMOUNT_MAX
    if not 0 <= amount <= most:
        return f"{name}: {amount} is not between 0 and {most}"
    if 0 < amount < SMALLEST:
        return f"{name}: {amount} is less than {SMALLEST}, the least that can be asked for"
    if amount > 1 and amount != int(amount):
        return f"{name}: {amount} is over 1, so it must be a whole number"
    return None


def _wrong_label(name: str, selector: str) -> str | None:
    if not _LABEL.fullmatch(name):
        return f"labels.{name}: a label's name has letters, digits, '.', '_' and '-', at most 63"
    if not _SELECTOR.fullmatch(selector):
        return f"labels.{name}: {selector!r} must be a value, in(a, b), or either with a ! before it"
    return None


def _has(amounts: Mapping[str, float], wanted: Mapping[str, float]) -> bool:
    return all(amounts.get(name, 0) >= amount for name, amount in wanted.items())


def _bears(machine: Machine, labels: Mapping[str, str]) -> bool:
    return all(_selects(selector, machine.labels.get(name)) for name, selector in labels.items())


def _selects(selector: str, value: str | None) -> bool:
    match = _SELECTOR.fullmatch(selector)
    assert match is not None, "a demand is checked before it is used"
    wanted = re.split(", ?", match["many"]) if match["many"] else [match["one"] or ""]
    return (value in wanted) != bool(match["not"])


def _most(machines: Iterable[Machine], name: str, *, free: bool) -> str:
    amounts = ((one.free if free else one.total).get(name, 0) for one in machines)
    return _text(max(amounts, default=0))


def _shown(name: str) -> str:
    return _SHOWN.get(name, f"custom.{name}")


def _text(amount: float) -> str:
    return f"{amount:.10g}"
