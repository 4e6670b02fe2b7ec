"""A started workflow told step by step, for callers that ask for progress."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

from fastapi import Request

from api.inner import Frame, InnerAnswer, ask, following
from api.mcp.tools import Ask

Report = Callable[[float, float | None, str | None], Awaitable[None]]
"""Told a number that only grows, the whole if it is known, and a sentence."""
_ASKS = ("InterruptRaised", "ToolApprovalRequired")


async def followed(outer: Request, start: Ask, report: Report) -> InnerAnswer:
    """Start an execution, report what happens in it, and answer with it as it stands at last."""
    headers = {name: value for name, value in (start.headers or {}).items() if name != "Prefer"}
    started = await ask(outer, start.method, start.path, start.body, headers=headers)
    if started.refused:
        return started
    path = f"/executions/{quote(started.body['execution_id'], safe='')}"
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(start.wait_s):
            await _report(outer, path, report)
    return await ask(outer, "GET", path)


async def _report(outer: Request, path: str, report: Report) -> None:
    """Returns when the execution has ended or pauses."""
    count, may_pause = 0, False
    async with following(outer, f"{path}/events/stream") as frames:
        async for frame in frames:
            if frame.event in ("end", "error", "refused"):
                return
            said = _sentence(frame)
            if said:
                count += 1
                await report(count, None, said)
            may_pause = may_pause or frame.event in _ASKS
            if may_pause and frame.event != "token" and await _pauses(outer, path):
                return


async def _pauses(outer: Request, path: str) -> bool:
    answer = await ask(outer, "GET", path)
    return bool(answer.refused or answer.body["status"] == "paused")


def _sentence(frame: Frame) -> str:
    """A model's words as they are; of an event, which node it is about."""
    data: dict[str, Any] = frame.data
    if frame.event == "token":
        return str(data["text"])
    return f"{frame.event}: {data['node_id']}" if data.get("node_id") is not None else ""
