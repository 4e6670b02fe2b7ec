"""Ten thousand agents: pages of them by every filter, and a thousand heartbeats a second beside executions.

Starts a server of its own (``jamjet dev`` in a temporary folder) on SQLite, or on PostgreSQL. Heartbeats
come at a fixed rate, each agent in its turn; executions are those of ``three_steps.py``, from a few clients.

    python benchmarks/agents.py [--agents 10000] [--rate 1000] [--seconds 15] [--postgresql]
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests" / "fixtures")]

import http_load
from journal import _postgres
from server import Server
from three_steps import measure

SKILLS = [f"skill-{number}" for number in range(200)]
PROTOCOLS = ("a2a", "mcp", "anp")
ASKED = 200
REGISTERING = 16
BEATING = 64
"""Connections that heartbeats come through."""
EXECUTION_CLIENTS = 4


def card(number: int) -> dict[str, object]:
    """An agent with three of two hundred skills, one of which each fiftieth agent has."""
    names = {SKILLS[number % 50], SKILLS[50 + number % 150], SKILLS[(number * 7) % 200]}
    skills = [{"name": name, "description": "x" * 120, "input_schema": {"type": "object"}} for name in names]
    return {
        "id": f"agent-{number}",
        "uri": f"https://agent-{number}.example.com",
        "name": f"Agent {number}",
        "description": "y" * 200,
        "version": "1.0.0",
        "capabilities": {"skills": skills, "protocols": [PROTOCOLS[number % 3]]},
        "labels": {"trust_domain": f"domain-{number % 10}"},
    }


async def register(server: Server, count: int) -> float:
    """Register them all, and activate each third; returns how long it took."""
    numbers = iter(range(count))

    async def client() -> None:
        connection = http_load.Connection(server.host, server.port, server.token)
        for number in numbers:
            status, answer = await connection.request("POST", "/agents", card(number))
            assert status == 201, answer
            if number % 3 == 0:
                await connection.request("POST", f"/agents/agent-{number}/activate")
        connection.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(REGISTERING)))
    return time.perf_counter() - began


QUESTIONS = {
    "newest": lambda: "/agents",
    "by status": lambda: "/agents?status=active",
    "by skill": lambda: f"/agents?skill={random.choice(SKILLS)}",
    "by protocol": lambda: f"/agents?protocol={random.choice(PROTOCOLS)}",
    "by all three": lambda: (
        f"/agents?status=active&protocol={random.choice(PROTOCOLS)}&skill={random.choice(SKILLS)}"
    ),
    "search, two skills": lambda: (
        f"/agents/search?skills={random.choice(SKILLS[:50])},{random.choice(SKILLS)}"
    ),
    "trust domain": lambda: f"/agents/search?trust_domain=domain-{random.randrange(10)}",
    "at offset 9,000": lambda: "/agents?offset=9000",
    "one agent": lambda: f"/agents/agent-{random.randrange(1_000)}",
}


async def pages(server: Server) -> list[str]:
    rows = []
    connection = http_load.Connection(server.host, server.port, server.token)
    for name, question in QUESTIONS.items():
        report = http_load.Report(1)
        for _ in range(ASKED):
            path = question()
            sent = time.perf_counter()
            status, answer = await connection.request("GET", path)
            assert status == 200, answer
            report.latencies_ms.append((time.perf_counter() - sent) * 1_000)
        rows.append(f"| {name} | {report.percentile(0.5):.1f} ms | {report.percentile(0.95):.1f} ms |")
    connection.close()
    return rows


async def beat(server: Server, count: int, *, rate: float, seconds: float) -> http_load.Report:
    """Send heartbeats at a rate. Latencies count from when each was to be sent, so that a queue shows."""
    report = http_load.Report(seconds)
    began = time.perf_counter()

    async def client(first: int) -> None:
        connection = http_load.Connection(server.host, server.port, server.token)
        number = first
        while (due := began + number / rate) < began + seconds:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            status, answer = await connection.request("POST", f"/agents/agent-{number % count}/heartbeat")
            if status == 200 and answer["ok"]:
                report.latencies_ms.append((time.perf_counter() - due) * 1_000)
            else:
                report.failures.append(f"{status} {answer}")
            number += BEATING
        connection.close()

    await asyncio.gather(*(client(first) for first in range(BEATING)))
    report.seconds = max(seconds, time.perf_counter() - began)
    return report


def told(name: str, report: http_load.Report) -> str:
    failed = f", {len(report.failures)} FAILED: {report.failures[0]}" if report.failures else ""
    p50, p99 = report.percentile(0.5), report.percentile(0.99)
    return f"| {name} | {report.per_second:.0f}/s | {p50:.1f} ms | {p99:.1f} ms |{failed}"


async def together(server: Server, count: int, rate: float, seconds: float) -> list[str]:
    """Executions alone, heartbeats alone, and both at once."""

    def executions() -> object:
        return measure(server, "model", clients=EXECUTION_CLIENTS, seconds=seconds)

    alone = await executions()
    beats_alone = await beat(server, count, rate=rate, seconds=seconds)
    beats, beside = await asyncio.gather(
        beat(server, count, rate=rate, seconds=seconds + 2),
        executions(),
    )
    return [
        told("executions alone", alone),
        told("heartbeats alone", beats_alone),
        told("executions beside them", beside),
        told("heartbeats beside them", beats),
    ]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--agents", type=int, default=10_000)
    options.add_argument("--rate", type=float, default=1_000)
    options.add_argument("--seconds", type=float, default=15)
    options.add_argument("--postgresql", action="store_true")
    chosen = options.parse_args()
    with ExitStack() as stack:
        database = None
        if chosen.postgresql:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            database = stack.enter_context(_postgres(folder))
        server = stack.enter_context(Server({}, database=database))
        took = asyncio.run(register(server, chosen.agents))
        print(f"{chosen.agents} agents registered in {took:.1f} s ({chosen.agents / took:.0f}/s)\n")
        print("| page of 50 | p50 | p95 |\n| --- | --- | --- |")
        print("\n".join(asyncio.run(pages(server))), flush=True)
        print(f"\n| {chosen.rate:.0f} heartbeats a second | done | p50 | p99 |\n| --- | --- | --- | --- |")
        print("\n".join(asyncio.run(together(server, chosen.agents, chosen.rate, chosen.seconds))))


if __name__ == "__main__":
    main()
