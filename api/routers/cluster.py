"""The installation as a whole, for those who run it."""

import asyncio
import contextlib
from collections.abc import Mapping

from fastapi import Request
from starlette.responses import Response

from actors.port import Installation
from api import render
from api.proxies import proxies
from api.resources import Resources, resources
from api.routing import answers, declared, router
from api.schemas import Cluster
from runtime.errors import Unavailable

routes = router("cluster")


@routes.get("/cluster", responses=answers(Cluster), openapi_extra=declared("read"))
async def show_cluster(request: Request) -> Response:
    """The nodes of the cluster with their actors, what runs and waits, how late it is, and what is wrong."""
    here = resources(request)
    (installation, answering), load, executors = await asyncio.gather(
        _below(here), here.store.system.load(), here.store.system.executors()
    )
    return render.answer(render.cluster(here.settings, installation, answering, load, executors))


async def _below(here: Resources) -> tuple[Installation, Mapping[str, str]]:
    """What stands below the executions, and how the proxy of each node is."""
    installation = await here.executions.installation()
    if installation.ray is not None:
        with contextlib.suppress(Unavailable):
            return installation, await proxies()
    return installation, {}
