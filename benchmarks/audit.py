"""Pages of a large audit log, and its verification, on SQLite and PostgreSQL.

A tenant has 100,000 entries of 2,000 executions, another has 20,000. Each kind of page is
asked for many times through the store, with its total, as ``GET /audit`` does. Run it as

    python benchmarks/audit.py [--entries N] [--only sqlite|postgresql]
"""

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from journal import _postgres

from runtime.audit.check import check_log
from runtime.audit.entries import AuditEntry
from runtime.audit.seals import SigningKey
from runtime.store import Store, open_store

TYPES = ("workflow_started", "node_completed", "node_completed", "node_completed", "workflow_completed")
ACTORS = 40
ASKED = 200
BATCH = 500


def entry(number: int) -> AuditEntry:
    execution = number // 50
    return AuditEntry(
        execution_id=f"exec_{execution:032x}",
        event_type=TYPES[number % len(TYPES)],
        actor_id=f"agent:flow-{execution % ACTORS}",
        actor_type="agent",
        created_at=1_700_000_000_000 + number,
        sequence=number % 50 + 1,
        event_digest=f"{number:064x}",
        node_id="step",
    )


async def fill(store: Store, tenant_id: str, count: int) -> None:
    tenant = store.tenant(tenant_id)
    for first in range(0, count, BATCH):
        await tenant.record(*(entry(number) for number in range(first, min(first + BATCH, count))))


def questions(count: int) -> dict[str, Any]:
    """By name: a function that draws the filters and the place of one page."""
    executions = count // 50

    def execution() -> str:
        return f"exec_{random.randrange(executions):032x}"

    def actor() -> str:
        return f"agent:flow-{random.randrange(ACTORS)}"

    return {
        "newest": lambda: {},
        "offset 10,000": lambda: {"offset": 10_000},
        "by execution": lambda: {"execution_id": execution()},
        "by actor": lambda: {"actor_id": actor()},
        "by type": lambda: {"event_type": "node_completed"},
        "by rare type": lambda: {"event_type": "token_created"},
        "by actor and type": lambda: {"actor_id": actor(), "event_type": "workflow_completed"},
        "by all three": lambda: {
            "execution_id": execution(), "actor_id": actor(), "event_type": "node_completed"
        },
    }  # fmt: skip


async def measure(name: str, url: str, count: int) -> None:
    store: Any = await open_store(url)
    await store.system.create_tenant("acme", "Acme")
    await fill(store, "default", count)
    await fill(store, "acme", count // 5)
    key = SigningKey.generate()
    await store.system.seal_audit(key)
    tenant = store.tenant("default")
    for what, draw in questions(count).items():
        times = []
        for _ in range(ASKED):
            asked = draw()
            store._totals._kept.clear()  # every page counts anew, as one that nobody has asked for lately
            began = time.perf_counter()
            await tenant.audit(limit=50, **asked)
            times.append((time.perf_counter() - began) * 1_000)
        quantiles = statistics.quantiles(times, n=100)
        print(f"| {name} | {what} | {quantiles[49]:.1f} ms | {quantiles[94]:.1f} ms |", flush=True)
    began = time.perf_counter()
    rows = await tenant.audit_rows(limit=count)
    report = check_log("default", await tenant.seals(limit=10), rows, keys=[key.public])
    assert report.problem is None, report.problem
    each = (time.perf_counter() - began) / count * 10_000
    print(f"| {name} | verify 10,000 entries | {each:.2f} s | |", flush=True)
    await store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--only", choices=("sqlite", "postgresql"))
    options = parser.parse_args()
    print("| database | page of 50, with its total | p50 | p95 |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        if options.only != "postgresql":
            asyncio.run(measure("SQLite", str(Path(folder) / "runtime.db"), options.entries))
        if options.only != "sqlite":
            url = stack.enter_context(_postgres(Path(folder) / "pgdata"))
            asyncio.run(measure("PostgreSQL", url, options.entries))


if __name__ == "__main__":
    main()
