"""``jamjet logs``: it finds the ``jamjet dev`` of the folder, and makes one readable log of its files."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from api.cli import main as cli
from api.cli.client import DEFAULT_URL, url_of_this_folder
from api.cli.dev_file import DEV_FILE, DevServer, forget_dev_server, read_dev_server, write_dev_server

REPLICA = """\
:job_id:01000000
:actor_name:ServeReplica:jamjet:Api
INFO 2026-03-12 10:00:00,100 jamjet_Api x -- Started
"""
FAILURE = {
    "timestamp": "2026-03-12T23:00:00.200000Z",
    "level": "error",
    "event": "it failed",
    "execution_id": "exec_1",
    "exception": "Traceback\nValueError",
}
ACTOR = """\
:actor_name:ExecutionActor
{"timestamp":"2026-03-12T22:59:59Z","level":"debug","event":"opened \\u001b[2J"}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def logs(folder: Path) -> Path:
    logs = folder / "logs"
    logs.mkdir()
    (logs / "worker-a-01-7.err").write_text(REPLICA + json.dumps(FAILURE) + "\n")
    (logs / "worker-b-01-8.out").write_text(ACTOR)
    (logs / "raylet.out").write_text("nothing of ours\n")
    write_dev_server(DevServer("http://127.0.0.1:7700", os.getpid(), logs))
    return logs


@pytest.fixture
def ended() -> int:
    """The id of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_lines_are_readable_and_in_order(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["logs"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[1:] == ["info", "ServeReplica", "jamjet_Api", "x", "--", "Started"]
    assert lines[1].split()[1:] == ["debug", "ExecutionActor", "opened", "\ufffd[2J"]
    assert lines[2].split()[1:] == ["error", "ServeReplica", "it", "failed", "execution_id=exec_1"]
    assert lines[3:] == ["Traceback", "ValueError"]


def test_a_level_leaves_out_those_below(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["logs", "--level", "warning", "-o", "json"]) == 0

    [line] = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {
        "time": "2026-03-12T23:00:00.200+00:00",
        "level": "error",
        "source": "ServeReplica",
        "text": "it failed  execution_id=exec_1\nTraceback\nValueError",
    }


def test_only_the_last_lines_are_shown(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["logs", "-n", "1", "-o", "json"]) == 0

    assert [json.loads(line)["level"] for line in capsys.readouterr().out.splitlines()] == ["error"]


def test_follow_shows_what_comes_until_dev_ends(
    logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.cli.logs._LOOK_EVERY_S", 0.02)

    def go_on() -> None:
        with (logs / "worker-b-01-8.out").open("a") as file:
            for part in ("plain ", "words\n"):
                file.write(part)
                file.flush()
                time.sleep(0.05)
        (logs / "worker-c-01-9.err").write_text(":actor_name:NodeWorker\noh\n")
        time.sleep(0.1)
        forget_dev_server(os.getpid())

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        assert cli.main(["logs", "--follow", "-n", "0"]) == 0
    finally:
        thread.join()

    out, err = capsys.readouterr()
    assert [line.split()[1:] for line in out.splitlines()] == [
        ["debug", "ExecutionActor", "plain", "words"],
        ["error", "NodeWorker", "oh"],
    ]
    assert "has ended" in err


def test_where_none_runs_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["logs"]) == 5

    assert "no `jamjet dev` runs in this folder" in capsys.readouterr().err


def test_logs_that_are_gone_are_said(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dev_server(DevServer("http://127.0.0.1:7700", os.getpid(), logs / "gone"))

    assert cli.main(["logs"]) == 5

    assert "gone" in capsys.readouterr().err


def test_an_unknown_level_is_refused(logs: Path) -> None:
    assert cli.main(["logs", "--level", "loud"]) == 2


class TestDevFile:
    def test_it_is_found_while_its_process_lives(self, logs: Path, ended: int) -> None:
        server = DevServer("http://127.0.0.1:8000", os.getpid(), logs)
        write_dev_server(server)
        assert read_dev_server() == server
        assert url_of_this_folder() == "http://127.0.0.1:8000"

        write_dev_server(DevServer("http://127.0.0.1:8000", ended, logs))
        assert read_dev_server() is None
        assert url_of_this_folder() == DEFAULT_URL

    def test_only_its_own_process_takes_it_back(self, logs: Path) -> None:
        forget_dev_server(os.getppid())
        assert DEV_FILE.exists()

        forget_dev_server(os.getpid())
        assert not DEV_FILE.exists()
        forget_dev_server(os.getpid())

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"url": "x", "pid": "y", "logs": ""}', '{"pid": -1}'])
    def test_what_is_not_its_form_is_none(self, logs: Path, text: str) -> None:
        DEV_FILE.write_text(text)

        assert read_dev_server() is None
