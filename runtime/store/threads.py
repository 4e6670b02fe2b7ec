"""Between asyncio and the threads that talk to a database.

A database call blocks, so it runs on a thread. An answer returns through one
``call_soon_threadsafe``, however many callers it has.
"""

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from runtime.errors import JamjetError, Unavailable
from runtime.store.sql import Database, Query, Session, T

Answer = tuple["asyncio.Future[Any]", Any]
"""A future, and its result or the exception that it is to raise."""

CLOSED = "the store is closed"


def deliver(answers: Sequence[Answer]) -> None:
    """Settle futures from another thread than their loop's; a loop that has closed wants no answer."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Answer]] = {}
    for answer in answers:
        by_loop.setdefault(answer[0].get_loop(), []).append(answer)
    for loop, own in by_loop.items():
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, own)


def _settle(answers: Sequence[Answer]) -> None:
    for future, value in answers:
        if future.done():
            continue
        if isinstance(value, Exception):
            future.set_exception(value)
        else:
            future.set_result(value)


def again(error: Exception) -> Exception:
    """Another instance of an expected error: each caller raises its own."""
    if isinstance(error, JamjetError):
        return type(error)(error.detail, **error.fields)
    return error


class Readers:
    """A few threads, each with a connection of its own, opened at its first query."""

    def __init__(self, database: Database, threads: int) -> None:
        self._database = database
        self._queue: SimpleQueue[tuple[Query[Any], asyncio.Future[Any]] | None] = SimpleQueue()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"store-reader-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def read(self, query: Query[T]) -> T:
        """Run a query that writes nothing.

        Raises:
            Unavailable: the database cannot be read.
            ValueRejected: a parameter is nothing that the database could hold.
        """
        if self._closed:
            raise Unavailable(CLOSED)
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put((query, future))
        return await future

    async def close(self) -> None:
        """Answer what waits, then stop."""
        if not self._closed:
            self._closed = True
            for _ in self._threads:
                self._queue.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _work(self) -> None:
        session: Session | None = None
        while (call := self._queue.get()) is not None:
            query, future = call
            value: Any
            try:
                session = self._usable(session)
                try:
                    value = query(session)
                except Exception:
                    if not self._database.is_lost(session):
                        raise
                    # Reading twice is harmless.
                    session = self._usable(session)
                    value = query(session)
            except Exception as error:
                value = self._database.failure(error)
            deliver(((future, value),))
            # Nothing may outlive its answer in this frame while the thread waits for the next call.
            del call, query, future, value
        if session is not None:
            session.connection.close()

    def _usable(self, session: Session | None) -> Session:
        """This session, or a new one if it is lost."""
        if session is not None:
            if not self._database.is_lost(session):
                return session
            with suppress(Exception):
                session.connection.close()
        return self._database.reader()
