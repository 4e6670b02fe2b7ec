"""One child, for real: what functions are given, what comes back, what is refused, what they can see."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from actors.functions import (
    FunctionCall,
    FunctionClient,
    FunctionProcess,
    FunctionResult,
    FunctionSettings,
    WorkerLost,
)

FLOW = """
import asyncio
import os
import sys
import threading
from os import system
from os.path import join as joined

__all__ = ["joined"]


class Quota(Exception):
    error_class = "rate_limit"


class Mute(Exception):
    def __str__(self):
        raise ValueError("no words")


def add(state):
    return {"n": state["n"] + 1}


async def add_later(state):
    await asyncio.sleep(0)
    return {"n": state["n"] + 1}


def in_place(state):
    state["list"].append(2)
    state["deep"]["x"] = 1
    del state["gone"]
    return state


def number(state):
    return 5


def nothing(state):
    return None


def named(a, b=2, *, idempotency_key):
    return [a, b, idempotency_key]


def keyed(state, idempotency_key=None):
    return {"key": idempotency_key}


def taking_any(**names):
    return sorted(names)


def value(state):
    return eval(state["code"])


def raising(state):
    raise eval(state["code"])


async def raising_later(state):
    raise eval(state["code"])


def told(state):
    print("said by a function")
    return {"thread": threading.current_thread().name}


def environment(state):
    return dict(os.environ)


def imported(state):
    return {name: __import__(name).WHOSE for name in state["names"]}


def path(state):
    return [sys.path, os.getcwd()]


def wrapped(state):
    return add_later(state)


async def stray(state):
    async def leave():
        raise SystemExit(3)

    task = asyncio.ensure_future(leave())
    await asyncio.wait([task])
    return {"done": True}


def wait_for(state):
    threading.Event().wait(30)


async def wait_later(state):
    open(state["mark"], "w").close()
    await asyncio.Event().wait()


def die(state):
    os._exit(7)


class Thing:
    pass


_hidden = add
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    (home / "flow.py").write_text(FLOW)
    return home


Caller = Callable[..., Any]


@asynccontextmanager
async def running(folder: Path, socket_path: Path, **settings: Any) -> AsyncIterator[FunctionClient]:
    """A child and a client of it."""
    process = FunctionProcess(
        FunctionSettings(folders=(str(folder),), **{"modules": ("*",), **settings}), str(socket_path)
    )
    process.start()
    lost = asyncio.Event()
    client = FunctionClient(on_stuck=lambda: None, on_lost=lost.set)
    try:
        await client.connect(str(socket_path))
        yield client
    finally:
        client.close()
        await process.kill()
        await lost.wait()


@pytest_asyncio.fixture
async def client(folder: Path, tmp_path: Path) -> AsyncIterator[FunctionClient]:
    async with running(folder, tmp_path / "s") as connected:
        yield connected


def call(function: str, *, module: str = "flow", **fields: Any) -> FunctionCall:
    if not fields.keys() & {"args", "kwargs", "state"}:
        fields["state"] = {}
    return FunctionCall(module=module, function=function, key="exec_1:n:1", **fields)


def code(text: str, *, mode: str = "set", function: str = "value") -> FunctionCall:
    return call(function, mode=mode, state={"code": text})


def refused(result: FunctionResult) -> tuple[str | None, str | None]:
    assert not result.ok
    return result.error_class, result.error


async def test_a_sync_and_an_async_function_get_the_state(client: FunctionClient) -> None:
    for function in ("add", "add_later", "wrapped"):
        result = await client.call(call(function, state={"n": 1, "other": 2}))
        assert result.ok, result
        assert result.patch == {"n": 2}
        assert result.result is None


async def test_the_state_may_come_as_bytes(client: FunctionClient) -> None:
    assert (await client.call(call("add", state=msgspec.Raw(b'{"n":41}')))).patch == {"n": 42}


