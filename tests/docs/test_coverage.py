"""Nothing that users meet is missing: settings, routes, commands, kinds of nodes and events, errors."""

import re
from dataclasses import fields
from functools import cache
from typing import get_args

import pytest
from typer.main import get_command

from actors.metrics import Metrics
from actors.settings import Settings
from api.cli.main import app
from docs import generate
from runtime.events import Event, kind_name
from runtime.expr.values import FUNCTIONS, METHODS
from runtime.graph import SUPPORTED_KINDS
from runtime.ir.models import BUILT_IN_RETRIES, KINDS
from runtime.ir.yaml_nodes import _KNOWN, _RENAMED_IN
from runtime.providers import VARIABLES, VENDORS
from runtime.template.filters import FILTERS
from tests.docs.pages import ROOT, blocks
from tests.fixtures.api import openapi

DOCS = ROOT / "docs"


@cache
def page(name: str) -> str:
    """A page as readers see it."""
    made = generate.PAGES.get(name)
    return made() if made else generate.on_page_markdown((DOCS / name).read_text())


def section(text: str, title: str) -> str:
    """What stands below a heading of the second level."""
    found = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"there is no section {title!r}"
    return found[1]


def words(text: str) -> set[str]:
    """Every name that stands as code."""
    return {name for code in re.findall(r"`([^`\n]+)`", text) for name in re.findall(r"[\w.-]+", code)}


def test_the_navigation_has_every_page() -> None:
    listed = set(re.findall(r"(\w+\.md)", (ROOT / "mkdocs.yml").read_text()))
    assert listed == {path.name for path in DOCS.glob("*.md")} | generate.PAGES.keys()


def test_every_setting_has_its_variable_and_a_text() -> None:
    described = {name: (variables, text) for name, variables, _, _, text in generate.settings_described()}
    assert described.keys() == {setting.name for setting in fields(Settings)} - {"env"}
    for name, (variables, text) in described.items():
        assert text, name
        assert all(f"`{variable}`" in page("configuration.md") for variable in variables), name


def test_every_command_and_option_is_there() -> None:
    for name, command in generate.commands_of(get_command(app)):
        text = section(page("cli.md"), name)
        for param in command.params:
            if param.param_type_name == "option":
                assert all(f"`{option}" in text for option in (*param.opts, *param.secondary_opts)), name


def test_every_route_is_there() -> None:
    for path, methods in openapi()["paths"].items():
        for method in methods:
            assert f"### {method.upper()} {path}\n" in page("rest.md")


def test_every_route_says_which_roles_it_takes() -> None:
    table = section(page("security.md"), "Tokens and roles")
    row = r"^\| `(\w+ /\S*)` \| (.+) \|$"
    shown = {route: cells.split(" | ") for route, cells in re.findall(row, table, re.MULTILINE)}
    assert shown.keys() == {
        f"{method.upper()} {path}"
        for path, methods in openapi()["paths"].items()
        for method, operation in methods.items()
        if operation["x-access"] != "public"
    }
    assert shown["GET /executions"] == ["yes", "yes", "yes", "yes"]
    assert shown["POST /executions"] == ["yes", "yes", "no", "no"]
    assert shown["DELETE /tokens/{token_id}"] == ["yes", "no", "no", "no"]
    assert shown["PUT /tenants/{tenant_id}"] == ["of `default`", "no", "no", "no"]


def test_every_error_code_is_there() -> None:
    codes = {kind.code for kind in generate.error_classes()}
    assert {"bad_request", "invalid_workflow", "conflict", "outcome_unknown", "bad_template"} <= codes
    assert all(f"`{code}`" in page("rest.md") for code in codes)


def test_every_kind_of_event_is_there() -> None:
    kinds = {kind_name(event.__struct_config__.tag) for event in get_args(Event)}
    assert kinds == {kind for kind in words(page("events.md")) if re.match(r"[A-Z]\w+[a-z]\Z", kind)}


@pytest.mark.parametrize("kind", sorted({*KINDS, *SUPPORTED_KINDS}))
def test_every_kind_of_node_has_its_fields_and_a_workflow_that_runs(kind: str) -> None:
    title = "condition" if kind == "branch" else kind
    text = section(page("yaml.md"), title)
    names = {*_KNOWN[title].split(), *_RENAMED_IN.get(title, ())} - {"agent"}
    assert names <= words(text), names - words(text)
    used = [
        block for block in blocks() if block.runs() and re.search(rf"\b(type|kind): {kind}\b", block.text)
    ]
    assert used, f"no workflow with a {kind} node runs"


def test_every_name_of_expressions_and_templates_is_there() -> None:
    assert {*FUNCTIONS, *METHODS} <= words(section(page("yaml.md"), "Expressions"))
    assert FILTERS.keys() <= words(section(page("yaml.md"), "Templates"))
    assert BUILT_IN_RETRIES.keys() <= words(section(page("yaml.md"), "Retries"))


def test_every_promise_is_there() -> None:
    promised = re.findall(r"^\| (G\d+) ", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    assert promised
    assert re.findall(r"^\| (G\d+) ", page("reliability.md"), re.MULTILINE) == promised


def test_every_figure_and_provider_is_there() -> None:
    assert {metric.exposed[0] for metric in Metrics().all} <= words(page("observe.md"))
    assert VENDORS.keys() <= words(section(page("yaml.md"), "model"))
    assert set(VARIABLES) <= words(page("configuration.md"))


def test_the_tests_of_the_promises_exist() -> None:
    for pattern in re.findall(r"`(tests/[\w/*.]+)`", generate.promises()):
        assert list(ROOT.glob(pattern)), pattern
