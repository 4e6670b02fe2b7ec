"""``jamjet doctor``: each finding, what it says to do, and the exit code."""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from actors.settings import VERSION, Settings
from api.cli import checks, cluster_checks
from api.cli import client as client_module
from api.cli import main as cli
from api.cli.checks import DatabaseLook
from api.cli.findings import Finding, Status
from api.cli.open_ports import ray_ports_open_to_others
from api.launch.environment import EVERYWHERE
from api.launch.haproxy_main import BINARY_VARIABLE
from runtime.store import open_store
from tests.fixtures.rest_stub import Stub, running_stub

TOKEN = "jj_" + "0" * 64


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(client_module, "_RETRY_DELAYS_S", ())
    monkeypatch.setattr(client_module, "DEFAULT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(checks, "check_ports", lambda: iter(()))
    for variable in (
        "RAY_ADDRESS",
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN",
        "JAMJET_PYTHON_PATH",
        "JAMJET_TOKEN",
        "JAMJET_URL",
        "JAMJET_CONFIG",
    ):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("DATABASE_URL", "runtime.db")
    return tmp_path


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    with running_stub() as stub:
        monkeypatch.setenv("JAMJET_URL", stub.url)
        for path in ("/health", "/health/ready"):
            stub.on(f"GET {path}", (200, {"status": "ok", "version": VERSION}))
        stub.on("GET /executions", (200, {"executions": []}))
        stub.on("GET /tokens", (403, {"error": "insufficient role"}))
        yield stub


@pytest.fixture
def examined(capsys: pytest.CaptureFixture[str]) -> Callable[[int], dict[str, dict[str, Any]]]:
    """Run it, hold its exit code, and give the findings by check."""

    def examine(exit_code: int) -> dict[str, dict[str, Any]]:
        assert cli.main(["doctor", "--output", "json"]) == exit_code
        answer = json.loads(capsys.readouterr().out)
        assert answer["ok"] is (exit_code == 0)
        for finding in answer["findings"]:
            assert finding["said"]
            assert (finding["todo"] is None) is (finding["status"] == "ok")
        return {finding["check"]: finding for finding in answer["findings"]}

    return examine


def made_database() -> None:
    async def make() -> None:
        await (await open_store("runtime.db")).close()

    asyncio.run(make())


def statuses(findings: Iterator[Finding]) -> list[Status]:
    return [finding.status for finding in findings]


class TestCommand:
    def test_before_the_first_start_nothing_is_wrong(self, examined: Callable[[int], dict[str, Any]]) -> None:
        found = examined(0)

        assert found["python"]["status"] == found["ray"]["status"] == "ok"
        assert found["database"]["status"] == found["server"]["status"] == "note"
        assert not Path("runtime.db").exists()

    def test_a_running_installation_is_fine(
        self, stub: Stub, monkeypatch: pytest.MonkeyPatch, examined: Callable[[int], dict[str, Any]]
    ) -> None:
        made_database()
        monkeypatch.setenv("JAMJET_TOKEN", TOKEN)

        found = examined(0)

        assert {finding["status"] for finding in found.values()} == {"ok"}
        assert f"release {VERSION}" in found["server"]["said"]
        assert found["token"]["said"] == "valid, not an operator's"

    def test_the_role_comes_from_the_database_where_it_knows_the_token(
        self,
        stub: Stub,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        examined: Callable[[int], dict[str, Any]],
    ) -> None:
        assert cli.main(["token", "create", "--role", "reviewer"]) == 0
        monkeypatch.setenv("JAMJET_TOKEN", capsys.readouterr().out.strip())

        assert examined(0)["token"]["said"] == "valid, reviewer"

    def test_a_token_that_is_refused(
        self, stub: Stub, monkeypatch: pytest.MonkeyPatch, examined: Callable[[int], dict[str, Any]]
    ) -> None:
        stub.on("GET /executions", (401, {"error": "invalid or expired token"}))
        assert examined(1)["token"]["said"] == "there is no token"

        monkeypatch.setenv("JAMJET_TOKEN", TOKEN)
        found = examined(1)["token"]
        assert found["said"] == "the server does not take the token"
        assert "jamjet token create" in found["todo"]

    def test_another_release_is_noted(self, stub: Stub, examined: Callable[[int], dict[str, Any]]) -> None:
        stub.on("GET /health", (200, {"version": "9.9.9"}))

        assert "9.9.9" in examined(0)["server"]["said"]

    def test_a_server_that_was_named_and_is_not_there(
        self, monkeypatch: pytest.MonkeyPatch, examined: Callable[[int], dict[str, Any]]
    ) -> None:
        monkeypatch.setenv("JAMJET_URL", "http://127.0.0.1:9")

        assert examined(1)["server"]["status"] == "wrong"

    def test_a_server_that_is_not_ready(self, stub: Stub, examined: Callable[[int], dict[str, Any]]) -> None:
        stub.on("GET /health/ready", (503, {"error": "unavailable: the store"}))

        assert "unavailable: the store" in examined(1)["server"]["said"]

    def test_an_old_schema(self, examined: Callable[[int], dict[str, Any]]) -> None:
        sqlite3.connect("runtime.db").execute("CREATE TABLE other (x)").connection.close()

        found = examined(1)["database"]
        assert "schema" in found["said"]
        assert "it migrates" in found["todo"]

    def test_a_database_that_cannot_be(
        self, monkeypatch: pytest.MonkeyPatch, examined: Callable[[int], dict[str, Any]]
    ) -> None:
        Path("file").write_text("")
        monkeypatch.setenv("DATABASE_URL", "file/runtime.db")
        assert "is no folder" in examined(1)["database"]["said"]

        monkeypatch.setenv("DATABASE_URL", "mysql://me:hunter2@x/y")
        assert "hunter2" not in str(examined(1))

    def test_settings_that_are_wrong(self, examined: Callable[[int], dict[str, Any]]) -> None:
        Path("jamjet.toml").write_text("[runtime]\nport = 'x'\n")

        assert "runtime.port" in examined(1)["settings"]["said"]

    def test_auth_off_for_others(
        self, monkeypatch: pytest.MonkeyPatch, examined: Callable[[int], dict[str, Any]]
    ) -> None:
        monkeypatch.setenv("JAMJET_DEV_MODE", "1")
        assert examined(0)["auth"]["status"] == "note"

        monkeypatch.setenv("JAMJET_BIND", "0.0.0.0")
        assert "0.0.0.0" in examined(1)["auth"]["said"]

    def test_as_lines_each_has_what_to_do_below(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")

        assert cli.main(["doctor"]) == 1

        out, err = capsys.readouterr()
        lines = out.splitlines()
        at = next(index for index, line in enumerate(lines) if line.startswith("wrong  ray auth"))
        assert lines[at + 1].strip().startswith("-> set RAY_AUTH_MODE=token")
        assert "\x1b" not in out
        assert "1 wrong" in err


class TestChecks:
    def test_versions(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert statuses(checks.check_versions((3, 10)))[0] is Status.WRONG

        monkeypatch.setattr(checks, "_wanted_ray", lambda: "1.0.0")
        assert statuses(checks.check_versions()) == [Status.OK, Status.WRONG]

    @pytest.mark.parametrize(
        ("environ", "status"),
        [
            ({}, Status.OK),
            ({"RAY_ADDRESS": "auto"}, Status.WRONG),
            ({"RAY_ADDRESS": "auto", "RAY_AUTH_MODE": "disabled"}, Status.WRONG),
            ({"RAY_ADDRESS": "auto", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "x"}, Status.OK),
        ],
    )
    def test_ray_auth(self, environ: dict[str, str], status: Status) -> None:
        assert statuses(cluster_checks.check_ray_auth(environ)) == [status]

    @pytest.mark.parametrize(
        ("content", "mode", "said"),
        [
            (b"t0ken\n", 0o600, None),
            (b"t0ken\n", 0o640, "others here may read"),
            (b" \n", 0o600, "is empty"),
            (b"\xff\xfe", 0o600, "it is no text"),
            (None, 0o600, "No such file"),
        ],
    )
    def test_the_file_of_rays_token(
        self, tmp_path: Path, content: bytes | None, mode: int, said: str | None
    ) -> None:
        path = tmp_path / "token"
        if content is not None:
            path.write_bytes(content)
            path.chmod(mode)
        environ = {"RAY_ADDRESS": "auto", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}

        (found,) = cluster_checks.check_ray_auth(environ)

        assert (found.status is Status.OK) is (said is None)
        assert (said or "with the token in") in found.said
        assert "t0ken" not in found.said

    def test_the_environment_of_a_node(self, tmp_path: Path) -> None:
        binary = tmp_path / "jamjet-haproxy"
        environ = {**EVERYWHERE, "RAY_ADDRESS": "auto", BINARY_VARIABLE: str(binary)}
        check = cluster_checks.check_node_environment

        assert statuses(check({})) == []
        assert statuses(check(environ)) == [Status.WRONG]
        binary.touch(mode=0o700)
        assert statuses(check(environ)) == [Status.OK]
        (found,) = check({**environ, "RAY_SERVE_ENABLE_HA_PROXY": "0"})
        assert found.status is Status.NOTE
        assert "RAY_SERVE_ENABLE_HA_PROXY" in found.said

    @pytest.mark.parametrize(
        ("settings", "status"),
        [
            ({}, Status.OK),
            ({"server_version_num": "130014"}, Status.WRONG),
            ({"server_version_num": "140000"}, Status.OK),
            ({"fsync": "off"}, Status.WRONG),
            ({"full_page_writes": "off"}, Status.WRONG),
            ({"synchronous_commit": "off"}, Status.NOTE),
            ({"synchronous_commit": "local"}, Status.NOTE),
            ({"synchronous_commit": "remote_apply"}, Status.OK),
        ],
    )
    def test_postgresql(self, settings: dict[str, str], status: Status) -> None:
        healthy = {
            "server_version_num": "180004",
            "fsync": "on",
            "full_page_writes": "on",
            "synchronous_commit": "on",
        }

        (found,) = cluster_checks.check_postgresql(healthy | settings)

        assert found.status is status

    def test_without_postgresql_nothing_is_said_of_it(self) -> None:
        assert list(cluster_checks.check_postgresql(None)) == []

    @pytest.mark.parametrize(
        ("difference_ms", "status"), [(0, Status.OK), (-999, Status.OK), (5_000, Status.WRONG)]
    )
    def test_the_clock(self, difference_ms: int, status: Status) -> None:
        look = DatabaseLook(difference_ms, None)

        assert statuses(checks.check_database("x.db", look)) == [Status.OK, status]

    def test_auth_on_is_fine_anywhere(self) -> None:
        assert statuses(checks.check_bind(Settings(bind="0.0.0.0"))) == [Status.OK]


def node(address: str, **more: Any) -> dict[str, Any]:
    """A node as ``GET /cluster`` shows it."""
    shown = {
        "id": address,
        "head": False,
        "draining": False,
        "cpus": 2,
        "actors": 1,
        "live": 0,
    }
    return {**shown, "address": address, **more}


class TestCluster:
    """What ``GET /cluster`` of a running server tells."""

    HEAD = node("10.0.0.1", head=True)

    @pytest.fixture(autouse=True)
    def installed(self, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
        made_database()
        monkeypatch.setenv("JAMJET_TOKEN", TOKEN)

    def answer(self, stub: Stub, *nodes: dict[str, Any], **more: Any) -> None:
        shown = {"nodes": nodes, "database": "postgresql", "release": VERSION, "ray": version("ray")}
        stub.on("GET /cluster", (200, {**shown, **more}))

    def test_one_node(self, stub: Stub, examined: Callable[[int], dict[str, Any]]) -> None:
        self.answer(stub, self.HEAD, database="sqlite")

        found = examined(0)

        assert found["cluster"]["said"] == "1 node: 10.0.0.1 (head)"
        assert "nodes" not in found

    def test_many_nodes(self, stub: Stub, examined: Callable[[int], dict[str, Any]]) -> None:
        self.answer(stub, self.HEAD, node("10.0.0.2"), node("10.0.0.3", draining=True))

        found = examined(0)

        assert found["cluster"]["said"] == "3 nodes: 10.0.0.1 (head), 10.0.0.2, 10.0.0.3 (draining)"
        assert {finding["status"] for finding in found.values()} == {"ok"}

    def test_a_node_that_is_gone_is_noted(
        self, stub: Stub, examined: Callable[[int], dict[str, Any]]
    ) -> None:
        self.answer(stub, self.HEAD, node("10.0.0.2", alive=False))

        found = examined(0)

        assert found["cluster"]["said"].startswith("1 node:")
        assert found["nodes"]["status"] == "note"
        assert "10.0.0.2" in found["nodes"]["said"]

    def test_without_its_head(self, stub: Stub, examined: Callable[[int], dict[str, Any]]) -> None:
        self.answer(stub, node("10.0.0.1", head=True, alive=False), node("10.0.0.2"))

        found = examined(1)

        assert "the head is not among them" in found["cluster"]["said"]
        assert "jamjet up" in found["cluster"]["todo"]

    def test_sqlite_is_for_one_node(self, stub: Stub, examined: Callable[[int], dict[str, Any]]) -> None:
        self.answer(stub, self.HEAD, node("10.0.0.2"), database="sqlite")

        found = examined(1)

        assert "SQLite" in found["nodes"]["said"]
        assert "PostgreSQL" in found["nodes"]["todo"]

    def test_what_the_server_knows_to_be_wrong_is_said(
        self, stub: Stub, examined: Callable[[int], dict[str, Any]]
    ) -> None:
        self.answer(stub, self.HEAD, problems=["no ExecutionActor takes work"])

        assert examined(1)["cluster"]["said"] == "no ExecutionActor takes work"

    def test_a_problem_is_said_once(self, stub: Stub, examined: Callable[[int], dict[str, Any]]) -> None:
        problems = ["the database is a SQLite file: 1 of the cluster's nodes run none"]
        self.answer(stub, self.HEAD, node("10.0.0.2"), database="sqlite", problems=problems)

        found = examined(1)

        assert found["cluster"]["status"] == "ok"
        assert found["nodes"]["status"] == "wrong"

    def test_a_server_that_does_not_know_its_nodes(
        self, stub: Stub, examined: Callable[[int], dict[str, Any]]
    ) -> None:
        self.answer(stub, ray=None)

        assert "cluster" not in examined(0)

    def test_functions_must_be_where_every_node_finds_them(
        self, stub: Stub, monkeypatch: pytest.MonkeyPatch, examined: Callable[[int], dict[str, Any]]
    ) -> None:
        monkeypatch.setenv("JAMJET_PYTHON_PATH", "flows")
        self.answer(stub, self.HEAD)
        assert "functions" not in examined(0)

        self.answer(stub, self.HEAD, node("10.0.0.2"))
        assert examined(1)["functions"]["status"] == "wrong"

        monkeypatch.setenv("JAMJET_PYTHON_PATH", "/opt/flows")
        assert "functions" not in examined(0)

    def test_another_ray_than_here_is_noted(
        self, stub: Stub, examined: Callable[[int], dict[str, Any]]
    ) -> None:
        self.answer(stub, self.HEAD, ray="9.9.9")

        assert "9.9.9" in examined(0)["ray"]["said"]

    def test_a_server_that_does_not_say_is_passed_over(
        self, stub: Stub, examined: Callable[[int], dict[str, Any]]
    ) -> None:
        assert "cluster" not in examined(0)

        stub.on("GET /cluster", (403, {"error": "insufficient role"}))
        assert examined(0)["cluster"]["status"] == "note"

        stub.on("GET /cluster", (503, {"error": "unavailable: Ray does not say"}))
        assert "Ray does not say" in examined(1)["cluster"]["said"]


class TestPorts:
    @pytest.fixture
    def proc(self, tmp_path: Path) -> Path:
        """A /proc with a dashboard on every address, a raylet on one, and what is none of Ray's."""
        proc = tmp_path / "proc"
        (proc / "net").mkdir(parents=True)
        rows = [
            ("00000000:2049", "0A", 1),  # 8265 on all
            ("0100007F:1A0B", "0A", 2),  # loopback
            ("0A00000A:1A0B", "0A", 3),  # 6667 on 10.0.0.10
            ("00000000:0016", "0A", 4),  # not of Ray
            ("0A00000A:1A0C", "01", 5),  # a connection
        ]
        (proc / "net" / "tcp").write_text(
            "head\n" + "".join(f"0: {at} 0:0 {state} 0:0 0:0 0 0 0 {inode} 1\n" for at, state, inode in rows)
        )
        (proc / "net" / "tcp6").write_text(
            "head\n0: 0000000000000000FFFF00000100007F:1A0D 0:0 0A 0:0 0:0 0 0 0 6 1\n"
        )
        packages = "/x/site-packages/ray"
        self.process(proc, 10, f"python\0-u\0{packages}/dashboard/dashboard.py\0", [1])
        self.process(proc, 11, f"{packages}/core/src/ray/raylet/raylet\0", [2, 3, 5, 6])
        self.process(proc, 12, "sshd\0/home/ray/x\0", [4])
        return proc

    def process(self, proc: Path, pid: int, command: str, inodes: list[int], environ: str = "") -> None:
        (proc / str(pid) / "fd").mkdir(parents=True, exist_ok=True)
        (proc / str(pid) / "cmdline").write_text(command)
        (proc / str(pid) / "environ").write_text(environ)
        for inode in inodes:
            (proc / str(pid) / "fd" / str(inode)).symlink_to(f"socket:[{inode}]")

    def test_rays_own_that_others_can_reach_are_found(self, proc: Path) -> None:
        found = ray_ports_open_to_others(proc)

        assert [(one.port, one.address, one.pid, one.is_dashboard, one.wants_token) for one in found] == [
            (6667, "10.0.0.10", 11, False, False),
            (8265, "0.0.0.0", 10, True, False),
        ]

    @pytest.mark.parametrize(
        ("environ", "wanted"),
        [
            ("", ["dashboard wrong", "ports wrong"]),
            ("A=1\0RAY_AUTH_MODE=token\0", ["dashboard wrong", "ports note"]),
        ],
    )
    def test_what_is_said_of_them(
        self, proc: Path, monkeypatch: pytest.MonkeyPatch, environ: str, wanted: list[str]
    ) -> None:
        (proc / "11" / "environ").write_text(environ)
        found = ray_ports_open_to_others(proc)
        monkeypatch.setattr("api.cli.open_ports.ray_ports_open_to_others", lambda: found)
        monkeypatch.setattr("api.cli.open_ports.can_see", lambda: True)

        said = [f"{finding.check} {finding.status}" for finding in PORTS_CHECK()]

        assert said == wanted


PORTS_CHECK = checks.check_ports
