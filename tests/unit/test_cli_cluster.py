"""``jamjet up``, ``down`` and ``status``: what they refuse, and what is printed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors import bootstrap
from actors.settings import Settings
from api.cli import client as client_module
from api.cli import main as cli
from runtime.errors import BadRequest
from tests.fixtures.rest_stub import Stub, running_stub

SEEN: dict[str, Any] = {
    "release": "0.1.0",
    "ray": "2.60.0",
    "database": "postgresql",
    "nodes": [
        {
            "id": "abcdef0123456789", "address": "192.0.2.10", "head": True, "draining": False, "runs": False,
            "cpus": 2.0, "cpus_free": 2.0, "actors": 0, "spares": 0, "live": 0, "proxy": "healthy",
        },
        {
            "id": "0123456789abcdef", "address": "192.0.2.11", "head": False, "draining": True, "runs": False,
            "cpus": 4.0, "cpus_free": 3.5, "actors": 1, "spares": 0, "live": 7, "proxy": None,
        },
    ],
    "supervisor": {"node": "abcdef0123456789", "pid": 7, "idle_ms": 300},
    "executions": {"by_status": {"paused": 3, "running": 9}, "live": 7, "parked": 3, "backlog": 2},
    "lag": {"timers_ms": 1500, "sweep_ms": 40},
    "problems": ["no ExecutionActor takes work: see whether Ray has nodes with free CPUs for them"],
}  # fmt: skip


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stub]:
    with running_stub() as stub:
        monkeypatch.setenv("JAMJET_URL", stub.url)
        monkeypatch.setenv("JAMJET_TOKEN", "jj_secret")
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setattr(client_module, "_RETRY_DELAYS_S", (0.0, 0.0))
        monkeypatch.chdir(tmp_path)
        yield stub


def test_status_shows_nodes_work_and_problems(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.on("GET /cluster", (200, SEEN))
    assert cli.main(["status"]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0].split() == ["NODE", "ADDRESS", "ROLE", "API", "CPUS", "FREE", "ACTORS", "SPARES", "LIVE"]
    assert lines[1].split() == [
        "abcdef012345",
        "192.0.2.10",
        "head,",
        "runs",
        "none",
        "yes",
        "2",
        "2",
        "0",
        "0",
        "0",
    ]
    assert lines[2].split() == ["0123456789ab", "192.0.2.11", "leaving", "-", "4", "3.5", "1", "0", "7"]
    assert "executions  3 paused, 9 running; 7 live, 3 parked" in lines
    assert "backlog     2, the first for 0.0 s" in lines
    assert "timers      1.5 s late" in lines
    assert "no ExecutionActor takes work" in printed.err


def test_status_as_json_is_the_answer(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.on("GET /cluster", (200, SEEN))
    assert cli.main(["status", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == SEEN


@pytest.mark.parametrize("command", ["up", "down"])
def test_without_a_word_on_rays_token_nothing_is_joined(
    command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.chdir(tmp_path)
    assert cli.main([command]) == 2
    assert "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH" in capsys.readouterr().err


def test_without_auth_the_address_must_be_this_machines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JAMJET_DEV_MODE", "1")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["up", "--bind", "0.0.0.0"]) == 2
    assert "auth is off" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "nodes", "refused"),
    [("x.db", 1, False), ("x.db", 2, True), ("postgresql://db/x", 3, False)],
)
def test_a_file_serves_one_node(url: str, nodes: int, refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [*({"Alive": True} for _ in range(nodes)), {"Alive": False}]
    monkeypatch.setattr(bootstrap.ray, "nodes", lambda: listed)
    if not refused:
        return bootstrap.refuse_many_nodes(Settings(database_url=url))
    with pytest.raises(BadRequest, match=r"this cluster has 2 nodes, and .* set DATABASE_URL"):
        bootstrap.refuse_many_nodes(Settings(database_url=url))
    return None
