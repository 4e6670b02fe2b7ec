"""What became of the executions that a node held when it was lost, from the log alone."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from runtime.store import open_store

STEP_MS = 200
QUANTILE = 0.95


def three_steps() -> dict[str, Any]:
    """IR of three steps of a model, each of which takes 200 ms."""
    options = {"latency_ms": STEP_MS, "responses": ["ok"]}
    kind = {"type": "model", "model": "scripted/m", "prompt": "x", "options": options}
    edges = [{"from": "a", "to": "b"}, {"from": "b", "to": "c"}, {"from": "c", "to": "end"}]
    return {
        "workflow_id": "three-slow",
        "version": "1.0.0",
        "start_node": "a",
        "nodes": {name: {"kind": kind} for name in "abc"},
        "edges": edges,
    }


@dataclass(frozen=True)
class Standstill:
    """How long executions stood still: from ``since`` to their next completed step, in ms."""

    count: int
    p50_ms: int
    p95_ms: int
    longest_ms: int

    def __str__(self) -> str:
        return json.dumps(self.__dict__)


async def _held(url: str, node_id: str) -> tuple[int, list[str]]:
    store = await open_store(url, migrate=False)
    try:
        rows = [row for row in await store.system.executors() if row.node == node_id]
        held = [one for row in rows for one in await store.system.owned_by(row.incarnation)]
        return await store.system.now(), held
    finally:
        await store.close()


def held_by(url: str, node_id: str) -> tuple[int, list[str]]:
    """The database's time (ms), and which executions the actors of a node own."""
    return asyncio.run(_held(url, node_id))


async def _stood_still(url: str, execution_ids: list[str], since: int) -> Standstill:
    store = await open_store(url, migrate=False)
    waited = []
    try:
        for execution_id in execution_ids:
            events = await store.tenant("default").events(execution_id)
            later = [e.created_at for e in events if e.type == "node_completed" and e.created_at > since]
            waited += [min(later) - since] if later else []
    finally:
        await store.close()
    waited.sort()
    return Standstill(len(waited), waited[len(waited) // 2], waited[int(len(waited) * QUANTILE)], waited[-1])


def stood_still(url: str, execution_ids: list[str], since: int) -> Standstill:
    """See ``Standstill``; those that completed no step since are left out."""
    return asyncio.run(_stood_still(url, execution_ids, since))
