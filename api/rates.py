"""``requests_per_minute`` of tenants, held by each replica for itself."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from runtime.errors import LimitReached

TENANTS_MAX = 10_000
MINUTE_S = 60.0


class Rates:
    """How fast tenants ask: as many at once as a minute allows, and then evenly (GCRA)."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()
        """By tenant: when it may ask as many at once again."""

    def take(self, tenant_id: str, per_minute: int) -> None:
        """Count a request.

        Raises:
            LimitReached: it is one too many; it is not counted.
        """
        now = self._clock()
        each_s = MINUTE_S / per_minute
        full_at = max(now, self._full_at.get(tenant_id, now)) + each_s
        if full_at - now > MINUTE_S + each_s / 2:
            raise LimitReached(
                f"tenant {tenant_id!r} asks too often: requests_per_minute is {per_minute}",
                limit="requests_per_minute",
                retry_after_s=max(1, math.ceil(full_at - now - MINUTE_S)),
            )
        self._full_at[tenant_id] = full_at
        self._full_at.move_to_end(tenant_id)
        if len(self._full_at) > TENANTS_MAX:
            self._full_at.popitem(last=False)
