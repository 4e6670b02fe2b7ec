"""One child process that runs functions: how it is started, seen to have died, and killed."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import msgspec
import orjson

SCRIPT = Path(__file__).with_name("child.py")
LISTEN_BACKLOG = 16

_PASSED = frozenset(
    {
        *("PATH", "HOME", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONDONTWRITEBYTECODE"),
        # What a scheduler sets to say which of the machine's processors are ours.
        *("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
        *("HIP_VISIBLE_DEVICES", "ONEAPI_DEVICE_SELECTOR", "TPU_VISIBLE_CHIPS", "NEURON_RT_VISIBLE_CORES"),
    }
)


class FunctionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the children may run, and with what around them."""

    folders: tuple[str, ...] = ()
    """Users' folders: first on ``sys.path``; the first is the working folder."""
    modules: tuple[str, ...] = ()
    """Patterns (as of ``fnmatch``) of the modules whose functions may be called; none: nothing may."""
    env_names: tuple[str, ...] = ()
    """Environment variables that functions see, beside the few that any program needs."""
    threads: int = 16
    """How many sync functions run at once in one child."""


def clean_environment(environ: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    """What of an environment users' functions may see: no secret of ours is among it unless named."""
    return {name: environ[name] for name in sorted(_PASSED | set(names)) if name in environ}


class FunctionProcess:
    """One life of a child. It leads a process group of its own, which ends with it.

    The kernel kills a child when the *thread* that started it ends, so ``start`` belongs on a thread
    that lives as long as its process: an event loop's own.
    """

    def __init__(self, settings: FunctionSettings, socket_path: str) -> None:
        self.socket_path = socket_path
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._exited = asyncio.Event()

    @property
    def pid(self) -> int:
        """The child's process id; also the id of its process group."""
        assert self._process is not None, "the child has not been started"
        return self._process.pid

    def start(self) -> None:
        """Start the child. The socket takes connections from now on; the child greets each one.

        Raises:
            OSError: the process or its socket could not be made.
        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(self.socket_path)
            listener.listen(LISTEN_BACKLOG)
            self._process = self._spawn(listener.fileno())
        finally:
            listener.close()
        threading.Thread(
            target=self._watch, args=(asyncio.get_running_loop(),), name="function-process", daemon=True
        ).start()

    async def wait(self) -> None:
        """Wait until the child has ended and its group is gone."""
        await self._exited.wait()

    async def kill(self) -> None:
        """End the child and everything it started, now, and wait for it."""
        self._kill_group()
        await self.wait()

    def _spawn(self, listener_fd: int) -> "subprocess.Popen[bytes]":
        config = {
            "fd": listener_fd,
            "parent": os.getpid(),
            "folders": [os.path.abspath(folder) for folder in self._settings.folders],
            "modules": self._settings.modules,
            "threads": self._settings.threads,
        }
        return subprocess.Popen(
            [sys.executable, "-I", str(SCRIPT), orjson.dumps(config).decode()],
            stdin=subprocess.DEVNULL,
            env=clean_environment(os.environ, self._settings.env_names),
            cwd=self._settings.folders[0] if self._settings.folders else None,
            pass_fds=(listener_fd,),
            start_new_session=True,
        )

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for the child's end, in a thread of its own."""
        assert self._process is not None
        # Until it is reaped its id cannot be given to another process, so the group is ended before.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            self._signal_group()
            self._process.wait()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.socket_path)
        with contextlib.suppress(RuntimeError):  # The loop has been closed: nobody waits.
            loop.call_soon_threadsafe(self._exited.set)

    def _kill_group(self) -> None:
        with self._lock:
            if self._process is not None and self._process.returncode is None:
                self._signal_group()

    def _signal_group(self) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
