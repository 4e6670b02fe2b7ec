"""What an owner calls functions through: it hides that the processes which run them may hang or die.

A worker whose sync call has outlived its timeout or its caller is *tainted*: it takes no new call and
is killed when its other calls are done, or after ``TAINTED_S``. Calls that are cut short by a kill of
ours, or because their worker's host has ended, are repeated. When a worker dies by itself, one of its
calls may be why: each is repeated alone in a process, a few at once, and one that ends that too fails
with ``worker_crashed``. A repeated call keeps its key.
"""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

from actors.functions.call import FunctionCall, FunctionResult, failure
from actors.functions.client import FunctionClient, WorkerLost
from actors.functions.host import Child, FunctionHost
from runtime.errors import Unavailable

TAINTED_S = 5.0
SPAWN_ATTEMPTS = 6
SPAWN_BACKOFF_S = 0.1
CLOSE_S = 5.0
"""How long ``close`` waits for a host that does not answer."""
EVICTIONS_MAX = 2
"""How often a call is repeated among others when it was not to blame; then it is repeated alone."""
QUARANTINE_MAX = 4
"""How many suspects run at once, each in a process of its own: of long calls many may be cut short by one."""
LOSSES_MAX = 20
"""How many workers may be lost under a call that was never sent."""


class _Worker:
    """A child and the connection to it."""

    def __init__(self, pool: "FunctionPool", child: Child) -> None:
        self.child = child
        self.tainted = False
        self.gone = False
        self.client = FunctionClient(
            on_stuck=lambda: pool._taint(self),
            on_lost=lambda: pool._bury(self),
        )


