"""Where a pool's children come from."""

import asyncio
import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Protocol

import msgspec

from actors.functions.process import FunctionProcess, FunctionSettings
from runtime.errors import Unavailable

SOCKET_PATH_MAX = 100
"""Characters. The kernel's own limit is 107."""
_PREFIX = "jamjet-fn-"


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """A running child, as its users know it."""

    generation: str
    """Unique over hosts and their restarts: the life of its host, and a number."""
    socket: str
    pid: int

    @property
    def host_life(self) -> str:
        """Two children that differ in this were started by different lives of their host."""
        return self.generation.rpartition("-")[0]


class FunctionHost(Protocol):
    """Starts and kills children. What it started ends with it."""

    async def spawn(self) -> Child:
        """Start a child for the caller alone.

        Raises:
            Unavailable: no child could be started.
        """

    async def kill(self, generation: str) -> None:
        """End a child and all it started. One that is gone already, or unknown, is no error."""

    async def close(self) -> None:
        """End all children."""


class LocalHost:
    """Children of this very process.

    Their sockets are in a private folder that is locked while the process lives; folders that
    killed processes left behind are removed when the next one starts.
    """

    def __init__(self, settings: FunctionSettings) -> None:
        self._settings = settings
        self._token = secrets.token_hex(4)
        self._count = 0
        self._children: dict[str, FunctionProcess] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._folder: Path | None = None
        self._folder_lock = -1

    async def spawn(self) -> Child:
        self._count += 1
        generation = f"{self._token}-{self._count}"
        try:
            process = FunctionProcess(self._settings, str(self._private_folder() / f"{self._count}.sock"))
            process.start()
        except OSError as error:
            raise Unavailable(f"cannot start a process for functions: {error}") from error
        self._children[generation] = process
        task = asyncio.create_task(self._forget_when_ended(generation, process))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return Child(generation=generation, socket=process.socket_path, pid=process.pid)

    async def kill(self, generation: str) -> None:
        if process := self._children.get(generation):
            await process.kill()

    async def close(self) -> None:
        await asyncio.gather(*(process.kill() for process in list(self._children.values())))
        await asyncio.gather(*self._tasks)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            os.close(self._folder_lock)
            self._folder = None

    def children(self) -> list[Child]:
        """The children that are alive."""
        return [
            Child(generation=generation, socket=process.socket_path, pid=process.pid)
            for generation, process in self._children.items()
        ]

    async def _forget_when_ended(self, generation: str, process: FunctionProcess) -> None:
        await process.wait()
        self._children.pop(generation, None)

    def _private_folder(self) -> Path:
        if self._folder is None:
            root = _socket_root()
            _sweep(root)
            self._folder, self._folder_lock = _make_folder(root)
        return self._folder


def _socket_root() -> Path:
    """The folder for temporary files, or /tmp where that one's name is too long for a socket's path."""
    root = tempfile.gettempdir()
    return Path(root if len(root) + len(_PREFIX) + 24 <= SOCKET_PATH_MAX else "/tmp")


def _make_folder(root: Path) -> tuple[Path, int]:
    """A new folder with mode 0700, and the descriptor that holds its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_SH)
        if folder.exists():
            return folder, lock
        os.close(lock)  # A sweep took it between its making and its locking.


def _sweep(root: Path) -> None:
    """Remove our folders that no living process holds."""
    for folder in root.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            lock = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock).st_uid == os.getuid():
                    shutil.rmtree(folder)
            finally:
                os.close(lock)
