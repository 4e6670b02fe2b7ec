"""The commands on workflows: validate, workflows; and how a file becomes what is posted."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.client import ApiClient, parse_json_object
from api.cli.exits import EXIT_USAGE, CliError
from api.cli.options import Form, Token, Url
from api.cli.output import Output, print_json, print_line, print_rows, warn

if TYPE_CHECKING:
    from runtime.graph import Graph
    from runtime.ir import CompiledWorkflow

POLICY_SETTINGS = ("python_modules", "template_env", "secrets")
"""What a workflow is held against when it is registered."""

_YAML = (".yaml", ".yml")
_SUFFIXES = (*_YAML, ".json")


def is_file_name(text: str) -> bool:
    """Whether an argument means a file rather than the id of a registered workflow."""
    return text.endswith(_SUFFIXES) or os.sep in text


def definition_of(path: Path) -> dict[str, Any]:
    """What ``POST /workflows`` takes for a file: ``{"yaml": text}`` or ``{"ir": object}``.

    Raises:
        CliError: there is no such file, or it is no workflow's.
    """
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise CliError(f"there is no file {str(path)!r}", EXIT_USAGE) from None
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"{path} cannot be read: {error}", EXIT_USAGE) from None
    if path.suffix in _YAML:
        return {"yaml": text}
    if path.suffix != ".json":
        raise CliError(f"{path} must end in {', '.join(_SUFFIXES)}", EXIT_USAGE)
    value = parse_json_object(text, str(path))
    return {"ir": value.get("ir", value)}


def validate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A workflow, YAML or JSON.")],
    output: Form = Output.TABLE,
) -> None:
    """Check a workflow file, without a server.

    Modules and variables are held against JAMJET_PYTHON_MODULES and JAMJET_TEMPLATE_ENV
    of this environment, or what jamjet.toml says; without the first, any module may be named. With
    --output json the normal form is printed: what the server would run.
    """
    compiled = _compile(file)
    for warning in compiled.warnings:
        warn(warning)
    graph = compiled.graph
    if output is Output.JSON:
        print_json(_normal_form(graph))
        return
    print_line(f"{file} is valid: {graph.workflow_id} {graph.version}, starts at {graph.start!r}")
    rows = [{"node": node.id, "kind": type(node).__struct_config__.tag} for node in graph.nodes.values()]
    print_rows(rows, ("node", "kind"))


def workflows(
    workflow: Annotated[str | None, typer.Option(help="Only the versions of this one.")] = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1)] = 50,
    offset: Annotated[int, typer.Option(help="How many to leave out first.", min=0)] = 0,
    url: Url = None,
    token: Token = None,
    output: Form = Output.TABLE,
) -> None:
    """List registered workflows, newest first."""
    with ApiClient(url, token) as client:
        answer = client.get("/workflows", workflow_id=workflow, limit=limit, offset=offset)
    if output is Output.JSON:
        print_json(answer)
    else:
        print_rows(answer["workflows"], ("workflow_id", "version", "created_at"))


def _compile(file: Path) -> "CompiledWorkflow":
    from actors.settings import load_settings
    from api.cli.config_file import read_config_file
    from runtime.errors import InvalidWorkflow
    from runtime.ir import RegistrationPolicy, compile_ir, compile_yaml

    definition = definition_of(file)
    settings = load_settings(below=read_config_file(needed=POLICY_SETTINGS).settings)
    policy = RegistrationPolicy(
        settings.python_modules or ("*",), settings.readable_names, settings.secret_names
    )
    try:
        if "yaml" in definition:
            return compile_yaml(definition["yaml"], policy)
        return compile_ir(definition["ir"], policy)
    except InvalidWorkflow as error:
        problems = error.fields.get("problems") or [error.detail]
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise CliError(f"{file} is not a valid workflow:{listed}", EXIT_USAGE) from None


def _normal_form(graph: "Graph") -> Any:
    import msgspec

    return json.loads(msgspec.json.encode(graph))
