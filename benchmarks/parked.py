"""Executions that wait for an approval: what each costs in memory, and how fast all of them are decided.

Starts a server of its own (``jamjet dev`` in a temporary folder), parks executions through REST, and sums up
the PSS of all processes of the server's session (what is shared is counted once) at 2,000 and at 10,000
parked, each time after a pause. Then it approves all, and waits until all have completed. With
PostgreSQL the database's own processes are counted apart. The goal is at most 2 KiB an execution.

    python benchmarks/parked.py [--only sqlite|postgresql] [--first 2000] [--parked 10000] [--settle 15]
"""

import argparse
import asyncio
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests" / "fixtures")]

import http_load
from journal import _postgres
from server import Server
from workflows import APPROVAL, MODEL, chain

CLIENTS = 32
WORKFLOW = chain("parked", draft=MODEL, gate=APPROVAL, publish=MODEL)
BODY = {"workflow_id": "parked", "input": {"n": 0, "topic": "x" * 200}}
DONE_WITHIN_S = 600.0

Ask = Callable[[http_load.Connection, int], Awaitable[None]]


def pss_kib(pid: int) -> int:
    """A process's share of memory; 0 if it has just ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)[1])


def title(pid: int) -> str:
    """What kind of process it is: a Ray actor by its class, any other by its program."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return "gone"
    ray = re.match(r"ray::[A-Za-z_]+(:\w+:\w+)?", line)
    program = next((word for word in line.split() if word.endswith(".py")), line.split(" ")[0])
    return ray[0] if ray else program.rsplit("/", 1)[-1]


def of_server(server: Server) -> Counter[str]:
    """KiB by kind of process, of all processes of the server's session."""
    kib: Counter[str] = Counter()
    for pid in server.pids(""):
        kib[title(pid)] += pss_kib(pid)
    return kib


def of_postgres(folder: Path) -> int:
    """KiB of a PostgreSQL server's processes, by the folder of its data."""
    pid_file = folder / "postmaster.pid"
    if not pid_file.exists():
        return 0
    parent = int(pid_file.read_text().split()[0])
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return sum(pss_kib(pid) for pid in (parent, *map(int, children)))


async def from_many(server: Server, count: int, ask: Ask) -> float:
    """Ask once for each number below ``count``, from several clients; returns how long it took."""
    numbers = iter(range(count))

    async def client() -> None:
        connection = http_load.Connection(server.host, server.port, server.token)
        for number in numbers:
            await ask(connection, number)
        connection.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return time.perf_counter() - began


async def park(server: Server, count: int, ids: list[str]) -> float:
    """Start so many, and wait until all are parked; returns how long the starts took."""

    async def start(connection: http_load.Connection, _: int) -> None:
        status, answer = await connection.request("POST", "/executions", BODY)
        assert status == 201, answer
        ids.append(answer["execution_id"])

    took = await from_many(server, count, start)
    await until(server, "paused", len(ids))
    return took


async def approve(server: Server, ids: list[str]) -> float:
    """Approve all; returns how long it took until all had completed."""

    async def decide(connection: http_load.Connection, number: int) -> None:
        path = f"/executions/{ids[number]}/approve"
        status, answer = await connection.request("POST", path, {"decision": "approved"})
        assert status == 200, answer

    began = time.perf_counter()
    await from_many(server, len(ids), decide)
    await until(server, "completed", len(ids))
    return time.perf_counter() - began


async def until(server: Server, status: str, count: int) -> None:
    """Wait until so many executions have a status."""
    connection = http_load.Connection(server.host, server.port, server.token)
    async with asyncio.timeout(DONE_WITHIN_S):
        while True:
            _, answer = await connection.request("GET", f"/executions?status={status}&limit=1")
            if answer["total"] >= count:
                break
            await asyncio.sleep(0.2)
    connection.close()


async def measure(name: str, database: str | None, folder: Path, chosen: Any) -> None:
    with Server({}, database=database) as server:
        server.register(WORKFLOW)
        ids: list[str] = []
        seen: list[tuple[Counter[str], int]] = []
        for count in (chosen.first, chosen.parked - chosen.first):
            took = await park(server, count, ids)
            print(f"{name}: {count} started in {took:.1f} s ({count / took:.0f}/s)", flush=True)
            await asyncio.sleep(chosen.settle)
            seen.append((of_server(server), of_postgres(folder)))
        took = await approve(server, ids)
        print(f"{name}: {len(ids)} approved and completed in {took:.1f} s ({len(ids) / took:.0f}/s)\n")
    (before, before_postgres), (after, after_postgres) = seen
    more = chosen.parked - chosen.first
    print(f"| {name} | {chosen.first} parked | {chosen.parked} parked | each of {more} |")
    print("| --- | --- | --- | --- |")
    kinds = sorted(after, key=lambda kind: before[kind] - after[kind])
    for kind in kinds:
        if chosen.all or abs(after[kind] - before[kind]) > more / 20:
            print(row(kind, before[kind], after[kind], more))
    print(row("all of the server", before.total(), after.total(), more))
    if before_postgres:
        print(row("PostgreSQL itself", before_postgres, after_postgres, more))
    print(flush=True)


def row(name: str, before: int, after: int, count: int) -> str:
    each = (after - before) / count
    return f"| {name} | {before / 1024:.1f} MiB | {after / 1024:.1f} MiB | {each:.2f} KiB |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("sqlite", "postgresql"))
    parser.add_argument("--first", type=int, default=2_000)
    parser.add_argument("--parked", type=int, default=10_000)
    parser.add_argument("--settle", type=float, default=15, help="seconds before each measurement")
    parser.add_argument("--all", action="store_true", help="show processes that did not grow, too")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        data = Path(folder) / "pgdata"
        if chosen.only != "postgresql":
            asyncio.run(measure("SQLite", None, data, chosen))
        if chosen.only != "sqlite":
            url = stack.enter_context(_postgres(data))
            asyncio.run(measure("PostgreSQL", url, data, chosen))


if __name__ == "__main__":
    main()
