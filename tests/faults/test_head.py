"""The head's control store (GCS) or the whole head is lost, with Ray's fault tolerance and without."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.faults.load import Load
from tests.faults.promises import check_promises
from tests.fixtures.cluster import RayCluster
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.server import eventually
from tests.fixtures.workflows import ALL, FUNCTIONS

pytestmark = pytest.mark.timeout(600)

LIVE = 40
RESUMED_WITHIN_S = 60.0
AWAY_S = 8.0


@pytest.fixture
def cluster(postgres_server: PostgresServer) -> Iterator[RayCluster]:
    with RayCluster(postgres_server.create_database(migrated=False), {"steps.py": FUNCTIONS}) as made:
        yield made


def begun(cluster: RayCluster, nodes: int) -> None:
    """Start it, and put the runtime on it."""
    cluster.start(nodes)
    cluster.up()
    cluster.await_actors(nodes)


def test_the_head_is_lost_and_started_again(cluster: RayCluster, tmp_path: Path) -> None:
    """Without fault tolerance Ray forgets all it knew. Every execution resumes from the store."""
    begun(cluster, 2)
    for ir in ALL:
        cluster.register(ir)
    load = Load(cluster, tmp_path / "journal")
    parked = [cluster.start_execution("approve", {"n": 1}) for _ in range(5)]
    for execution_id in parked:
        cluster.await_status(execution_id, "paused")
    load.keep(LIVE)
    going = unowned_or_not(cluster, "runnable AND owner IS NOT NULL")
    assert going, "executions run when the head is lost"

    cluster.kill_all()
    began = time.monotonic()
    cluster.start(2)
    cluster.up()

    def resumed() -> bool:
        left = unowned_or_not(
            cluster,
            "status = 'running' AND NOT EXISTS (SELECT 1 FROM executors WHERE incarnation = owner AND"
            " state <> 'dead' AND heartbeat_at > (extract(epoch FROM now()) - 5) * 1000)",
        )
        return not set(left) & set(going)

    eventually(resumed, within_s=RESUMED_WITHIN_S, what="owners of all that ran")
    took = time.monotonic() - began
    sys.stdout.write(f"\nall {len(going)} executions resumed {took:.1f} s after the head was started again\n")
    assert took <= RESUMED_WITHIN_S
    for execution_id in parked:
        status, answer = cluster.persist(
            "POST", f"/executions/{execution_id}/approve", {"decision": "approved"}
        )
        assert status == 200, answer
    load.finish()
    load.check(besides=0)
    assert check_promises(cluster.database).statuses.keys() == {"completed"}
    load.close()


def unowned_or_not(cluster: RayCluster, condition: str) -> list[str]:
    """The ids of executions for which a condition holds."""
    with psycopg.connect(cluster.database) as connection:
        rows = connection.execute(f"SELECT execution_id FROM executions WHERE {condition}".encode())
        return [row[0] for row in rows.fetchall()]


def test_the_control_store_is_away_for_a_while(cluster: RayCluster, tmp_path: Path) -> None:
    """With fault tolerance what runs goes on, requests are answered, and it comes back to what it knew."""
    cluster.environment |= {
        "RAY_gcs_storage": "rocksdb",
        "RAY_gcs_storage_path": str(cluster.folder / "gcs"),
    }
    begun(cluster, 2)
    for ir in ALL:
        cluster.register(ir)
    load = Load(cluster, tmp_path / "journal")
    load.keep(LIVE)
    before = set(cluster.pids("ray::ExecutionActor"))
    cluster.kill_gcs()
    until = time.monotonic() + AWAY_S
    while time.monotonic() < until:
        load.keep(LIVE)
    cluster.start_gcs()
    assert before <= set(cluster.pids("ray::ExecutionActor")), "actors go on without it"
    load.keep(LIVE)
    # It restarts actors again.
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: set(cluster.pids("ray::ExecutionActor")) - before, within_s=60, what="another one")
    load.finish()
    load.check()
    assert check_promises(cluster.database).statuses.keys() == {"completed"}
    load.close()