class FunctionPool:
    """Runs functions in children of ``host``: one for all calls, and others while some are in trouble."""

    def __init__(self, host: FunctionHost) -> None:
        self._host = host
        self._current: _Worker | None = None
        self._quarantine: list[_Worker] = []
        """Those that wait for a suspect."""
        self._workers: set[_Worker] = set()
        self._running: dict[str, set[asyncio.Task[Any]]] = {}
        self._cancelled: set[asyncio.Task[Any]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting: asyncio.Task[_Worker] | None = None
        self._quarantine_places = asyncio.Semaphore(QUARANTINE_MAX)
        self._suspects = 0
        self._closed = False

    async def start(self) -> None:
        """Have a worker ready, so that the first call need not wait for one.

        Raises:
            Unavailable: none could be started.
        """
        await self._worker()

    async def run(self, call: FunctionCall, timeout_ms: int | None = None) -> FunctionResult:
        """Run a function to its result; its own failures are results too.

        The timeout (ms) counts from when the function starts. Cancelling the awaiting task cancels the call.

        Raises:
            Unavailable: no worker could be started, or the pool is closed.
        """
        task = asyncio.current_task()
        assert task is not None
        self._running.setdefault(call.key, set()).add(task)
        try:
            return await self._run(call, timeout_ms)
        except asyncio.CancelledError:
            if task not in self._cancelled or task.uncancel() > 0:
                raise
            return failure("cancelled", f"{call.module}.{call.function} was cancelled")
        finally:
            self._cancelled.discard(task)
            tasks = self._running[call.key]
            tasks.discard(task)
            if not tasks:
                del self._running[call.key]

    def cancel(self, key: str) -> bool:
        """End the calls with this key: their ``run`` answers ``cancelled`` at once. False: there are none."""
        tasks = self._running.get(key, set()) - self._cancelled
        for task in tasks:
            self._cancelled.add(task)
            task.cancel()
        return bool(tasks)

    def recycle(self) -> None:
        """Run calls from now on in a new worker, with the modules as they are now on disk."""
        if self._current is not None:
            self._taint(self._current)

    async def close(self) -> None:
        """End all workers. Calls under way raise ``Unavailable``."""
        self._closed = True
        for worker in list(self._workers):
            worker.client.close()
        # The host is asked first: it ends all at once, where retiring a worker may take its time.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._host.close()
        tasks = [*self._tasks, *([self._starting] if self._starting else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- calls

    async def _run(self, call: FunctionCall, timeout_ms: int | None) -> FunctionResult:
        evictions = 0
        for _ in range(LOSSES_MAX):
            worker = await self._worker()
            try:
                return await worker.client.call(call, timeout_ms)
            except WorkerLost as lost:
                if not lost.sent:
                    continue
                if evictions >= EVICTIONS_MAX or await self._ended_by_a_call(worker):
                    return await self._run_alone(call, timeout_ms)
                evictions += 1
        raise Unavailable(
            f"{LOSSES_MAX} processes for functions ended before {call.function!r} could be sent"
        )

    async def _ended_by_a_call(self, worker: _Worker) -> bool:
        """Whether a worker that is gone may owe that to a call, and neither to us nor to its host's end."""
        if worker.tainted:
            return False
        return (await self._worker()).child.host_life == worker.child.host_life

    async def _run_alone(self, call: FunctionCall, timeout_ms: int | None) -> FunctionResult:
        """Repeat a call where it can hurt no other: in a process that runs nothing else meanwhile."""
        self._suspects += 1
        try:
            async with self._quarantine_places:
                for _ in range(LOSSES_MAX):
                    worker = self._quarantine.pop() if self._quarantine else await self._spawn()
                    try:
                        result = await worker.client.call(call, timeout_ms)
                    except WorkerLost as lost:
                        if lost.sent and not self._closed:
                            return failure("worker_crashed", _crash(call))
                    except asyncio.CancelledError:
                        self._taint(worker)
                        raise
                    else:
                        self._released(worker, result)
                        return result
                raise Unavailable(f"no process for functions lived long enough to run {call.function!r}")
        finally:
            self._suspects -= 1
            if not self._suspects:
                for worker in list(self._quarantine):
                    self._taint(worker)

    def _released(self, worker: _Worker, result: FunctionResult) -> None:
        """The worker may serve the next suspect, unless this one may still be running in it."""
        if result.error_class in ("timeout", "cancelled"):
            self._taint(worker)
        elif not worker.tainted and not worker.gone:
            self._quarantine.append(worker)

    # --- workers

    async def _worker(self) -> _Worker:
        """The worker for new calls. All who find none wait for one and the same start."""
        if self._current is not None:
            return self._current
        if self._starting is None:
            self._starting = asyncio.create_task(self._spawn())
            self._starting.add_done_callback(self._started)
        try:
            return await asyncio.shield(self._starting)
        except asyncio.CancelledError:
            if self._closed and not _being_cancelled():
                raise Unavailable("the pool of processes for functions is closed") from None
            raise

    def _started(self, task: "asyncio.Task[_Worker]") -> None:
        self._starting = None
        # Asking for the exception marks it as seen, also when all who waited have left.
        if not task.cancelled() and task.exception() is None and not task.result().gone:
            self._current = task.result()

    async def _spawn(self) -> _Worker:
        """A new worker, connected."""
        for attempt in range(SPAWN_ATTEMPTS):
            if attempt:
                await asyncio.sleep(SPAWN_BACKOFF_S * 2**attempt)
            if self._closed:
                raise Unavailable("the pool of processes for functions is closed")
            try:
                return await self._connect(await self._host.spawn())
            except (Unavailable, OSError) as error:
                problem = error
        raise Unavailable(f"no process for functions could be started: {problem}") from problem

    async def _connect(self, child: Child) -> _Worker:
        worker = _Worker(self, child)
        self._workers.add(worker)
        try:
            await worker.client.connect(child.socket)
        except BaseException:
            worker.client.close()
            self._bury(worker)
            raise
        return worker

    def _taint(self, worker: _Worker) -> None:
        """Give a worker no new call, and kill it soon."""
        if worker.tainted or self._closed:
            return
        worker.tainted = True
        self._withdraw(worker)
        worker.client.refuse()
        self._spawn_task(self._retire(worker))

    async def _retire(self, worker: _Worker) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TAINTED_S):
                await worker.client.wait_idle()
        worker.client.close()
        await self._kill(worker)

    def _bury(self, worker: _Worker) -> None:
        """A worker is gone: see that what it started is gone too."""
        if worker.gone:
            return
        worker.gone = True
        self._withdraw(worker)
        if not self._closed:
            self._spawn_task(self._kill(worker))

    def _withdraw(self, worker: _Worker) -> None:
        if self._current is worker:
            self._current = None
        if worker in self._quarantine:
            self._quarantine.remove(worker)

    async def _kill(self, worker: _Worker) -> None:
        # A host that cannot be reached has ended, and its children with it.
        with contextlib.suppress(Unavailable):
            await self._host.kill(worker.child.generation)
        self._workers.discard(worker)

    def _spawn_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _crash(call: FunctionCall) -> str:
    return f"{call.module}.{call.function} ended the process it ran in, twice, the second time alone"
