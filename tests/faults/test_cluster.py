"""Three Ray nodes on PostgreSQL, under load through REST, while what they consist of is killed or stopped.

After each: everything that was acknowledged is there and ends, once (``Load.check``), and the promises
hold of every execution in the database (``check_promises``).
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psycopg
import pytest

from tests.faults.load import Load
from tests.faults.lost_node import held_by, stood_still, three_steps
from tests.faults.promises import check_promises
from tests.fixtures.cluster import Node, RayCluster
from tests.fixtures.long import LONG
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.server import eventually
from tests.fixtures.workflows import ALL, FUNCTIONS, chain

pytestmark = pytest.mark.timeout(900 if LONG else 300)
LONG_ONLY = pytest.mark.skipif(not LONG, reason="in `make faults` only: minutes in all")

NODES = 3
ROUNDS, LIVE = (6, 120) if LONG else (1, 40)
KINDS = ("ExecutionActor", "NodeWorker", "Supervisor", "AgentRegistry", "ServeReplica", "HAProxyManager")
MANY = 1_000 if LONG else 300
CLIENTS = 32
POLLS = 12
TAKEN_OVER_WITHIN_S = 15.0 if LONG else 60.0
RESUMED_WITHIN_S = 60.0 if LONG else 180.0
"""The promised times are for `make faults`; `make test` has patience with a slow machine, and prints them."""
AWAY_S = 8.0
NOT_DRIVEN = """
status = 'running' AND NOT EXISTS (
    SELECT 1 FROM executors
    WHERE incarnation = owner AND state <> 'dead'
    AND heartbeat_at > {since}
)
"""
"""With the time, in ms, after which an owner must have been heard."""
ANSWERED_AFTER_S = 0.3
CALL = {"type": "http", "method": "POST", "url": "{{ state.url }}", "body": {}}
CALLS = chain("call", **{f"c{number}": {"kind": CALL} for number in range(4)})


@pytest.fixture(scope="module")
def cluster(postgres_server: PostgresServer) -> Iterator[RayCluster]:
    url = postgres_server.create_database(migrated=False)
    with RayCluster(url, {"steps.py": FUNCTIONS}) as running:
        # Ray's fault tolerance: its control store (GCS) finds what it knew when it starts again.
        running.environment |= {
            "RAY_gcs_storage": "rocksdb",
            "RAY_gcs_storage_path": str(running.folder / "gcs"),
        }
        running.start(NODES)
        running.up()
        running.await_actors(NODES)
        for ir in (*ALL, CALLS):
            running.register(ir)
        yield running


@pytest.fixture
def load(cluster: RayCluster, tmp_path: Path) -> Iterator[Load]:
    made = Load(cluster, tmp_path / "journal")
    yield made
    made.close()


class Counted(ThreadingHTTPServer):
    """A server that counts calls by their Idempotency-Key, and takes its time to answer."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Counting)
        self.calls: Counter[str] = Counter()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class _Counting(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        assert isinstance(self.server, Counted)
        self.server.calls[self.headers["Idempotency-Key"]] += 1
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        time.sleep(ANSWERED_AFTER_S)
        with contextlib.suppress(ConnectionError):
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def counted() -> Iterator[Counted]:
    with Counted() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def settle(cluster: RayCluster, load: Load, *, besides: int = 0) -> None:
    """Let everything end, and look at all of it."""
    load.keep(LIVE)
    load.finish()
    load.check(besides=besides)
    seen = check_promises(cluster.database)
    assert seen.statuses.keys() <= {"completed"}
    assert seen.timers > 0
    assert seen.decisions > 0


def test_requests_are_answered_on_every_node(cluster: RayCluster) -> None:
    def all_answer() -> bool:
        return [node["proxy"] for node in cluster.cluster()["nodes"]] == ["healthy"] * NODES

    eventually(all_answer, within_s=60, what="a proxy on each node")


@pytest.mark.parametrize("kinds", [(kind,) for kind in KINDS] if LONG else [KINDS], ids="-".join)
def test_processes_are_killed(cluster: RayCluster, load: Load, kinds: tuple[str, ...]) -> None:
    """Kind by kind in `make faults`, and one of each at once in `make test`."""
    for number in range(ROUNDS):
        load.keep(LIVE)
        kill_one_each(cluster, kinds, number)
    settle(cluster, load)


def kill_one_each(cluster: RayCluster, kinds: tuple[str, ...], number: int = 0) -> None:
    """Kill one process of each kind, and wait until others have taken their places."""
    titles = [f"ray::{kind}" for kind in kinds]
    before = {title: eventually(lambda title=title: cluster.pids(title), what=title) for title in titles}
    for pids in before.values():
        os.kill(pids[number % len(pids)], signal.SIGKILL)
    for title, pids in before.items():

        def is_replaced(title: str = title, pids: list[int] = pids) -> bool:
            return bool(set(cluster.pids(title)) - set(pids))

        eventually(is_replaced, within_s=60, what=f"another {title}")


def test_two_supervisors_at_once(cluster: RayCluster, load: Load) -> None:
    other = (
        "import ray; from actors import options; from actors.settings import load_settings;"
        " from actors.supervisor import Supervisor;"
        f" ray.init('{cluster.address}', namespace='jamjet', log_to_driver=False, logging_level='ERROR');"
        " made = options.supervisor('supervisor-2', 'jamjet');"
        " actor = options.remote(Supervisor).options(**made).remote(load_settings().as_dict());"
        " ray.get(actor.describe.remote()); print('ready', flush=True); input(); ray.kill(actor)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", other],
        env=cluster.environment,
        cwd=cluster.folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        assert len(cluster.pids("ray::Supervisor")) == 2
        load.keep(LIVE)
        os.kill(max(cluster.pids("ray::ExecutionActor")), signal.SIGKILL)
        settle(cluster, load)
        process.stdin.write("\n")
        process.stdin.close()


def test_a_node_stalls_and_goes_on(cluster: RayCluster, load: Load, counted: Counted) -> None:
    """Its executions are taken over; when it goes on, it commits nothing, and sends one late call at most."""
    load.keep(LIVE)
    node = cluster.nodes[-1]
    calling: list[str] = []

    def calling_here() -> set[str]:
        """Those on the node, once there are some: where a start goes is not for a client to say."""
        calling.extend(cluster.start_execution("call", {"url": counted.url}) for _ in range(12))
        return set(held_by(cluster.database, node.id)[1]) & set(calling)

    here = eventually(calling_here, what="executions on the node")
    stopped = cluster.pids_of(node)
    # Its HAProxy, stopped too, shares the port with the others': a client that hears nothing asks again.
    cluster.timeout_s = 4.0
    try:
        stopped_at = time.monotonic()
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        eventually(
            lambda: not here & set(held_by(cluster.database, node.id)[1]),
            within_s=TAKEN_OVER_WITHIN_S,
            what="other owners",
        )
        sys.stdout.write(f"\ntaken over {time.monotonic() - stopped_at:.1f} s after the node was stopped\n")
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        cluster.timeout_s = 65.0
    for execution_id in calling:
        cluster.await_status(execution_id, "completed")
    settle(cluster, load, besides=len(calling))
    for execution_id in calling:
        started = Counter(e["node_id"] for e in cluster.events(execution_id) if e["kind"] == "NodeStarted")
        for node_id, attempts in started.items():
            calls = counted.calls[f"{execution_id}:{node_id}:1"]
            assert 1 <= calls <= attempts + 1, f"{execution_id} {node_id}: {calls} calls, {attempts} attempts"
    assert not {key for key in counted.calls if key.split(":")[0] not in calling}, "calls under other keys"


def test_a_node_is_lost(cluster: RayCluster) -> None:
    """Executions of three 200 ms steps, a third of them on the node."""
    cluster.register(three_steps())
    lost = cluster.nodes[-1]
    with ThreadPoolExecutor(CLIENTS) as pool:
        started = [pool.submit(cluster.start_execution, "three-slow") for _ in range(MANY)]
        wait(started[: MANY // 3])
        killed_at, held = eventually(lambda: some_held_by(cluster, lost), what="executions on the node")
        cluster.kill_node(lost)
        ids = [one.result() for one in started]
    assert len(set(ids)) == MANY
    eventually(
        lambda: cluster.persist("GET", "/executions?status=running")[1]["total"] == 0,
        within_s=120,
        what="the end of all",
    )
    seen = check_promises(cluster.database)
    assert seen.statuses.keys() == {"completed"}
    sys.stdout.write(f"\n{MANY} executions, a node lost: {stood_still(cluster.database, held, killed_at)}\n")


def some_held_by(cluster: RayCluster, node: Node) -> tuple[int, list[str]] | None:
    """The database's time, and what a node holds; None: nothing."""
    at, held = held_by(cluster.database, node.id)
    return (at, held) if held else None


@LONG_ONLY
def test_a_node_joins_and_takes_new_work(cluster: RayCluster, load: Load) -> None:
    assert len(cluster.nodes) == NODES - 1
    load.keep(LIVE)
    began = time.monotonic()
    node = cluster.add_node()
    joined = time.monotonic()
    while not held_by(cluster.database, node.id)[1]:
        load.keep(LIVE)
        assert time.monotonic() - joined < 60, "the new node takes no work"
    took = time.monotonic() - joined
    sys.stdout.write(f"\na node joined within {joined - began:.1f} s and took work {took:.1f} s later\n")
    settle(cluster, load)


@LONG_ONLY
def test_a_node_drains(cluster: RayCluster, load: Load) -> None:
    """Its actors end what they run and leave; others take the new work, and no attempt is made again."""
    node = cluster.add_node()
    cluster.await_actors(NODES + 1)

    def has_work() -> object:
        load.keep(LIVE)
        return some_held_by(cluster, node)

    eventually(has_work, what="executions on the node")
    ended = cluster.command(
        *("ray", "drain-node", "--address", cluster.address),
        *("--node-id", node.id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"),
        *("--reason-message", "test", "--deadline-remaining-seconds", "60"),
    )
    assert ended.returncode == 0, ended.stderr

    def is_left() -> bool:
        load.keep(LIVE)
        return not any(worker["node"] == node.id for worker in cluster.workers())

    eventually(is_left, within_s=50, what="its actors' end")
    cluster.kill_node(node)
    settle(cluster, load)


@LONG_ONLY
def test_other_settings_are_rolled_out_while_requests_are_answered(
    cluster: RayCluster, load: Load, tmp_path: Path
) -> None:
    load.keep(LIVE)
    before = {worker["pid"] for worker in cluster.workers()}
    seen: Counter[str] = Counter()
    ended = threading.Event()
    gate = tmp_path / "gate"
    held = cluster.start_execution("gated", {"gate": str(gate)})

    def ask(path: str) -> None:
        while not ended.is_set():
            try:
                seen[str(cluster.request("GET", path)[0])] += 1
            except OSError as error:
                seen[repr(error)] += 1

    with ThreadPoolExecutor(4) as pool:
        for path in ("/executions?limit=1", f"/executions/{held}?wait=60") * 2:
            pool.submit(ask, path)
        try:
            cluster.up(JAMJET_LIVE_MAX="4999")

            def all_renewed() -> bool:
                load.keep(LIVE)
                workers = cluster.workers()
                return not before & {w["pid"] for w in workers} and {w["capacity"] for w in workers} == {4999}

            eventually(all_renewed, within_s=180, what="actors with the new settings")
        finally:
            ended.set()
            gate.touch()
    sys.stdout.write(f"\nanswers while all was replaced: {dict(seen)}\n")
    assert seen.keys() == {"200"}
    settle(cluster, load, besides=1)


@LONG_ONLY
def test_it_is_taken_away_and_put_back(cluster: RayCluster, load: Load) -> None:
    load.keep(LIVE)
    assert "actors ended" in cluster.down("--within", "2")
    assert "nothing of ours was running" in cluster.down()
    assert not cluster.pids("ray::ExecutionActor")
    cluster.up()
    cluster.up()
    cluster.await_actors(NODES)
    settle(cluster, load)


@LONG_ONLY
def test_the_control_store_is_away_for_a_while(cluster: RayCluster, load: Load) -> None:
    """What runs goes on, requests are answered, and it comes back to what it knew."""
    load.keep(LIVE)
    before = set(cluster.pids("ray::ExecutionActor"))
    cluster.kill_gcs()
    until = time.monotonic() + AWAY_S
    while time.monotonic() < until:
        load.keep(LIVE)
    cluster.start_gcs()
    assert before <= set(cluster.pids("ray::ExecutionActor")), "actors go on without it"
    load.keep(LIVE)
    kill_one_each(cluster, ("ExecutionActor",))
    settle(cluster, load)


def test_the_head_is_lost_and_started_again(cluster: RayCluster, load: Load, tmp_path: Path) -> None:
    """As without fault tolerance: Ray has forgotten everything. Every execution resumes from the store."""
    parked = [cluster.start_execution("approve", {"n": 1}) for _ in range(5)]
    for execution_id in parked:
        cluster.await_status(execution_id, "paused")
    load.keep(LIVE)
    going = set(those_where(cluster, "runnable AND owner IS NOT NULL"))
    assert going, "executions run when the head is lost"

    cluster.kill_all()
    shutil.rmtree(cluster.folder / "gcs")
    not_driven = NOT_DRIVEN.format(since=time.time() * 1_000)
    began = time.monotonic()
    cluster.start(NODES)
    with ThreadPoolExecutor() as pool:
        put_back = pool.submit(cluster.up)
        eventually(
            lambda: not going & set(those_where(cluster, not_driven)),
            within_s=RESUMED_WITHIN_S,
            what="owners of all that ran",
        )
        resumed_s = time.monotonic() - began
        put_back.result()
    served_s = time.monotonic() - began
    sys.stdout.write(
        f"\nall {len(going)} executions resumed {resumed_s:.1f} s after the head was started again,"
        f" and requests were served after {served_s:.1f} s\n"
    )
    for execution_id in parked:
        path = f"/executions/{execution_id}/approve"
        status, answer = cluster.persist("POST", path, {"decision": "approved"})
        assert status == 200, answer
    settle(cluster, load, besides=len(parked))
    held = cluster.start_execution("gated", {"gate": str(tmp_path / "gate")})
    with ThreadPoolExecutor(POLLS) as pool:
        polls = [pool.submit(cluster.request, "GET", f"/executions/{held}?wait=60") for _ in range(POLLS)]
        assert not wait(polls, timeout=1).done
        assert "actors ended" in cluster.down("--within", "1")
        answers = [(status, answer["status"]) for status, answer in (poll.result() for poll in polls)]
    assert answers == [(200, "running")] * len(polls), "who waits is answered"
    assert "nothing of ours was running" in cluster.down()
    assert not cluster.pids("ray::ExecutionActor")


def those_where(cluster: RayCluster, condition: str) -> list[str]:
    """The ids of executions for which a condition holds."""
    with psycopg.connect(cluster.database) as connection:
        rows = connection.execute(f"SELECT execution_id FROM executions WHERE {condition}".encode())
        return [row[0] for row in rows.fetchall()]
