"""A stampede against ``max_concurrent_executions`` while owners are killed: never more at once, none lost."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.faults.test_kills import kill_one, working
from tests.fixtures.server import Server, eventually

pytestmark = pytest.mark.timeout(400)

STARTS, SLOTS, CLIENTS = 500, 10, 16
KILLS = ("ExecutionActor", "NodeWorker", "ExecutionActor", "Supervisor")
BEGUN = "tenant_id = 'default' AND status IN ('running', 'paused', 'suspended')"


class Watch:
    """Triggers in the database that keep the highest number of executions that had begun at once."""

    def __init__(self, server: Server) -> None:
        self._url = server.database
        self._is_postgres = self._url.startswith("postgres")

    def __enter__(self) -> "Watch":
        self._run("CREATE TABLE most (seen INTEGER)")
        self._run("INSERT INTO most VALUES (0)")
        count = f"SELECT count(*) FROM executions WHERE {BEGUN}"
        if self._is_postgres:
            self._run(
                "CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                f" UPDATE most SET seen = ({count}) WHERE seen < ({count}); RETURN NULL; END $$"
            )
            self._run(
                "CREATE TRIGGER watch AFTER INSERT OR UPDATE ON executions"
                " FOR EACH ROW EXECUTE FUNCTION watch()"
            )
            return self
        for event in ("INSERT", "UPDATE"):
            self._run(
                f"CREATE TRIGGER watch_{event} AFTER {event} ON executions BEGIN"
                f" UPDATE most SET seen = max(seen, ({count})); END"
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_postgres:
            self._run("DROP FUNCTION watch CASCADE")
        else:
            self._run("DROP TRIGGER watch_INSERT")
            self._run("DROP TRIGGER watch_UPDATE")
        self._run("DROP TABLE most")

    @property
    def most(self) -> int:
        return int(self._run("SELECT seen FROM most")[0][0])

    def _run(self, statement: str) -> list[Any]:
        if self._is_postgres:
            with psycopg.connect(self._url, autocommit=True) as connection:
                cursor = connection.execute(statement.encode())
                return cursor.fetchall() if cursor.description else []
        connection = sqlite3.connect(self._url, isolation_level=None, timeout=10)
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()


@pytest.fixture
def limited(server: Server) -> Iterator[Server]:
    """The server, where a tenant may have only so many executions at once."""
    set_limit(server, SLOTS)
    yield server
    set_limit(server, None)


def set_limit(server: Server, slots: int | None) -> None:
    limits = {"max_concurrent_executions": slots}
    status, answer = server.persist("PUT", "/tenants/default", {"limits": limits})
    assert status == 200, answer


def count(server: Server, status: str) -> int:
    code, answer = server.persist("GET", f"/executions?status={status}&limit=1")
    assert code == 200, answer
    return int(answer["total"])


def completed(server: Server) -> set[str]:
    found: set[str] = set()
    for offset in range(0, count(server, "completed"), 500):
        path = f"/executions?status=completed&limit=500&offset={offset}"
        code, answer = server.persist("GET", path)
        assert code == 200, answer
        found |= {one["execution_id"] for one in answer["executions"]}
    return found


def test_a_stampede_runs_no_more_at_once_than_it_may_whatever_is_killed(limited: Server) -> None:
    before = completed(limited)
    with Watch(limited) as watch:
        started = stampede(limited)
        eventually(
            lambda: count(limited, "running") == 0, within_s=180, what="the end of all that was started"
        )
        most = watch.most
    assert len(set(started)) == len(started)
    _, answer = limited.persist("GET", "/executions?status=failed")
    assert answer["executions"] == []
    assert completed(limited) - before == set(started), "what was acknowledged, and nothing else"
    assert SLOTS // 2 < most <= SLOTS
    assert_log_is_whole(limited, entries_min=len(started) * 5)


def stampede(server: Server) -> list[str]:
    """Start many at once while processes are killed; returns the ids of those that were acknowledged."""
    told: Counter[int] = Counter()
    started: list[str] = []
    lock = threading.Lock()

    def start(number: int) -> None:
        body = {"workflow_id": "three", "input": {"n": number}, "queue": number % 5 != 0}
        status, answer = server.persist("POST", "/executions", body, key=uuid.uuid4().hex, within_s=90)
        with lock:
            told[status] += 1
            if status == 201:
                started.append(answer["execution_id"])

    with ThreadPoolExecutor(CLIENTS) as pool:
        starts = [pool.submit(start, number) for number in range(STARTS)]
        for kind in KILLS:
            if kind == "ExecutionActor":
                os.kill(working(server), signal.SIGKILL)
            else:
                kill_one(server, kind)
        for under_way in starts:
            under_way.result()

    assert set(told) <= {201, 429}, told
    assert told[201] >= STARTS * 4 // 5, "whoever is ready to wait is not refused"
    return started


def assert_log_is_whole(server: Server, entries_min: int) -> None:
    """What the killed processes wrote verifies too, sealed while they died, by the command itself."""
    jamjet = str(Path(sys.executable).with_name("jamjet"))
    command = [jamjet, "audit", "verify", "--db", server.database, "--output", "json"]
    done = subprocess.run(
        command, cwd=server.folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    (report,) = json.loads(done.stdout)["logs"]
    assert report["entries"] >= entries_min
    assert report["seals"] > 1
    if not server.database.startswith("postgres"):
        assert report["unsigned"] == 0
