"""The client of the actors, in a process that has joined their Ray, without HTTP between."""

import asyncio
import contextlib
import os
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
import ray
from ray.util.state import list_actors

from actors import bootstrap, courier
from actors.client import RayExecutions, connect
from actors.courier import Courier
from actors.keeper import FleetKeeper
from actors.named import NamedActors
from actors.names import AGENT_REGISTRY, SUPERVISOR
from actors.port import StartRequest
from actors.settings import Settings
from runtime.errors import NotFound, OutcomeUnknown
from runtime.graph import encode_graph
from runtime.ir import RegistrationPolicy, compile_ir
from runtime.signals import Approve, Cancel
from runtime.state import is_terminal
from runtime.store import open_store
from runtime.store.port import ExecutorRow, WorkflowRow
from tests.cluster.conftest import NewDatabase
from tests.fixtures.workflows import ALL, FUNCTIONS

pytestmark = [pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]

LOST_START_RUNS_WITHIN_S = 3.0
NODE_WORKER = "node-worker:"


@pytest.fixture(scope="module")
def settings(
    ray_instance: None, tmp_path_factory: pytest.TempPathFactory, new_database: NewDatabase
) -> Iterator[Settings]:
    """The actors of an installation, in a namespace of their own."""
    folder = tmp_path_factory.mktemp("client")
    (folder / "steps.py").write_text(FUNCTIONS)
    made = Settings(
        database_url=new_database() or str(folder / "runtime.db"),
        python_path=str(folder),
        python_modules=("steps",),
        namespace="client",
    )
    asyncio.run(prepare(made))
    bootstrap.ensure_supervisor(made)
    yield made
    bootstrap.retire_actors(made, 0)


async def prepare(settings: Settings) -> None:
    """Make the schema, and register every workflow."""
    store = await open_store(settings.database_url)
    for ir in ALL:
        graph = compile_ir(ir, RegistrationPolicy(("steps",), frozenset())).graph
        row = WorkflowRow(
            workflow_id=graph.workflow_id,
            version=graph.version,
            digest="d",
            ir="{}",
            graph=encode_graph(graph),
            created_at=0,
        )
        await store.tenant("default").register_workflow(row)
    await store.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def actors(settings: Settings) -> AsyncIterator[RayExecutions]:
    async with connect(settings) as connected:
        await within(60, lambda: has_owner(connected))
        yield connected


async def has_owner(actors: RayExecutions) -> bool:
    return any(row.state == "active" for row in await actors.store.system.executors())


async def within(seconds: float, look: Any) -> Any:
    """What ``look`` gives as soon as that is true."""
    async with asyncio.timeout(seconds):
        while not (seen := await look()):  # noqa: ASYNC110 (what is looked at is in other processes)
            await asyncio.sleep(0.02)
        return seen


def request(workflow_id: str, given: dict[str, Any] | None = None, **fields: Any) -> StartRequest:
    return StartRequest(
        tenant_id="default",
        execution_id=f"exec_{uuid.uuid4().hex}",
        workflow_id=workflow_id,
        workflow_version="1.0.0",
        input=given or {},
        **fields,
    )


async def ended(actors: RayExecutions, execution_id: str) -> Any:
    state = await actors.execution(execution_id).state()
    return state if is_terminal(state) else None


async def test_a_handle_follows_one_execution_from_pause_to_end(actors: RayExecutions) -> None:
    start = request("approve", {"n": 1})
    await actors.start(start)
    handle = actors.execution(start.execution_id)

    async def waits() -> bool:
        return (await handle.state()).node("gate").phase == "waiting"

    await within(10, waits)
    decision = Approve(signal_id="ann-1", decision="approved", user_id="ann")
    answer = await handle.signal(decision)
    assert answer == {"execution_id": start.execution_id, "accepted": True, "node_id": "gate"}
    assert (await handle.signal(decision))["accepted"], "a repeat is answered from the log"
    state = await within(10, lambda: ended(actors, start.execution_id))
    assert (state.status, state.data["n"]) == ("completed", 2)


async def test_a_handle_of_nothing(actors: RayExecutions) -> None:
    handle = actors.execution("exec_unknown")
    with pytest.raises(NotFound):
        await handle.state()
    with pytest.raises(NotFound):
        await handle.signal(Cancel(signal_id="c"))


