"""``jamjet init``: what it makes is valid, runs by its own rules, and replaces nothing."""

import importlib.util
import json
import tomllib
from pathlib import Path

import pytest

from api.cli import main as cli
from api.launch.modules import modules_of

MADE = [".gitignore", "README.md", "flows.py", "jamjet.toml", "workflow.yaml"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for variable in ("JAMJET_CONFIG", "JAMJET_PYTHON_MODULES", "JAMJET_TEMPLATE_ENV"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def test_what_it_makes_is_valid(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init", "notes/Weekly Notes"]) == 0

    monkeypatch.chdir("notes/Weekly Notes")
    assert sorted(path.name for path in Path().iterdir()) == MADE
    monkeypatch.setenv("JAMJET_PYTHON_MODULES", ",".join(modules_of(Path.cwd())))
    capsys.readouterr()
    assert cli.main(["validate", "workflow.yaml", "-o", "json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out)["workflow_id"] == "weekly-notes"
    assert {"draft", "review", "publish"} <= json.loads(out)["nodes"].keys()


def test_its_settings_are_known_and_its_function_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init"]) == 0
    capsys.readouterr()

    assert cli.main(["config", "show", "-o", "json"]) == 0
    out, err = capsys.readouterr()
    assert "warning" not in err
    assert json.loads(out)["settings"]["port"] == {"value": 7700, "origin": "file runtime.port"}
    assert tomllib.loads(Path("jamjet.toml").read_text())["project"]["version"] == "0.1.0"
    spec = importlib.util.spec_from_file_location("flows", "flows.py")
    assert spec is not None
    assert spec.loader is not None
    flows = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(flows)
    assert flows.publish("Ray", "two words") == {"title": "Ray", "words": 2}


def test_it_says_what_to_do_next(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init", "notes"]) == 0

    out, err = capsys.readouterr()
    assert sorted(out.splitlines()) == [f"notes/{name}" for name in MADE]
    for command in ("cd notes", "jamjet dev", "jamjet run workflow.yaml", "jamjet approve"):
        assert command in err
    readme = Path("notes/README.md").read_text()
    assert all(f"\njamjet {command}" in readme for command in ("dev", "run", "approve"))


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init", "42", "--output", "json"]) == 0

    made = json.loads(capsys.readouterr().out)
    assert (made["project"], made["folder"], sorted(made["files"])) == ("project-42", "42", MADE)


def test_nothing_is_overwritten_and_nothing_half_made(capsys: pytest.CaptureFixture[str]) -> None:
    Path("flows.py").write_text("mine = 1\n")

    assert cli.main(["init"]) == 2

    assert "flows.py already" in capsys.readouterr().err
    assert Path("flows.py").read_text() == "mine = 1\n"
    assert [path.name for path in Path().iterdir()] == ["flows.py"]


def test_a_file_is_no_folder(capsys: pytest.CaptureFixture[str]) -> None:
    Path("notes").write_text("")

    assert cli.main(["init", "notes"]) == 2
    assert cli.main(["init", "notes/below"]) == 2

    assert "Traceback" not in capsys.readouterr().err
