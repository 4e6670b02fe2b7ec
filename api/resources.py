"""What a replica works with, opened once by the app's lifespan."""

from dataclasses import dataclass
from typing import Any

from fastapi import Request

from actors.agents.port import Agents
from actors.handle import ExecutionHandle
from actors.metrics import Metrics
from actors.plans import PlanCache
from actors.port import Executions
from actors.settings import Settings
from api.auth import Authenticator, Principal
from api.exposition import Exposition
from api.federation.published import Published
from api.origin import origin_of
from api.refusals import Refusals
from api.streaming import Streams
from runtime.store.port import Store, TenantStore


@dataclass
class Lazy:
    """What is made at its first use."""

    a2a: Any = None
    """The dispatcher of the A2A server."""


@dataclass(frozen=True)
class Resources:
    """The open store, the executions, and caches above them."""

    settings: Settings
    store: Store
    executions: Executions
    plans: PlanCache
    authenticator: Authenticator
    refusals: Refusals
    streams: Streams
    exposition: Exposition
    agents: Agents
    published: Published
    lazy: "Lazy"

    @classmethod
    def over(
        cls,
        settings: Settings,
        store: Store,
        executions: Executions,
        agents: Agents,
        metrics: Metrics | None = None,
    ) -> "Resources":
        authenticator = Authenticator(store.system, dev_mode=settings.dev_mode)
        return cls(
            settings,
            store,
            executions,
            PlanCache(store.system),
            authenticator,
            Refusals(store),
            Streams(),
            Exposition(metrics or Metrics(), store.system, executions),
            agents,
            Published(store, settings),
            Lazy(),
        )

    def execution(self, execution_id: str, tenant_id: str) -> ExecutionHandle:
        """One execution, whoever owns it."""
        return ExecutionHandle(
            execution_id,
            tenant_id=tenant_id,
            store=self.store,
            executions=self.executions,
            plans=self.plans,
        )


def resources(request: Request) -> Resources:
    found: Resources = request.app.state.resources
    return found


def principal(request: Request) -> Principal:
    """The caller, as ``api.routing`` found it."""
    found: Principal = request.state.principal
    return found


def tenant(request: Request) -> TenantStore:
    """The store as the caller's tenant sees it."""
    caller = principal(request)
    return resources(request).store.tenant(caller.tenant_id, origin_of(request, caller))
