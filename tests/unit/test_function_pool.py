"""The pool: what callers see when functions hang, kill their process, or are killed."""

import asyncio
import os
import signal
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from actors.functions import Child, FunctionCall, FunctionPool, FunctionSettings, LocalHost
from actors.functions import host as host_module
from actors.functions import pool as pool_module
from runtime.errors import Unavailable

FLOW = '''
import asyncio
import os
import threading
import time


def note(state):
    """Leave word in the folder that this call has begun."""
    open(os.path.join(state["marks"], f"{state['name']}.{os.getpid()}"), "w").close()


def begun(state, name):
    return [mark for mark in os.listdir(state["marks"]) if mark.startswith(name + ".")]


def add(state):
    return {"n": state["n"] + 1}


def pid(state):
    return {"pid": os.getpid()}


def keep(state, idempotency_key):
    note(state)
    while not begun(state, "release"):
        time.sleep(0.002)
    return {"key": idempotency_key, "pid": os.getpid()}


async def keep_later(state):
    note(state)
    while not begun(state, "release"):
        await asyncio.sleep(0.002)
    return {"pid": os.getpid()}


async def answer(state):
    return {}


def hang(state):
    note(state)
    threading.Event().wait(120)


async def hang_later(state):
    note(state)
    try:
        await asyncio.Event().wait()
    finally:
        note({**state, "name": "cancelled"})


def die(state):
    note(state)
    os._exit(7)


def die_once(state):
    if begun(state, "die_once"):
        return {"survived": True}
    note(state)
    os._exit(7)


def segfault(state):
    import ctypes
    ctypes.string_at(0)
'''


async def eventually(holds: Callable[[], bool]) -> None:
    """Poll: what other processes do tells nobody when it is done."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


class Marks:
    """The folder in which functions leave word."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder

    def pids(self, name: str) -> list[int]:
        return [int(path.suffix[1:]) for path in self.folder.glob(f"{name}.*")]

    async def wait(self, name: str, count: int = 1) -> list[int]:
        await eventually(lambda: len(self.pids(name)) >= count)
        return self.pids(name)

    def release(self) -> None:
        (self.folder / "release.0").touch()


@pytest.fixture
def marks(tmp_path: Path) -> Marks:
    return Marks(tmp_path / "marks")


@pytest.fixture
def settings(tmp_path: Path) -> FunctionSettings:
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "flow.py").write_text(FLOW)
    return FunctionSettings(folders=(str(folder),), modules=("flow",))


@pytest_asyncio.fixture
async def host(settings: FunctionSettings) -> LocalHost:
    return LocalHost(settings)


@pytest_asyncio.fixture
async def pool(host: LocalHost) -> AsyncIterator[FunctionPool]:
    opened = FunctionPool(host)
    yield opened
    await opened.close()
    assert host.children() == []


def call(marks: Marks, function: str, name: str | None = None, **state: Any) -> FunctionCall:
    name = name or function
    given = {"marks": str(marks.folder), "name": name, **state}
    return FunctionCall(module="flow", function=function, key=f"key-{name}", state=given)


async def pid_of(pool: FunctionPool, marks: Marks) -> int:
    result = await pool.run(call(marks, "pid"))
    assert result.patch is not None
    return int(result.patch["pid"])


async def until_ended(host: LocalHost, pid: int) -> None:
    await eventually(lambda: pid not in [child.pid for child in host.children()])


async def test_calls_share_one_worker(pool: FunctionPool, host: LocalHost, marks: Marks) -> None:
    results = await asyncio.gather(*(pool.run(call(marks, "add", n=n)) for n in range(500)))
    assert [result.patch for result in results] == [{"n": n + 1} for n in range(500)]
    assert len(host.children()) == 1


async def test_start_has_a_worker_ready(pool: FunctionPool, host: LocalHost, marks: Marks) -> None:
    await pool.start()
    (child,) = host.children()
    assert await pid_of(pool, marks) == child.pid


