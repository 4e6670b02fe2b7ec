"""A process that is to end answers at once those who wait, with how things stand."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from a2a.helpers import new_data_part
from a2a.types import TaskState

from tests.api.test_a2a import HANG, client, exposed, message, sent
from tests.fixtures.api import Api, eventually

ANSWERED_WITHIN_S = 5.0
"""Much less than any of them would wait."""

Ask = Callable[[Api, str], Awaitable[Any]]


def start(api: Api, execution_id: str) -> Awaitable[Any]:
    return api.post("/executions?wait=60", {"workflow_id": "hang", "input": {}})


def read(api: Api, execution_id: str) -> Awaitable[Any]:
    return api.get(f"/executions/{execution_id}?wait=60")


def poll(api: Api, execution_id: str) -> Awaitable[Any]:
    return api.get(f"/executions/{execution_id}/events?after=1000&wait=60")


def stream(api: Api, execution_id: str) -> Awaitable[Any]:
    return api.get(f"/executions/{execution_id}/events/stream")


@pytest.mark.parametrize("ask", [start, read, poll, stream])
@pytest.mark.parametrize("before", [True, False], ids=["waits already", "comes late"])
async def test_who_waits_is_answered(api: Api, ask: Ask, before: bool) -> None:
    execution_id = await api.hanging()
    if not before:
        api.executions.drain()
    asked = asyncio.ensure_future(ask(api, execution_id))
    if before:
        await eventually(lambda: is_waited_for(api))
        api.executions.drain()

    answer = await asyncio.wait_for(asked, ANSWERED_WITHIN_S)
    assert answer.status_code == (201 if ask is start else 200)
    assert "event: end" not in answer.text
    if ask in (start, read):
        assert answer.json()["status"] == "running"


async def is_waited_for(api: Api) -> bool:
    watcher = api.executions._watcher
    return bool(watcher._waiters or watcher.listened)


async def test_a_task_that_is_waited_for_is_told_as_it_stands(bare_api: Api) -> None:
    await bare_api.register(exposed(HANG))
    async with client(bare_api) as a2a:
        asked = asyncio.ensure_future(sent(a2a, message(new_data_part({}), skill="hang")))
        await eventually(lambda: is_waited_for(bare_api))
        bare_api.executions.drain()
        task = await asyncio.wait_for(asked, ANSWERED_WITHIN_S)
    assert task.status.state == TaskState.TASK_STATE_WORKING