async def test_a_state_changed_in_place_is_compared_with_what_was_sent(client: FunctionClient) -> None:
    state = {"list": [1], "deep": {"x": 0, "y": 0}, "gone": 1, "same": None}
    assert (await client.call(call("in_place", state=state))).patch == {"list": [1, 2], "deep": {"x": 1}}


async def test_merge_takes_a_dict_or_nothing(client: FunctionClient) -> None:
    assert (await client.call(call("nothing"))).patch == {}
    error_class, error = refused(await client.call(call("number")))
    assert error_class == "invalid_result"
    assert error == "the function returned int; a function without output_key must return a dict"


async def test_set_takes_anything(client: FunctionClient) -> None:
    assert (await client.call(call("number", mode="set"))).result == 5
    assert (await client.call(call("nothing", mode="set"))).result is None
    result = await client.call(code("{'a': None, 'b': (1, 2)}"))
    assert result.result == {"a": None, "b": [1, 2]}
    assert result.patch is None


async def test_keyword_arguments_replace_the_state(client: FunctionClient) -> None:
    named = await client.call(call("named", mode="set", kwargs={"a": 1}, state={"n": 1}))
    assert named.result == [1, 2, "exec_1:n:1"]
    assert (await client.call(call("named", mode="set", args=[7, 8]))).result == [7, 8, "exec_1:n:1"]
    assert (await client.call(call("taking_any", mode="set", kwargs={"z": 1}))).result == ["z"]


async def test_a_function_that_asks_for_the_key_gets_it(client: FunctionClient) -> None:
    assert (await client.call(call("keyed", state={"n": 1}))).patch == {"key": "exec_1:n:1"}


@pytest.mark.parametrize("text", ["float('nan')", "'\\x00'", "2**64", "'\\ud800'", "{1}", "'x' * 5_000_000"])
async def test_a_value_that_cannot_be_kept_fails_its_call_alone(client: FunctionClient, text: str) -> None:
    results = await asyncio.gather(
        client.call(code(text)),
        client.call(code(f"{{'v': {text}}}", mode="merge")),
        client.call(call("add", state={"n": 1})),
    )
    assert [result.error_class for result in results] == ["value_rejected", "value_rejected", None]


@pytest.mark.parametrize(
    ("text", "error_class", "error"),
    [
        ("Quota('slow down')", "rate_limit", "Quota: slow down"),
        ("TimeoutError()", "timeout", "TimeoutError"),
        ("ConnectionResetError('gone')", "connection_reset", "ConnectionResetError: gone"),
        ("FileNotFoundError('nope')", "io_error", "FileNotFoundError: nope"),
        ("KeyError('k')", "KeyError", "KeyError: 'k'"),
        ("SystemExit(3)", "SystemExit", "SystemExit: 3"),
        ("KeyboardInterrupt()", "KeyboardInterrupt", "KeyboardInterrupt"),
        ("Mute()", "Mute", "Mute"),
        ("ValueError('\\x00\\ud800')", "ValueError", "ValueError: \ufffd?"),
        ("asyncio.CancelledError()", "CancelledError", "CancelledError"),
    ],
)
@pytest.mark.parametrize("function", ["raising", "raising_later"])
async def test_an_exception_becomes_a_class_and_a_sentence(
    client: FunctionClient, function: str, text: str, error_class: str, error: str
) -> None:
    result = await client.call(code(text, function=function))
    assert refused(result) == (error_class, error)
    assert "child.py" not in (result.traceback or "")
    assert (await client.call(call("add", state={"n": 1}))).ok


async def test_the_traceback_is_the_users_and_bounded(client: FunctionClient) -> None:
    result = await client.call(code("ValueError('x' * 9000)", function="raising"))
    assert result.traceback is not None
    assert len(result.traceback) == 4096
    assert result.error is not None
    assert len(result.error) == 4096
    short = await client.call(code("ValueError('short')", function="raising"))
    assert short.traceback is not None
    assert 'flow.py", line' in short.traceback
    assert short.traceback.rstrip().endswith("ValueError: short")


