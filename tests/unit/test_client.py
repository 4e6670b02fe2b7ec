"""What a replica remembers of owners, without Ray."""

import asyncio
from typing import Any

import pytest

from actors import client
from actors.client import RayExecutions
from actors.port import StartRequest
from actors.settings import Settings
from runtime.store.memory import MemoryStore


class TakesAnything:
    """A courier, and the handle that it goes to."""

    name = "actor-1"
    outstanding = 0

    async def send(self, request: Any) -> dict[str, Any]:
        return {}


@pytest.fixture
def executions(monkeypatch: pytest.MonkeyPatch) -> RayExecutions:
    made = RayExecutions(Settings(), MemoryStore(lambda: 0))

    async def found() -> TakesAnything:
        return TakesAnything()

    monkeypatch.setattr(made, "_least_loaded", found)
    return made


async def test_of_all_that_were_started_only_the_latest_owners_are_remembered(
    executions: RayExecutions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "OWNERS_MAX", 3, raising=False)
    for number in range(10):
        await executions.start(
            StartRequest(
                tenant_id="t",
                execution_id=f"exec_{number}",
                workflow_id="w",
                workflow_version="1",
                input={},
            )
        )
    assert list(executions._owners) == ["exec_7", "exec_8", "exec_9"]


async def test_an_actor_that_is_gone_is_forgotten(
    executions: RayExecutions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dedicated actor lives no longer than its execution, so there is no end of them."""
    present = {"dedicated-1", "actor-1"}
    monkeypatch.setattr(client, "PAUSE_S", 0.001)
    monkeypatch.setattr(executions._directory, "owners", lambda: set(present))
    monkeypatch.setattr(client.ray, "get_actor", lambda name, namespace: TakesAnything())
    monkeypatch.setattr(executions._watcher, "follow", lambda handle: asyncio.sleep(60))
    following = asyncio.create_task(executions._keep_following())
    await asyncio.sleep(0.05)
    assert executions._couriers.keys() == executions._followed.keys() == present
    present.remove("dedicated-1")
    await asyncio.sleep(0.1)
    assert executions._couriers.keys() == executions._followed.keys() == {"actor-1"}
    following.cancel()
    await executions.close()
