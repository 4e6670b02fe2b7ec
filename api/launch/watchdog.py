"""Ends a session of processes when the one that answers for it has died without doing so.

The launcher starts this file as a process of its own and holds the other end of
its standard input. It tells the session's id, and at an orderly end says so.
If the pipe closes without that word, the launcher was killed: whatever is left
of the session is killed too, and its private folder removed. It is run by path
with nothing on ``sys.path``, so it imports the standard library alone.
"""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

DONE = "done"
_PATIENCE_S = 10.0
_PAUSE_S = 0.02


def session_members(session: int) -> list[int]:
    """The processes of a session that have not ended. Their own sessions' children are not among them."""
    return [pid for pid in _processes() if _session_of(pid) == session and not _is_zombie(pid)]


def kill_session(session: int, timeout_s: float = _PATIENCE_S) -> bool:
    """Kill every process of a session, also those that it starts meanwhile; True when none is left.

    A session's id is not given to another while it has members, so none is killed by mistake.
    """
    deadline = time.monotonic() + timeout_s
    while members := session_members(session):
        for pid in members:
            _kill(pid)
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE_S)
    return True


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _is_zombie(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("latin-1")
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        return


def main(folder: str) -> None:
    """Read the session's id, wait for the end of the pipe, and act if it came unannounced."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    session = None
    for line in sys.stdin:
        if line.strip() == DONE:
            return
        session = int(line)
    if session is not None:
        kill_session(session)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
