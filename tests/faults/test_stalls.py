"""An owner that stalls (SIGSTOP) is taken over, and what it does when it goes on comes to nothing."""

import contextlib
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.store.write_lock import write_lock_holder
from tests.faults.conftest import EACH_DATABASE
from tests.faults.load import Load
from tests.faults.test_kills import working
from tests.fixtures.long import LONG
from tests.fixtures.server import Server, eventually

pytestmark = pytest.mark.timeout(300)

TAKEN_OVER_WITHIN_S = 10.0 if LONG else 30.0
"""`make test` has patience with a slow machine."""
REPLACED_WITHIN_S = 60.0


@pytest.fixture
def stopped(server: Server) -> Iterator[list[int]]:
    """Process ids to go on at the end, whatever happens."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        if pid in server.pids("ray::"):
            os.kill(pid, signal.SIGCONT)


@EACH_DATABASE
def test_a_stalled_owner_is_taken_over_and_its_late_commits_refused(
    server: Server, load: Load, stopped: list[int]
) -> None:
    load.keep(40)
    slow = server.start_execution("slow", {"pause": 1})
    owner = eventually(lambda: server.execution(slow)["actor"], what="an owner")
    eventually(lambda: stall(server, owner["pid"], locked=False), what="a moment without the lock")
    stopped.append(owner["pid"])

    def taken_over() -> bool:
        actor = server.execution(slow)["actor"]
        return bool(actor) and actor["incarnation"] != owner["incarnation"]

    eventually(taken_over, within_s=TAKEN_OVER_WITHIN_S, what="another owner")
    taken_at = server.events(slow)[-1]["sequence"]
    os.kill(owner["pid"], signal.SIGCONT)

    # It has been declared dead meanwhile: it finds out, and ends.
    eventually(lambda: owner["pid"] not in server.pids("ray::ExecutionActor"), what="its end")
    assert server.await_status(slow, "completed")["state"]["n"] == 4
    events = server.events(slow)
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert taken_at < len(events)
    assert [event["kind"] for event in events].count("NodeCompleted") == 4
    load.finish()
    load.check(besides=1)


@pytest.mark.parametrize("server", ["sqlite"], indirect=True)
def test_an_owner_that_stalls_while_it_holds_the_databases_lock_is_ended(
    server: Server, load: Load, stopped: list[int]
) -> None:
    """Nobody else can write until it is gone."""

    def stalled() -> int | None:
        load.keep(20)
        owner = working(server)
        until = time.monotonic() + 1
        while write_lock_holder(Path(server.database)) != owner and time.monotonic() < until:
            pass
        return owner if stall(server, owner, locked=True) else None

    owner = eventually(stalled, within_s=90, what="an owner with the lock")
    stopped.append(owner)
    eventually(
        lambda: owner not in server.pids("ray::ExecutionActor"), within_s=TAKEN_OVER_WITHIN_S, what="its end"
    )
    load.keep(20)
    load.finish()
    load.check()


@pytest.mark.skipif(
    not LONG, reason="in `make faults` only; with less patience in tests/cluster/test_client.py"
)
@pytest.mark.parametrize("kind", ["Supervisor", "NodeWorker", "AgentRegistry"])
@EACH_DATABASE
def test_one_that_stands_still_is_replaced(server: Server, load: Load, stopped: list[int], kind: str) -> None:
    load.keep(40)
    (pid,) = server.pids(f"ray::{kind}")
    os.kill(pid, signal.SIGSTOP)
    stopped.append(pid)
    began = time.monotonic()
    eventually(lambda: set(server.pids(f"ray::{kind}")) - {pid}, within_s=REPLACED_WITHIN_S, what="another")
    sys.stdout.write(f"\nanother {kind} {time.monotonic() - began:.1f} s after one was stopped\n")
    load.keep(40)
    load.finish()
    load.check()


def stall(server: Server, pid: int, *, locked: bool) -> bool:
    """Stop a process where it holds the lock of a SQLite file, or where it does not; False: it goes on."""
    os.kill(pid, signal.SIGSTOP)
    if is_locked(server.database) == locked:
        return True
    os.kill(pid, signal.SIGCONT)
    return False


def is_locked(path: str) -> bool:
    """Whether a process holds the lock of the file for longer than any that runs. PostgreSQL has none."""
    if "://" in path:
        return False
    with contextlib.closing(sqlite3.connect(path, timeout=1, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        connection.execute("ROLLBACK")
        return False


@EACH_DATABASE
def test_it_works_again_afterwards(server: Server) -> None:
    assert working(server) in server.pids("ray::ExecutionActor")
    execution_id = server.start_execution("three", {"n": 0})
    assert server.await_status(execution_id, "completed")["state"] == {"n": 3}
