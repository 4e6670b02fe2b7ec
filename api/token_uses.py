"""When tokens were used last: told to the store in batches, at most once a minute for each token."""

import asyncio
import contextlib
import contextvars
import logging
import time
from collections import OrderedDict

from runtime.errors import Unavailable
from runtime.store.port import SystemStore

EVERY_S = 60.0
GATHER_S = 1.0
"""How long a batch waits for more tokens."""
NOTED_MAX = 10_000

log = logging.getLogger("jamjet.api")


class TokenUses:
    """The uses of tokens in one replica. Losing some to a crash or a store that is down is no harm."""

    def __init__(self, system: SystemStore) -> None:
        self._system = system
        self._noted: OrderedDict[str, float] = OrderedDict()
        self._waiting: set[str] = set()
        self._writing: asyncio.Task[None] | None = None

    def note(self, token_id: str) -> None:
        """The token is being used. Costs a look into a dict, and once a minute a place in a batch."""
        now = time.monotonic()
        if now - self._noted.get(token_id, -EVERY_S) < EVERY_S:
            return
        self._noted[token_id] = now
        self._noted.move_to_end(token_id)
        if len(self._noted) > NOTED_MAX:
            self._noted.popitem(last=False)
        self._waiting.add(token_id)
        if self._writing is None or self._writing.done():
            # In no request's context: the batch is about many.
            self._writing = asyncio.get_running_loop().create_task(
                self._write_soon(), context=contextvars.Context()
            )

    async def _write_soon(self) -> None:
        while self._waiting:
            await asyncio.sleep(GATHER_S)
            await self._write()

    async def _write(self) -> None:
        batch, self._waiting = tuple(self._waiting), set()
        try:
            await self._system.mark_tokens_used(batch)
        except Unavailable as error:
            log.warning("the last use of %d tokens was not written: %s", len(batch), error)

    async def close(self) -> None:
        """Write what waits, and stop."""
        if self._writing is not None:
            self._writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._writing
        if self._waiting:
            await self._write()
