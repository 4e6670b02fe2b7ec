"""Starts a server for a benchmark: ``jamjet dev`` in a temporary folder, ended with the block."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from types import TracebackType

READY_S = 90.0


class Server:
    """``jamjet dev`` on a free port, with ``files`` in its folder."""

    def __init__(self, files: dict[str, str] | None = None, *, database: str | None = None) -> None:
        self.host = "127.0.0.1"
        self.port = _free_port()
        self.token = ""
        self.folder = Path(tempfile.mkdtemp(prefix="jj-bench-"))
        for name, text in (files or {}).items():
            (self.folder / name).write_text(text)
        self._database = database or str(self.folder / "runtime.db")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Server":
        command = [str(Path(sys.executable).with_name("jamjet")), "dev", "--port", str(self.port)]
        self._log = (self.folder / "dev.log").open("wb")
        self._process = subprocess.Popen(
            [*command, "--db", self._database], cwd=self.folder, stdout=self._log, stderr=self._log
        )
        until = time.monotonic() + READY_S
        while time.monotonic() < until and self._process.poll() is None:
            said = (self.folder / "dev.log").read_text(errors="replace")
            token = re.search(r"jj_[0-9a-f]{64}", said)
            if token and self._answers():
                self.token = token.group()
                return self
            time.sleep(0.1)
        self.__exit__(None, None, None)
        raise RuntimeError(f"the server did not start:\n{said[-3000:]}")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.host}:{self.port}/health/ready", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGTERM)
            self._process.wait(30)
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
