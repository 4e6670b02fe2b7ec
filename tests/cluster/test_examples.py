"""Every example runs, through the REST API, and does what its first lines say."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import EXAMPLES
from tests.fixtures.server import Server

pytestmark = pytest.mark.timeout(240)


def start(server: Server, name: str, given: dict[str, Any]) -> str:
    status, answer = server.persist("POST", "/workflows", {"yaml": (EXAMPLES / name).read_text()})
    assert status == 201, answer
    assert "warnings" not in answer
    return server.start_execution(answer["workflow_id"], given)


def run(server: Server, name: str, given: dict[str, Any]) -> dict[str, Any]:
    return server.await_status(start(server, name, given), "completed", "failed", "limit_exceeded")


@pytest.mark.parametrize(("decision", "key"), [("approved", "published"), ("rejected", "outcome")])
def test_approval(server: Server, decision: str, key: str) -> None:
    execution_id = start(server, "approval.yaml", {"topic": "Ray"})
    paused = server.await_status(execution_id, "paused")
    assert paused["waiting_on"][0]["node_id"] == "review"
    path = f"/executions/{execution_id}/approve"
    assert server.persist("POST", path, {"decision": decision, "user_id": "ann"})[0] == 200
    ended = server.await_status(execution_id, "completed", "failed")
    assert ended["status"] == "completed"
    assert ended["state"]["review"]["decision"] == decision
    assert key in ended["state"]


def test_fan_out(server: Server) -> None:
    ended = run(server, "fan_out.yaml", {"topic": "Ray"})
    assert ended["state"]["summary"] == "books on Ray; papers on Ray; news on Ray"


def test_retry_and_recover(server: Server, tmp_path: Path) -> None:
    ended = run(server, "retry.yaml", {"folder": str(tmp_path), "invoice": "2026-001"})
    assert ended["status"] == "completed"
    assert ended["state"]["invoice_data"]["calls"] == 3
    assert ended["state"]["set_aside"] == "2026-001"
    kinds = [event["kind"] for event in server.events(ended["execution_id"])]
    assert kinds.count("RetryScheduled") == 2


def test_retry_without_the_need_to_recover(server: Server, tmp_path: Path) -> None:
    ended = run(server, "retry.yaml", {"folder": str(tmp_path), "invoice": "2026-002", "limit": 200})
    assert ended["state"]["booked"] == 120


def test_loop(server: Server) -> None:
    ended = run(server, "loop.yaml", {"topic": "Ray"})
    assert ended["status"] == "completed"
    assert ended["state"]["round"] == len(ended["state"]["remarks"]) == 2


def test_loop_reaches_its_limit(server: Server) -> None:
    ended = run(server, "loop.yaml", {"topic": "Ray", "threshold": 2})
    assert (ended["status"], ended["error"]) == ("limit_exceeded", "Five rounds were not enough")
    assert ended["state"]["round"] == 5


def test_model(server: Server) -> None:
    ended = run(server, "model.yaml", {"topic": "Ray"})
    assert ended["state"]["title"] == {"title": "A short guide", "words": 420}
    assert "along these lines: 1. What it is" in ended["state"]["draft"]


def test_demo(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "demo.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=220, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("==> kill -9") == 2
    assert "reason=recovered" in done.stdout
    assert "status completed" in done.stdout
