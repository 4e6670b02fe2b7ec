"""Executions that run while something is killed, and what must hold of each of them afterwards."""

import uuid
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.fixtures.server import Api, eventually

CLIENTS = 8
LATE_S = 1.0
"""How much earlier than its commit a completion may be dated: a turn is dated when it is decided."""


FUNCTIONS = {
    "record": {"one", "three", "four"},
    "record-approved": {"one", "two"},
    "record-late": {"one", "two"},
}
"""By workflow: the nodes whose function leaves a line in the journal."""
WORKFLOWS = ("record", "record-late", "record", "record-approved")
"""Of four executions in a row: the second waits for a timer, the last for an approval."""


class Load:
    """Starts executions, each under an Idempotency-Key of its own, and remembers what it was told."""

    def __init__(self, server: Api, journal: Path) -> None:
        self._server = server
        self._journal = journal
        self._pool = ThreadPoolExecutor(CLIENTS)
        self.started: dict[str, str] = {}
        """By key: the id in the answer."""
        self._present = self._total()
        """Executions of others, from before."""

    def keep(self, live: int) -> None:
        """Start as many as are missing for ``live`` executions to be open."""
        for key, execution_id in self._pool.map(self._start, range(live - self._total("?status=running"))):
            self.started[key] = execution_id

    def _start(self, number: int) -> tuple[str, str]:
        """Start one; one that waits for an approval gets it at once."""
        key = uuid.uuid4().hex
        execution_id = self._post(key, number)
        if number % 4 == 3:
            self._approve(execution_id)
        return key, execution_id

    def _post(self, key: str, number: int) -> str:
        body = {
            "workflow_id": WORKFLOWS[number % 4],
            "input": {"journal": str(self._journal), "number": number % 4},
        }
        status, answer = self._server.persist("POST", "/executions", body, key=key, within_s=90)
        assert status == 201, answer
        execution_id = str(answer["execution_id"])
        # G11: whoever is asked next knows of it.
        assert self._server.execution(execution_id)["workflow_id"] == body["workflow_id"]
        return execution_id

    def _approve(self, execution_id: str) -> None:
        self._server.await_status(execution_id, "paused", within_s=90)
        path = f"/executions/{execution_id}/approve"
        status, answer = self._server.persist("POST", path, {"decision": "approved"}, within_s=90)
        assert status == 200, answer
        waits = self._server.execution(execution_id)["waiting_on"]
        assert "approval" not in [wait["type"] for wait in waits], "G11: an old pause was read"

    def finish(self, within_s: float = 120) -> None:
        """Wait until everything has ended."""

        def is_over() -> bool:
            return self._total("?status=running") + self._total("?status=paused") == 0

        eventually(is_over, within_s=within_s, what="the end of all executions")

    def check(self, *, besides: int = 0) -> None:
        """What was acknowledged exists once, is completed, has a whole log, and ran no visit again.

        Args:
            besides: how many executions others have started meanwhile.
        """
        assert len(set(self.started.values())) == len(self.started)
        assert self._total() == self._present + len(self.started) + besides
        runs = self._runs()
        for execution_id in self._pool.map(lambda e: self._check(e, runs), self.started.values()):
            runs.pop(execution_id, None)
        assert not runs, "functions ran for executions that nobody started"
        key, execution_id = next(iter(self.started.items()))
        number = self._server.execution(execution_id)["initial_input"]["number"]
        assert self._post(key, number) == execution_id, "a repeat made another execution"

    def _check(self, execution_id: str, runs: dict[str, list[tuple[str, float]]]) -> str:
        execution = self._server.execution(execution_id)
        assert execution["status"] == "completed", execution
        events = self._server.events(execution_id)
        assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
        assert events[-1]["kind"] == "WorkflowCompleted"
        completed = _completions(events)
        ran = {key.split(":")[1] for key, _ in runs[execution_id]}
        assert ran == FUNCTIONS[execution["workflow_id"]], "a step completed without having run"
        for key, at in runs[execution_id]:
            assert at <= completed[key.split(":")[1]] + LATE_S, f"{key} ran after it had completed"
        return execution_id

    def _runs(self) -> dict[str, list[tuple[str, float]]]:
        """By execution: the key and the time of every run of a function."""
        runs: dict[str, list[tuple[str, float]]] = defaultdict(list)
        for line in self._journal.read_text().splitlines():
            key, at = line.split()
            runs[key.split(":")[0]].append((key, float(at)))
        return runs

    def _total(self, query: str = "") -> int:
        status, answer = self._server.persist("GET", f"/executions{query}")
        assert status == 200, answer
        return int(answer["total"])

    def close(self) -> None:
        self._pool.shutdown()


def _completions(events: list[dict[str, Any]]) -> dict[str, float]:
    """By node: when its one visit completed; no attempt may follow."""
    completed: dict[str, float] = {}
    for event in events:
        node_id = event["node_id"]
        if event["kind"] == "NodeStarted":
            assert node_id not in completed, f"{node_id} starts after it has completed"
        if event["kind"] == "NodeCompleted":
            assert node_id not in completed, f"{node_id} completes twice"
            completed[node_id] = datetime.fromisoformat(event["created_at"]).timestamp()
    return completed
