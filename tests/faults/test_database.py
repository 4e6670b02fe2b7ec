"""PostgreSQL is restarted, crashed and cut off under load: nothing is lost, and clients only ever wait."""

import http.client
import os
import random
import signal
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest

from runtime.store.port import OWNER_GONE_MS
from tests.faults.test_kills import working
from tests.fixtures.long import LONG
from tests.fixtures.postgres import RestartablePostgres, restartable_postgres
from tests.fixtures.server import Server, eventually
from tests.fixtures.workflows import chain

pytestmark = pytest.mark.timeout(900 if LONG else 300)

CLIENTS = 32
EXECUTIONS = 1_000 if LONG else 200
"""At least so many are started; clients go on for as long as the trouble lasts."""
RESTARTS, PAUSE_S = (5, (5.0, 40.0)) if LONG else (2, (2.0, 4.0))
CUTTING_S = 30.0 if LONG else 6.0
ANSWERED_WITHIN_S = 60.0
ENDED_WITHIN_S = 90.0

_STEP = {"model": "scripted/m", "prompt": "x", "options": {"latency_ms": 200, "responses": ["ok"]}}
STEPS = chain("steps", **{name: {"kind": {"type": "model", **_STEP}} for name in ("a", "b", "c")})


@pytest.fixture(scope="module")
def postgres() -> Iterator[RestartablePostgres]:
    with restartable_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def server(postgres: RestartablePostgres) -> Iterator[Server]:
    with Server(database=postgres.create_database(migrated=False)) as running:
        running.register(STEPS)
        yield running


