"""Who waits for an execution is woken when it moves, and looks for himself otherwise."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from actors import watcher as watcher_module
from actors import wire
from actors.listener import Token
from actors.watcher import RECENT_MAX, Watcher


@pytest.fixture
def watcher(monkeypatch: pytest.MonkeyPatch) -> Watcher:
    """One whose waiters are not rescued by the fallback."""
    monkeypatch.setattr(watcher_module, "FALLBACK_S", 60.0)
    monkeypatch.setattr(watcher_module, "PAUSE_S", 0.0)
    return Watcher()


async def waiting(watcher: Watcher, execution_id: str = "e", **fields: Any) -> asyncio.Task[None]:
    """Somebody who waits already."""
    asked = {"after": 3, "timeout_s": 60.0, "settled": False, **fields}
    task = asyncio.create_task(watcher.changed(execution_id, **asked))
    await turns()
    return task


async def turns() -> None:
    """Let everybody go on who can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_move_wakes_all_who_wait_for_it_and_nobody_else(watcher):
    tasks = [await waiting(watcher) for _ in range(2)]
    other = await waiting(watcher, "other")
    watcher.moved("e", 4, settled=False)
    await asyncio.gather(*tasks)
    await turns()
    assert not other.done()
    other.cancel()


async def test_a_move_that_is_known_already_wakes_nobody(watcher):
    task = await waiting(watcher)
    watcher.moved("e", 3, settled=False)
    await turns()
    assert not task.done()
    watcher.moved("e", 4, settled=False)
    await task


async def test_who_waits_for_a_pause_or_an_end_sleeps_through_other_moves(watcher):
    task = await waiting(watcher, settled=True)
    watcher.moved("e", 4, settled=False)
    await turns()
    assert not task.done()
    watcher.moved("e", 5, settled=True)
    await task


async def test_a_move_that_came_before_the_question_is_remembered(watcher):
    watcher.moved("e", 4, settled=True)
    watcher.moved("e", 5, settled=False)
    await (await waiting(watcher, after=4))
    await (await waiting(watcher, after=3, settled=True))
    late = await waiting(watcher, after=4, settled=True)
    assert not late.done()
    late.cancel()


async def test_only_the_latest_moves_are_remembered(watcher):
    for number in range(RECENT_MAX + 1):
        watcher.moved(f"e{number}", 4, settled=False)
    await (await waiting(watcher, "e1"))
    forgotten = await waiting(watcher, "e0")
    assert not forgotten.done()
    forgotten.cancel()


async def test_nobody_waits_longer_than_he_asked_for(watcher):
    await watcher.changed("e", after=0, timeout_s=0.0, settled=False)


async def test_nobody_waits_longer_than_the_fallback(watcher, monkeypatch):
    monkeypatch.setattr(watcher_module, "FALLBACK_S", 0.0)
    await watcher.changed("e", after=0, timeout_s=60.0, settled=False)


async def test_who_has_gone_is_forgotten(watcher):
    task = await waiting(watcher)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not watcher._waiters
    watcher.moved("e", 4, settled=False)


class Actor:
    """Answers ``watch.remote`` with what it was given, then never again; remembers the cursors."""

    def __init__(self, *answers: wire.Moves | Exception) -> None:
        self.answers = list(answers)
        self.cursors: list[int] = []
        self.told: list[list[str]] = []
        """Each time: the executions that somebody listens to."""
        self.watch = SimpleNamespace(remote=self._watch)
        self.listen = SimpleNamespace(remote=self._listen)

    async def _listen(self, follower: str, execution_ids: list[str]) -> None:
        self.told.append(execution_ids)

    async def _watch(self, follower: str, cursor: int, timeout_s: float) -> bytes:
        self.cursors.append(cursor)
        if not self.answers:
            await asyncio.Event().wait()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return wire.encode(answer)


async def following(watcher: Watcher, actor: Actor) -> None:
    task = asyncio.create_task(watcher.follow(actor))
    await turns()
    assert not actor.answers
    task.cancel()


async def test_it_follows_an_actor_from_where_it_was(watcher):
    task = await waiting(watcher)
    actor = Actor(wire.Moves(cursor=7), wire.Moves(cursor=9, moves=[("e", 4, False)]))
    await following(watcher, actor)
    await task
    assert actor.cursors == [-1, 7, 9]


async def test_who_begins_to_follow_lets_everyone_look(watcher):
    """What moved before the actor was followed is not told."""
    task = await waiting(watcher)
    await following(watcher, Actor(wire.Moves(cursor=7, reset=True)))
    await task


@pytest.mark.parametrize(
    "trouble", [wire.Moves(cursor=90, reset=True), ray.exceptions.RayError("gone")], ids=["reset", "lost"]
)
async def test_when_moves_may_have_been_missed_everyone_looks(watcher, trouble):
    task = await waiting(watcher)
    actor = Actor(wire.Moves(cursor=7), trouble)
    await following(watcher, actor)
    await task
    assert actor.cursors == [-1, 7, -1 if isinstance(trouble, Exception) else 90]


async def test_a_listener_gets_moves_and_what_models_say(watcher):
    token = Token(execution_id="e", node_id="n", visit=1, attempt=1, text="x")
    with watcher.listening("e") as listener, watcher.listening("other") as other:
        actor = Actor(wire.Moves(cursor=1), wire.Moves(cursor=2, moves=[("e", 4, False)], tokens=[token]))
        await following(watcher, actor)
        assert sorted(actor.told[0]) == ["e", "other"]
        assert listener.sequence == 4
        assert listener.take() == [token]
        assert other.take() == []
    assert watcher.listened == []


async def test_the_first_and_the_last_listener_of_an_execution_are_told_of():
    told: list[list[str]] = []
    watcher = Watcher(lambda: told.append(watcher.listened))
    with watcher.listening("e"), watcher.listening("e"):
        pass
    assert told == [["e"], []]


async def test_listeners_look_when_something_may_have_been_missed(watcher):
    with watcher.listening("e") as listener:
        watcher.moved("e", 4, settled=False)
        assert await listener.wait(1)
        watcher.wake_all()
        assert await listener.wait(1)
        assert listener.sequence == 5
