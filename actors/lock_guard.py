"""Ends a process of ours that stands still while it holds the write lock of the SQLite file.

Until it is gone nobody can write: no owner can beat, and none can take over. PostgreSQL ends such a
session by itself (``idle_in_transaction_session_timeout``).
"""

import contextlib
import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from runtime.store.port import ExecutorRow
from runtime.store.write_lock import write_lock_holder

log = logging.getLogger("jamjet.lock_guard")

STUCK_S = 1.0
"""So long one process holds the lock at every look, while no owner can beat, before it is ended."""


class LockGuard:
    """See the module.

    Args:
        database: the SQLite file.
        raylet: the parent of the processes that may be ended. Another, a person's ``sqlite3`` say, is named.
    """

    def __init__(self, database: Path, raylet: int) -> None:
        self._database = database
        self._raylet = raylet
        self._holder: int | None = None
        self._since = 0.0

    def look(self, executors: Sequence[ExecutorRow], now_s: float) -> None:
        """To be called about twice a second, with all owners as the store has them and a monotonic time."""
        living = [row for row in executors if row.state != "dead"]
        # Those that wait for the lock are as silent as the one that holds it.
        is_shut = bool(living) and all(row.gone for row in living)
        holder = write_lock_holder(self._database) if is_shut else None
        if holder == os.getpid():
            # It only takes long: whoever looks does not stand still.
            holder = None
        if holder != self._holder:
            self._holder, self._since = holder, now_s
        elif holder is not None and now_s - self._since >= STUCK_S:
            self._end(holder)

    def _end(self, holder: int) -> None:
        if _parent(holder) == self._raylet:
            log.error("ending process %d: it holds the database's lock, and stands still", holder)
            with contextlib.suppress(ProcessLookupError):
                os.kill(holder, signal.SIGKILL)
        else:
            log.error("nobody can write: process %d, none of ours, holds the database's lock", holder)
        self._holder = None


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None
