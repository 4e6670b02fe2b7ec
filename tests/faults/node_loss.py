"""Three Ray nodes on this machine, and the loss of one while executions run; run by ``test_nodes``.

    python -m tests.faults.node_loss DATABASE_URL EXECUTIONS

Prints one JSON object: how many completed, how many the lost node held, how long they stood still, and
what happened twice that must happen once. A process of its own, as Ray is one cluster a process.
"""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
from collections import Counter
from typing import Any

os.environ |= {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_USAGE_STATS_ENABLED": "0",
}

import ray
from ray.cluster_utils import Cluster

from actors import bootstrap
from actors.client import RayExecutions, connect
from actors.port import StartRequest
from actors.settings import Settings
from runtime.graph import encode_graph
from runtime.ir import RegistrationPolicy, compile_ir
from runtime.store import open_store
from runtime.store.port import Store, WorkflowRow

NODES = 3
STEP_MS = 200
AT_ONCE = 64
WITHIN_S = 120.0
OBJECT_STORE_BYTES = 80 * 2**20


def ir() -> dict[str, Any]:
    """Three steps of a model, each of which takes a while."""
    options = {"latency_ms": STEP_MS, "responses": ["ok"]}
    kind = {"type": "model", "model": "scripted/m", "prompt": "x", "options": options}
    edges = [{"from": "a", "to": "b"}, {"from": "b", "to": "c"}, {"from": "c", "to": "end"}]
    return {
        "workflow_id": "three",
        "version": "1",
        "start_node": "a",
        "nodes": {name: {"kind": kind} for name in "abc"},
        "edges": edges,
    }


async def register(store: Store) -> None:
    graph = compile_ir(ir(), RegistrationPolicy((), frozenset())).graph
    row = WorkflowRow(
        workflow_id="three",
        version="1",
        digest="d",
        ir=json.dumps(ir()),
        graph=encode_graph(graph),
        created_at=1,
    )
    await store.tenant("default").register_workflow(row)


async def until(look: Any, what: str) -> Any:
    """What ``look`` returns as soon as that is true."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            seen = await look()
            if seen:
                return seen
            await asyncio.sleep(0.05)


async def start_all(executions: RayExecutions, ids: list[str]) -> None:
    room = asyncio.Semaphore(AT_ONCE)

    async def start(execution_id: str) -> None:
        async with room:
            request = StartRequest(
                tenant_id="default",
                execution_id=execution_id,
                workflow_id="three",
                workflow_version="1",
                input={},
            )
            await executions.start(request)

    await asyncio.gather(*(start(execution_id) for execution_id in ids))


async def lose(cluster: Cluster, store: Store, victim: Any) -> tuple[int, list[str]]:
    """Kill a node's raylet and all its actors; returns when, and which executions they held."""
    lost = [row for row in await store.system.executors() if row.node == victim.node_id and not row.gone]

    async def held() -> list[str]:
        return [one for row in lost for one in await store.system.owned_by(row.incarnation)]

    held_now = await until(held, "the node holds executions")
    killed_at = await store.system.now()
    cluster.remove_node(victim, allow_graceful=False)
    for row in lost:
        with contextlib.suppress(ProcessLookupError):
            os.kill(row.pid, signal.SIGKILL)
    return killed_at, held_now


async def judged(store: Store, ids: list[str], killed_at: int, held: list[str]) -> dict[str, Any]:
    tenant = store.tenant("default")
    twice: list[str] = []
    still_ms: list[int] = []
    for execution_id in ids:
        events = await tenant.events(execution_id)
        completed = Counter(event.node_id for event in events if event.type == "node_completed")
        ends = sum(event.type == "workflow_completed" for event in events)
        if ends != 1 or any(count != 1 for count in completed.values()) or len(completed) != 3:
            twice.append(execution_id)
        if execution_id in held:
            later = [e.created_at for e in events if e.type == "node_completed" and e.created_at > killed_at]
            still_ms += [min(later) - killed_at] if later else []
    still_ms.sort()
    return {
        "held": len(held),
        "twice": twice,
        "still_ms_p95": still_ms[int(len(still_ms) * 0.95)] if still_ms else None,
    }


async def main(url: str, count: int) -> dict[str, Any]:
    store = await open_store(url)
    await register(store)
    settings = Settings(database_url=url)
    sizes = {"num_cpus": 2, "object_store_memory": OBJECT_STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args={**sizes, "include_dashboard": False})
    nodes = [cluster.add_node(**sizes) for _ in range(NODES - 1)]
    ray.init(address=cluster.address, namespace=settings.namespace, log_to_driver=False)
    try:
        bootstrap.ensure_supervisor(settings)

        async def all_work() -> bool:
            rows = await store.system.executors()
            return len({row.node for row in rows if row.state == "active" and not row.gone}) == NODES

        await until(all_work, "an actor works on each node")
        async with connect(settings) as executions:
            await executions._directory.refresh()
            ids = [f"exec_{number:032x}" for number in range(count)]
            starting = asyncio.create_task(start_all(executions, ids))
            killed_at, held = await lose(cluster, store, nodes[0])
            await starting

            async def completed() -> bool:
                rows = await store.tenant("default").executions(statuses=("completed",), limit=1)
                return rows[1] == count

            await until(completed, "all complete")
        return {"completed": count, **await judged(store, ids, killed_at, held)}
    finally:
        await store.close()
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(main(sys.argv[1], int(sys.argv[2])))) + "\n")
