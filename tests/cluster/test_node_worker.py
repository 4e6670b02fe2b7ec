"""Functions through a NodeWorker that is a real Ray actor, also when it or its children are killed."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import ray

from actors.functions import FunctionCall, FunctionPool, FunctionSettings
from actors.functions import node_worker as node_worker_module
from actors.functions.node_worker import NodeWorker, NodeWorkerHost
from actors.named import NamedActors
from runtime.errors import Unavailable

NAMESPACE, NAME = "functions", "node-worker:test"
FLOW = """
import asyncio
import os


def whose(state):
    return {"pid": os.getpid(), "parent": os.getppid()}


def environment(state):
    return {"names": sorted(os.environ)}


async def keep(state):
    open(f"{state['mark']}.{os.getpid()}", "w").close()
    while not os.path.exists(state["release"]):
        await asyncio.sleep(0.005)
    return {"kept": True}
"""


@pytest.fixture(scope="module", autouse=True)
def cluster(ray_instance: None) -> None:
    """Every test here needs it."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "flow.py").write_text(FLOW)
    return tmp_path


def node_worker(settings: FunctionSettings) -> Any:
    made = {"name": NAME, "namespace": NAMESPACE, "get_if_exists": True, "max_restarts": -1}
    return ray.remote(NodeWorker).options(num_cpus=0, **made).remote(settings)


def host() -> NodeWorkerHost:
    return NodeWorkerHost(NamedActors(NAMESPACE), NAME)


@pytest_asyncio.fixture
async def worker(folder: Path) -> AsyncIterator[Any]:
    handle = node_worker(FunctionSettings(folders=(str(folder),), modules=("flow",)))
    yield handle
    ray.kill(handle)


@pytest_asyncio.fixture
async def pool(worker: Any) -> AsyncIterator[FunctionPool]:
    opened = FunctionPool(host())
    yield opened
    await opened.close()


def call(function: str, **state: Any) -> FunctionCall:
    return FunctionCall(module="flow", function=function, key="k", state=state)


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_functions_run_in_children_of_the_actor(pool: FunctionPool, worker: Any) -> None:
    results = await asyncio.gather(*(pool.run(call("whose")) for _ in range(50)))
    described = await worker.describe.remote()
    (child,) = described["children"]
    assert {(result.patch or {}).get("parent") for result in results} == {described["pid"]}
    assert {(result.patch or {}).get("pid") for result in results} == {child["pid"]}
    await pool.close()
    assert (await worker.describe.remote())["children"] == []
    assert not alive(child["pid"])


async def test_functions_see_no_secret_of_the_cluster(pool: FunctionPool) -> None:
    result = await pool.run(call("environment"))
    assert result.patch is not None
    names = result.patch["names"]
    assert "PATH" in names
    assert not [name for name in names if name.startswith(("RAY_", "JAMJET_", "DATABASE"))]


async def test_an_owner_that_is_an_actor_runs_functions(worker: Any) -> None:
    class Owner:
        async def run(self) -> Any:
            pool = FunctionPool(NodeWorkerHost(NamedActors(NAMESPACE), NAME))
            try:
                return (
                    await pool.run(FunctionCall(module="flow", function="whose", key="k", state={}))
                ).patch
            finally:
                await pool.close()

    owner = ray.remote(Owner).options(num_cpus=0).remote()
    described = await worker.describe.remote()
    assert (await owner.run.remote())["parent"] == described["pid"]
    ray.kill(owner)


async def test_calls_survive_the_death_of_the_actor(folder: Path, pool: FunctionPool, worker: Any) -> None:
    old = (await worker.describe.remote())["pid"]
    state = {"mark": str(folder / "mark"), "release": str(folder / "release")}
    running = [asyncio.create_task(pool.run(call("keep", **state))) for _ in range(3)]
    await eventually(lambda: any(folder.glob("mark.*")))
    (child,) = [child["pid"] for child in (await worker.describe.remote())["children"]]
    os.kill(old, signal.SIGKILL)
    (folder / "release").touch()
    assert [result.patch for result in await asyncio.gather(*running)] == [{"kept": True}] * 3
    await eventually(lambda: not alive(child))
    result = await pool.run(call("whose"))
    assert result.patch is not None
    assert result.patch["parent"] == (await worker.describe.remote())["pid"] != old


async def test_children_of_others_are_left_alone(pool: FunctionPool, worker: Any) -> None:
    await pool.start()
    other = FunctionPool(host())
    await other.start()
    assert len((await worker.describe.remote())["children"]) == 2
    await other.close()
    assert len((await worker.describe.remote())["children"]) == 1
    assert (await pool.run(call("whose"))).ok


async def test_what_the_actor_cannot_start_is_unavailable(folder: Path) -> None:
    handle = node_worker(FunctionSettings(folders=(str(folder / "missing"),)))
    with pytest.raises(Unavailable, match="missing"):
        await host().spawn()
    ray.kill(handle)


async def test_another_may_take_the_place_of_one_that_is_gone_for_good(
    folder: Path, pool: FunctionPool, worker: Any
) -> None:
    assert (await pool.run(call("whose"))).ok
    ray.kill(worker)
    next_one = node_worker(FunctionSettings(folders=(str(folder),), modules=("flow",)))
    result = await pool.run(call("whose"))
    assert result.patch is not None
    assert result.patch["parent"] == (await next_one.describe.remote())["pid"]
    await pool.close()
    ray.kill(next_one)


async def test_an_actor_that_is_gone_for_good_is_unavailable(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_worker_module, "PATIENCE_S", 1.0)
    handle = node_worker(FunctionSettings(folders=(str(folder),)))
    await handle.describe.remote()
    gone = host()
    await gone.spawn()
    ray.kill(handle)
    for asked in (gone, host()):
        with pytest.raises(Unavailable, match="did not answer 'spawn'"):
            await asked.spawn()