async def test_a_start_whose_message_is_lost_runs_all_the_same(
    actors: RayExecutions, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose(self: Courier) -> None:
        self._waiting.clear()
        self._calls -= 1

    with monkeypatch.context() as patch:
        patch.setattr(Courier, "_deliver", lose)
        start = request("three", {"n": 0})
        began = asyncio.get_running_loop().time()
        await actors.start(start)
    left = LOST_START_RUNS_WITHIN_S - (asyncio.get_running_loop().time() - began)

    async def has_begun() -> bool:
        return (await actors.execution(start.execution_id).state()).visits > 0

    await within(left, has_begun)
    assert (await within(10, lambda: ended(actors, start.execution_id))).data == {"n": 3}


async def test_a_signal_whose_message_is_lost_is_an_unknown_outcome(
    actors: RayExecutions, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = request("approve", {"n": 1})
    await actors.start(start)

    async def lose(self: Courier) -> None:
        self._waiting.clear()
        self._calls -= 1

    monkeypatch.setattr(Courier, "_deliver", lose)
    monkeypatch.setattr("actors.client.SIGNAL_WITHIN_S", 0.3)
    cancel = Cancel(signal_id="cancel-1")
    with pytest.raises(OutcomeUnknown, match="repeat with the same Idempotency-Key"):
        await actors.execution(start.execution_id).signal(cancel)
    monkeypatch.undo()
    assert (await actors.execution(start.execution_id).signal(cancel))["status"] == "cancelled"


async def test_what_is_delivered_twice_takes_effect_once(
    actors: RayExecutions, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = Courier._encode
    twice: list[Any] = []

    def deliver_twice(self: Courier, batch: Any) -> bytes:
        data = encode(self, batch)
        twice.append(self.handle.deliver.remote(data))
        return data

    monkeypatch.setattr(Courier, "_encode", deliver_twice)
    starts = [request("three", {"n": n}) for n in range(20)]
    await asyncio.gather(*(actors.start(start) for start in starts))
    await asyncio.gather(*twice)
    for start in starts:
        state = await within(20, lambda start=start: ended(actors, start.execution_id))
        assert state.data["n"] == start.input["n"] + 3
        events = await actors.store.tenant("default").events(start.execution_id)
        assert [event.type for event in events].count("workflow_started") == 1


async def test_many_starts_travel_in_few_calls(
    actors: RayExecutions, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    encode = Courier._encode

    def count(self: Courier, batch: Any) -> bytes:
        sizes.append(len(batch))
        return encode(self, batch)

    monkeypatch.setattr(Courier, "_encode", count)
    await asyncio.gather(*(actors.start(request("three")) for _ in range(300)))
    assert sum(sizes) == 300
    assert max(sizes) <= courier.BATCH_MAX
    assert len(sizes) < 30


async def test_ray_lists_one_actor_for_each_dedicated_execution(actors: RayExecutions) -> None:
    starts = [request("slow", {"pause": 1.5}, isolation="dedicated") for _ in range(3)]
    await asyncio.gather(*(actors.start(start) for start in starts))
    names = {f"execution:{start.execution_id}" for start in starts}

    async def all_listed() -> bool:
        return (await pids("execution:")).keys() == names

    async def none_listed() -> bool:
        return not await pids("execution:")

    await within(60, all_listed)
    for start in starts:
        assert (await within(60, lambda start=start: ended(actors, start.execution_id))).data["n"] == 4
    await within(30, none_listed)


@pytest.fixture
def stopped() -> Iterator[list[int]]:
    """Processes to stop, which go on at the end where they are still there."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


async def test_a_supervisor_that_stands_still_is_replaced(
    actors: RayExecutions, monkeypatch: pytest.MonkeyPatch, stopped: list[int]
) -> None:
    monkeypatch.setattr("actors.silence.SILENT_S", 2.0)

    async def others() -> set[int]:
        return set((await pids(SUPERVISOR)).values()) - set(stopped)

    stopped += (await within(60, lambda: pids(SUPERVISOR))).values()
    os.kill(*stopped, signal.SIGSTOP)
    await within(60, others)
    start = request("nap", {"n": 0})
    await actors.start(start)
    assert (await within(60, lambda: ended(actors, start.execution_id))).status == "completed"


async def test_actors_that_stand_still_are_replaced(
    actors: RayExecutions, settings: Settings, monkeypatch: pytest.MonkeyPatch, stopped: list[int]
) -> None:
    """A second keeper beside the Supervisor's, with less patience."""
    monkeypatch.setattr("actors.silence.SILENT_S", 2.0)
    keeper = FleetKeeper(settings, NamedActors(settings.namespace))

    async def keep() -> list[ExecutorRow]:
        executors = await actors.store.system.executors()
        await keeper.keep(executors, 0)
        return [row for row in executors if row.state == "spare" and not row.gone]

    (spare,) = await within(60, keep)
    kinds = (NODE_WORKER, AGENT_REGISTRY, spare.name)
    before = await pids(*kinds)
    assert len(before) == len(kinds)
    stopped += before.values()
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)

    async def all_replaced() -> bool:
        await keep()
        now = await pids(*kinds)
        return now.keys() == before.keys() and not set(now.values()) & set(stopped)

    await within(90, all_replaced)
    start = request("three", {"n": 0})
    await actors.start(start)
    assert (await within(60, lambda: ended(actors, start.execution_id))).data == {"n": 3}


async def pids(*names: str) -> dict[str, int]:
    """By name, the processes of living actors whose names begin with one of these."""
    return {actor.name: actor.pid for actor in await listed() if actor.name.startswith(names)}


async def listed() -> list[Any]:
    """The living actors, as ``ray list actors`` shows them."""
    address = ray.get_runtime_context().gcs_address
    living = [("state", "=", "ALIVE"), ("ray_namespace", "=", "client")]
    return list(await asyncio.to_thread(list_actors, address=address, filters=living))