async def test_a_stray_task_that_exits_does_not_end_the_loop(client: FunctionClient) -> None:
    result = await client.call(call("stray"))
    assert result.patch == {"done": True}
    assert (await client.call(call("add_later", state={"n": 1}))).ok


@pytest.mark.parametrize(
    ("module", "function", "error_class"),
    [
        ("flow", "system", "not_allowed"),
        ("flow", "_hidden", "not_allowed"),
        ("flow", "__class__", "not_allowed"),
        ("flow", "add.__call__", "not_allowed"),
        ("flow", "Thing", "not_allowed"),
        ("flow", "os", "not_allowed"),
        ("flow", "missing", "import_error"),
        ("flow", "", "not_allowed"),
        ("__main__", "main", "not_allowed"),
        ("flow/../x", "f", "not_allowed"),
        ("", "f", "not_allowed"),
        ("no_such_module", "f", "import_error"),
        ("broken", "f", "import_error"),
        ("leaving", "f", "import_error"),
    ],
)
async def test_the_door(
    folder: Path, client: FunctionClient, module: str, function: str, error_class: str
) -> None:
    (folder / "broken.py").write_text("import not_there_either\n")
    (folder / "leaving.py").write_text("raise SystemExit('leaving')\n")
    result = await client.call(call(function, module=module))
    assert refused(result)[0] == error_class


async def test_what_a_module_exports_may_be_called(client: FunctionClient) -> None:
    assert (await client.call(call("joined", mode="set", args=["a", "b"]))).result == "a/b"


async def test_an_import_error_says_why(folder: Path, client: FunctionClient) -> None:
    (folder / "broken.py").write_text("import not_there_either\n")
    result = await client.call(call("f", module="broken"))
    said = "cannot import 'broken': ModuleNotFoundError: No module named 'not_there_either'"
    assert refused(result) == ("import_error", said)
    assert 'broken.py", line 1' in (result.traceback or "")


async def test_only_listed_modules_are_imported(folder: Path, tmp_path: Path) -> None:
    (folder / "other.py").write_text("open('imported', 'w')\ndef f(state): return {}\n")
    async with running(folder, tmp_path / "s", modules=("flow", "jobs.*")) as client:
        result = await client.call(call("f", module="other"))
        assert refused(result) == ("not_allowed", "module 'other' is not among the allowed modules")
        assert not (folder / "imported").exists()
        assert (await client.call(call("add", state={"n": 1}))).ok
    async with running(folder, tmp_path / "s2", modules=()) as client:
        assert refused(await client.call(call("add", state={"n": 1})))[0] == "not_allowed"


async def test_users_modules_may_be_called_like_ours(folder: Path, tmp_path: Path) -> None:
    (folder / "actors.py").write_text("WHOSE = 'user'\n")
    (folder / "api").mkdir()
    (folder / "api" / "__init__.py").write_text("WHOSE = 'user'\n")
    (folder / "api" / "jobs.py").write_text("import actors, api\ndef f(state): return {'a': actors.WHOSE}\n")
    (folder / "runtime").mkdir()
    (folder / "runtime" / "steps.py").write_text("def f(state): return {'b': 1}\n")
    async with running(folder, tmp_path / "s") as client:
        imported = await client.call(call("imported", mode="set", state={"names": ["actors", "api"]}))
        assert imported.result == {"actors": "user", "api": "user"}
        assert (await client.call(call("f", module="api.jobs"))).patch == {"a": "user"}
        # A folder without __init__.py would lose against a package of ours anywhere on the path.
        assert (await client.call(call("f", module="runtime.steps"))).patch == {"b": 1}


@pytest.mark.parametrize("name", ["runtime", "actors", "api"])
async def test_our_own_packages_cannot_be_imported(client: FunctionClient, name: str) -> None:
    result = await client.call(call("imported", state={"names": [name]}))
    assert refused(result) == ("ModuleNotFoundError", f"ModuleNotFoundError: No module named {name!r}")


