"""The pages of the documentation that are made from the code: a hook of mkdocs, so nothing can go stale.

``configuration.md`` comes from ``Settings``, ``rest.md`` from the OpenAPI document and the classes of
errors, ``cli.md`` from the commands. They exist only in the built site. ``reliability.md`` gets its table
from ARCHITECTURE.md.
"""

import ast
import inspect
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.main import get_command

from actors import settings
from actors.metrics import Metrics
from api.app import build_app
from api.auth import ALLOWED, ROLES, Access
from api.cli import config_file
from api.cli.main import app
from api.errors import status_of
from runtime.errors import JamjetError
from runtime.providers import VENDORS


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages; mkdocs calls this."""
    for name, make in PAGES.items():
        files.append(File.generated(config, name, content=make()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the tables that a page takes from elsewhere; mkdocs calls this."""
    return re.sub(r"<!-- table: (\w+) -->", lambda found: TABLES[found[1]](), markdown)


def promises() -> str:
    """The promises, as ARCHITECTURE.md has them."""
    lines = (Path(__file__).parents[1] / "ARCHITECTURE.md").read_text().splitlines()
    rows = [line for line in lines if re.match(r"\| G\d+ ", line)]
    return "\n".join(["| | promise | tests |", "| --- | --- | --- |", *rows])


def providers() -> str:
    """The model providers."""
    rows = [
        [
            f"`{name}`",
            f"`{vendor.base_url}`" if vendor.base_url else "",
            _codes((vendor.base_env,)) if vendor.base_env else "",
            _codes(vendor.key_names),
        ]
        for name, vendor in VENDORS.items()
    ]
    return _table(["provider", "where it is", "variable that says otherwise", "variable with its key"], rows)


def metrics() -> str:
    """The figures of ``GET /metrics``."""
    rows = [
        [f"`{metric.exposed[0]}`", metric.kind, _codes(metric.labels), _plain(metric.help)]
        for metric in Metrics().all
    ]
    return _table(["name", "kind", "labels", "what it says"], rows)


def access() -> str:
    """Every route that takes a token, and which roles it takes."""
    rows = [
        [f"`{method.upper()} {path}`", *_roles(operation["x-access"])]
        for path, methods in build_app(settings.Settings()).openapi()["paths"].items()
        for method, operation in methods.items()
        if operation["x-access"] != "public"
    ]
    return _table(["route", *(f"`{role}`" for role in ROLES)], rows)


def _roles(declared: Access) -> list[str]:
    yes = "of `default`" if declared == "administer" else "yes"
    said = {role: yes if role in ALLOWED[declared] else "no" for role in ROLES}
    if declared == "approve":
        said["reviewer"] = "by policy"
    return list(said.values())


def config_keys() -> str:
    """The keys of ``jamjet.toml`` that are settings under JamJet's name."""
    rows = [[f"`{key}`", f"`{name}`"] for key, name in config_file._SETTING_OF.items()]
    return _table(["key", "setting"], rows)


# --- configuration.md -----------------------------------------------------------------------------

_CONFIGURATION = """# Configuration

Settings come from the options of `jamjet dev`, from variables of the environment, and from
[`jamjet.toml`](#jamjettoml), in this order. They are read once, when the server starts. In variables a list
is written with commas, and a switch is on for `1`, `true`, `yes` and `on`. A value that a setting cannot take
ends the start with one sentence and exit code 2. `jamjet config show` shows every setting and where it comes
from.

## The server

"""
_TYPES = {"bool": "switch", "int": "whole number", "tuple[str, ...]": "list", "float": "number"}


def settings_described() -> Iterator[tuple[str, tuple[str, ...], str, str, str]]:
    """(name, variables, type, default, text) of every setting that is a variable."""
    texts = _docstrings(settings.Settings)
    annotations = inspect.get_annotations(settings.Settings)
    for setting in fields(settings.Settings):
        if setting.name == "env":
            continue
        kind = str(annotations[setting.name]).replace("<class '", "").removesuffix("'>")
        text = texts.get(setting.name, "")
        default = setting.default
        shown = (
            "off"
            if default is False
            else "on"
            if default is True
            else ""
            if default in (None, ())
            else default
        )
        yield (
            setting.name,
            _variables_that_set(setting.name),
            _TYPES.get(kind, "text"),
            str(shown),
            _plain(text),
        )


