"""``jamjet validate``: the normal form, the warnings, and every problem at once."""

import json
from pathlib import Path
from typing import Any

import pytest

from api.cli import main as cli

IR: dict[str, Any] = {
    "workflow_id": "greet",
    "version": "1.0.0",
    "nodes": {
        "start": {"kind": {"type": "python_fn", "module": "tools", "function": "greet"}},
        "check": {"kind": {"type": "condition", "expression": "state.ok == true"}},
    },
    "edges": [{"from": "start", "to": "check"}, {"from": "check", "to": "end"}],
}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JAMJET_PYTHON_MODULES", raising=False)
    monkeypatch.delenv("JAMJET_TEMPLATE_ENV", raising=False)


def write(ir: dict[str, Any]) -> None:
    Path("w.json").write_text(json.dumps(ir))


def test_a_valid_file_prints_its_normal_form(capsys: pytest.CaptureFixture[str]) -> None:
    write(IR)

    assert cli.main(["validate", "w.json", "--output", "json"]) == 0

    graph = json.loads(capsys.readouterr().out)
    assert graph["workflow_id"] == "greet"
    assert sorted(graph["nodes"]) == ["check", "start"]


def test_a_valid_file_is_told_with_its_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    write(IR)

    assert cli.main(["validate", "w.json"]) == 0

    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["start", "python_fn"] in lines
    assert ["check", "condition"] in lines


def test_every_problem_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    write({**IR, "edges": [{"from": "start", "to": "nowhere"}, {"from": "check", "to": "lost"}]})

    assert cli.main(["validate", "w.json"]) == 2

    out, err = capsys.readouterr()
    assert out == ""
    problems = [line for line in err.splitlines() if line.startswith("  - ")]
    assert any("nowhere" in problem for problem in problems)
    assert any("lost" in problem for problem in problems)


def test_modules_are_held_against_the_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(IR)
    monkeypatch.setenv("JAMJET_PYTHON_MODULES", "safe.*")

    assert cli.main(["validate", "w.json"]) == 2

    assert "'tools'" in capsys.readouterr().err


def test_variables_are_held_against_the_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edges = [{"from": "start", "to": "check", "condition": "env.KEY == 1"}, {"from": "check", "to": "end"}]
    write({**IR, "edges": edges})

    assert cli.main(["validate", "w.json"]) == 2
    assert "env.KEY" in capsys.readouterr().err

    monkeypatch.setenv("JAMJET_TEMPLATE_ENV", "KEY")
    assert cli.main(["validate", "w.json"]) == 0


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("w.json", "{", "is not JSON"),
        ("w.json", "[]", "must be a JSON object"),
        ("w.toml", "a = 1", "must end in"),
        ("w.yaml", "a: [", "w.yaml"),
    ],
)
def test_a_file_that_is_no_workflow_exits_with_2(
    capsys: pytest.CaptureFixture[str], name: str, content: str, said: str
) -> None:
    Path(name).write_text(content)

    assert cli.main(["validate", name]) == 2

    assert said in capsys.readouterr().err
