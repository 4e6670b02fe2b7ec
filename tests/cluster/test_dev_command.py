"""``jamjet dev`` and ``jamjet-server`` as their users start and end them, with a real Ray below."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from api.launch.ports import check_port
from api.launch.watchdog import session_members

pytestmark = pytest.mark.timeout(180)

START_S = 90.0
END_S = 4.0
KILLED_S = 10.0

WORKFLOW = {
    "workflow_id": "greet",
    "version": "1.0.0",
    "nodes": {
        "hello": {"kind": {"type": "python_fn", "module": "actors", "function": "hello"}},
        "review": {"kind": {"type": "human_approval", "description": "Is it polite?"}},
    },
    "edges": [{"from": "hello", "to": "review"}, {"from": "review", "to": "end"}],
}
SLOW = {
    "workflow_id": "slow",
    "version": "1.0.0",
    "nodes": {
        "say": {
            "kind": {
                "type": "model",
                "model": "scripted/m",
                "prompt": "x",
                "options": {"latency_ms": 60_000, "responses": ["ok"]},
            }
        }
    },
    "edges": [{"from": "say", "to": "end"}],
}
HELLO = "import api\n\n\ndef hello(state):\n    return {'greeting': api.PREFIX + state['name']}\n"


class Server:
    """One life of a server process, started in a folder."""

    def __init__(self, folder: Path, port: int, script: str, **environment: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.out, self.err = folder / "out.txt", folder / "err.txt"
        self.token: str | None = None
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("JAMJET_", "RAY_"))
        }
        self.environment = {
            **inherited,
            "JAMJET_PORT": str(port),
            "DATABASE_URL": "data/runtime.db",
            **environment,
        }
        self.folder = folder
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                [Path(sys.executable).with_name(script), *(["dev"] if script == "jamjet" else [])],
                cwd=folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def wait_until_ready(self, mark: str) -> None:
        wait_for(lambda: mark in self._said() or self.process.poll() is not None, START_S, "a ready server")
        assert self.process.poll() is None, self._said()
        if match := re.search(r"jj_[0-9a-f]{64}", self.out.read_text()):
            self.token = match[0]

    def get(self, path: str) -> dict[str, Any]:
        request = urllib.request.Request(self.url + path)
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        with urllib.request.urlopen(request, timeout=30) as answer:
            body: dict[str, Any] = json.loads(answer.read())
        return body

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [Path(sys.executable).with_name("jamjet"), *arguments, "--url", self.url],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def session(self) -> int:
        """The session of everything that Ray runs: the one child that leads a session with many members."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return max((int(child) for child in children), key=lambda child: len(session_members(child)))

    def end(self, how: signal.Signals) -> tuple[int, float]:
        """Send a signal; the exit code, and the seconds until nothing is left."""
        session, began = self.session(), time.monotonic()
        self.process.send_signal(how)
        code = self.process.wait(timeout=30)
        wait_for(lambda: not session_members(session), KILLED_S, "the end of every process")
        return code, time.monotonic() - began

    def _said(self) -> str:
        return self.out.read_text() + self.err.read_text()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder, whose modules are called as ours are."""
    (tmp_path / "actors.py").write_text(HELLO)
    (tmp_path / "api").mkdir()
    (tmp_path / "api" / "__init__.py").write_text("PREFIX = 'Hello, '\n")
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime" / "__init__.py").write_text("raise RuntimeError('nobody asked for me')\n")
    (tmp_path / "greet.json").write_text(json.dumps(WORKFLOW))
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def begin(port: int, script: str = "jamjet", mark: str = "token", **environment: str) -> Server:
        server = Server(folder, port, script, **environment)
        servers.append(server)
        server.wait_until_ready(mark)
        return server

    yield begin
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


def test_a_life_of_dev(start: Callable[..., Server]) -> None:
    port = free_port()
    server = start(port)

    assert server.get("/health/ready")
    assert "active" in {worker["status"] for worker in server.get("/workers")["workers"]}
    assert urllib.request.urlopen(f"{server.url}/docs", timeout=10).status == 200
    assert open_to_others(server.session()) == []

    started = server.command("run", "greet.json", "--input", '{"name": "Ada"}', "--no-wait")
    assert started.returncode == 0, started.stderr
    execution_id = started.stdout.strip()
    wait_for(lambda: server.get(f"/executions/{execution_id}")["status"] == "paused", 30, "the approval")

    # Killed without a word, it takes everything along, and the next start finds all that was acknowledged.
    code, seconds = server.end(signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert seconds < KILLED_S
    again = start(port)
    assert again.token == server.token

    assert again.command("approve", execution_id, "--decision", "approved").returncode == 0
    followed = again.command("events", execution_id, "--follow", "--timeout", "30")
    assert followed.returncode == 0, followed.stderr
    assert again.get(f"/executions/{execution_id}")["state"]["greeting"] == "Hello, Ada"

    code, seconds = again.end(signal.SIGINT)
    assert code == 0
    assert seconds < END_S
    check_port("127.0.0.1", port)


def test_a_life_of_the_server(start: Callable[..., Server], folder: Path) -> None:
    """The command takes variables only, loses a replica, and is ended while requests are under way."""
    port = free_port()
    server = start(
        free_port(), "jamjet-server", '"event":"ready"', JAMJET_PORT="", PORT=str(port), JAMJET_DEV_MODE="1"
    )
    server.url = f"http://127.0.0.1:{port}"
    assert server.get("/health")["status"] == "ok"
    assert "active" in {worker["status"] for worker in server.get("/workers")["workers"]}
    assert all(json.loads(line)["event"] for line in server.err.read_text().splitlines())
    assert_a_killed_replica_is_seen_as_json_503_at_most(server)
    assert_requests_under_way_are_answered_at_its_end(server, folder)


def assert_a_killed_replica_is_seen_as_json_503_at_most(server: Server) -> None:
    [replica] = [pid for pid in session_members(server.session()) if "ServeReplica" in title(pid)]

    os.kill(replica, signal.SIGKILL)
    answers = []
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        answers.append(health(server.url))
        if answers[-1][0] == 200 and new_replica(server, replica):
            break

    assert answers[-1][0] == 200
    assert {status for status, _, _ in answers} <= {200, 503}
    assert {kind for _, kind, _ in answers} == {"application/json"}
    assert all(body["code"] == "unavailable" for status, _, body in answers if status == 503)


def assert_requests_under_way_are_answered_at_its_end(server: Server, folder: Path) -> None:
    """Those who wait for an execution or follow it hear at once how it stands."""
    (folder / "slow.json").write_text(json.dumps(SLOW))
    started = server.command("run", "slow.json", "--no-wait")
    assert started.returncode == 0, started.stderr
    path = f"/executions/{started.stdout.strip()}"
    with following(server, path) as stream, ThreadPoolExecutor() as pool:
        assert b"event: NodeStarted\n" in stream
        polls = [pool.submit(server.get, f"{path}?wait=30") for _ in range(3)]
        polls += [pool.submit(server.get, f"{path}/events?after=100&wait=30") for _ in range(2)]
        wait_for(lambda: connections(server) > len(polls), 10, "all the requests")
        code, seconds = server.end(signal.SIGTERM)
        answers = [poll.result() for poll in polls]
        assert b"event: end" not in stream.read(), "it ends in order, and its client may go on elsewhere"
    assert code == 0
    assert seconds < END_S
    assert {answer["status"] for answer in answers[:3]} == {"running"}
    assert answers[3:] == [{"events": []}] * 2


@contextlib.contextmanager
def following(server: Server, path: str) -> Iterator[http.client.HTTPResponse]:
    """An execution's event stream. Reading it to its end fails if it was cut off."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", f"{path}/events/stream")
        with connection.getresponse() as answer:
            yield answer


