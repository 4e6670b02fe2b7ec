"""Failed attempts to authenticate, by address: guessing must cost the guesser, not the database."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from runtime.errors import TooManyAttempts

FAILED_MAX = 30
WINDOW_S = 60.0
KNOWN_S = 3_600.0
"""A token that was good so lately is looked up, whoever else fails from its address."""
KEPT_MAX = 10_000


class Attempts:
    """What one replica has seen of tokens and addresses."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: OrderedDict[str, tuple[float, int]] = OrderedDict()
        """By address: when its window began, and how many failed in it."""
        self._good: OrderedDict[str, float] = OrderedDict()
        """By the hash of a token: when it was last found good."""

    def check(self, address: str, hashed: str | None) -> None:
        """Before a look-up.

        Args:
            hashed: the hash of the token; None: it cannot be one.

        Raises:
            TooManyAttempts: too many have failed from there, and this token is not known to be good.
        """
        now = self._clock()
        if hashed is not None and now - self._good.get(hashed, -KNOWN_S) < KNOWN_S:
            return
        began, count = self._failed.get(address, (now, 0))
        left = began + WINDOW_S - now
        if count >= FAILED_MAX and left > 0:
            raise TooManyAttempts("too many failed attempts from this address", retry_after_s=int(left) + 1)

    def failed(self, address: str) -> None:
        now = self._clock()
        began, count = self._failed.get(address, (now, 0))
        if now - began >= WINDOW_S:
            began, count = now, 0
        _keep(self._failed, address, (began, count + 1))

    def succeeded(self, hashed: str) -> None:
        _keep(self._good, hashed, self._clock())


def _keep(kept: OrderedDict[str, Any], key: str, value: Any) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > KEPT_MAX:
        kept.popitem(last=False)
