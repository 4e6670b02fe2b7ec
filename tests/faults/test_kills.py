"""``kill -9`` of each kind of process while executions run: nothing is lost, nothing runs twice."""

import os
import signal

import pytest

from tests.faults.conftest import EACH_DATABASE
from tests.faults.load import Load
from tests.fixtures.long import LONG
from tests.fixtures.server import Server, eventually

pytestmark = pytest.mark.timeout(900 if LONG else 300)

KILLS, LIVE = (15, 200) if LONG else (2, 60)
KINDS = ("ExecutionActor", "NodeWorker", "Supervisor", "ServeReplica")


@EACH_DATABASE
@pytest.mark.parametrize("kind", KINDS)
def test_kill(server: Server, load: Load, kind: str) -> None:
    for _ in range(KILLS):
        load.keep(LIVE)
        kill_one(server, kind)
    load.keep(LIVE)
    load.finish()
    load.check()


def kill_one(server: Server, kind: str) -> None:
    """Kill the oldest process of a kind that runs, and wait until another has taken its place."""
    title = f"ray::{kind}"
    before = eventually(lambda: server.pids(title), what=f"a {kind}")
    victim = working(server) if kind == "ExecutionActor" else before[0]
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: set(server.pids(title)) - set(before), what=f"another {kind}")


def working(server: Server) -> int:
    """The process of the ExecutionActor that has the most executions."""
    active = eventually(lambda: [w for w in server.workers() if w["status"] == "active"], what="an owner")
    return int(max(active, key=lambda worker: worker["live"])["pid"])
