"""A process that stands still with the database's lock is ended, and no other."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.lock_guard import STUCK_S, LockGuard
from runtime.store.port import ExecutorRow
from runtime.store.write_lock import write_lock_holder

HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "runtime.db"
    # A connection that stays keeps the file of the locks.
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (a)")
        yield path


@pytest.fixture
def holder(database: Path) -> Iterator[subprocess.Popen[str]]:
    """A child that holds the lock until its input ends."""
    command = [sys.executable, "-c", HOLD, str(database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        yield child
        child.kill()


def owner(*, gone: bool, state: str = "active") -> ExecutorRow:
    return ExecutorRow(
        incarnation="a#1", name="a", node="n", pid=1, isolation="shared", capacity=1, live=1, state=state,
        started_at=0, heartbeat_at=0, gone=gone,
    )  # fmt: skip


def watch(guard: LockGuard, *executors: ExecutorRow, looks: int = 5) -> None:
    for number in range(looks):
        guard.look(executors, number * STUCK_S / 2)


def has_ended(child: subprocess.Popen[str]) -> bool:
    try:
        return child.wait(0.2) == -signal.SIGKILL
    except subprocess.TimeoutExpired:
        return False


def test_the_holder_is_named(database: Path, holder: subprocess.Popen[str]) -> None:
    assert write_lock_holder(database) == holder.pid
    holder.communicate()
    assert write_lock_holder(database) is None


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("1: POSIX  ADVISORY  WRITE 4711 fe:00:{inode} 120 120", 4711),
        ("1: POSIX  ADVISORY  WRITE 4711 00:1f:{inode} 0 EOF", 4711),
        ("1: POSIX  ADVISORY  READ 4711 fe:00:{inode} 120 120", None),
        ("1: POSIX  ADVISORY  WRITE 4711 fe:00:{inode} 121 123", None),
        ("1: POSIX  ADVISORY  WRITE 4711 fe:00:1{inode} 120 120", None),
        ("1: -> POSIX  ADVISORY  WRITE 4711 fe:00:{inode} 120 120", None),
        ("", None),
    ],
)
def test_a_line_of_the_kernels_list(database: Path, tmp_path: Path, line: str, found: int | None) -> None:
    inode = (tmp_path / "runtime.db-shm").stat().st_ino
    locks = tmp_path / "locks"
    locks.write_text(f"9: FLOCK  ADVISORY  WRITE 1 fe:00:99 0 EOF\n{line.format(inode=inode)}\n")
    assert write_lock_holder(database, locks=locks) == found


def test_a_system_that_tells_no_locks(database: Path, tmp_path: Path) -> None:
    assert write_lock_holder(database, locks=tmp_path / "none") is None
    assert write_lock_holder(tmp_path / "none.db") is None


def test_it_is_ended_when_no_owner_can_beat(database: Path, holder: subprocess.Popen[str]) -> None:
    guard = LockGuard(database, os.getpid())
    watch(guard, owner(gone=True), owner(gone=True, state="dead"), owner(gone=True, state="spare"), looks=2)
    assert not has_ended(holder)
    watch(guard, owner(gone=True))
    assert has_ended(holder)


@pytest.mark.parametrize(
    "executors", [(owner(gone=True), owner(gone=False)), (owner(gone=True, state="dead"),), ()]
)
def test_it_is_left_while_somebody_can_write(
    database: Path, holder: subprocess.Popen[str], executors: tuple[ExecutorRow, ...]
) -> None:
    watch(LockGuard(database, os.getpid()), *executors)
    assert not has_ended(holder)


def test_one_that_is_not_ours_is_named_only(
    database: Path, holder: subprocess.Popen[str], caplog: pytest.LogCaptureFixture
) -> None:
    watch(LockGuard(database, os.getppid()), owner(gone=True))
    assert not has_ended(holder)
    assert f"process {holder.pid}, none of ours, holds the database's lock" in caplog.text


def test_who_looks_does_not_stand_still(database: Path, caplog: pytest.LogCaptureFixture) -> None:
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as own:
        own.execute("BEGIN IMMEDIATE")
        watch(LockGuard(database, os.getppid()), owner(gone=True))
        assert not caplog.text


def test_one_that_takes_turns_is_left(database: Path, holder: subprocess.Popen[str]) -> None:
    """All are silent after a machine has slept, and beat again."""
    guard = LockGuard(database, os.getpid())
    for number in range(10):
        guard.look([owner(gone=number % 2 == 0)], number * STUCK_S)
    assert not has_ended(holder)
