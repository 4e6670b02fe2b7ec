"""What is told to everybody: the agents and the workflows of tenants that publish theirs."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import msgspec

from actors.settings import Settings
from api.federation.identity import SERVICES_MAX, did_document, did_of, public_key
from runtime.agents.card import read_card
from runtime.ids import DEFAULT_TENANT
from runtime.policy import decode_tenant_policy
from runtime.store.port import Store, TenantRow, WorkflowRow

KEPT_S = 5.0
TENANTS_PAGE = 500
WORKFLOWS_MAX = 1_000

T = TypeVar("T")


class Published:
    """The public documents of one replica, read anew after some seconds: nobody needs a token for them."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._did = _Kept(self._read_did)
        self._workflows = _Kept(self._read_workflows)

    async def did_document(self) -> dict[str, Any]:
        return await self._did.value()

    async def workflows(self) -> list[WorkflowRow]:
        """Those that are exposed to A2A; of two with one id, the first tenant's."""
        return await self._workflows.value()

    async def _read_did(self) -> dict[str, Any]:
        agents = await self._store.all_agents.active_of(await self._tenants(), limit=SERVICES_MAX)
        names = [read_card(msgspec.json.decode(row.card), found_at=row.found_at).name for row in agents]
        did = did_of(self._settings.reachable_url)
        return did_document(did, await public_key(self._store.system), agents, names)

    async def _read_workflows(self) -> list[WorkflowRow]:
        found: dict[str, WorkflowRow] = {}
        for tenant_id in await self._tenants():
            for row in await self._store.tenant(tenant_id).exposed_workflows("a2a"):
                found.setdefault(row.workflow_id, row)
        return list(found.values())[:WORKFLOWS_MAX]

    async def _tenants(self) -> list[str]:
        """Active tenants that publish. Without authentication there is nothing to keep from anybody."""
        found: list[TenantRow] = []
        while True:
            rows, total = await self._store.system.tenants(limit=TENANTS_PAGE, offset=len(found))
            found += rows
            if not rows or len(found) >= total:
                return [row.tenant_id for row in found if self._publishes(row)]

    def _publishes(self, row: TenantRow) -> bool:
        if row.status != "active":
            return False
        open_to_all = self._settings.dev_mode and row.tenant_id == DEFAULT_TENANT
        return open_to_all or decode_tenant_policy(row.policy).publish


class _Kept(Generic[T]):
    """A value that is read again once it is ``KEPT_S`` old, by one caller at a time."""

    def __init__(self, read: Callable[[], Awaitable[T]]) -> None:
        self._read = read
        self._lock = asyncio.Lock()
        self._last: tuple[float, T] | None = None

    async def value(self) -> T:
        async with self._lock:
            if self._last is None or time.monotonic() - self._last[0] > KEPT_S:
                self._last = (time.monotonic(), await self._read())
            return self._last[1]
