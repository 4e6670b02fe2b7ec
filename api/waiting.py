"""Reading executions, and waiting until they have ended or pause."""

import asyncio
import contextlib
from typing import Any

import orjson

from api import render
from api.resources import Resources
from runtime.errors import NotFound, Unavailable
from runtime.graph import PythonFnNode
from runtime.plan import Plan
from runtime.store.port import (
    TERMINAL_STATUSES,
    ExecutionRow,
    ExecutorRow,
    StoredExecution,
    TenantStore,
    shown_status,
)


async def whole(resources: Resources, stored: StoredExecution) -> dict[str, object]:
    """The execution as the API shows it."""
    row = stored.row
    plan = await resources.plans.get(row.tenant_id, row.workflow_id, row.workflow_version)
    owner = None if row.owner is None else await _executor(resources, row.owner)
    return render.execution(stored, plan, owner, await _lacks(resources, row, plan))


async def _lacks(resources: Resources, row: ExecutionRow, plan: Plan) -> dict[str | None, str]:
    """Which demands nobody can meet, and why: of each node, and under None of the execution itself."""
    lacks: dict[str | None, str] = {}
    if row.status in TERMINAL_STATUSES:
        return lacks
    demands: dict[str | None, Any] = {
        node_id: node.resources
        for node_id, node in plan.graph.nodes.items()
        if isinstance(node, PythonFnNode) and node.resources
    }
    with contextlib.suppress(Unavailable):
        for node_id, asked in demands.items():
            # What it has taken for itself is in use too.
            if found := await resources.executions.unmet(asked, in_use=False):
                lacks[node_id] = found
        if row.isolation == "dedicated" and row.owner is None and row.runnable:
            found = await resources.executions.unmet(orjson.loads(row.resources or "{}"))
            lacks |= {None: found} if found else {}
    return lacks


async def read_settled(
    resources: Resources, tenant: TenantStore, execution_id: str, *, wait_s: float, just_started: bool = False
) -> StoredExecution:
    """The execution once it has ended or pauses; as it stands after ``wait_s``, or where this process drains.

    ``just_started``: nothing but its start is known, so the first look may wait too.

    Raises:
        NotFound: it is not one of the tenant's.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + wait_s
    if just_started and wait_s > 0:
        await resources.executions.changed(execution_id, after=1, timeout_s=wait_s, settled=True)
    while True:
        stored = await tenant.stored_execution(execution_id)
        if stored is None:
            raise NotFound(f"execution {execution_id}")
        left = 0.0 if resources.executions.draining else until - loop.time()
        if shown_status(stored.row.status) != "running" or left <= 0:
            return stored
        await resources.executions.changed(
            execution_id, after=stored.row.sequence, timeout_s=left, settled=True
        )


async def _executor(resources: Resources, incarnation: str) -> ExecutorRow | None:
    executors = await resources.store.system.executors()
    return next((row for row in executors if row.incarnation == incarnation), None)
