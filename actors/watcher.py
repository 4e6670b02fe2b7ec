"""Tells those who wait for an execution that it moved, without polling the store.

One long call is kept open to each ExecutionActor that takes work, whoever waits.
"""

import asyncio
import contextlib
import secrets
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import ray

from actors import wire
from actors.listener import Listener, Token

POLL_S = 10.0
FALLBACK_S = 1.0
"""A waiter looks for itself after this: what moved elsewhere is late by no more."""
RECENT_MAX = 4_000
"""Executions whose last move is remembered: several seconds of them, where a waiter comes late by ms."""
PAUSE_S = 0.2


class Watcher:
    """Who waits, and what moved lately.

    Args:
        on_listeners: told when the set of executions that somebody listens to has changed.
    """

    def __init__(self, on_listeners: Callable[[], None] = lambda: None) -> None:
        self.follower = secrets.token_hex(8)
        """By this name actors know who follows them."""
        self.draining = False
        self._on_listeners = on_listeners
        self._waiters: dict[str, set[tuple[int, bool, asyncio.Future[None]]]] = defaultdict(set)
        self._listeners: dict[str, set[Listener]] = {}
        self._recent: OrderedDict[str, tuple[int, int]] = OrderedDict()
        """By execution: the latest sequence, and the latest at which it was settled."""

    async def changed(self, execution_id: str, *, after: int, timeout_s: float, settled: bool) -> None:
        """See ``actors.port.Executions.changed``."""
        sequence, settled_at = self._recent.get(execution_id, (0, 0))
        if self.draining or (settled_at if settled else sequence) > after:
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = (after, settled, woken)
        self._waiters[execution_id].add(waiter)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(timeout_s, FALLBACK_S)):
                    await woken
        finally:
            self._waiters[execution_id].discard(waiter)
            if not self._waiters[execution_id]:
                del self._waiters[execution_id]

    @contextlib.contextmanager
    def listening(self, execution_id: str) -> Iterator[Listener]:
        """See ``actors.port.Executions.listening``."""
        listener = Listener()
        if self.draining:
            listener.drain()
        present = self._listeners.setdefault(execution_id, set())
        present.add(listener)
        if len(present) == 1:
            self._on_listeners()
        try:
            yield listener
        finally:
            present.discard(listener)
            if not present and self._listeners.get(execution_id) is present:
                del self._listeners[execution_id]
                self._on_listeners()

    @property
    def listened(self) -> list[str]:
        """The executions that somebody listens to."""
        return list(self._listeners)

    def moved(self, execution_id: str, sequence: int, settled: bool) -> None:
        """An execution stands at ``sequence``; ``settled``: it has ended or pauses there."""
        _, settled_at = self._recent.pop(execution_id, (0, 0))
        self._recent[execution_id] = (sequence, sequence if settled else settled_at)
        if len(self._recent) > RECENT_MAX:
            self._recent.popitem(last=False)
        for after, wants_settled, woken in self._waiters.get(execution_id, ()):
            if sequence > after and (settled or not wants_settled) and not woken.done():
                woken.set_result(None)
        for listener in self._listeners.get(execution_id, ()):
            listener.moved(sequence)

    def said(self, token: Token) -> None:
        """A model said something in an execution."""
        for listener in self._listeners.get(token.execution_id, ()):
            listener.said(token)

    def wake_all(self) -> None:
        """Something may have been missed: let everyone look."""
        for waiters in self._waiters.values():
            for _, _, woken in waiters:
                if not woken.done():
                    woken.set_result(None)
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.look()

    def drain(self) -> None:
        """See ``actors.port.Executions.drain``."""
        self.draining = True
        self.wake_all()
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.drain()

    async def follow(self, handle: Any) -> None:
        """Follow one actor until cancelled."""
        cursor = -1
        while True:
            try:
                if cursor < 0:
                    await handle.listen.remote(self.follower, self.listened)
                seen = wire.decode_moves(await handle.watch.remote(self.follower, cursor, POLL_S))
            except ray.exceptions.RayError:
                cursor = -1
                self.wake_all()
                await asyncio.sleep(PAUSE_S)
                continue
            if seen.reset:
                # What moved before it was followed is not told.
                self.wake_all()
            cursor = seen.cursor
            for token in seen.tokens:
                self.said(token)
            for execution_id, sequence, settled in seen.moves:
                self.moved(execution_id, sequence, settled)
