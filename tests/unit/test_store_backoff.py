"""A failed attempt is not made again at once, and nobody waits for it."""

import pytest

from runtime.errors import Unavailable
from runtime.store.backoff import DELAY_MAX_S, DELAY_MIN_S, Backoff


class Attempts:
    """Fails while told to, and counts."""

    def __init__(self) -> None:
        self.now = 100.0
        self.made = 0
        self.failing = True
        self.backoff = Backoff(lambda: self.now)

    def attempt(self) -> str:
        return self.backoff.attempt(self._act)

    def _act(self) -> str:
        self.made += 1
        if self.failing:
            raise Unavailable(f"attempt {self.made} failed")
        return "done"


def test_an_attempt_too_soon_repeats_the_last_reason() -> None:
    attempts = Attempts()
    for _ in range(3):
        with pytest.raises(Unavailable, match="attempt 1 failed"):
            attempts.attempt()
    assert attempts.made == 1

    attempts.now += DELAY_MIN_S
    with pytest.raises(Unavailable, match="attempt 2 failed"):
        attempts.attempt()


def test_the_pause_doubles_up_to_its_bound() -> None:
    attempts = Attempts()
    pauses = []
    for made in range(1, 9):
        began = attempts.now
        while attempts.made < made:
            with pytest.raises(Unavailable):
                attempts.attempt()
            attempts.now += DELAY_MIN_S / 10
        pauses.append(attempts.now - began)

    assert pauses == sorted(pauses)
    assert pauses[2] == pytest.approx(2 * DELAY_MIN_S, abs=DELAY_MIN_S / 4)
    assert pauses[-1] == pytest.approx(DELAY_MAX_S, abs=DELAY_MIN_S)


def test_success_starts_over() -> None:
    attempts = Attempts()
    with pytest.raises(Unavailable):
        attempts.attempt()
    attempts.now += DELAY_MIN_S
    attempts.failing = False
    assert attempts.attempt() == "done"
    assert attempts.attempt() == "done"

    attempts.failing = True
    with pytest.raises(Unavailable, match="attempt 4"):
        attempts.attempt()
    attempts.now += DELAY_MIN_S
    with pytest.raises(Unavailable, match="attempt 5"):
        attempts.attempt()
