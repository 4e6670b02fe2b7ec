"""``jamjet.toml`` and ``jamjet config show``: which value holds, where it comes from, and what is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from actors.settings import Settings, load_settings
from api.cli import main as cli
from api.cli.config_file import load_project, read_config_file
from runtime.errors import BadRequest

DOCUMENTED = """
[project]
name = "notes"
version = "1.0.0"
[runtime]
port = 8000
workers = 2
[database]
url = "postgresql://jamjet:${DB_PASSWORD}@db/jamjet"
[auth]
enabled = false
[telemetry]
enabled = true
[telemetry.otlp]
endpoint = "http://collector:4318"
[jamjet]
live_max = 7
python_modules = ["flows", "${MORE}.*"]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for variable in ("JAMJET_CONFIG", "JAMJET_PORT", "PORT", "DATABASE_URL", "JAMJET_PYTHON_MODULES"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def write(text: str, name: str = "jamjet.toml") -> None:
    Path(name).write_text(text)


def loaded(environ: dict[str, str] | None = None, **options: Any) -> tuple[Settings, list[str]]:
    said: list[str] = []
    return load_project(said.append, environ or {}, **options), said


class TestFile:
    def test_without_one_there_are_the_defaults(self) -> None:
        assert loaded() == (Settings(), [])

    def test_the_documented_tables_and_our_own_are_read(self) -> None:
        write(DOCUMENTED)

        settings, said = loaded({"DB_PASSWORD": "s3", "MORE": "steps"})

        assert said == []
        assert settings == Settings(
            port=8000,
            execution_actors_min=2,
            database_url="postgresql://jamjet:s3@db/jamjet",
            dev_mode=True,
            otlp_endpoint="http://collector:4318",
            live_max=7,
            python_modules=("flows", "steps.*"),
        )

    def test_options_win_over_variables_and_these_over_the_file(self) -> None:
        write("[runtime]\nport = 1\n[jamjet]\nlive_max = 1\nbacklog_max = 1\n")

        settings, _ = loaded({"PORT": "2", "JAMJET_LIVE_MAX": "2"}, port=3, bind=None)

        assert (settings.port, settings.live_max, settings.backlog_max) == (3, 2, 1)

    def test_a_variable_names_another_file(self) -> None:
        write("[runtime]\nport = 1\n")
        write("[runtime]\nport = 2\n", "other.toml")

        assert loaded({"JAMJET_CONFIG": "other.toml"})[0].port == 2

    def test_a_variable_may_stand_for_a_number_or_a_switch(self) -> None:
        write('[runtime]\nport = "${MY_PORT}"\n[auth]\nenabled = "${MY_AUTH}"\n')

        settings, _ = loaded({"MY_PORT": "90", "MY_AUTH": "no"})

        assert (settings.port, settings.dev_mode) == (90, True)

    def test_what_the_environment_overrides_needs_no_variable(self) -> None:
        write('[database]\nurl = "${ABSENT}"\n')

        assert loaded({"DATABASE_URL": "x.db"})[0].database_url == "x.db"

    def test_telemetry_that_is_off_has_no_endpoint(self) -> None:
        write('[telemetry]\nenabled = false\notlp = {endpoint = "http://collector:4318"}\n')

        assert loaded()[0].otlp_endpoint is None

    def test_unknown_keys_are_named_in_warnings(self) -> None:
        write(
            "typo = 1\n[runtime]\nprot = 1\n[database]\npool_size = 5\n[jamjet]\nenv = {A = 'b'}\n"
            "[[mcp.servers]]\nname = 'files'\n"
        )

        settings, said = loaded()

        assert settings == Settings()
        assert len(said) == 5
        for key in ("typo is unknown", "runtime.prot is unknown", "jamjet.env.A is unknown"):
            assert any(f"jamjet.toml: {key}" in warning for warning in said)
        for key in ("database.pool_size", "mcp.servers"):
            assert any(f"{key} has no effect on this server" in warning for warning in said)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("[runtime]\nport = '8000'", "runtime.port must be a whole number"),
            ("[runtime]\nport = true", "runtime.port must be a whole number"),
            ("[runtime]\nport = -1", "runtime.port must be a whole number"),
            ("[runtime]\nport = '${WORD}'", "runtime.port is 'word': it must be a whole number"),
            ("[auth]\nenabled = 1", "auth.enabled must be true or false"),
            ("[telemetry]\nenabled = 1", "telemetry.enabled must be true or false"),
            ("[database]\nurl = 5", "database.url must be a string"),
            ("[database]\nurl = '${ABSENT}'", "database.url names the variable ABSENT, which is not set"),
            ("[jamjet]\npython_modules = 'a'", "jamjet.python_modules must be a list of strings"),
            ("[jamjet]\npython_modules = ['${ABSENT}']", "jamjet.python_modules names the variable ABSENT"),
            ("[jamjet]\nisolation = 'alone'", "jamjet.isolation must be one of 'shared', 'dedicated'"),
            ("[jamjet]\npython_path = 5", "jamjet.python_path must be a string"),
            ("[runtime]\nport = 1\n[jamjet]\nport = 2", "runtime.port and jamjet.port set the same"),
            ("[runtime", "is not TOML"),
        ],
    )
    def test_what_is_wrong_is_an_error_that_names_the_key(self, text: str, said: str) -> None:
        write(text)

        with pytest.raises(BadRequest) as refused:
            loaded({"WORD": "word"})

        assert refused.value.detail.startswith("jamjet.toml")
        assert said in refused.value.detail

    def test_a_file_that_is_named_must_be_there(self) -> None:
        with pytest.raises(BadRequest, match=r"JAMJET_CONFIG names 'absent.toml'"):
            loaded({"JAMJET_CONFIG": "absent.toml"})

    def test_only_what_is_needed_is_read(self) -> None:
        write("[database]\nurl = '${ABSENT}'\n[jamjet]\ntemplate_env = ['A']\n")

        assert read_config_file({}, needed=("template_env",)).settings == {"template_env": ("A",)}

    def test_every_setting_may_stand_in_the_file_with_its_default(self) -> None:
        lines = {
            name: value for name, value in Settings().as_dict().items() if value is not None and name != "env"
        }
        write("[jamjet]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in lines.items()))

        settings, said = loaded()

        assert (settings, said) == (Settings(), [])


class TestCommands:
    def test_validate_reads_it(self, capsys: pytest.CaptureFixture[str]) -> None:
        write("[jamjet]\npython_modules = ['safe']\n[database]\nurl = '${ABSENT}'\n")
        kind = {"type": "python_fn", "module": "tools", "function": "greet"}
        ir = {"workflow_id": "w", "version": "1", "nodes": {"a": {"kind": kind}}, "edges": []}
        Path("w.json").write_text(json.dumps(ir))

        assert cli.main(["validate", "w.json"]) == 2

        assert "'tools'" in capsys.readouterr().err

    def test_tokens_are_made_on_its_database(self, capsys: pytest.CaptureFixture[str]) -> None:
        write("[database]\nurl = 'mine.db'\n")

        assert cli.main(["token", "create", "--role", "viewer"]) == 0
        assert Path("mine.db").exists()
        assert not Path(".jamjet").exists()

    def test_dev_refuses_a_wrong_one(self, capsys: pytest.CaptureFixture[str]) -> None:
        write("[runtime]\nport = 'many'\n")

        assert cli.main(["dev"]) == 2

        assert capsys.readouterr().err == "error: jamjet.toml: runtime.port must be a whole number\n"

    def test_dev_takes_it_and_tells_its_warnings(self, capsys: pytest.CaptureFixture[str]) -> None:
        write("[jamjet]\nbind = '0.0.0.0'\nbnid = 1\n[auth]\nenabled = false\n")

        assert cli.main(["dev"]) == 2

        err = capsys.readouterr().err
        assert "warning: jamjet.toml: jamjet.bnid is unknown" in err
        assert "must be a loopback one, not '0.0.0.0'" in err


class TestShow:
    def shown(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
        assert cli.main(["config", "show", "--output", "json", *arguments]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    def test_each_setting_has_its_origin(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write("[runtime]\nport = 1\nworkers = 3\n")
        monkeypatch.setenv("PORT", "2")
        monkeypatch.setenv("JAMJET_BIND", "::1")

        found = self.shown(capsys, "--bind", "127.0.0.2")
        settings = found["settings"]

        assert found["file"] == "jamjet.toml"
        assert settings["execution_actors_min"] == {"value": 3, "origin": "file runtime.workers"}
        assert settings["port"] == {"value": 2, "origin": "environment PORT"}
        assert settings["bind"] == {"value": "127.0.0.2", "origin": "option --bind"}
        assert settings["live_max"] == {"value": 5000, "origin": "default"}
        assert settings.keys() == load_settings({}).as_dict().keys()

    def test_passwords_and_secrets_are_hidden(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("DATABASE_URL", "postgresql://me:hunter2@db/x")
        monkeypatch.setenv("JAMJET_SECRETS", "API_KEY@api.example")
        monkeypatch.setenv("API_KEY", "hunter2")
        monkeypatch.setenv("OPENAI_API_KEY", "hunter2")

        for form in ("json", "table"):
            assert cli.main(["config", "show", "-o", form]) == 0
            out, err = capsys.readouterr()
            assert "hunter2" not in out + err
            assert "API_KEY" in out
            assert "me:***@db" in out

    def test_as_a_table_it_says_which_file(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["config", "show"]) == 0

        out, err = capsys.readouterr()
        assert out.split()[:3] == ["SETTING", "VALUE", "ORIGIN"]
        assert "no jamjet.toml" in err

    def test_a_wrong_file_is_an_error(self, capsys: pytest.CaptureFixture[str]) -> None:
        write("[auth]\nenabled = 'maybe'\n")

        assert cli.main(["config", "show"]) == 2

        assert "auth.enabled must be true or false" in capsys.readouterr().err
