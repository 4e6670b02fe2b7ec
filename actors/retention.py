"""Retention: what tenants want forgotten after so many days."""

from actors.tenants import Tenants
from runtime.audit.seals import SigningKey
from runtime.store.port import SystemStore

DAY_MS = 24 * 3_600 * 1_000
ROUNDS_MAX = 20
"""Transactions for one tenant in one go: the rest is for the next time."""


async def retain(system: SystemStore, tenants: Tenants, key: SigningKey | None) -> None:
    """Delete ended executions, and audit entries, that are older than their tenant's ``retention_days``.

    Raises:
        Unavailable: the store cannot be read or written.
    """
    now = await system.now()
    for tenant_id, days in tenants.retention_days().items():
        before = now - days * DAY_MS
        for _ in range(ROUNDS_MAX):
            executions = await system.prune_executions(tenant_id, before=before)
            entries = await system.prune_audit(tenant_id, before=before, key=key)
            if not executions and not entries:
                break
