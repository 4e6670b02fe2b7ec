"""What the command line promises before it does anything: a quick start, and one sentence for an error."""

import json
import os
import resource
import socket
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from api.cli import main as cli
from api.cli.output import cell, paint, print_json, print_rows

HEAVY = ("ray", "fastapi", "sqlalchemy", "httpx2", "rich", "pydantic", "structlog")


@pytest.mark.parametrize("module", ["api.cli.main", "api.cli.server", "api.cli.dev"])
def test_importing_the_commands_imports_nothing_heavy(module: str) -> None:
    script = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"

    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0

    assert capsys.readouterr().out.startswith("jamjet 0.")


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for command in cli.app.registered_commands:
        assert command.callback is not None
        assert command.callback.__doc__, command.callback


class TestDev:
    def test_a_taken_port_is_said_in_one_sentence(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("api.launch.launcher.PORT_PATIENCE_S", 0.0)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]

            assert cli.main(["dev", "--port", str(port)]) == 2

        assert capsys.readouterr().err.splitlines()[-1] == (
            f"error: port {port} on 127.0.0.1 is taken: end what uses it, or choose another with --port"
        )
        assert not (tmp_path / ".jamjet").exists()

    def test_a_folder_that_cannot_be_written_is_said_in_one_sentence(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "file").write_text("")

        assert cli.main(["dev", "--port", str(free_port()), "--db", "file/runtime.db"]) == 2

        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("error: ")
        assert "file" in last
        assert "Traceback" not in last

    def test_without_auth_only_this_machine_may_call(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)

        assert cli.main(["dev", "--no-auth", "--bind", "0.0.0.0"]) == 2

        assert "must be a loopback one, not '0.0.0.0'" in capsys.readouterr().err

    def test_a_setting_that_is_wrong_is_named(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("JAMJET_LIVE_MAX", "many")

        assert cli.main(["dev"]) == 2

        assert capsys.readouterr().err == "error: JAMJET_LIVE_MAX is 'many': it must be a whole number\n"


class TestServer:
    def test_without_auth_it_refuses_an_open_address(self, tmp_path: Path) -> None:
        environment = {**os.environ, "JAMJET_DEV_MODE": "1", "JAMJET_BIND": "0.0.0.0"}

        ended = subprocess.run(
            [sys.executable, "-c", "from api.cli.server import run; run()"],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

        assert ended.returncode == 2
        assert "must be a loopback one" in ended.stderr
        assert json.loads(ended.stderr)["level"] == "error"


class TestDevToken:
    async def test_it_is_made_once_and_private(self, tmp_path: Path) -> None:
        from api.cli.dev_token import ensure_dev_token
        from runtime.store import open_store

        path = tmp_path / "kept" / "dev-token"
        store = await open_store(str(tmp_path / "runtime.db"))
        try:
            first = await ensure_dev_token(store, path)
            again = await ensure_dev_token(store, path)
            [row] = await store.tenant("default").tokens()
        finally:
            await store.close()

        assert first == again
        assert path.read_text() == f"{first}\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert row.role == "operator"
        assert first not in str(row)

    async def test_a_kept_token_of_another_database_is_replaced(self, tmp_path: Path) -> None:
        from api.cli.dev_token import ensure_dev_token
        from runtime.store import open_store

        path = tmp_path / "dev-token"
        tokens = []
        for name in ("one.db", "two.db"):
            store = await open_store(str(tmp_path / name))
            tokens.append(await ensure_dev_token(store, path))
            await store.close()

        assert tokens[0] != tokens[1]
        assert path.read_text().strip() == tokens[1]

    async def test_a_revoked_token_is_replaced(self, tmp_path: Path) -> None:
        from api.cli.dev_token import ensure_dev_token
        from runtime.store import open_store

        store = await open_store(str(tmp_path / "runtime.db"))
        try:
            first = await ensure_dev_token(store, tmp_path / "dev-token")
            [row] = await store.tenant("default").tokens()
            await store.tenant("default").revoke_token(row.id)
            second = await ensure_dev_token(store, tmp_path / "dev-token")
        finally:
            await store.close()

        assert first != second


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class TestStart:
    """How long a command takes, in time of the processor: others may be busy on this machine."""

    def test_a_client_command_starts_at_once(self) -> None:
        assert min(processor_s(["--version"], {}) for _ in range(3)) < 0.3

    def test_completion_answers_fast_and_without_ray(self) -> None:
        asked = {"_JAMJET_COMPLETE": "complete_bash", "COMP_WORDS": "jamjet ru", "COMP_CWORD": "1"}
        script = (
            "import sys; sys.argv[0] = 'jamjet'; import api.cli.main as cli;"
            "cli.main(); print('ray' in sys.modules)"
        )

        answered = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, **asked},
            capture_output=True,
            text=True,
            check=True,
        )

        assert answered.stdout.split() == ["run", "False"]
        assert min(processor_s([], asked) for _ in range(3)) < 0.6

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_the_completion_of_each_shell_can_be_shown(self, shell: str) -> None:
        environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}

        shown = subprocess.run(
            [JAMJET, "--show-completion", shell], env=environment, capture_output=True, text=True, check=True
        )

        assert "_JAMJET_COMPLETE" in shown.stdout


class TestColours:
    @pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["bogus"], ["run"]])
    def test_where_no_terminal_reads_there_are_none(self, arguments: list[str]) -> None:
        said = subprocess.run([JAMJET, *arguments], capture_output=True, text=True, check=False)

        assert "\x1b" not in said.stdout + said.stderr

    def test_a_terminal_gets_them_unless_no_color_is_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
        monkeypatch.delenv("NO_COLOR", raising=False)
        assert paint("bad", "red") == "\x1b[31mbad\x1b[0m"
        assert paint("plain", None) == "plain"

        monkeypatch.setenv("NO_COLOR", "1")
        assert paint("bad", "red") == "bad"


JAMJET = Path(sys.executable).with_name("jamjet")


def processor_s(arguments: list[str], environ: dict[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([JAMJET, *arguments], env={**os.environ, **environ}, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("columns", [80, 120])
def test_what_a_table_shows_stands_in_one_piece(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    now = datetime.now(UTC)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    row = {
        "execution_id": f"exec_{'a' * 32}",
        "workflow_id": "a-workflow-with-a-name",
        "status": "completed",
        "created_at": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "completed_at": "2026-01-02T12:00:00.000Z",
    }
    print_rows([row], tuple(row))
    lines = capsys.readouterr().out.splitlines()
    shown = next(line for line in lines if "exec_" in line)
    local = now.astimezone().strftime("%H:%M:%S")
    assert shown.split() == [row["execution_id"], row["workflow_id"], "completed", local, "2026-01-02"]
    assert any("─" in line for line in lines) == (columns == 120), "drawn where there is room"


class TestWhatATerminalWouldObey:
    """Escape sequences begin with U+001B or U+009B; others turn the direction of writing around."""

    TEXT = "é 👨\u200d👩 \x1b[2J \x9b2J \u202e \x7f \U000e0001"
    ESCAPED = '"é 👨\u200d👩 \\u001b[2J \\u009b2J \\u202e \\u007f \\udb40\\udc01"'

    def test_in_a_cell(self) -> None:
        assert cell(self.TEXT) == self.ESCAPED
        assert cell([self.TEXT]) == f"[{self.ESCAPED}]"

    def test_in_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        print_json({self.TEXT: self.TEXT})
        out = capsys.readouterr().out
        assert out == f"{{\n  {self.ESCAPED}: {self.ESCAPED}\n}}\n"
        assert json.loads(out) == {self.TEXT: self.TEXT}
