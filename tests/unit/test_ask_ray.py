"""Ray's own trouble, and its silence, are no more than its absence: what was asked for is asked for again."""

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from actors import cluster
from actors.named import NamedActors
from runtime.errors import Unavailable


async def test_an_answer_is_an_answer() -> None:
    assert await cluster.ask_ray(lambda a, b: a + b, 1, 2) == 3


@pytest.mark.parametrize(
    "error",
    [
        ray.exceptions.RayError("lost"),
        RuntimeError("no connection to the control store"),
        ValueError("The name execution-actor:n:0 (namespace=jamjet) is already taken."),
    ],
)
async def test_its_trouble_is_its_absence(error: Exception) -> None:
    """The last is what the second of two processes hears that make an actor of one name at once."""

    def fail() -> Any:
        raise error

    with pytest.raises(Unavailable, match=f"Ray does not say: {type(error).__name__}"):
        await cluster.ask_ray(fail)


async def test_its_silence_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "ANSWER_WITHIN_S", 0.05)
    answers = threading.Event()
    try:
        with pytest.raises(Unavailable, match="TimeoutError"):
            await cluster.ask_ray(answers.wait, 30)
    finally:
        answers.set()


async def test_a_bug_is_none_of_its_trouble() -> None:
    with pytest.raises(KeyError):
        await cluster.ask_ray({}.__getitem__, "x")


async def test_who_is_cancelled_as_the_answer_comes_does_not_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that swallows its end is waited for without end when a process closes."""
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    actors = NamedActors("n")

    async def find(name: str) -> Any:
        return SimpleNamespace(tell=SimpleNamespace(remote=lambda: answer))

    monkeypatch.setattr(actors, "find", find)
    asking = asyncio.create_task(actors.call("actor-1", "tell"))
    await asyncio.sleep(0.01)
    answer.set_result("yes")
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