async def test_the_users_folder_comes_first_and_ours_not_at_all(folder: Path, client: FunctionClient) -> None:
    import actors

    path, cwd = (await client.call(call("path", mode="set"))).result
    assert path[0] == str(folder)
    assert cwd == str(folder)
    root = Path(actors.__file__).parents[1]
    assert str(root) not in path
    assert str(root / "actors" / "functions") not in path


async def test_our_secrets_are_not_in_the_environment(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DATABASE_URL", "RAY_AUTH_TOKEN", "JAMJET_TOKEN", "OPENAI_API_KEY", "PYTHONPATH", "WANTED"):
        monkeypatch.setenv(name, f"value of {name}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    async with running(folder, tmp_path / "s", env_names=("WANTED", "ABSENT")) as client:
        seen = (await client.call(call("environment", mode="set"))).result
    assert seen["WANTED"] == "value of WANTED"
    assert seen["PATH"] == os.environ["PATH"]
    assert seen["CUDA_VISIBLE_DEVICES"] == "1"
    assert not [text for text in seen.values() if text.startswith("value of") and text != "value of WANTED"]
    assert "ABSENT" not in seen


async def test_prints_go_to_stderr(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with running(folder, tmp_path / "s") as client:
        assert (await client.call(call("told"))).ok
    captured = capfd.readouterr()
    assert "said by a function" in captured.err
    assert captured.out == ""


async def test_sixteen_sync_functions_run_at_once(folder: Path, tmp_path: Path) -> None:
    (folder / "meeting.py").write_text(
        "import threading\n"
        "barrier = threading.Barrier(16)\n"
        "def meet(state):\n"
        "    barrier.wait(30)\n"
        "    return {}\n"
    )
    async with running(folder, tmp_path / "s") as client:
        results = await asyncio.gather(*(client.call(call("meet", module="meeting")) for _ in range(16)))
    assert all(result.ok for result in results)


async def test_a_blocking_async_function_stops_neither_calls_nor_answers(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "blocking.py").write_text(
        "import threading\n"
        "freed = threading.Event()\n"
        "async def block(state):\n"
        "    freed.wait(30)\n"
        "    return {'freed': freed.is_set()}\n"
        "def free(state):\n"
        "    freed.set()\n"
    )
    async with running(folder, tmp_path / "s") as client:
        blocked = asyncio.create_task(client.call(call("block", module="blocking")))
        assert (await client.call(call("free", module="blocking"))).ok
        assert (await blocked).patch == {"freed": True}


async def test_many_clients_share_a_child(folder: Path, tmp_path: Path, client: FunctionClient) -> None:
    second = FunctionClient(on_stuck=lambda: None, on_lost=lambda: None)
    await second.connect(str(tmp_path / "s"))
    results = await asyncio.gather(
        *(each.call(call("add", state={"n": n})) for n in range(300) for each in (client, second))
    )
    assert [result.patch for result in results] == [{"n": n + 1} for n in range(300) for _ in range(2)]
    second.close()


async def test_a_large_state_goes_and_comes(client: FunctionClient) -> None:
    text = "x" * 3_900_000
    result = await client.call(code("'y' + state['text'][1:]", mode="set"))
    assert refused(result)[0] == "KeyError"
    state = {"code": "'y' + state['text'][1:]", "text": text}
    results = await asyncio.gather(*(client.call(call("value", mode="set", state=state)) for _ in range(4)))
    assert [result.result for result in results] == ["y" + text[1:]] * 4


async def test_death_raises_worker_lost_for_every_call(
    folder: Path, tmp_path: Path, client: FunctionClient
) -> None:
    mark = tmp_path / "mark"
    waiting = [
        asyncio.create_task(client.call(call("wait_later", state={"mark": str(mark)}))) for _ in range(3)
    ]
    results = await asyncio.gather(*waiting, client.call(call("die")), return_exceptions=True)
    assert all(isinstance(result, WorkerLost) and result.sent for result in results), results
    with pytest.raises(WorkerLost) as lost:
        await client.call(call("add", state={"n": 1}))
    assert not lost.value.sent


async def test_kill_ends_the_whole_group(folder: Path, tmp_path: Path) -> None:
    (folder / "forking.py").write_text(
        "import subprocess, sys\n"
        "def fork(state):\n"
        "    code = 'import os, sys, time; os.write(1, b\"x\"); time.sleep(60)'\n"
        "    child = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE)\n"
        "    child.stdout.read(1)\n"
        "    return {'pid': child.pid}\n"
    )
    for end in ("kill", "signal"):
        path = tmp_path / f"{end}.sock"
        process = FunctionProcess(FunctionSettings(folders=(str(folder),), modules=("*",)), str(path))
        process.start()
        client = FunctionClient(on_stuck=lambda: None, on_lost=lambda: None)
        await client.connect(str(path))
        forked = (await client.call(call("fork", module="forking"))).patch
        assert forked is not None
        pidfd = os.pidfd_open(forked["pid"])
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(pidfd, ended.set)
        if end == "kill":
            await process.kill()
        else:
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()
        await asyncio.wait_for(ended.wait(), 30)
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
        client.close()
        assert not path.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal")
async def test_a_child_dies_with_its_parent(folder: Path, tmp_path: Path) -> None:
    script = (
        "import asyncio, sys\n"
        "from actors.functions import FunctionProcess, FunctionSettings\n"
        "async def main():\n"
        f"    process = FunctionProcess(FunctionSettings(), {str(tmp_path / 's')!r})\n"
        "    process.start()\n"
        "    print(process.pid, flush=True)\n"
        "    await process.wait()\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    child = int(await parent.stdout.readline())
    client = FunctionClient(on_stuck=lambda: None, on_lost=(lost := asyncio.Event()).set)
    await client.connect(str(tmp_path / "s"))
    pidfd = os.pidfd_open(child)
    parent.kill()
    await parent.wait()
    await asyncio.wait_for(lost.wait(), 30)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(pidfd, ended.set)
    await asyncio.wait_for(ended.wait(), 30)
    asyncio.get_running_loop().remove_reader(pidfd)
    os.close(pidfd)


async def test_a_child_without_owners_ends_by_itself(tmp_path: Path) -> None:
    from actors.functions import process

    script = (
        "import importlib.util, json, os, socket, sys\n"
        f"spec = importlib.util.spec_from_file_location('child', {str(process.SCRIPT)!r})\n"
        "child = sys.modules['child'] = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(child)\n"
        "child.LINGER_S = 0.0\n"
        "listener = socket.socket(socket.AF_UNIX)\n"
        f"listener.bind({str(tmp_path / 's')!r})\n"
        "listener.listen()\n"
        "print('listening', flush=True)\n"
        "settings = {'folders': [], 'modules': [], 'threads': 1}\n"
        "child.main({'parent': os.getppid(), 'fd': listener.detach(), **settings})\n"
    )
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    assert await child.stdout.readline() == b"listening\n"
    client = FunctionClient(on_stuck=lambda: None, on_lost=(lost := asyncio.Event()).set)
    await client.connect(str(tmp_path / "s"))
    assert (await client.call(call("f"))).error_class == "not_allowed"
    assert child.returncode is None
    client.close()
    await lost.wait()
    assert await asyncio.wait_for(child.wait(), 30) == 0


async def test_a_child_that_cannot_start_is_told_apart(tmp_path: Path) -> None:
    missing = FunctionSettings(folders=(str(tmp_path / "missing"),))
    with pytest.raises(FileNotFoundError):
        FunctionProcess(missing, str(tmp_path / "s")).start()