def _variables_that_set(name: str) -> tuple[str, ...]:
    return settings._ALIASES.get(name) or (settings._PLAIN.get(name, f"JAMJET_{name.upper()}"),)


def _docstrings(cls: type) -> dict[str, str]:
    """The text below each attribute of a class."""
    tree = ast.parse(inspect.getsource(cls)).body[0]
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
        ):
            found[field.target.id] = inspect.cleandoc(str(below.value.value))
    return found


def configuration() -> str:
    """Every variable that the server and the commands read."""
    rows = [
        [_codes(variables), kind, f"`{default}`" if default else "", text]
        for _, variables, kind, default, text in settings_described()
    ]
    commands = {
        variable: [f"`{variable}`", f"`{option.opts[0]}`", _plain(option.help or "")]
        for _, command in commands_of(get_command(app))
        for option in command.params
        for variable in _variables_of(option)
    }
    return (
        _CONFIGURATION
        + _table(["variable", "type", "default", "what it does"], rows)
        + "\n## The commands\n\nThese stand for options of the [command line](cli.md).\n\n"
        + _table(["variable", "option", "what it does"], list(commands.values()))
        + _JAMJET_TOML.replace("@keys@", config_keys())
        + _PROVIDERS
        + providers()
        + _CONFIGURATION_NOTES
    )


_JAMJET_TOML = """
## jamjet.toml

The file of the current folder, or the one that the variable `JAMJET_CONFIG` names. Any setting may stand in
the table `[jamjet]`, under its variable's name in lower case without `jamjet_`. A text may name variables as
`${VAR}`. These keys are JamJet's names of settings; `auth.enabled` says the opposite of `dev_mode`:

@keys@
`telemetry.enabled = false` turns traces off. Other keys that JamJet documents have no effect, and the start
warns of them.
"""
_PROVIDERS = """
## Model providers

Variables of the server with addresses and keys of models. No workflow reads them.

"""
_CONFIGURATION_NOTES = """
## What `jamjet dev` sets by itself

`jamjet dev` runs the workflows of the folder it was started in. Where they are not set, it takes that
folder as `JAMJET_PYTHON_PATH`, the modules in it as `JAMJET_PYTHON_MODULES`, and `127.0.0.0/8,::1` as
`JAMJET_HTTP_ALLOW` and `JAMJET_DISCOVERY_ALLOW`. It finds the modules when it starts: restart it after adding
a file. `jamjet-server` does the same only with `JAMJET_DEV_MODE=1`.
"""


# --- cli.md ---------------------------------------------------------------------------------------


def commands_of(group: Any, prefix: str = "jamjet") -> Iterator[tuple[str, Any]]:
    """(full name, command) of every command, those of sub-groups too."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands_of(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def cli() -> str:
    """Every command with its arguments and options."""
    root = get_command(app)
    epilog = getattr(root, "epilog", "") or ""
    parts = [f"# Command line\n\n{root.help}\n\n{epilog}\n\n{_CLI_NOTES}"]
    parts += [_command(name, command) for name, command in commands_of(root)]
    return "\n".join(parts) + _SERVER_COMMAND


_CLI_NOTES = """Data goes to stdout: a table, or JSON with `--output json`. Everything else goes to stderr.
Commands that talk to a server find the token of `jamjet dev` in `.jamjet/dev-token` of the folder they are
started in.
`jamjet --version` prints the version. Every command explains itself with `--help`.
"""
_SERVER_COMMAND = """
## jamjet-server

