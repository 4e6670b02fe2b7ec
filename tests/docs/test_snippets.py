"""Every block of the documentation is what it claims to be: workflows run, commands exist, JSON is JSON."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from api.cli.main import app
from docs.generate import PAGES as GENERATED
from runtime.ir import RegistrationPolicy, compile_yaml
from tests.docs.harness import MODEL_SERVER, assert_holds, installation, run, shop
from tests.docs.pages import ROOT, Block, blocks, blocks_in, files_of
from tests.fixtures.api import Prepared, openapi

LANGUAGES = {"yaml", "json", "python", "sh", "text", ""}
WORKFLOWS = [block for block in blocks_in("yaml", "json") if block.language == "yaml" or block.runs()]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


def test_there_is_something_to_test() -> None:
    assert len(WORKFLOWS) > 30
    assert {block.language for block in blocks()} <= LANGUAGES


@pytest.mark.parametrize("block", WORKFLOWS, ids=str)
async def test_workflow(block: Block, prepared: Prepared, tmp_path: Path) -> None:
    async with (
        shop() as address,
        installation(tmp_path, prepared, saved(block.page)) as api,
    ):
        text = block.text.replace(MODEL_SERVER, address)
        body = {"yaml": text} if block.language == "yaml" else {"ir": json.loads(text)}
        answer = await api.post("/workflows", body)
        refused = block.note("refused")
        if refused is not None:
            assert answer.status_code == 400, answer.text
            assert any(refused in problem for problem in answer.json()["problems"]), answer.text
            return
        assert answer.status_code == 201, answer.text
        assert answer.json().get("warnings", []) == json.loads(block.note("warns") or "[]")
        for told in block.runs():
            assert_holds(told["expect"], await run(api, answer.json(), told, address))


def saved(page: str) -> dict[str, str]:
    """The modules that a page's workflows name: its own, else those of the examples."""
    own = {name: text for name, text in files_of(page).items() if name.endswith(".py")}
    return own or {"flows.py": (ROOT / "examples" / "flows.py").read_text()}


@pytest.mark.parametrize("block", blocks_in("json"), ids=str)
def test_json(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize("block", blocks_in("python"), ids=str)
def test_python(block: Block) -> None:
    exec(compile(block.text, str(block), "exec"), {"__name__": "snippet"})


def commands(text: str) -> list[list[str]]:
    """The words of every `jamjet` command in a shell block."""
    lines = text.replace("\\\n", " ").splitlines()
    found = [re.search(r"(?:^|[\s(/])(jamjet .*)$", line.partition(" #")[0]) for line in lines]
    pieces = [re.split(r"\s*(?:[|;>)&]|2>)", match[1])[0] for match in found if match]
    return [words for piece in pieces if (words := shlex.split(piece))[0] == "jamjet"]


COMMANDS = [
    pytest.param(words, id=f"{block}-{index}")
    for block in blocks_in("sh", "")
    for index, words in enumerate(commands(block.text))
]


@pytest.mark.parametrize("words", COMMANDS)
def test_command(words: list[str]) -> None:
    command: Any = get_command(app)
    words = words[1:]
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
    if "--help" not in words and not hasattr(command, "commands"):
        command.make_context("jamjet", list(words))


def test_requests_go_to_routes_that_exist() -> None:
    patterns = [re.sub(r"\{\w+\}", "[^/]+", path) + "$" for path in openapi()["paths"]]
    asked = [
        path
        for block in blocks_in("sh", "")
        for path in re.findall(r":7700(/[\w/$-]*)", block.text)
        if path != "/docs"
    ]
    assert asked
    for path in asked:
        assert any(re.match(pattern, path) for pattern in patterns), path


def test_links_and_mentioned_files_exist() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        for target in re.findall(r"\]\(([\w-]+\.md)(?:#[\w-]+)?\)", page.read_text()):
            assert (ROOT / "docs" / target).exists() or target in GENERATED, f"{page.name}: {target}"
        for path in re.findall(r"`((?:tests|examples)/[\w/]+\.\w+)`", page.read_text()):
            assert (ROOT / path).exists(), f"{page.name}: {path}"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_have_no_warnings(path: Path) -> None:
    compiled = compile_yaml(path.read_text(), RegistrationPolicy(("flows",), frozenset()))
    assert compiled.warnings == ()
