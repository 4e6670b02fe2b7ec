"""The installation as a whole, for those who run it."""

import asyncio

from fastapi import Request
from starlette.responses import Response

from api import render
from api.resources import resources
from api.routing import answers, declared, router
from api.schemas import Cluster

routes = router("cluster")


@routes.get("/cluster", responses=answers(Cluster), openapi_extra=declared("read"))
async def show_cluster(request: Request) -> Response:
    """The nodes of the cluster with their actors, what runs and waits, how late it is, and what is wrong."""
    here = resources(request)
    installation, load, executors = await asyncio.gather(
        here.executions.installation(), here.store.system.load(), here.store.system.executors()
    )
    return render.answer(render.cluster(here.settings, installation, load, executors))
