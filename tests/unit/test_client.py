"""What a replica remembers of owners, without Ray."""

import asyncio
from typing import Any

import pytest

from actors import client, execution, wire
from actors.client import RayExecutions
from actors.courier import ActorLost
from actors.execution import ExecutionActor
from actors.port import StartRequest
from actors.settings import Settings
from runtime.errors import JamjetError, LimitReached, OutcomeUnknown, Unavailable
from runtime.store.memory import MemoryStore


def a_start(execution_id: str) -> StartRequest:
    return StartRequest(
        tenant_id="t", execution_id=execution_id, workflow_id="w", workflow_version="1", input={}
    )


class TakesAnything:
    """A courier, and the handle that it goes to."""

    name = "actor-1"
    outstanding = 0

    async def send(self, request: Any) -> dict[str, Any]:
        return {}


@pytest.fixture
def executions(monkeypatch: pytest.MonkeyPatch) -> RayExecutions:
    made = RayExecutions(Settings(), MemoryStore(lambda: 0))
    made._directory.clock.learn(0, made._directory.clock.mark())
    goes_to(monkeypatch, made, TakesAnything())
    return made


def goes_to(monkeypatch: pytest.MonkeyPatch, executions: RayExecutions, courier: Any) -> None:
    """Every start is sent with this courier."""

    async def found() -> Any:
        return courier

    monkeypatch.setattr(executions, "_least_loaded", found)


async def test_of_all_that_were_started_only_the_latest_owners_are_remembered(
    executions: RayExecutions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "OWNERS_MAX", 3, raising=False)
    for number in range(10):
        await executions.start(a_start(f"exec_{number}"))
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


class Remote:
    """A method of an actor, called as Ray has it."""

    def __init__(self, method: Any) -> None:
        self.remote = method


class LateHost:
    """Answers after a while, each start as its id says."""

    async def start(self, request: StartRequest) -> None:
        await asyncio.sleep(0.05)
        if request.execution_id == "exec_refused":
            raise LimitReached("no slot")


async def test_requests_that_find_an_actor_at_once_each_get_their_own_answer(
    executions: RayExecutions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "ANSWER_WITHIN_S", 0.01)
    actor = ExecutionActor.__new__(ExecutionActor)
    actor._late = {}
    actor._ready = asyncio.get_running_loop().create_future()
    actor._ready.set_result(LateHost())  # type: ignore[arg-type]

    class Handle:
        deliver, answer = Remote(actor.deliver), Remote(actor.answer)

    async def find(name: str) -> Any:
        await asyncio.sleep(0)
        return Handle()

    monkeypatch.setattr(executions._actors, "find", find)

    async def started(execution_id: str) -> str:
        courier = await executions._courier("actor-1")
        assert courier is not None
        try:
            await courier.send(a_start(execution_id))
        except JamjetError as error:
            return error.code
        return "started"

    ids = ["exec_refused", "exec_1", "exec_refused", "exec_2"]
    told = await asyncio.gather(*map(started, ids))
    assert told == ["limit_reached", "started", "limit_reached", "started"]
    assert wire.PENDING not in told


class Answers:
    """A courier whose actor answers after a while; ``None``: that it has started it."""

    name = "actor-1"
    outstanding = 0

    def __init__(self, after_s: float, error: Exception | None = None) -> None:
        self.after_s = after_s
        self.error = error
        self.requests: list[StartRequest] = []

    async def send(self, request: StartRequest) -> dict[str, Any]:
        self.requests.append(request)
        await asyncio.sleep(self.after_s)
        if self.error is not None:
            raise self.error
        return {}


@pytest.mark.parametrize(
    ("courier", "told"),
    [
        (Answers(0.05), None),
        (Answers(0.05, LimitReached("no slot there either")), LimitReached),
        (Answers(0.05, OutcomeUnknown("it came too late to be taken")), OutcomeUnknown),
        (Answers(30), OutcomeUnknown),
        (Answers(0, ActorLost("gone")), OutcomeUnknown),
    ],
    ids=["started-late", "refused-late", "not-taken", "silent", "lost"],
)
@pytest.mark.parametrize("trouble", [LimitReached("no slot"), Unavailable("no disk")])
async def test_a_start_that_an_actor_may_still_make_durable_is_not_refused(
    executions: RayExecutions,
    monkeypatch: pytest.MonkeyPatch,
    courier: Answers,
    told: type[JamjetError] | None,
    trouble: JamjetError,
) -> None:
    """The client would believe that it does not run, and it would."""

    async def refuse(*_: Any) -> bool:
        raise trouble

    monkeypatch.setattr(client, "record_start", refuse)
    monkeypatch.setattr(client, "START_WITHIN_S", 0.01)
    monkeypatch.setattr(client, "START_TTL_MS", 200)
    goes_to(monkeypatch, executions, courier)
    if told is None:
        await executions.start(a_start("exec_1"))
        return
    with pytest.raises(told) as raised:
        await executions.start(a_start("exec_1"))
    assert type(raised.value) is told
    assert 0 < courier.requests[-1].deadline <= 1_000
