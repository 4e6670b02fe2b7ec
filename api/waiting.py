"""Reading executions, and waiting until they have ended or pause."""

import asyncio

from api import render
from api.resources import Resources
from runtime.errors import NotFound
from runtime.store.port import ExecutorRow, StoredExecution, TenantStore, shown_status


async def whole(resources: Resources, stored: StoredExecution) -> dict[str, object]:
    """The execution as the API shows it."""
    row = stored.row
    plan = await resources.plans.get(row.tenant_id, row.workflow_id, row.workflow_version)
    owner = None if row.owner is None else await _executor(resources, row.owner)
    return render.execution(stored, plan, owner)


async def read_settled(
    resources: Resources, tenant: TenantStore, execution_id: str, *, wait_s: float, just_started: bool = False
) -> StoredExecution:
    """The execution once it has ended or pauses, or as it stands after ``wait_s``.

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
        left = until - loop.time()
        if shown_status(stored.row.status) != "running" or left <= 0:
            return stored
        await resources.executions.changed(
            execution_id, after=stored.row.sequence, timeout_s=left, settled=True
        )


async def _executor(resources: Resources, incarnation: str) -> ExecutorRow | None:
    executors = await resources.store.system.executors()
    return next((row for row in executors if row.incarnation == incarnation), None)
