"""One client that follows one execution live."""

import asyncio
import contextlib
from collections import deque

import msgspec

TOKENS_MAX = 10_000
"""Of one listener. One whose client is slower than the model loses the oldest pieces."""


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of what a model says, as it says it."""

    execution_id: str
    node_id: str
    visit: int
    attempt: int
    text: str


class Listener:
    """How far an execution has moved, and what models say in it, as far as that is known here."""

    def __init__(self) -> None:
        self.sequence = 0
        """The latest that is known; what is stored may be later."""
        self.draining = False
        """Nobody is to listen on: this process is about to end."""
        self._tokens: deque[Token] = deque(maxlen=TOKENS_MAX)
        self._woken = asyncio.Event()

    async def wait(self, timeout_s: float) -> bool:
        """Wait for a move or a piece; False if neither came in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()
        came = self._woken.is_set()
        self._woken.clear()
        return came

    def take(self) -> list[Token]:
        """The pieces that have come since the last time."""
        taken = list(self._tokens)
        self._tokens.clear()
        return taken

    def moved(self, sequence: int) -> None:
        self.sequence = max(self.sequence, sequence)
        self._woken.set()

    def said(self, token: Token) -> None:
        self._tokens.append(token)
        self._woken.set()

    def look(self) -> None:
        """Something may have been missed."""
        self.moved(self.sequence + 1)

    def drain(self) -> None:
        self.draining = True
        self._woken.set()
