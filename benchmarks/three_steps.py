"""Three durable steps over HTTP: executions a second, started and answered at completion.

Starts a server of its own (``jamjet dev`` in a temporary folder, SQLite with
synchronous=FULL, bearer tokens on), drives it from this machine, and prints a table.

    python benchmarks/three_steps.py [--seconds 10] [--clients 32]
"""

import argparse
import asyncio
import json
import statistics
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests" / "fixtures")]

import http_load
from server import Server

FUNCTIONS = """
def step(state):
    return {"n": state.get("n", 0) + 1}
"""


def workflow(kind: str) -> dict[str, Any]:
    """Three steps in a line, of one kind."""
    body = {
        "model": {"type": "model", "model": "scripted/echo", "prompt": "step {{ state.n }}"},
        "python_fn": {"type": "python_fn", "module": "steps", "function": "step"},
    }[kind]
    names = ["one", "two", "three"]
    return {
        "workflow_id": f"three-{kind}",
        "version": "1.0.0",
        "start_node": "one",
        "nodes": {name: {"id": name, "kind": body} for name in names},
        "edges": [
            {"from": "one", "to": "two"},
            {"from": "two", "to": "three"},
            {"from": "three", "to": "end"},
        ],
    }


async def measure(server: Server, kind: str, *, clients: int, seconds: float) -> http_load.Report:
    """Register the workflow and drive it."""
    connection = http_load.Connection(server.host, server.port, server.token)
    status, answer = await connection.request("POST", "/workflows", {"ir": workflow(kind)})
    assert status == 201, answer
    connection.close()
    body = {"workflow_id": f"three-{kind}", "input": {"n": 0}}
    return await http_load.run(
        server.host,
        server.port,
        server.token,
        clients=clients,
        seconds=seconds,
        request=lambda n: ("POST", "/executions", body, {"Prefer": "wait=30"}),
        accept=lambda status, answer: status == 201 and answer["status"] == "completed",
    )


def row(name: str, report: http_load.Report) -> str:
    p50, p99 = report.percentile(0.5), report.percentile(0.99)
    failures = f", {len(report.failures)} FAILED: {report.failures[0]}" if report.failures else ""
    return f"| {name} | {report.per_second:.0f}/s | {p50:.1f} ms | {p99:.1f} ms |{failures}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=10)
    options.add_argument("--clients", type=int, default=32)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--kind", choices=["model", "python_fn"], action="append")
    options.add_argument("--json", action="store_true")
    chosen = options.parse_args()
    with Server({"steps.py": FUNCTIONS}) as server:
        print("| three durable steps | completed | p50 | p99 |\n| --- | --- | --- | --- |")
        for kind in chosen.kind or ["model", "python_fn"]:
            many = [
                asyncio.run(measure(server, kind, clients=chosen.clients, seconds=chosen.seconds))
                for _ in range(chosen.rounds)
            ]
            median = statistics.median_low([report.per_second for report in many])
            best = next(report for report in many if report.per_second == median)
            print(row(f"{kind}, {chosen.clients} clients", best), flush=True)
            one = asyncio.run(measure(server, kind, clients=1, seconds=chosen.seconds / 2))
            print(row(f"{kind}, one client", one), flush=True)
            if chosen.json:
                print(json.dumps({"kind": kind, "per_second": median, "p50_ms": one.percentile(0.5)}))


if __name__ == "__main__":
    main()
