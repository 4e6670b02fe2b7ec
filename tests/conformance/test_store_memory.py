"""The in-memory store as simulations use it: its clock, its hook, its rows shared between stores."""

import pytest

from runtime.errors import OutcomeUnknown, Unavailable
from runtime.store import Fence, Outcome
from runtime.store.memory import MemoryDatabase, MemoryStore
from tests.conformance.store_cases import executor, first_turn, next_turn, workflow


async def test_every_step_passes_the_hook() -> None:
    seen: list[str] = []

    async def step(name: str) -> None:
        seen.append(name)

    store = MemoryStore(lambda: 5, step=step)
    await store.journal.commit(first_turn("exec_1"))
    await store.system.fence("exec_1")
    await store.system.register_executor(executor("a#1"))
    await store.tenant("default").register_workflow(workflow())

    writing = ["commit:before", "commit:after"]
    assert seen == [*writing, "read", *writing, *writing]


@pytest.mark.parametrize(("at", "kept"), [("commit:before", None), ("commit:after", Fence("actor#1", 1, 1))])
async def test_what_the_hook_raises_decides_what_is_kept(at: str, kept: Fence | None) -> None:
    async def step(name: str) -> None:
        if name == at:
            raise OutcomeUnknown("crashed")

    store = MemoryStore(lambda: 5, step=step)
    with pytest.raises(OutcomeUnknown):
        await store.journal.commit(first_turn("exec_1"))

    assert await store.system.fence("exec_1") == kept


async def test_stores_share_a_database_and_close_alone() -> None:
    database = MemoryDatabase(lambda: 5)
    first, second = (MemoryStore(lambda: 5, database=database) for _ in range(2))
    await first.journal.commit(first_turn("exec_1"))

    await first.close()

    with pytest.raises(Unavailable, match="closed"):
        await first.journal.commit(next_turn("exec_1", 1))
    assert await second.journal.commit(next_turn("exec_1", 1)) is Outcome.COMMITTED


async def test_the_clock_is_the_callers() -> None:
    now = 1_000
    store = MemoryStore(lambda: now)
    assert await store.system.register_executor(executor("a#1")) == 1_000

    now = 9_000

    assert await store.system.now() == 9_000
    assert [row.gone for row in await store.system.executors()] == [True]
