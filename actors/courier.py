"""Takes requests to one ExecutionActor, many in a call: one Ray call costs more than a turn.

What waits while calls are under way goes with the next one, bounded by count and bytes.
"""

import asyncio
import itertools
import secrets
from collections import deque
from typing import Any

import ray

from actors import wire
from actors.port import SignalRequest, StartRequest
from runtime.errors import JamjetError

BATCH_MAX = 128
CALLS_MAX = 2
"""Calls under way at once: one is handled while the next one travels."""


class ActorLost(JamjetError):
    """The actor did not answer, or is gone: the request may or may not have been handled."""

    code = "actor_lost"
    retryable = True


class Courier:
    """A coalescing sender to one actor."""

    def __init__(self, name: str, handle: Any) -> None:
        self.name = name
        self.handle = handle
        # The actor keeps late answers by sender and number, and two couriers count from 1 both.
        self._sender = secrets.token_hex(8)
        self._numbers = itertools.count(1)
        self._waiting: deque[tuple[int, StartRequest | SignalRequest]] = deque()
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._calls = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def outstanding(self) -> int:
        """Requests that are not answered yet."""
        return len(self._replies)

    async def send(self, request: StartRequest | SignalRequest) -> dict[str, Any]:
        """Send one request; returns its answer.

        Raises:
            ActorLost, or whatever error the actor answered with.
        """
        number = next(self._numbers)
        reply: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._replies[number] = reply
        self._waiting.append((number, request))
        self._dispatch()
        try:
            return await reply
        finally:
            self._replies.pop(number, None)

    def _dispatch(self) -> None:
        if self._calls < CALLS_MAX and self._waiting:
            self._calls += 1
            self._spawn(self._deliver())

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self) -> None:
        # One turn of the loop, so that requests that arrive together travel together.
        await asyncio.sleep(0)
        batch = [self._waiting.popleft() for _ in range(min(BATCH_MAX, len(self._waiting)))]
        numbers = [number for number, _ in batch]
        try:
            if batch:
                self._settle(wire.decode_answers(await self.handle.deliver.remote(self._encode(batch))))
        except ray.exceptions.RayError as error:
            self._lose(numbers, error)
        finally:
            self._calls -= 1
            self._dispatch()

    def _encode(self, batch: list[tuple[int, StartRequest | SignalRequest]]) -> bytes:
        starts = [(number, request) for number, request in batch if isinstance(request, StartRequest)]
        signals = [(number, request) for number, request in batch if isinstance(request, SignalRequest)]
        return wire.encode(wire.Delivery(sender=self._sender, starts=starts, signals=signals))

    def _settle(self, answers: list[wire.Answer]) -> None:
        for answer in answers:
            reply = self._replies.get(answer.number)
            if answer.code == wire.PENDING:
                self._spawn(self._fetch(answer.number))
            elif reply is not None and not reply.done():
                if answer.code is None:
                    reply.set_result(answer.fields)
                else:
                    reply.set_exception(wire.raised(answer))

    async def _fetch(self, number: int) -> None:
        """Ask for an answer that was not there when its batch was answered."""
        try:
            self._settle(wire.decode_answers(await self.handle.answer.remote(self._sender, number)))
        except ray.exceptions.RayError as error:
            self._lose([number], error)

    def _lose(self, numbers: list[int], error: Exception) -> None:
        for number in numbers:
            reply = self._replies.get(number)
            if reply is not None and not reply.done():
                reply.set_exception(ActorLost(f"actor {self.name}: {type(error).__name__}"))
                reply.exception()
