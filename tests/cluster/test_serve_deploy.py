"""``serve deploy deploy/serve.yaml``, Ray's own command, against a cluster with its dashboard."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.conftest import NewDatabase
from tests.fixtures.cluster import RayCluster
from tests.fixtures.server import eventually, free_port
from tests.fixtures.workflows import FUNCTIONS, THREE

pytestmark = pytest.mark.timeout(240)

FILE = Path(__file__).parents[2] / "deploy" / "serve.yaml"


@pytest.fixture
def cluster(new_database: NewDatabase, tmp_path: Path) -> Iterator[RayCluster]:
    """One node, with nothing of ours on it."""
    with RayCluster(new_database() or str(tmp_path / "runtime.db"), {"steps.py": FUNCTIONS}) as running:
        yield running


def test_the_file_puts_the_runtime_on_a_cluster(cluster: RayCluster, tmp_path: Path) -> None:
    dashboard_port = free_port()
    cluster.start(1, include_dashboard=True, dashboard_host=cluster.host, dashboard_port=dashboard_port)
    dashboard = f"http://{cluster.host}:{dashboard_port}"
    # The tests' nodes share one address, and its ports are not those of a real installation.
    config = yaml.safe_load(FILE.read_text())
    config["http_options"] |= {"host": cluster.host, "port": cluster.port}
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump(config))

    def is_deployed() -> bool:
        return cluster.command("serve", "deploy", str(file), "--address", dashboard).returncode == 0

    eventually(is_deployed, within_s=60, what="the dashboard")
    eventually(lambda: is_ready(cluster), within_s=120, what="a ready API")
    cluster.log_in()
    cluster.register(THREE)
    execution_id = cluster.start_execution("three", {"n": 1})
    assert cluster.await_status(execution_id, "completed")["state"]["n"] == 4

    status = yaml.safe_load(cluster.command("serve", "status", "--address", dashboard).stdout)
    assert status["applications"]["jamjet"]["status"] == "RUNNING"
    url = f"http://{cluster.host}:{cluster.port}"
    looked = cluster.jamjet("status", "--url", url, "--token", cluster.token)
    assert looked.returncode == 0, looked.stderr


def is_ready(cluster: RayCluster) -> bool:
    try:
        return cluster.request("GET", "/health/ready")[0] == 200
    except OSError:
        return False
