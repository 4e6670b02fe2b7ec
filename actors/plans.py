"""Plans of registered workflows, kept because a registered version never changes."""

from collections import OrderedDict

from runtime.errors import NotFound
from runtime.graph import decode_graph
from runtime.plan import Plan
from runtime.store.port import SystemStore

KEPT_MAX = 512


class PlanCache:
    """Looks plans up by (tenant, workflow, version), the least recently used forgotten first."""

    def __init__(self, system: SystemStore) -> None:
        self._system = system
        self._plans: OrderedDict[tuple[str, str, str], Plan] = OrderedDict()

    async def get(self, tenant_id: str, workflow_id: str, version: str) -> Plan:
        """One plan.

        Raises:
            NotFound: no such version is registered for the tenant.
        """
        key = (tenant_id, workflow_id, version)
        plan = self._plans.get(key)
        if plan is not None:
            self._plans.move_to_end(key)
            return plan
        row = await self._system.workflow(tenant_id, workflow_id, version)
        if row is None:
            raise NotFound(f"workflow {workflow_id} version {version}")
        plan = self._plans[key] = Plan(decode_graph(row.graph))
        while len(self._plans) > KEPT_MAX:
            self._plans.popitem(last=False)
        return plan
