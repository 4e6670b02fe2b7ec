"""A node of three is lost while executions run: its actors, and the raylet that made them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.conftest import LONG
from tests.fixtures.postgres import PostgresServer

pytestmark = pytest.mark.timeout(300)

EXECUTIONS = 1_000 if LONG else 300


def test_a_node_is_lost_and_all_executions_complete(postgres_server: PostgresServer) -> None:
    url = postgres_server.create_database(migrated=False)
    command = [sys.executable, "-m", "tests.faults.node_loss", url, str(EXECUTIONS)]
    ended = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=280, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3_000:]
    told = json.loads(ended.stdout.strip().splitlines()[-1])
    assert told["completed"] == EXECUTIONS
    assert told["held"] > 0, "the lost node had work"
    assert told["twice"] == []
