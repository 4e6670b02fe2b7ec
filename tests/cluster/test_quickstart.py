"""The quickstart, word by word, in an empty folder: typed into a terminal, with what it promises to see."""

import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import Block, blocks

pytestmark = pytest.mark.timeout(300)

PORT = "7700"
"""The port in the text. The test types a free one instead."""
BLOCK_S = 60.0
READY = re.compile(r"token +jj_[0-9a-f]{64}")
MARK = "typed-and-done"


class Terminal:
    """An interactive shell in a folder, as a reader has it."""

    def __init__(self, folder: Path, port: int) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAMJET_", "RAY_"))}
        environment = {
            **kept,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "JAMJET_PORT": str(port),
            "JAMJET_URL": f"http://127.0.0.1:{port}",
            "PS1": "",
            "PS2": "",
            "TERM": "dumb",
            "COLUMNS": "200",
        }
        self._port = str(port)
        self._screen, shell_end = pty.openpty()
        self._shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"],
            cwd=folder,
            env=environment,
            stdin=shell_end,
            stdout=shell_end,
            stderr=shell_end,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(shell_end)
        self.seen = ""
        self._type("stty -echo; bind 'set enable-bracketed-paste off'")
        self._type(f"echo {MARK[:5]}''{MARK[5:]}")
        self.wait_for(MARK)

    def run(self, text: str) -> str:
        """Type a block, and return what was shown until it was done."""
        began = len(self.seen)
        self._type(text.replace(PORT, self._port))
        self._type(f"echo {MARK[:5]}''{MARK[5:]} $?")
        found = self.wait_for(MARK + r" (\d+)", since=began)
        assert found[1] == "0", f"{text}\n{self.seen[began:]}"
        return self.seen[began:]

    def wait_for(self, pattern: str | re.Pattern[str], *, since: int = 0) -> re.Match[str]:
        """Read until a pattern is seen."""
        until = time.monotonic() + BLOCK_S
        while not (found := re.compile(pattern).search(self.seen, since)):
            left = until - time.monotonic()
            assert left > 0, f"{pattern!r} did not come:\n{self.seen[since:][-4000:]}"
            if select.select([self._screen], [], [], left)[0]:
                self.seen += os.read(self._screen, 65536).decode(errors="replace")
        return found

    def close(self) -> None:
        """End what was started in it, then the shell."""
        for job in self.run("jobs -p").split():
            if job.isdigit() and job != "0":
                os.kill(int(job), signal.SIGTERM)
        self._type("wait; exit")
        try:
            self._shell.wait(30)
        except subprocess.TimeoutExpired:
            self._shell.kill()
            self._shell.wait(10)
        os.close(self._screen)

    def _type(self, text: str) -> None:
        os.write(self._screen, text.rstrip("\n").encode() + b"\n")


def _take_terminal() -> None:
    """Make the standard input the shell's own terminal, so that it has job control."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    folder = Path(tempfile.mkdtemp(prefix="jj-quickstart-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    opened = Terminal(folder, port)
    yield opened
    opened.close()
    shutil.rmtree(folder, ignore_errors=True)


def test_quickstart(terminal: Terminal) -> None:
    for block in blocks():
        if block.page == "quickstart.md":
            follow(terminal, block)


def follow(terminal: Terminal, block: Block) -> None:
    """Do what a reader does with a block."""
    name = block.note("file")
    if name is not None:
        terminal.run(f"cat > {name} <<'END'\n{block.text}END")
    elif block.language == "sh" and block.note("setup") is None:
        before = len(terminal.seen)
        said = terminal.run(block.text)
        promised = block.note("says")
        assert promised is None or promised in said, f"{block}: {promised!r} is not in\n{said}"
        if block.note("server") is not None:
            terminal.wait_for(READY, since=before)
