"""The ownership protocol, searched: it holds under every order of events, and each of its rules is needed.

Traces of the broken protocols: `pytest tests/unit/test_ownership_model.py --log-cli-level=INFO`.
"""

import logging
from dataclasses import fields, replace

import pytest

from tests.unit.ownership_model import (
    INVARIANTS,
    PROTOCOL,
    Event,
    Faults,
    Row,
    Rules,
    State,
    Verdict,
    apply,
    explore,
    initial,
    terminal_is_terminal,
)
from tests.unit.ownership_model import Turn as ModelTurn

log = logging.getLogger(__name__)

ONE_OF_EACH = Faults(crashes=1, lost_heartbeats=1, commit_errors=1)
DEPTH_MAX = 14


def search_broken(rules: Rules, *, strands: bool = False) -> Verdict:
    """Names stay as they are, so that the trace reads; a strand must not hide what else is broken."""
    verdict = explore(rules, faults=ONE_OF_EACH, depth_max=DEPTH_MAX, symmetric=False, strands=strands)
    log.info("%s", verdict.story())
    return verdict


@pytest.mark.parametrize(
    ("faults", "states_min"),
    [
        (Faults(crashes=0, lost_heartbeats=0, commit_errors=0), 300),
        (Faults(crashes=1, lost_heartbeats=1, commit_errors=0), 90_000),
        (Faults(crashes=0, lost_heartbeats=1, commit_errors=1), 30_000),
        (Faults(crashes=2, lost_heartbeats=0, commit_errors=1), 30_000),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_protocol_holds_in_every_reachable_state(faults: Faults, states_min: int) -> None:
    verdict = explore(faults=faults)

    assert verdict.broken is None, verdict.story()
    assert verdict.complete
    assert verdict.states > states_min


def test_protocol_holds_to_depth_12_under_all_faults_together() -> None:
    verdict = explore(faults=Faults(crashes=2, lost_heartbeats=1, commit_errors=1), depth_max=12)

    assert verdict.broken is None, verdict.story()
    assert verdict.states > 30_000


UNSAFE: dict[str, tuple[Rules, str]] = {
    "fence_epoch": (replace(PROTOCOL, fence_epoch=False), "no_fork"),
    "fence_sequence": (replace(PROTOCOL, fence_sequence=False), "no_fork"),
    "owner_is_incarnation": (replace(PROTOCOL, owner_is_incarnation=False), "calls_are_committed"),
    "activation_adds_epoch": (replace(PROTOCOL, activation_adds_epoch=False), "started_once"),
    "sweeper_asks": (replace(PROTOCOL, sweeper_asks=False), "calls_are_committed"),
    "takes_from_gone_only": (replace(PROTOCOL, takes_from_gone_only=False), "one_late_call"),
    "gone_is_final": (replace(PROTOCOL, gone_is_final=False), "one_late_call"),
    "after_error": (replace(PROTOCOL, after_error="assume_failed"), "started_once"),
    "after_error, assume_committed": (
        replace(PROTOCOL, after_error="assume_committed"),
        "calls_are_committed",
    ),
    "old_reads_ignored": (replace(PROTOCOL, old_reads_ignored=False), "calls_are_committed"),
    "start_before_call": (replace(PROTOCOL, start_before_call=False), "calls_are_committed"),
    "age_from_send": (replace(PROTOCOL, age_from_send=False), "one_late_call"),
    "check_reads_fence": (replace(PROTOCOL, check_reads_fence=False), "one_late_call"),
    "result_names_epoch": (replace(PROTOCOL, result_names_epoch=False), "completed_once"),
    "acknowledged_after_commit": (
        replace(PROTOCOL, acknowledged_after_commit=False),
        "acknowledged_start_exists",
    ),
    "answer_by_id": (replace(PROTOCOL, answer_by_id=False), "one_decision"),
    "refusal_checked": (replace(PROTOCOL, refusal_checked=False), "one_decision"),
}

STRANDING: dict[str, Rules] = {
    "activation_restarts": replace(PROTOCOL, activation_restarts=False),
    "reconciles": replace(PROTOCOL, reconciles=False),
    "sweeps": replace(PROTOCOL, sweeps=False),
}


@pytest.mark.parametrize(("rules", "invariant"), UNSAFE.values(), ids=UNSAFE.keys())
def test_protocol_without_a_rule_breaks_an_invariant(rules: Rules, invariant: str) -> None:
    verdict = search_broken(rules)

    assert verdict.broken == invariant, verdict.story()
    assert verdict.trace


@pytest.mark.parametrize("rules", STRANDING.values(), ids=STRANDING.keys())
def test_protocol_without_a_rule_strands_the_execution(rules: Rules) -> None:
    verdict = search_broken(rules, strands=True)

    assert verdict.broken == "no_strand", verdict.story()


def test_every_rule_is_broken_once() -> None:
    assert {field.name for field in fields(Rules)} <= UNSAFE.keys() | STRANDING.keys()


def test_every_invariant_can_break() -> None:
    seen = {invariant for _, invariant in UNSAFE.values()} | {terminal_is_terminal.__name__}

    assert seen == {invariant.__name__ for invariant in INVARIANTS}


def test_terminal_is_terminal_breaks_when_a_committed_decision_can_be_committed_again() -> None:
    faults = Faults(crashes=0, lost_heartbeats=0, commit_errors=1)
    rules = replace(PROTOCOL, fence_sequence=False)

    verdict = explore(
        rules, faults=faults, invariants=(terminal_is_terminal,), symmetric=False, strands=False
    )

    assert verdict.broken == terminal_is_terminal.__name__, verdict.story()


def test_a_heartbeat_that_returns_lets_a_twin_call_without_looking() -> None:
    verdict = search_broken(replace(PROTOCOL, gone_is_final=False))

    assert verdict.trace == (
        "A receives the start",
        "A commits, the start is acknowledged",
        "A loses heartbeats",
        "the lease of A runs out",
        "B is asked to activate",
        "A heartbeats again",
        "B commits",
        "A checks: may call",
        "A calls the outside in epoch 1",
    )


def test_the_one_late_call_does_happen() -> None:
    def never_late(_: State, after: State) -> bool:
        return not any(made.late for made in after.calls)

    verdict = explore(faults=ONE_OF_EACH, depth_max=DEPTH_MAX, invariants=(never_late,), symmetric=False)

    assert verdict.broken == "never_late"
    assert verdict.trace[-1] == "A calls the outside in epoch 1"
    assert verdict.trace.index("A checks: may call") < verdict.trace.index("B commits")


def test_a_turn_writes_row_and_log_together() -> None:
    insert = ModelTurn(-1, 0, 1, 0, ((Event.STARTED, 0), (Event.NODE_STARTED, 0)), -1)

    stored = apply(initial(ONE_OF_EACH), insert, PROTOCOL)

    assert stored.row == Row(owner=0, epoch=1, sequence=2)
    assert [(entry.sequence, entry.epoch, entry.event) for entry in stored.log] == [
        (1, 1, Event.STARTED),
        (2, 1, Event.NODE_STARTED),
    ]