The server without a terminal. It takes no arguments, only [variables](configuration.md), logs to stderr, and
ends within 4 seconds of SIGTERM.
"""


def _command(name: str, command: Any) -> str:
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options = [param for param in command.params if param.param_type_name == "option"]
    usage = " ".join(
        [name, *(["[OPTIONS]"] if options else []), *(_placeholder(param) for param in arguments)]
    )
    text = f"## {name}\n\n{_paragraphs(command.help or '')}\n\n```text\n{usage}\n```\n\n"
    rows = [[f"`{_placeholder(param)}`", "", _plain(param.help or "")] for param in arguments]
    rows += [[_codes(_spellings(param)), _default(param), _option_text(param)] for param in options]
    return text + (_table(["argument or option", "default", "what it does"], rows) if rows else "")


def _placeholder(param: Any) -> str:
    return str(param.metavar or param.name).upper()


def _spellings(param: Any) -> tuple[str, ...]:
    takes = "" if param.is_flag else f" {param.metavar or _taken(param.type_descriptor.annotation)}"
    *others, last = sorted([*param.opts, *param.secondary_opts], key=len)
    return (*others, f"{last}{takes}")


def _taken(annotation: type) -> str:
    """What an option without a metavar takes."""
    if issubclass(annotation, Enum):
        return "|".join(str(choice.value) for choice in annotation)
    return "NUMBER" if issubclass(annotation, int | float) else "TEXT"


def _default(param: Any) -> str:
    value = getattr(param.default, "value", param.default)
    if param.required:
        return "required"
    if isinstance(param.show_default, str):
        return param.show_default
    return "" if value is None or callable(value) or isinstance(value, bool) else f"`{value}`"


def _option_text(param: Any) -> str:
    variables = _variables_of(param)
    return _plain(param.help or "") + (f" Variable: {_codes(variables)}." if variables else "")


def _variables_of(param: Any) -> tuple[str, ...]:
    given = getattr(param, "envvar", None)
    return (given,) if isinstance(given, str) else tuple(given or ())


# --- rest.md --------------------------------------------------------------------------------------

_ACCESS = {
    "public": "Anyone, without a token.",
    "read": "Any role.",
    "write": "The roles operator and developer.",
    "approve": "The roles operator and developer; reviewer where the tenant's policy says so.",
    "operate": "The role operator.",
    "administer": "The role operator, in tenant `default`.",
}
_REST = """# REST API

Bodies and answers are JSON. The server shows this document too: `/docs` for people, `/openapi.json` for
programs. Paths that begin with `/compat` answer the same, with events in the typed shape.

## Requests

- **Token.** `Authorization: Bearer jj_...`. See [security](security.md).
- **Tenant.** That of the token. An operator of tenant `default` may name another one: `X-Tenant-Id: acme`.
- **Repeats.** A POST with `Idempotency-Key: ...` (1 to 255 printable ASCII characters) may be sent again: the
  same key on the same route with the same body has one effect, and is answered the same for 24 hours, with
  `Idempotent-Replayed: true`. With another body it is 422.
- **Waiting.** `?wait=N`, or the header `Prefer: wait=N`, waits at most N seconds (60 at most) until the
  execution ends or pauses. The answer shows it as it stands then, whatever its status.
- **Ids.** An execution is `exec_` and 32 hexadecimal digits. A UUID is taken too.
- **Times** are RFC 3339 in UTC with milliseconds.
- **Bounds.** A body is at most 1 MiB, the state of an execution 4 MiB, nesting 64 levels. NaN, U+0000 and
  integers over 64 bits are refused.

## Errors

Every error is one object: `error` is for people, `code` for programs, `request_id` for the log. Where it says
something there are also `problems` (all reasons why a workflow was refused), `node_id`, `retry_after_s` and
`limit`.

```json
{"error": "not found: workflow note", "code": "not_found", "request_id": "5f0c2a4e9b1d4c7f8a6b3e2d1c0f9a8b"}
```

