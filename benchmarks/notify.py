"""What a NOTIFY in each turn's transaction would cost: turns a second of four processes, with and without.

PostgreSQL lets only one transaction with a NOTIFY commit at a time, and holds that lock over the sync to the
disk. Four processes commit turns through the journal, as in ``journal.py``; in every other round
its statement also notifies of each turn, to connections that listen. The server syncs to the disk.

    python benchmarks/notify.py [--pairs 10] [--seconds 2] [--producers 8] [--listeners 2] [--postgres URL]
"""

import argparse
import asyncio
import multiprocessing
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.pool import Pool
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import journal
import psycopg

from runtime.store import open_store, postgres

PROCESSES = 4
_END = "\nFROM turn\n    LEFT JOIN taken"
PLAIN = postgres.GROUP_AND_AUDIT
NOTIFYING = PLAIN.replace(_END, f",\n    pg_notify('moved', turn.execution_id){_END}")
assert NOTIFYING != PLAIN, "the journal's statement has another end now"


def work(url: str, notifies: bool, producers: int, seconds: float) -> float:
    """Turns a second of one process."""
    postgres.GROUP_AND_AUDIT = NOTIFYING if notifies else PLAIN
    result = asyncio.run(journal.run(url, producers, seconds))
    return result.turns / result.elapsed_s


async def migrate(url: str) -> None:
    await (await open_store(url)).close()


@contextmanager
def listening(url: str, count: int) -> Iterator[list[int]]:
    """So many connections that listen; yields how many notifications each has had."""
    heard = [0] * count
    over = threading.Event()

    def listen(number: int) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("LISTEN moved")
            while not over.is_set():
                heard[number] += sum(1 for _ in connection.notifies(timeout=0.2))

    threads = [threading.Thread(target=listen, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield heard
    finally:
        over.set()
        for thread in threads:
            thread.join()


def measure(pool: Pool, url: str, chosen: argparse.Namespace) -> None:
    """Rounds in pairs, whose order alternates too, so that what else the machine does falls on both."""

    def rate(notifies: bool) -> float:
        each = (url, notifies, chosen.producers, chosen.seconds)
        return sum(pool.starmap(work, [each] * PROCESSES, chunksize=1))

    rate(False)  # to warm up
    pairs: list[tuple[float, float]] = []
    for number in range(chosen.pairs):
        order = (False, True) if number % 2 else (True, False)
        found = {notifies: rate(notifies) for notifies in order}
        pairs.append((found[False], found[True]))
    without, with_it = zip(*pairs, strict=True)
    print(row("without", without, "{:.0f}/s"))
    print(row("with NOTIFY", with_it, "{:.0f}/s"))
    print(row("with / without, by pair", [b / a for a, b in pairs], "{:.2f}"))


def row(name: str, values: Sequence[float], form: str) -> str:
    cells = map(form.format, (statistics.median(values), min(values), max(values)))
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=2, help="of each round")
    parser.add_argument("--producers", type=int, default=8, help="in each process, one turn at a time each")
    parser.add_argument("--listeners", type=int, default=2)
    parser.add_argument("--postgres", help="URL of a PostgreSQL database to use")
    chosen = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=Path.cwd())))
        url = chosen.postgres or stack.enter_context(journal._postgres(folder / "pgdata"))
        asyncio.run(migrate(url))
        pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(PROCESSES))
        heard = stack.enter_context(listening(url, chosen.listeners))
        print("| turns of four processes | median | least | most |\n| --- | --- | --- | --- |")
        measure(pool, url, chosen)
    print(f"\nheard: {', '.join(map(str, heard))} notifications")


if __name__ == "__main__":
    main()
