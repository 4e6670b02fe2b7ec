"""What ``make demo`` shows: a workflow on Ray that survives two kills and waits for a person between them.

It starts ``jamjet dev`` in a temporary folder, and talks to it as any client does: through the
REST API. First the process that runs the execution is killed with ``kill -9`` in mid-step; then, while
the execution waits for its approval, the whole server. It ends with 0 if the execution completed.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from api.cli.client import ApiClient
from api.cli.follow import describe, follow

HERE = Path(__file__).resolve().parent
FILES = ("demo.yaml", "flows.py")
READY_S = 120
EVENTS_S = 60
LINE_MAX = 160
"""Of the server's output: Ray explains at length that a process was killed."""


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="jamjet-demo-"))
    for name in FILES:
        shutil.copy(HERE / name, folder)
    port = free_port()
    try:
        with dev_server(folder, port) as server:
            execution_id = run_until_it_waits(server)
            say("kill -9 of the whole server, while the execution waits for a person")
            server.kill()
        with dev_server(folder, port) as server:
            return approve_and_finish(server, execution_id)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_until_it_waits(server: "DevServer") -> str:
    """Start the workflow, kill the process that runs it in mid-step, and follow it to its approval."""
    definition = (server.folder / "demo.yaml").read_text()
    with ApiClient(server.url, server.token) as api:
        say("POST /workflows with examples/demo.yaml")
        workflow = api.post("/workflows", {"yaml": definition})
        say(f"POST /executions of {workflow['workflow_id']} {workflow['version']}")
        started = api.post("/executions", {"workflow_id": "demo", "input": {"topic": "durable workflows"}})
        execution_id: str = started["execution_id"]
        has_killed = False
        for event in follow(api, execution_id, timeout_s=EVENTS_S):
            print(describe(event), flush=True)
            if event["kind"] == "NodeCompleted" and event["node_id"] == "books" and not has_killed:
                actor = api.get(f"/executions/{execution_id}")["actor"]
                say(f"kill -9 {actor['pid']}: the actor {actor['name']}, with two steps running")
                os.kill(actor["pid"], signal.SIGKILL)
                has_killed = True
            if event["kind"] == "InterruptRaised":
                break
        waiting = api.get(f"/executions/{execution_id}")
        say(f"status {waiting['status']}; no process holds it, it is rows in {server.folder}/.jamjet")
    return execution_id


def approve_and_finish(server: "DevServer", execution_id: str) -> int:
    """Decide as a reviewer would, and follow to the end."""
    with ApiClient(server.url, server.token) as api:
        seen = len(api.get(f"/executions/{execution_id}/events")["events"])
        say(f"POST /executions/{execution_id}/approve")
        api.post(f"/executions/{execution_id}/approve", {"decision": "approved", "user_id": "reviewer"})
        for event in follow(api, execution_id, after=seen, timeout_s=EVENTS_S):
            print(describe(event), flush=True)
        ended = api.get(f"/executions/{execution_id}")
    say(f"status {ended['status']} after {ended['steps_executed']} steps")
    say(f"published: {ended['state'].get('published')}")
    return 0 if ended["status"] == "completed" else 1


class DevServer:
    """``jamjet dev`` in a folder, its output shown as it comes."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}"
        self.token = ""
        self._is_ready = threading.Event()
        self._process = subprocess.Popen(
            [Path(sys.executable).with_name("jamjet"), "dev", "--port", str(port)],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        threading.Thread(target=self._relay, daemon=True).start()

    def wait_until_ready(self) -> None:
        if not self._is_ready.wait(READY_S) or not self.token:
            raise SystemExit("the server did not start: see its last lines above")

    def kill(self) -> None:
        """End it as a power cut would: no handler runs, and all its children die with it."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait()

    def _relay(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            print(f"    {line.rstrip()[:LINE_MAX]}", flush=True)
            if token := re.search(r"jj_[0-9a-f]{64}", line):
                self.token = token.group()
                self._is_ready.set()
        self._is_ready.set()


@contextlib.contextmanager
def dev_server(folder: Path, port: int) -> Iterator[DevServer]:
    say(f"jamjet dev --port {port}")
    server = DevServer(folder, port)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def say(text: str) -> None:
    print(f"\n==> {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
