"""An owner that stalls (SIGSTOP) is taken over, and what it does when it goes on comes to nothing."""

import os
import signal
from collections.abc import Iterator

import pytest

from tests.faults.conftest import EACH_DATABASE
from tests.faults.load import Load
from tests.faults.test_kills import working
from tests.fixtures.long import LONG
from tests.fixtures.server import Server, eventually

pytestmark = pytest.mark.timeout(300)

TAKEN_OVER_WITHIN_S = 10.0 if LONG else 30.0
"""`make test` has patience with a slow machine."""


@pytest.fixture
def stopped(server: Server) -> Iterator[list[int]]:
    """Process ids to go on at the end, whatever happens."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        if pid in server.pids("ray::ExecutionActor"):
            os.kill(pid, signal.SIGCONT)


@EACH_DATABASE
def test_a_stalled_owner_is_taken_over_and_its_late_commits_refused(
    server: Server, load: Load, stopped: list[int]
) -> None:
    load.keep(40)
    slow = server.start_execution("slow", {"pause": 1})
    owner = eventually(lambda: server.execution(slow)["actor"], what="an owner")
    os.kill(owner["pid"], signal.SIGSTOP)
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


@EACH_DATABASE
def test_it_works_again_afterwards(server: Server) -> None:
    assert working(server) in server.pids("ray::ExecutionActor")
    execution_id = server.start_execution("three", {"n": 0})
    assert server.await_status(execution_id, "completed")["state"] == {"n": 3}
