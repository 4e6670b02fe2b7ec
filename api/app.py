"""The FastAPI application. What it works with is opened by its lifespan, or given (in tests)."""

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.responses import HTMLResponse

from actors.agents.port import Agents
from actors.metrics import Metrics
from actors.port import Executions
from actors.settings import VERSION, Settings
from api import docs, errors
from api.compat import CompatPrefix
from api.mcp import route as mcp
from api.observe import Observed
from api.resources import Resources
from api.routers import agents as agent_routes
from api.routers import audit, cluster, federation, health, tenants, tokens, workers, workflows
from api.routers import executions as execution_routes
from api.routers import metrics as metric_routes
from api.routing import declared, router
from runtime.store.port import Store

Opened = tuple[Store, Executions, Agents]


def build_app(
    settings: Settings,
    *,
    store: Store | None = None,
    executions: Executions | None = None,
    agents: Agents | None = None,
    open_resources: Callable[[], AbstractAsyncContextManager[Opened]] | None = None,
    metrics: Metrics | None = None,
) -> FastAPI:
    """Build the app over an open store, executions and agents, or over what ``open_resources`` opens.

    Args:
        metrics: where this process counts, if others than the app count there too.
    """
    own = metrics or Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if open_resources is None:
            yield
            return
        async with open_resources() as (opened_store, opened_executions, opened_agents):
            app.state.resources = opened = Resources.over(
                settings, opened_store, opened_executions, opened_agents, own
            )
            yield
            await opened.refusals.close()
            await opened.authenticator.close()

    app = FastAPI(
        title="jamjet-ray",
        version=VERSION,
        description="A durable runtime for AI-agent workflows.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    if store is not None and executions is not None and agents is not None:
        app.state.resources = Resources.over(settings, store, executions, agents, own)
    for part in (
        *(health, metric_routes, workflows, execution_routes, agent_routes),
        *(federation, mcp, workers, cluster, tokens, tenants, audit),
    ):
        app.include_router(part.routes)
    app.include_router(_docs())
    app.add_middleware(Observed, metrics=own)
    app.add_middleware(CompatPrefix)
    errors.install(app)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _docs() -> APIRouter:
    routes = router("docs")

    @routes.get("/docs", include_in_schema=False, openapi_extra=declared("public"))
    async def page() -> HTMLResponse:
        return HTMLResponse(docs.PAGE)

    return routes


def _openapi(app: FastAPI) -> dict[str, object]:
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        scheme = {"type": "http", "scheme": "bearer", "description": "jj_ and 64 hex digits"}
        schema.setdefault("components", {})["securitySchemes"] = {"bearer": scheme}
        _correct(schema)
        app.openapi_schema = schema
    return app.openapi_schema


def _correct(schema: dict[str, Any]) -> None:
    """Take out answers that never come, and put what bodies refer to where it is looked for."""
    components = schema["components"]["schemas"]
    for operation in (found for path in schema["paths"].values() for found in path.values()):
        answers = operation["responses"]
        if "HTTPValidationError" in str(answers.get("422")):
            del answers["422"]
        if operation["x-access"] == "public":
            for status in ("401", "403", "404"):
                answers.pop(status, None)
        for content in operation.get("requestBody", {}).get("content", {}).values():
            components.update(content["schema"].pop("$defs", {}))
    for name in ("HTTPValidationError", "ValidationError"):
        components.pop(name, None)
