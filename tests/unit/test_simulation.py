"""The execution host in a hostile world: thousands of stories, and a crash and a stall at every await."""

import gc
import os
from collections.abc import Iterator
from typing import Any

import pytest

from actors.host import ExecutionHost
from actors.seat import Seat
from runtime.audit.entries import AuditEntry, Chains
from runtime.store.port import Outcome, Turn
from tests.unit.simulation import SOURCES, Checked, Story, Violation, simulate

SEEDS = int(os.environ.get("JAMJET_SIMULATION_SEEDS", "3000"))
CHUNK = 250

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def no_cycles_collected() -> Iterator[None]:
    """A story makes thousands of tasks; what it leaves is collected once, after it."""
    gc.disable()
    yield
    gc.enable()
    gc.collect()


def tell_stories(seeds: range, **classes: type) -> None:
    for seed in seeds:
        simulate(seed, **classes)


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_stories(first: int) -> None:
    tell_stories(range(first, min(first + CHUNK, SEEDS)))


@pytest.mark.parametrize("workflow", SOURCES)
@pytest.mark.parametrize("accident", ["crash_first_at", "hold_first_at"])
@pytest.mark.parametrize("seed", range(3))
def test_an_accident_at_every_await(workflow: str, accident: str, seed: int) -> None:
    """The first owner is lost, or stalls for longer than its lease, before each of its callbacks in turn."""
    at = 0
    while True:
        at += 1
        story = Story(workflows=(workflow,), callers=False, **{accident: at})
        if not simulate(seed, story).reached:
            break
    assert at > 15, "the first life has hardly begun"


def test_the_same_seed_is_the_same_story() -> None:
    assert simulate(7).trace == simulate(7).trace


# --- the simulation notices ---------------------------------------------------------------------


class EagerHost(ExecutionHost):
    """Makes a node's calls before the turn that says so is committed."""

    async def _take_turn(self, seat: Seat, batch: Any) -> None:
        for _, decision in self._decide(seat, list(batch))[0]:
            for effect in decision.effects:
                if hasattr(effect, "key"):
                    self._perform(seat, effect)
        await super()._take_turn(seat, batch)


class TrustingHost(ExecutionHost):
    """Takes over from owners that may be alive."""

    async def _is_gone(self, incarnation: str) -> bool:
        return True


class LeaseBlindHost(ExecutionHost):
    """Makes calls however long ago its last heartbeat was acknowledged."""

    def _lease_is_doubtful(self) -> bool:
        return False


class HopefulHost(ExecutionHost):
    """Takes an unknown outcome for a commit."""

    async def _commit(self, turn: Turn) -> Outcome:
        try:
            return await self._store.journal.commit(turn)
        except Exception:
            return Outcome.COMMITTED


class Unfenced(Checked):
    """A database that lets anybody write."""

    def commit(self, turn: Turn) -> Outcome:
        row = self.executions.get(turn.execution_id)
        if row is not None and turn.new is None:
            turn = type(turn)(
                **{name: getattr(turn, name) for name in turn.__struct_fields__}
                | {"expected_epoch": row.owner_epoch, "expected_sequence": row.sequence}
            )
        return super().commit(turn)


class Crowded(Checked):
    """A database that counts no slots."""

    def _refusal(self, turn: Turn) -> Outcome | None:
        return None


class ForgetfulLog(Checked):
    """A database whose audit log misses an entry now and then."""

    def append(self, chains: Chains, tenant_id: str, *entries: AuditEntry) -> None:
        super().append(chains, tenant_id, *entries[: len(entries) - (len(entries) > 2)])


@pytest.mark.parametrize(
    "broken",
    [
        {"host_class": EagerHost},
        {"host_class": TrustingHost},
        {"host_class": LeaseBlindHost},
        {"host_class": HopefulHost},
        {"database_class": Unfenced},
        {"database_class": Crowded},
        {"database_class": ForgetfulLog},
    ],
    ids=lambda broken: next(iter(broken.values())).__name__,
)
def test_a_broken_part_is_noticed(broken: dict[str, type]) -> None:
    with pytest.raises(Violation, match=r"seed \d+"):
        tell_stories(range(400), **broken)