def connections(server: Server) -> int:
    """How many clients are connected."""
    port = f"{int(server.url.rpartition(':')[2]):04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port}") and row[3] == "01" for row in rows)


def health(url: str) -> tuple[int, str, Any]:
    while True:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=30) as answer:
                return answer.status, answer.headers.get_content_type(), json.loads(answer.read())
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.headers.get_content_type(), json.loads(refused.read())
        except OSError:  # the connection broke with the replica: nothing was answered
            continue


def new_replica(server: Server, old: int) -> bool:
    found = {pid for pid in session_members(server.session()) if "ServeReplica" in title(pid)}
    return bool(found - {old})


def title(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    return ""


def open_to_others(session: int) -> list[str]:
    """The sockets of a session on which another machine could call."""
    inodes = {inode for pid in session_members(session) for inode in socket_inodes(pid)}
    return [
        f"{name} {row[1]}"
        for name in ("tcp", "tcp6")
        for row in (line.split() for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:])
        if row[3] == "0A" and row[9] in inodes and not is_loopback(row[1].partition(":")[0])
    ]


def is_loopback(address: str) -> bool:
    """An address as /proc/net shows it: 32-bit words in hexadecimal, in the machine's byte order."""
    if len(address) == 8:
        return bytes.fromhex(address)[::-1][0] == 127
    return address in ("00000000000000000000000001000000", "0000000000000000FFFF00000100007F")


def socket_inodes(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if match := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(link)):
                    found.add(match[1])
    return found


def wait_for(holds: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"no {what} within {timeout_s} s"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
