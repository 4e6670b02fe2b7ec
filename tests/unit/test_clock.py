"""The database's clock as a process knows it: never ahead, so that no timer fires early (G8)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.clock import DatabaseClock

DATABASE_NOW = 1_700_000_000_000


class World:
    """The database's clock and the process's own, which begin anywhere and go equally fast."""

    def __init__(self) -> None:
        self.database_ms = float(DATABASE_NOW)
        self.monotonic_s = 5.0
        self.clock = DatabaseClock(lambda: self.monotonic_s)

    def passes(self, ms: float) -> None:
        self.database_ms += ms
        self.monotonic_s += ms / 1_000

    def asks(self, *, back_ms: float = 0) -> None:
        """The database is asked, and the answer is on its way for so long."""
        asked_at = self.clock.mark()
        answer = int(self.database_ms)
        self.passes(back_ms)
        self.clock.learn(answer, asked_at)


def test_it_has_to_be_asked_first():
    with pytest.raises(AssertionError, match="has not been asked"):
        DatabaseClock().now()


def test_it_goes_on_between_two_looks():
    world = World()
    world.asks()
    world.passes(250)
    assert world.clock.now() == DATABASE_NOW + 250


def test_it_is_late_by_the_way_back():
    world = World()
    world.asks(back_ms=40)
    assert world.clock.now() == DATABASE_NOW
    assert world.database_ms == DATABASE_NOW + 40


def test_a_quicker_answer_makes_it_more_exact_and_a_slower_one_changes_nothing():
    world = World()
    world.asks(back_ms=40)
    world.asks(back_ms=5)
    assert world.clock.now() == DATABASE_NOW + 40
    world.asks(back_ms=500)
    assert world.clock.now() == DATABASE_NOW + 540


def test_it_follows_a_database_whose_clock_was_set_forward():
    world = World()
    world.asks()
    world.database_ms += 60_000
    world.asks()
    assert world.clock.now() == DATABASE_NOW + 60_000


def test_it_follows_a_database_whose_clock_was_set_back():
    world = World()
    world.asks()
    world.database_ms -= 60_000
    world.asks(back_ms=10)
    assert world.clock.now() == DATABASE_NOW - 60_000


def test_it_does_not_run_ahead_of_a_slower_database():
    """Two clocks never go equally fast: an hour at one part in ten thousand is a third of a second."""
    world = World()
    world.asks()
    for _ in range(3_600):
        world.passes(1_000)
        world.database_ms -= 0.1
        world.asks(back_ms=1)
        assert world.clock.now() <= world.database_ms


def test_it_follows_a_database_whose_clock_was_set_back_a_little():
    world = World()
    world.asks()
    world.database_ms -= 500
    world.asks(back_ms=10)
    assert world.clock.now() <= world.database_ms


@given(st.lists(st.tuples(st.floats(0, 5_000), st.floats(0, 900)), min_size=1, max_size=20))
def test_it_is_never_ahead_and_never_goes_back(looks):
    world = World()
    last = 0
    for passes_ms, back_ms in looks:
        world.passes(passes_ms)
        world.asks(back_ms=back_ms)
        now = world.clock.now()
        assert last <= now <= world.database_ms + 1e-3
        last = now
