"""The database's clock, as a process may know it between two looks.

A due time is compared with the *lower* bound of what the database's clock can be,
so that no timer fires early (G8); it is late by the length of one round trip at most.
"""

import time
from collections.abc import Callable


class DatabaseClock:
    """Follows the database's clock from its answers. Milliseconds since the epoch.

    Args:
        monotonic: seconds from a clock that never jumps; tests pass their own.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._database_ms = 0
        self._received_at = 0.0
        self._known = False

    def mark(self) -> float:
        """This moment, for ``learn``: taken before the database is asked."""
        return self._monotonic()

    def learn(self, database_ms: int, asked_at: float) -> None:
        """Take the database's now, just received. It was read after ``asked_at``."""
        received_at = self._monotonic()
        latest_ms = database_ms + (received_at - asked_at) * 1_000
        if not self._known or not database_ms <= self._project(received_at) <= latest_ms:
            # Too early is merely late. Too late means that this clock runs faster, or that the
            # database's was set back: follow it, or timers would fire early.
            self._database_ms, self._received_at, self._known = database_ms, received_at, True

    def now(self) -> int:
        """The earliest that the database's clock can read now."""
        assert self._known, "the database has not been asked for its time yet"
        return self._project(self._monotonic())

    def _project(self, at: float) -> int:
        return self._database_ms + int((at - self._received_at) * 1_000)