class Clients:
    """Start executions one after the other, each under a key of its own, and follow them to their ends."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._lock = threading.Lock()
        self.present = self._total()
        """Executions of others, from before."""
        self.over = threading.Event()
        """Set: who has enough executions may stop."""
        self.started: dict[str, str] = {}
        """By key: the id in the answer."""
        self.acknowledged: list[tuple[float, float]] = []
        """Of each start: when it was acknowledged, and for how many seconds that was asked for."""
        self.took_s: list[float] = []
        """Of each execution: from the first request to the answer that it has completed."""
        self.answers: Counter[str] = Counter()
        self.wrong: list[str] = []
        """Answers that no client should see."""

    def run(self) -> None:
        """One client."""
        while not self.over.is_set() or len(self.started) < EXECUTIONS:
            began, key = time.monotonic(), uuid.uuid4().hex
            execution_id = self.start(key)
            with self._lock:
                self.started[key] = execution_id
                self.acknowledged.append((time.monotonic(), time.monotonic() - began))
            # What is acknowledged is there for whoever reads next.
            path = f"/executions/{execution_id}"
            answer = self.ask("GET", path)
            while answer["status"] == "running":
                if time.monotonic() - began > ENDED_WITHIN_S:
                    events = self.ask("GET", f"{path}/events")["events"]
                    pytest.fail(f"{answer} has not ended: {events}; {self._server.workers()}")
                answer = self.ask("GET", f"{path}?wait=10")
            with self._lock:
                self.took_s.append(time.monotonic() - began)

    def start(self, key: str) -> str:
        answer = self.ask("POST", "/executions", {"workflow_id": "steps"}, key)
        return str(answer["execution_id"])

    def ask(self, method: str, path: str, body: Any = None, key: str | None = None) -> Any:
        """Ask until the answer is a 2xx; every other answer than a 503 with Retry-After is noted."""
        headers = {} if key is None else {"Idempotency-Key": key}
        until = time.monotonic() + ANSWERED_WITHIN_S
        while True:
            pause_s = 0.1
            try:
                status, told, answer = self._server.exchange(method, path, body, headers)
            except (OSError, http.client.HTTPException) as error:
                self._note(type(error).__name__, f"{method} {path}: {error!r}")
            else:
                retry_after = told.get("Retry-After")
                is_right = 200 <= status < 300 or (status == 503 and retry_after is not None)
                self._note(str(status), None if is_right else f"{method} {path}: {status} {answer}")
                if 200 <= status < 300:
                    return answer
                pause_s = float(retry_after or pause_s)
            assert time.monotonic() < until, f"{method} {path} is not answered"
            time.sleep(pause_s)

    def _note(self, kind: str, wrong: str | None) -> None:
        with self._lock:
            self.answers[kind] += 1
            if wrong is not None:
                self.wrong.append(wrong)

    def check(self, pool: ThreadPoolExecutor) -> None:
        """Each that was acknowledged exists once, ran once and has completed; only 503s were seen."""
        assert len(set(self.started.values())) == len(self.started)
        wanted = self.present + len(self.started)
        # The total that is shown may be a second old.
        eventually(lambda: self._total() == wanted, within_s=5, what=f"{wanted} executions")
        list(pool.map(self._check, self.started.items()))
        assert not self.wrong, f"{len(self.wrong)} wrong answers: {self.wrong[:10]}"

    def _check(self, started: tuple[str, str]) -> None:
        key, execution_id = started
        events = self.ask("GET", f"/executions/{execution_id}/events")["events"]
        assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
        completed = Counter(event["node_id"] for event in events if event["kind"] == "NodeCompleted")
        assert completed == Counter("abc"), (execution_id, completed)
        ends = [event["sequence"] for event in events if event["kind"] == "WorkflowCompleted"]
        assert ends == [len(events)]
        assert self.start(key) == execution_id, "a repeat made another execution"

    def _total(self) -> int:
        status, answer = self._server.persist("GET", "/executions?limit=1")
        assert status == 200, answer
        return int(answer["total"])

    def stood_still_s(self, troubles: list[float]) -> list[float]:
        """By trouble: the longest time without an acknowledged start from then to the next one."""
        acknowledged = sorted(at for at, _ in self.acknowledged)
        gaps = list(pairwise(acknowledged))
        bounds = pairwise([*troubles, acknowledged[-1] + 1])
        return [
            max((b - a for a, b in gaps if b > since and a < until), default=0.0) for since, until in bounds
        ]


def under_load(server: Server, trouble: Callable[[], list[float]]) -> None:
    """Make trouble while clients work, then check everything and tell the figures."""
    clients = Clients(server)
    with ThreadPoolExecutor(CLIENTS) as pool:
        working = [pool.submit(clients.run) for _ in range(CLIENTS)]
        try:
            troubles = trouble()
        finally:
            clients.over.set()
        for work in working:
            work.result()
        told = (
            f"\n{len(clients.started)} executions, answers {dict(clients.answers)}, writes stood still (s):"
            f" {[round(seconds, 2) for seconds in clients.stood_still_s(troubles)]}, start p95"
            f" {p95(waited for _, waited in clients.acknowledged):.2f} s, completion p95"
            f" {p95(clients.took_s):.2f} s, longest {max(clients.took_s):.2f} s\n"
        )
        sys.stdout.write(told)
        clients.check(pool)


def p95(values: Any) -> float:
    ordered = sorted(values)
    return float(ordered[int(len(ordered) * 0.95)])


def test_the_database_is_restarted(server: Server, postgres: RestartablePostgres) -> None:
    def restart() -> list[float]:
        troubles = []
        for number in range(RESTARTS):
            time.sleep(random.uniform(*PAUSE_S))
            troubles.append(time.monotonic())
            postgres.restart("fast" if number % 2 else "immediate")
        time.sleep(PAUSE_S[0])
        return troubles

    under_load(server, restart)


def test_connections_are_cut_again_and_again(server: Server, postgres: RestartablePostgres) -> None:
    def cut() -> list[float]:
        troubles: list[float] = []
        until = time.monotonic() + CUTTING_S
        while time.monotonic() < until:
            time.sleep(random.uniform(0.5, 1.5))
            troubles.append(time.monotonic())
            postgres.terminate(server.database)
        time.sleep(1)
        return troubles

    under_load(server, cut)


def test_the_database_is_away_for_longer_than_an_owner_may_be_silent(
    server: Server, postgres: RestartablePostgres
) -> None:
    actors = set(server.pids("ray::ExecutionActor"))
    owner = working(server)

    def away() -> list[float]:
        time.sleep(2)
        gone_at = time.monotonic()
        with postgres.away():
            time.sleep(OWNER_GONE_MS / 1_000 + 2)
            os.kill(owner, signal.SIGSTOP)
        try:
            # The spare is heard first, and is not alone for all that.
            time.sleep(3.5)
        finally:
            os.kill(owner, signal.SIGCONT)
        time.sleep(10)
        return [gone_at]

    under_load(server, away)
    assert actors == set(server.pids("ray::ExecutionActor")), f"they were replaced: {server.log()}"
