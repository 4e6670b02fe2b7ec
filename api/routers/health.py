"""Is it up, and is it ready. Without authentication."""

from fastapi import Request
from starlette.responses import Response

from actors.settings import VERSION
from api.render import answer
from api.resources import resources
from api.routing import answers, declared, router
from api.schemas import Health

routes = router("health")


@routes.get("/health", responses=answers(Health), openapi_extra=declared("public"))
async def health(request: Request) -> Response:
    """The process answers."""
    return answer({"status": "ok", "version": VERSION})


@routes.get("/health/live", responses=answers(Health), openapi_extra=declared("public"))
async def live(request: Request) -> Response:
    """The same: the process answers, whatever the store does."""
    return answer({"status": "ok", "version": VERSION})


@routes.get("/health/ready", responses=answers(Health), openapi_extra=declared("public"))
async def ready(request: Request) -> Response:
    """The store can be read and written. 503 when it cannot."""
    await resources(request).store.ping()
    return answer({"status": "ok", "version": VERSION})
