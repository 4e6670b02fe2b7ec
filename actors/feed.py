"""What an ExecutionActor tells the replicas that follow it: which executions moved, and what models say.

Moves are kept for a while and numbered, so that a follower that comes back misses nothing. The pieces
of a model's answer are kept only for followers whose clients listen to that very execution; they are
shown as they come and stored nowhere.
"""

import asyncio
import contextlib
from collections import deque
from itertools import islice

from actors import wire
from actors.listener import Token
from runtime.errors import Unavailable

MOVES_KEPT_MAX = 20_000
TOKENS_KEPT_MAX = 10_000
"""For one follower. One that is slower than the models loses the oldest pieces."""


class Feed:
    """The feed of one actor, on its event loop."""

    def __init__(self) -> None:
        self._moves: deque[tuple[str, int, bool]] = deque(maxlen=MOVES_KEPT_MAX)
        self._count = 0
        self._listeners: dict[str, tuple[frozenset[str], deque[Token]]] = {}
        self._woken = asyncio.Event()
        self._closed = False

    def close(self) -> None:
        """Answer those who wait, and nobody after them: an actor ends only when no call is under way."""
        self._closed = True
        self._woken.set()

    def moved(self, execution_id: str, sequence: int, settled: bool) -> None:
        self._moves.append((execution_id, sequence, settled))
        self._count += 1
        self._woken.set()

    def said(self, key: str, attempt: int, text: str) -> None:
        """A model said ``text`` in the call that has this key."""
        if not self._listeners:
            return
        token = token_of(key, attempt, text)
        for listened, tokens in self._listeners.values():
            if token.execution_id in listened:
                tokens.append(token)
                self._woken.set()

    def listen(self, follower: str, execution_ids: list[str]) -> None:
        """From now on tell a follower what models say in these executions, and in no others."""
        if not execution_ids:
            self._listeners.pop(follower, None)
            return
        _, tokens = self._listeners.get(follower, (None, deque(maxlen=TOKENS_KEPT_MAX)))
        self._listeners[follower] = (frozenset(execution_ids), tokens)

    async def wait(self, follower: str, cursor: int, timeout_s: float) -> None:
        """Wait until there is something for this follower, at most ``timeout_s``.

        Raises:
            Unavailable: it was closed before.
        """
        if self._closed:
            raise Unavailable("this actor leaves")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self._closed and not self._has_news(follower, cursor):
                    self._woken.clear()
                    await self._woken.wait()

    def since(self, follower: str, cursor: int, *, live: int) -> wire.Moves:
        """What moved since ``cursor``, and the pieces that this follower has not had."""
        tokens = self._take_tokens(follower)
        if cursor < 0 or cursor > self._count:
            return wire.Moves(cursor=self._count, reset=True, live=live, tokens=tokens)
        missed = self._count - cursor
        latest: dict[str, tuple[str, int, bool]] = {}
        # From the newest on, so that the many that were told before are not looked at again.
        for move in islice(reversed(self._moves), missed):
            latest.setdefault(move[0], move)
        forgotten = missed > len(self._moves)
        return wire.Moves(
            cursor=self._count, moves=list(latest.values()), reset=forgotten, live=live, tokens=tokens
        )

    def _has_news(self, follower: str, cursor: int) -> bool:
        _, tokens = self._listeners.get(follower, (None, None))
        return 0 <= cursor < self._count or bool(tokens)

    def _take_tokens(self, follower: str) -> list[Token]:
        _, tokens = self._listeners.get(follower, (None, None))
        if not tokens:
            return []
        taken = list(tokens)
        tokens.clear()
        return taken


def token_of(key: str, attempt: int, text: str) -> Token:
    """The piece that was said in the call with this key. A node's id may have colons in it."""
    execution_id, _, rest = key.partition(":")
    node_id, _, visit = rest.rpartition(":")
    return Token(execution_id=execution_id, node_id=node_id, visit=int(visit), attempt=attempt, text=text)
