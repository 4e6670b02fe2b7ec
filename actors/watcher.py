"""Tells those who wait for an execution that it moved, without polling the store.

One long call is kept open to each ExecutionActor that takes work, whoever waits.
"""

import asyncio
import contextlib
from collections import OrderedDict, defaultdict
from typing import Any

import ray

from actors import wire

POLL_S = 10.0
FALLBACK_S = 1.0
"""A waiter looks for itself after this: what moved elsewhere is late by no more."""
RECENT_MAX = 10_000
PAUSE_S = 0.2


class Watcher:
    """Who waits, and what moved lately."""

    def __init__(self) -> None:
        self._waiters: dict[str, set[tuple[int, bool, asyncio.Future[None]]]] = defaultdict(set)
        self._recent: OrderedDict[str, tuple[int, int]] = OrderedDict()
        """By execution: the latest sequence, and the latest at which it was settled."""

    async def changed(self, execution_id: str, *, after: int, timeout_s: float, settled: bool) -> None:
        """See ``actors.port.Executions.changed``."""
        sequence, settled_at = self._recent.get(execution_id, (0, 0))
        if (settled_at if settled else sequence) > after:
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = (after, settled, woken)
        self._waiters[execution_id].add(waiter)
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(woken, min(timeout_s, FALLBACK_S))
        finally:
            self._waiters[execution_id].discard(waiter)
            if not self._waiters[execution_id]:
                del self._waiters[execution_id]

    def moved(self, execution_id: str, sequence: int, settled: bool) -> None:
        """An execution stands at ``sequence``; ``settled``: it has ended or pauses there."""
        _, settled_at = self._recent.pop(execution_id, (0, 0))
        self._recent[execution_id] = (sequence, sequence if settled else settled_at)
        if len(self._recent) > RECENT_MAX:
            self._recent.popitem(last=False)
        for after, wants_settled, woken in self._waiters.get(execution_id, ()):
            if sequence > after and (settled or not wants_settled) and not woken.done():
                woken.set_result(None)

    def wake_all(self) -> None:
        """Something may have been missed: let everyone look."""
        for waiters in self._waiters.values():
            for _, _, woken in waiters:
                if not woken.done():
                    woken.set_result(None)

    async def follow(self, handle: Any) -> None:
        """Follow one actor until cancelled."""
        cursor = -1
        while True:
            try:
                seen = wire.decode_moves(await handle.watch.remote(cursor, POLL_S))
            except ray.exceptions.RayError:
                cursor = -1
                self.wake_all()
                await asyncio.sleep(PAUSE_S)
                continue
            if seen.reset and cursor >= 0:
                self.wake_all()
            cursor = seen.cursor
            for execution_id, sequence, settled in seen.moves:
                self.moved(execution_id, sequence, settled)