async def test_a_sync_call_past_its_timeout_taints_its_worker(
    pool: FunctionPool, host: LocalHost, marks: Marks
) -> None:
    old = await pid_of(pool, marks)
    innocent = asyncio.create_task(pool.run(call(marks, "keep")))
    await marks.wait("keep")
    result = await pool.run(call(marks, "hang"), timeout_ms=20)
    assert (result.ok, result.error_class) == (False, "timeout")
    async with asyncio.timeout(30):
        while (new := await pid_of(pool, marks)) == old:
            pass
    assert {child.pid for child in host.children()} == {old, new}
    marks.release()
    kept = await innocent
    assert kept.patch == {"key": "key-keep", "pid": old}
    await until_ended(host, old)


async def test_a_tainted_worker_is_killed_in_the_end_and_innocents_are_repeated(
    pool: FunctionPool, host: LocalHost, marks: Marks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "TAINTED_S", 0.02)
    old = await pid_of(pool, marks)
    innocent = asyncio.create_task(pool.run(call(marks, "keep")))
    await marks.wait("keep")
    assert (await pool.run(call(marks, "hang"), timeout_ms=20)).error_class == "timeout"
    await marks.wait("keep", 2)
    marks.release()
    result = await innocent
    assert result.ok
    assert result.patch is not None
    assert result.patch["key"] == "key-keep"
    assert result.patch["pid"] != old


async def test_an_innocent_that_is_cut_short_often_is_repeated_alone(
    pool: FunctionPool, marks: Marks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "TAINTED_S", 0.02)
    innocent = asyncio.create_task(pool.run(call(marks, "keep")))
    for lives in range(1, 4):
        await marks.wait("keep", lives)
        assert (await pool.run(call(marks, "hang"), timeout_ms=20)).error_class == "timeout"
    await marks.wait("keep", 4)
    assert await pid_of(pool, marks) not in marks.pids("keep")[3:]
    pool.recycle()
    marks.release()
    assert (await innocent).ok
    assert len(marks.pids("keep")) == 4


async def test_an_async_call_past_its_timeout_is_cancelled_and_taints_nothing(
    pool: FunctionPool, marks: Marks
) -> None:
    old = await pid_of(pool, marks)
    result = await pool.run(call(marks, "hang_later"), timeout_ms=20)
    assert (result.error_class, result.error) == ("timeout", "flow.hang_later did not finish in 20 ms")
    assert await marks.wait("cancelled") == [old]
    assert await pid_of(pool, marks) == old


@pytest.mark.parametrize("function", ["hang", "hang_later"])
async def test_cancel_by_key(pool: FunctionPool, host: LocalHost, marks: Marks, function: str) -> None:
    old = await pid_of(pool, marks)
    running = asyncio.create_task(pool.run(call(marks, function)))
    await marks.wait(function)
    assert pool.cancel(f"key-{function}")
    result = await running
    assert (result.error_class, result.error) == ("cancelled", f"flow.{function} was cancelled")
    assert running.cancelling() == 0
    assert not pool.cancel(f"key-{function}")
    if function == "hang":
        await until_ended(host, old)
        assert await pid_of(pool, marks) != old
    else:
        assert await marks.wait("cancelled") == [old]


async def test_cancelling_the_task_cancels_the_call(pool: FunctionPool, marks: Marks) -> None:
    running = asyncio.create_task(pool.run(call(marks, "hang_later")))
    await marks.wait("hang_later")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await marks.wait("cancelled")


async def test_sync_calls_that_wait_for_a_thread_are_cancelled_without_harm(
    pool: FunctionPool, marks: Marks
) -> None:
    # A first call imports, in a thread of the pool.
    assert (await pool.run(call(marks, "answer"))).ok
    kept = [asyncio.create_task(pool.run(call(marks, "keep", f"keep{n}"))) for n in range(16)]
    await marks.wait("keep*", 16)
    queued = asyncio.create_task(pool.run(call(marks, "hang"), timeout_ms=60_000))
    later = asyncio.create_task(pool.run(call(marks, "add", n=1)))
    await asyncio.sleep(0)
    assert pool.cancel("key-hang")
    assert (await queued).error_class == "cancelled"
    # What is sent arrives in order: after this answer the cancellation has arrived too.
    assert (await pool.run(call(marks, "answer"))).ok
    marks.release()
    assert all(result.ok for result in await asyncio.gather(*kept))
    assert (await later).patch == {"n": 2}
    assert marks.pids("hang") == []


