"""What an owner knows of tenants: read again once a second, so never older than that by much."""

import logging

from runtime.policy import NO_POLICY, TenantPolicy, decode_tenant_policy
from runtime.store.port import SystemStore, TenantRow, TenantStatus

log = logging.getLogger("jamjet.host")

OVERLAP_MS = 15_000
"""How far back changes are asked for again: some are committed later than they are dated."""


class Tenants:
    """The tenants of an installation, as one process knows them."""

    def __init__(self) -> None:
        self._statuses: dict[str, TenantStatus] = {}
        self._policies: dict[str, TenantPolicy] = {}
        self._changed_at = 0

    async def refresh(self, system: SystemStore) -> None:
        """Learn what has changed.

        Raises:
            Unavailable: the store cannot be read; what was known stays.
        """
        for row in await system.tenants_changed(max(0, self._changed_at - OVERLAP_MS)):
            self._learn(row)

    def _learn(self, row: TenantRow) -> None:
        self._changed_at = max(self._changed_at, row.updated_at)
        self._statuses[row.tenant_id] = row.status
        try:
            self._policies[row.tenant_id] = decode_tenant_policy(row.policy)
        except ValueError:
            # Somebody wrote it there by hand. What it forbids is not known, so nothing may begin.
            log.exception("tenant %s is held: its policy cannot be read", row.tenant_id)
            self._statuses[row.tenant_id] = "suspended"

    def is_active(self, tenant_id: str) -> bool:
        """Whether its executions may go on. A tenant that is not known yet is taken for active."""
        return self._statuses.get(tenant_id, "active") == "active"

    def retention_days(self) -> dict[str, int]:
        """By tenant: after how many days it wants things forgotten. Without an entry: never."""
        found: dict[str, int] = {}
        for tenant_id, policy in self._policies.items():
            if policy.data_policy is not None and policy.data_policy.retention_days is not None:
                found[tenant_id] = policy.data_policy.retention_days
        return found

    def policy(self, tenant_id: str) -> TenantPolicy:
        """What its operators decide for all its workflows."""
        return self._policies.get(tenant_id, NO_POLICY)