"""


def error_classes() -> list[type[JamjetError]]:
    """Every class of error, the base included, sorted by status and code."""
    found: dict[str, type[JamjetError]] = {}
    pending: list[type[JamjetError]] = [JamjetError]
    while pending:
        kind = pending.pop()
        found.setdefault(kind.code, kind)
        pending.extend(kind.__subclasses__())
    return sorted(found.values(), key=lambda kind: (status_of(kind("")), kind.code))


def rest() -> str:
    """Every route and every error."""
    document = build_app(settings.Settings()).openapi()
    errors = [
        [f"`{kind.code}`", str(status_of(kind(""))), "yes" if kind.retryable else "", _plain(_first(kind))]
        for kind in error_classes()
    ]
    errors.append(["`method_not_allowed`", "405", "", "The path exists, but not with this method."])
    errors.sort(key=lambda row: row[1])
    parts = [
        _REST + _table(["code", "status", "try again", "what it means"], errors) + "\n## Routes\n",
        *(
            _route(method, path, operation)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        ),
        "## Shapes\n",
        *(_shape(name, schema) for name, schema in sorted(document["components"]["schemas"].items())),
    ]
    return "\n".join(parts)


def _first(kind: type) -> str:
    return (
        "A bug. The class of the exception is shown, nothing else."
        if kind is JamjetError
        else kind.__doc__ or ""
    )


def _route(method: str, path: str, operation: dict[str, Any]) -> str:
    text = f"### {method.upper()} {path}\n\n{_paragraphs(operation['description'])}\n\n"
    text += f"Who may call it: {_ACCESS[operation['x-access']]}\n\n"
    rows = [
        [f"`{parameter['name']}`", parameter["in"], _plain(parameter.get("description", "required"))]
        for parameter in operation.get("parameters", ())
    ]
    if rows:
        text += _table(["parameter", "in", "what it is"], rows) + "\n"
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        text += f"Body, `{media_type}`:\n\n{_fields(content['schema'])}\n"
    answers = {int(status): answer for status, answer in operation["responses"].items()}
    good = ", ".join(f"{status} {_shapes(answers[status])}" for status in sorted(answers) if status < 400)
    errors = ", ".join(str(status) for status in sorted(answers) if status >= 400)
    return f"{text}Answer: {good}. Errors: {errors}.\n"


def _shapes(answer: dict[str, Any]) -> str:
    schemas = [content.get("schema", {}) for content in answer.get("content", {}).values()]
    return ", ".join(_type(schema) for schema in schemas if schema) or str(answer["description"])


def _shape(name: str, schema: dict[str, Any]) -> str:
    text = schema.get("description", "")
    return f"### {name}\n\n{_paragraphs(text)}\n\n{_fields(schema)}"


def _fields(schema: dict[str, Any]) -> str:
    if "properties" not in schema:
        return f"{_type(schema)}\n"
    required = schema.get("required", ())
    rows = [
        [f"`{name}`", _type(field), "" if name in required else "optional"]
        for name, field in schema["properties"].items()
    ]
    return _table(["field", "type", ""], rows)


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(option) for option in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    kind = str(schema.get("type", "any"))
    if kind == "array":
        return f"list of {_type(schema['items'])}"
    names = {"string": "text", "object": "object", "integer": "whole number", "boolean": "true or false"}
    return names.get(kind, kind)


# --- Markdown -------------------------------------------------------------------------------------


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _codes(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _plain(text: str) -> str:
    """A docstring in one line of Markdown."""
    return " ".join(text.replace("``", "`").split())


def _paragraphs(text: str) -> str:
    parts = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(_plain(part) for part in parts)


PAGES: dict[str, Callable[[], str]] = {
    "configuration.md": configuration,
    "rest.md": rest,
    "cli.md": cli,
}
"""What each generated page is called, and what makes it."""
TABLES: dict[str, Callable[[], str]] = {
    "promises": promises,
    "providers": providers,
    "metrics": metrics,
    "access": access,
}
"""What stands for ``<!-- table: NAME -->`` in a page."""


def document() -> str:
    """The OpenAPI document as ``docs/openapi.json`` has it."""
    return json.dumps(build_app(settings.Settings()).openapi(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("openapi.json").write_text(document(), encoding="utf-8")
