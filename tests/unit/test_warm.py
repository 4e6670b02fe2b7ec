"""Processes that are started ahead: how many are asked for, and when."""

from typing import Any

import pytest

from actors import warm
from actors.nodes import ClusterNode
from actors.warm import RENEWED_AFTER_S, WarmPool
from runtime.demand import Machine
from runtime.errors import Unavailable
from runtime.store.port import ExecutorRow

NODES = [ClusterNode(id=name, address=name, port=1, machine=Machine()) for name in ("a", "b")]


class World:
    """A clock, and what was asked of Ray."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.asked: list[tuple[str, int]] = []
        self.fails = False
        monkeypatch.setattr(warm.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(warm, "ask_ray", self._ask)

    async def _ask(self, question: Any, address: str, count: int) -> None:
        self.asked.append((address, count))
        if self.fails:
            raise Unavailable("no")

    def take(self) -> list[tuple[str, int]]:
        asked, self.asked = self.asked, []
        return asked


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def dedicated(name: str, node: str) -> ExecutorRow:
    return ExecutorRow(
        incarnation=name, name=name, node=node, pid=1, isolation="dedicated", capacity=1, live=1,
        state="active", started_at=0, heartbeat_at=0,
    )  # fmt: skip


async def test_each_node_has_some_and_what_is_taken_is_made_up_for(world: World) -> None:
    pool = WarmPool(2)
    await pool.keep(NODES, [])
    assert world.take() == [], "there is more urgent work at first"
    world.now = 11.0
    await pool.keep(NODES, [])
    assert world.take() == [("a:1", 2), ("b:1", 2)]
    await pool.keep(NODES, [dedicated("one", "b")])
    assert world.take() == [("b:1", 1)]
    await pool.keep(NODES, [dedicated("one", "b")])
    assert world.take() == []
    await pool.keep(NODES, [dedicated(str(number), "a") for number in range(5)])
    assert world.take() == [("a:1", 2)], "never more than the size"


async def test_they_are_asked_for_again_before_ray_ends_them(world: World) -> None:
    pool = WarmPool(1)
    await pool.keep(NODES[:1], [])
    world.now = 11.0
    await pool.keep(NODES[:1], [])
    world.now += RENEWED_AFTER_S
    await pool.keep(NODES[:1], [])
    assert world.take() == [("a:1", 1)] * 2


async def test_none_are_wanted_and_failures_are_nobodys_trouble(world: World) -> None:
    nobody = WarmPool(0)
    await nobody.keep(NODES, [])
    pool = WarmPool(1)
    await pool.keep(NODES, [])
    world.now = 30.0
    world.fails = True
    await nobody.keep(NODES, [dedicated("one", "a")])
    await pool.keep(NODES, [])
    assert world.take() == [("a:1", 1), ("b:1", 1)]
