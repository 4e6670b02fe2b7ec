"""How a call of a Python function travels from an owner to the process that runs it: two ways, timed.

``ray``: calls coalesced into Ray actor calls (what piles up while one is in flight goes with the next,
at most 128 calls or 1 MiB), and run in the actor's own process. ``socket``: what the runtime does, a
``FunctionPool`` with a child from a ``NodeWorker``. The owner is an async Ray actor both times.

    python benchmarks/function_transport.py [seconds per cell]
"""

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

CLIENTS = 32
NAMESPACE = "transport"
BATCH_MAX = 128
BATCH_BYTES_MAX = 1024 * 1024
STATE = {"n": 1, "text": "x" * 1000}
FUNCTIONS = """
def sync(state):
    return {"n": state["n"] + 1}


async def asynchronous(state):
    return {"n": state["n"] + 1}
"""

Call = Callable[[str], Awaitable[Any]]


class BatchWorker:
    """Runs batches of calls in a Ray actor."""

    def __init__(self) -> None:
        self._functions: dict[str, Any] = {}
        exec(FUNCTIONS, self._functions)
        self._threads = ThreadPoolExecutor(16)

    async def run(self, batch: list[bytes]) -> list[bytes]:
        return await asyncio.gather(*map(self._run, batch))

    async def _run(self, data: bytes) -> bytes:
        import orjson

        name, state = orjson.loads(data)
        function = self._functions[name]
        if name == "sync":
            loop = asyncio.get_running_loop()
            return orjson.dumps(await loop.run_in_executor(self._threads, function, state))
        return orjson.dumps(await function(state))


class BatchClient:
    """Coalesces calls to a ``BatchWorker``; one batch is in flight."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._queue: deque[tuple[bytes, asyncio.Future[Any]]] = deque()
        self._pump: asyncio.Task[None] | None = None

    async def call(self, function: str) -> Any:
        import orjson

        future = asyncio.get_running_loop().create_future()
        self._queue.append((orjson.dumps([function, STATE]), future))
        if self._pump is None:
            self._pump = asyncio.create_task(self._send())
        return await future

    async def _send(self) -> None:
        import orjson

        while self._queue:
            batch, size = [], 0
            while self._queue and len(batch) < BATCH_MAX and size < BATCH_BYTES_MAX:
                batch.append(self._queue.popleft())
                size += len(batch[-1][0])
            answers = await self._worker.run.remote([data for data, _ in batch])
            for (_, future), answer in zip(batch, answers, strict=True):
                future.set_result(orjson.loads(answer))
        self._pump = None


class Owner:
    """The calling side."""

    async def through_ray(self, worker: Any, function: str, seconds: float) -> tuple[float, float]:
        """Median of one call at a time in ms, and calls a second of ``CLIENTS`` at once."""
        return await measure(BatchClient(worker).call, function, seconds)

    async def through_socket(self, worker: str, function: str, seconds: float) -> tuple[float, float]:
        from actors.functions import FunctionCall, FunctionPool
        from actors.functions.node_worker import NodeWorkerHost
        from actors.named import NamedActors

        pool = FunctionPool(NodeWorkerHost(NamedActors(NAMESPACE), worker))

        async def call(name: str) -> None:
            result = await pool.run(FunctionCall(module="timed", function=name, key="k", state=STATE))
            assert result.patch == {"n": 2}, result

        try:
            return await measure(call, function, seconds)
        finally:
            await pool.close()


async def measure(call: Call, function: str, seconds: float) -> tuple[float, float]:
    for _ in range(200):
        await call(function)
    times = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        await call(function)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000, await throughput(call, function, seconds)


async def throughput(call: Call, function: str, seconds: float) -> float:
    count = 0
    began = time.perf_counter()

    async def client() -> None:
        nonlocal count
        while time.perf_counter() < began + seconds:
            await call(function)
            count += 1

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return count / (time.perf_counter() - began)


def main(seconds: float) -> None:
    os.environ["RAY_AUTH_MODE"] = "disabled"
    import ray

    from actors.functions import FunctionSettings
    from actors.functions.node_worker import NodeWorker

    with tempfile.TemporaryDirectory(prefix="jj-", dir="/tmp") as folder:
        Path(folder, "timed.py").write_text(FUNCTIONS)
        ray.init(
            address="local",
            include_dashboard=False,
            num_cpus=2,
            _temp_dir=f"{folder}/ray",
            logging_level="WARNING",
        )
        try:
            owner = ray.remote(Owner).options(num_cpus=0).remote()
            batches = ray.remote(BatchWorker).options(num_cpus=0).remote()
            settings = FunctionSettings(folders=(folder,), modules=("timed",))
            made = {"name": "children", "namespace": NAMESPACE, "lifetime": "detached"}
            ray.remote(NodeWorker).options(num_cpus=0, **made).remote(settings)
            print("| way | function | one at a time, p50 | 32 at once |\n| --- | --- | --- | --- |")
            for way, worker in (("ray", batches), ("socket", made["name"])):
                for function in ("sync", "asynchronous"):
                    method = getattr(owner, f"through_{way}")
                    median_ms, rate = ray.get(method.remote(worker, function, seconds))
                    print(f"| {way} | {function} | {median_ms:.3f} ms | {rate:,.0f}/s |", flush=True)
        finally:
            ray.shutdown()


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 4.0)
