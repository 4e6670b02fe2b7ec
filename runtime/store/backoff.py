"""When to try again what has just failed, without making anyone wait for it."""

import time
from collections.abc import Callable
from typing import TypeVar

from runtime.errors import Unavailable

T = TypeVar("T")

DELAY_MIN_S = 0.05
DELAY_MAX_S = 1.0


class Backoff:
    """Refuses attempts that come too soon after a failed one; the pause doubles up to a second."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._delay_s = DELAY_MIN_S
        self._again_at = 0.0
        self._reason = ""

    def attempt(self, action: Callable[[], T]) -> T:
        """Do it, unless it failed a moment ago.

        Raises:
            Unavailable: it was not tried, or failed so itself.
        """
        if self._monotonic() < self._again_at:
            raise Unavailable(self._reason)
        try:
            result = action()
        except Unavailable as error:
            self._reason = error.detail
            self._again_at = self._monotonic() + self._delay_s
            self._delay_s = min(self._delay_s * 2, DELAY_MAX_S)
            raise
        self._delay_s, self._again_at = DELAY_MIN_S, 0.0
        return result
