"""Who runs executions."""

from fastapi import Request
from starlette.responses import Response

from api import render
from api.resources import resources
from api.routing import answers, declared, router
from api.schemas import WorkerList

routes = router("workers")


@routes.get("/workers", responses=answers(WorkerList), openapi_extra=declared("read"))
async def list_workers(request: Request) -> Response:
    """The living ExecutionActors, from their heartbeats."""
    executors = await resources(request).store.system.executors()
    return render.answer({"workers": [render.worker(row) for row in executors if not row.gone]})