@pytest.mark.parametrize("others", [0, 5])
async def test_a_call_that_ends_its_process_fails_and_innocents_complete(
    pool: FunctionPool, host: LocalHost, marks: Marks, others: int
) -> None:
    await pool.start()
    innocents = [asyncio.create_task(pool.run(call(marks, "keep", f"keep{n}"))) for n in range(others)]
    bystander = asyncio.create_task(pool.run(call(marks, "keep_later", "keepl")))
    await marks.wait("keep*", others + 1)
    culprit = asyncio.create_task(pool.run(call(marks, "die")))
    (old,) = await marks.wait("die")
    await until_ended(host, old)
    marks.release()
    result = await culprit
    assert (result.ok, result.error_class) == (False, "worker_crashed")
    assert result.error == "flow.die ended the process it ran in, twice, the second time alone"
    for number, kept in enumerate(await asyncio.gather(*innocents)):
        assert kept.ok
        assert kept.patch is not None
        assert kept.patch["key"] == f"key-keep{number}"
    assert (await bystander).ok
    assert len(marks.pids("die")) == 2


async def test_a_segmentation_fault_is_a_crash(pool: FunctionPool, marks: Marks) -> None:
    assert (await pool.run(call(marks, "segfault"))).error_class == "worker_crashed"
    assert (await pool.run(call(marks, "add", n=1))).ok


async def test_a_crash_that_does_not_repeat_is_no_failure(pool: FunctionPool, marks: Marks) -> None:
    result = await pool.run(call(marks, "die_once"))
    assert result.patch == {"survived": True}


async def test_kill_9_of_the_child_in_mid_call(pool: FunctionPool, host: LocalHost, marks: Marks) -> None:
    running = [asyncio.create_task(pool.run(call(marks, "keep", f"keep{n}"))) for n in range(6)]
    (old, *_) = await marks.wait("keep*", 6)
    os.kill(old, signal.SIGKILL)
    await until_ended(host, old)
    assert await pid_of(pool, marks) != old
    # Each suspect has a process to itself; those beyond the first few wait for one.
    await marks.wait("keep*", 6 + pool_module.QUARANTINE_MAX)
    assert len(set(marks.pids("keep*")) - {old}) == pool_module.QUARANTINE_MAX
    marks.release()
    results = await asyncio.gather(*running)
    assert [result.patch["key"] for result in results if result.patch] == [f"key-keep{n}" for n in range(6)]
    quarantine = {result.patch["pid"] for result in results if result.patch}
    assert len(quarantine) <= pool_module.QUARANTINE_MAX
    for pid in quarantine:
        await until_ended(host, pid)


async def test_a_suspect_that_is_cancelled_leaves_no_process_behind(
    pool: FunctionPool, host: LocalHost, marks: Marks
) -> None:
    running = [asyncio.create_task(pool.run(call(marks, "hang", f"hang{n}"))) for n in range(2)]
    (old, *_) = await marks.wait("hang*", 2)
    os.kill(old, signal.SIGKILL)
    await marks.wait("hang*", 4)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    # The worker for new calls is the only one left.
    await eventually(lambda: len(host.children()) == 1)


async def test_a_timeout_in_quarantine(pool: FunctionPool, marks: Marks) -> None:
    running = asyncio.create_task(pool.run(call(marks, "hang"), timeout_ms=500))
    (old,) = await marks.wait("hang")
    os.kill(old, signal.SIGKILL)
    assert (await running).error_class == "timeout"
    assert (await pool.run(call(marks, "add", n=1))).ok


def rewrite(settings: FunctionSettings, source: str) -> None:
    Path(settings.folders[0], "flow.py").write_text(source)


async def test_recycle_loads_modules_anew(
    pool: FunctionPool, settings: FunctionSettings, marks: Marks
) -> None:
    assert (await pool.run(call(marks, "add", n=1))).patch == {"n": 2}
    rewrite(settings, "def add(state): return {'n': 'other'}\n")
    pool.recycle()
    assert (await pool.run(call(marks, "add", n=1))).patch == {"n": "other"}


async def test_close_ends_calls_with_unavailable(host: LocalHost, marks: Marks) -> None:
    pool = FunctionPool(host)
    running = asyncio.create_task(pool.run(call(marks, "hang")))
    await marks.wait("hang")
    await pool.close()
    with pytest.raises(Unavailable, match="closed"):
        await running
    with pytest.raises(Unavailable, match="closed"):
        await pool.run(call(marks, "add", n=1))
    assert host.children() == []


