"""Figures for Prometheus."""

from fastapi import Request
from starlette.responses import Response

from api.exposition import MEDIA_TYPE
from api.resources import resources
from api.routing import declared, plain_text, router

routes = router("metrics")


@routes.get("/metrics", responses=plain_text(), openapi_extra=declared("read"))
async def metrics(request: Request) -> Response:
    """What this replica, the actors and the store can count, in Prometheus's text format.

    A scraper sends a token like anybody else; that of a viewer is enough. No figure names a tenant,
    a workflow or an execution.
    """
    text = await resources(request).exposition.text()
    return Response(text, headers={"Cache-Control": "no-store", "Content-Type": MEDIA_TYPE})
