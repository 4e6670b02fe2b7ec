"""The path prefix ``/compat``: the same routes, with events in the shape that JamJet's clients read."""

from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = "/compat"


class CompatPrefix:
    """Strips the prefix, and sets the shape in the scope."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope.get("path", "")
        if scope["type"] == "http" and (path == PREFIX or path.startswith(PREFIX + "/")):
            stripped = path.removeprefix(PREFIX) or "/"
            raw = scope.get("raw_path", path.encode()).removeprefix(PREFIX.encode()) or b"/"
            scope = {**scope, "path": stripped, "raw_path": raw, "jamjet.shape": "typed"}
        await self._app(scope, receive, send)
