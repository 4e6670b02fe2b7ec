"""The group-commit journal: one thread, one writing connection, one transaction at a time.

Whatever waits while a transaction runs goes into the next one, so the cost of a
sync is shared by all who wait for it. Every other write of the process goes
through the same thread, ahead of the turns, as a transaction of its own: one
process is one writer.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from runtime.errors import Unavailable, ValueRejected
from runtime.store.port import Outcome, Turn
from runtime.store.sql import Contended, Database, Query, T, Writer
from runtime.store.threads import CLOSED, Answer, again, deliver
from runtime.store.values import check_turn

MEMBERS_MAX = 256
BYTES_MAX = 8 * 1024 * 1024

CommitObserver = Callable[[int, float], None]
"""Told of each group, on the journal's thread: how many turns it had, and its seconds. It must not fail."""


class _Member(NamedTuple):
    turn: Turn
    size: int
    future: "asyncio.Future[Outcome]"


class _Signal(NamedTuple):
    """Wakes the thread: to look for jobs, or to end."""

    closing: bool


class GroupCommitJournal:
    """The ``Journal`` of the SQL stores."""

    def __init__(self, database: Database, on_commit: CommitObserver | None = None) -> None:
        self._database = database
        self._on_commit = on_commit
        self._queue: SimpleQueue[_Member | _Signal] = SimpleQueue()
        self._jobs: deque[tuple[Query[Any], asyncio.Future[Any]]] = deque()
        self._writer: Writer | None = None
        self._held: _Member | _Signal | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="store-journal", daemon=True)
        self._thread.start()

    async def commit(self, turn: Turn) -> Outcome:
        if self._closed:
            raise Unavailable(CLOSED)
        size = check_turn(turn)
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._queue.put(_Member(turn, size, future))
        return await future

    async def run(self, query: Query[T]) -> T:
        """Run any other write as a transaction of its own, before the turns that wait.

        Raises:
            Unavailable, OutcomeUnknown, ValueRejected: as ``commit`` does.
            JamjetError: what the query itself raises; it has written nothing.
        """
        if self._closed:
            raise Unavailable(CLOSED)
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.append((query, future))
        self._queue.put(_Signal(closing=False))
        return await future

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._queue.put(_Signal(closing=True))
        await asyncio.to_thread(self._thread.join)

    # --- the thread -----------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            entry = self._held or self._queue.get()
            self._held = None
            while self._jobs:
                self._run_job(*self._jobs.popleft())
            if isinstance(entry, _Member):
                self._run_group(self._gather(entry))
            elif entry.closing:
                break
            del entry
        if self._writer is not None:
            self._writer.close()

    def _gather(self, first: _Member) -> list[_Member]:
        """Take what waits, up to the bounds, and up to a member that must come after one of these."""
        group = [first]
        size = first.size
        claims = set(_claims(first.turn))
        while len(group) < MEMBERS_MAX and size < BYTES_MAX:
            try:
                entry = self._queue.get_nowait()
            except Empty:
                break
            if isinstance(entry, _Signal) or not claims.isdisjoint(own := _claims(entry.turn)):
                self._held = entry
                break
            group.append(entry)
            size += entry.size
            claims.update(own)
        # One order for every writer, so that no two wait for each other's rows.
        group.sort(key=_execution_id)
        return group

    def _run_group(self, group: list[_Member]) -> None:
        began = time.monotonic()
        answers = self._commit(group)
        if self._on_commit is not None:
            self._on_commit(len(group), time.monotonic() - began)
        deliver([(member.future, answer) for member, answer in zip(group, answers, strict=True)])

    def _commit(self, group: list[_Member]) -> list[Outcome | Exception]:
        try:
            return list(self._open_writer().commit([member.turn for member in group]))
        except (ValueRejected, Contended) as error:
            if len(group) == 1:
                return [error]
            return [answer for member in group for answer in self._commit([member])]
        except Exception as error:
            failure = self._database.failure(error)
            return [again(failure) for _ in group]

    def _run_job(self, query: Query[Any], future: "asyncio.Future[Any]") -> None:
        answer: Answer
        try:
            answer = (future, self._open_writer().run(query))
        except Exception as error:
            answer = (future, self._database.failure(error))
        deliver((answer,))

    def _open_writer(self) -> Writer:
        if self._writer is None:
            self._writer = self._database.writer()
        return self._writer


def _execution_id(member: _Member) -> str:
    return member.turn.execution_id


def _claims(turn: Turn) -> tuple[Any, ...]:
    """What two members of one group may not share."""
    record = turn.idempotency
    if record is None:
        return (turn.execution_id,)
    return (turn.execution_id, (turn.tenant_id, record.route, record.key))
