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
from tests.docs.harness import assert_holds, at, installation, run, served_installation, shop
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
        for url in noted(block, "discovered"):
            assert (await api.post("/agents/discover", {"url": at(url, address)})).status_code == 201
        text = at(block.text, address)
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


def noted(block: Block, name: str) -> list[str]:
    """What all notes of a name say."""
    return [value for key, value in block.notes if key == name]


def saved(page: str) -> dict[str, str]:
    """The modules that a page's workflows name: its own, else those of the examples."""
    own = {name: text for name, text in files_of(page).items() if name.endswith(".py")}
    return own or {"flows.py": (ROOT / "examples" / "flows.py").read_text()}


@pytest.mark.parametrize("block", blocks_in("json"), ids=str)
def test_json(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize("block", [block for block in blocks_in("json") if block.note("post")], ids=str)
async def test_request(block: Block, prepared: Prepared, tmp_path: Path) -> None:
    """A body that is posted is answered as the page says."""
    told = json.loads(block.note("post") or "")
    async with shop() as address, installation(tmp_path, prepared, {}) as api:
        answer = await api.post(told["path"], json.loads(at(block.text, address)), role="operator")
        assert answer.status_code == told["status"], answer.text
        assert_holds(told["answer"], answer.json())


@pytest.mark.parametrize("block", [block for block in blocks_in("python") if block.note("client")], ids=str)
async def test_client(block: Block, prepared: Prepared, tmp_path: Path) -> None:
    """A client's ``main`` gives what the page says, at a server with all workflows of its page."""
    async with served_installation(tmp_path, prepared) as (api, url):
        for other in WORKFLOWS:
            if other.page == block.page and other.language == "yaml":
                assert (await api.post("/workflows", {"yaml": other.text})).status_code == 201
        names: dict[str, Any] = {"__name__": "snippet"}
        exec(compile(block.text, str(block), "exec"), names)
        found = await names["main"](url, api.tokens["developer"])
        assert json.loads(json.dumps(found)) == json.loads(block.note("client") or "")


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


RAY_COMMANDS = [
    pytest.param(shlex.split(words), id=f"{block}-{words.split()[0]}-{index}")
    for block in blocks_in("sh")
    for index, words in enumerate(re.findall(r"^(?:\w+=\S+ )*ray (.*)$", block.text, re.MULTILINE))
]


@pytest.mark.parametrize("words", RAY_COMMANDS)
def test_command_of_ray(words: list[str]) -> None:
    from ray.scripts.scripts import cli

    name, *given = words
    cli.commands[name].make_context(name, given)


def test_requests_go_to_routes_that_exist() -> None:
    patterns = [re.sub(r"\{\w+\}", "[^/]+", path) + "$" for path in openapi()["paths"]]
    asked = [
        path
        for block in blocks_in("sh", "")
        for path in re.findall(r":7700(/[\w/$.-]*)", block.text)
        if path != "/docs"
    ]
    assert asked
    for path in asked:
        assert any(re.match(pattern, path) for pattern in patterns), path


def test_links_and_mentioned_files_exist() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        for target in re.findall(r"\]\(([\w-]+\.md)(?:#[\w-]+)?\)", page.read_text()):
            assert (ROOT / "docs" / target).exists() or target in GENERATED, f"{page.name}: {target}"
        for path in re.findall(r"`((?:tests|examples|deploy)/[\w/]+\.\w+)`", page.read_text()):
            assert (ROOT / path).exists(), f"{page.name}: {path}"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_have_no_warnings(path: Path) -> None:
    compiled = compile_yaml(path.read_text(), RegistrationPolicy(("flows",), frozenset()))
    assert compiled.warnings == ()