async def test_children_that_cannot_start_are_unavailable(
    settings: FunctionSettings, marks: Marks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "SPAWN_BACKOFF_S", 0.0)
    missing = FunctionSettings(folders=(f"{settings.folders[0]}/missing",), modules=("flow",))
    pool = FunctionPool(LocalHost(missing))
    results = await asyncio.gather(
        *(pool.run(call(marks, "add", n=1)) for _ in range(3)), return_exceptions=True
    )
    assert all(isinstance(result, Unavailable) for result in results), results
    assert "missing" in str(results[0])
    await pool.close()


class FlakyHost:
    """Refuses, and hands out dead children, before it works."""

    def __init__(self, real: LocalHost, refusals: int) -> None:
        self.real = real
        self.refusals = refusals

    async def spawn(self) -> Child:
        self.refusals -= 1
        if self.refusals >= 0 and self.refusals % 2:
            raise Unavailable("the node's worker is being restarted")
        child = await self.real.spawn()
        if self.refusals >= 0:
            await self.real.kill(child.generation)
        return child

    async def kill(self, generation: str) -> None:
        await self.real.kill(generation)

    async def close(self) -> None:
        await self.real.close()


async def test_a_host_that_fails_is_asked_again(
    host: LocalHost, marks: Marks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "SPAWN_BACKOFF_S", 0.0)
    pool = FunctionPool(FlakyHost(host, 4))
    assert (await pool.run(call(marks, "add", n=1))).ok
    await pool.close()


def mode_of(path: str) -> int:
    """Kind of file, and for folders their permissions too."""
    mode = os.stat(path).st_mode
    return mode if stat.S_ISDIR(mode) else stat.S_IFMT(mode)


async def test_sockets_are_private_and_what_is_left_behind_is_swept(
    settings: FunctionSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_module, "_socket_root", lambda: tmp_path)
    left = tmp_path / "jamjet-fn-left"
    left.mkdir()
    (left / "1.sock").touch()
    first, second = LocalHost(settings), LocalHost(settings)
    children = [await first.spawn(), await second.spawn()]
    assert not left.exists()
    for child in children:
        assert mode_of(child.socket) == stat.S_IFSOCK
        assert mode_of(os.path.dirname(child.socket)) == stat.S_IFDIR | 0o700
    assert len({child.generation for child in children}) == 2
    await first.close()
    await second.close()
    assert not [name for name in os.listdir(tmp_path) if name.startswith("jamjet-fn-")]


def test_the_folder_of_sockets_is_never_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/" + "x" * 90)
    assert host_module._socket_root() == Path("/tmp")
    monkeypatch.setattr("tempfile.tempdir", "/var/tmp")
    assert host_module._socket_root() == Path("/var/tmp")


async def test_killing_what_is_unknown_is_no_error(host: LocalHost) -> None:
    await host.kill("never-1")


class MortalHost:
    """A host that ends with all its children, and begins another life."""

    def __init__(self, settings: FunctionSettings) -> None:
        self.settings = settings
        self.life = LocalHost(settings)

    async def end(self) -> None:
        ended, self.life = self.life, LocalHost(self.settings)
        await ended.close()

    async def spawn(self) -> Child:
        return await self.life.spawn()

    async def kill(self, generation: str) -> None:
        await self.life.kill(generation)

    async def close(self) -> None:
        await self.life.close()


async def test_calls_that_end_with_their_host_are_repeated_side_by_side(
    settings: FunctionSettings, marks: Marks
) -> None:
    host = MortalHost(settings)
    pool = FunctionPool(host)
    names = ["one", "two", "three"]
    running = [asyncio.create_task(pool.run(call(marks, "keep_later", name))) for name in names]
    before = [await marks.wait(name) for name in names]
    await host.end()
    # All of them begin again before any of them ends, which in quarantine they could not.
    again = [set(await marks.wait(name, 2)) for name in names]
    assert again[0] == again[1] == again[2]
    marks.release()
    results = await asyncio.gather(*running)
    assert [{result.patch["pid"]} for result in results if result.patch] == [again[0] - set(before[0])] * 3
    await pool.close()
