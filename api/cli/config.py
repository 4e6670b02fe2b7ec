"""``jamjet config``: which settings hold here, and where each comes from."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import typer

from api.cli.dev import Auth, Bind, Port, ServerDatabase, settings_of_options
from api.cli.options import Form
from api.cli.output import Output, note, print_json, print_rows, warn

if TYPE_CHECKING:
    from actors.settings import Settings
    from api.cli.config_file import ConfigFile

HIDDEN = "***"
_SECRET_WORDS = ("secret", "password", "token", "key")
_NAMES_OF_SECRETS = ("secrets",)
"""A setting that names secrets and holds none."""
_OPTIONS = {"port": "--port", "database_url": "--db", "bind": "--bind", "dev_mode": "--auth"}

app = typer.Typer(no_args_is_help=True, help="Show the settings.")


@dataclass(frozen=True)
class Row:
    """One setting: its value, fit to be shown, and where that comes from."""

    setting: str
    value: Any
    origin: str


@app.callback()
def _group() -> None:
    pass


@app.command("show")
def show(
    port: Port = None,
    database: ServerDatabase = None,
    bind: Bind = None,
    auth: Auth = None,
    output: Form = Output.TABLE,
) -> None:
    """Show every setting with its value and its origin; passwords and secrets are hidden.

    The options are those of `jamjet dev`, to see what it would run with. It fills python_path,
    python_modules, http_allow and discovery_allow by itself where they are not set.
    """
    from actors.settings import load_settings
    from api.cli.config_file import read_config_file

    options = settings_of_options(port, database, bind, auth)
    file = read_config_file()
    for warning in file.warnings:
        warn(warning)
    rows = settings_shown(load_settings(below=file.settings, **options), file, options)
    if output is Output.JSON:
        path = None if file.path is None else str(file.path)
        print_json({"file": path, "settings": {row.setting: _plain(row) for row in rows}})
        return
    print_rows([{"setting": row.setting, "value": row.value, "origin": row.origin} for row in rows], _COLUMNS)
    note("no jamjet.toml here" if file.path is None else f"file: {file.path}")


_COLUMNS = ("setting", "value", "origin")


def settings_shown(settings: "Settings", file: "ConfigFile", options: dict[str, Any]) -> list[Row]:
    """A row for each setting."""
    return [
        Row(field.name, _shown(field.name, getattr(settings, field.name)), _origin(field.name, file, options))
        for field in fields(settings)
    ]


def _origin(name: str, file: "ConfigFile", options: dict[str, Any]) -> str:
    from actors.settings import variable_of

    if options.get(name) is not None:
        return f"option {_OPTIONS[name]}"
    if name == "env":
        return "environment"
    variable = variable_of(name)
    if variable is not None:
        return f"environment {variable}"
    return f"file {file.keys[name]}" if name in file.keys else "default"


def _shown(name: str, value: Any) -> Any:
    """A value without what nobody should read over a shoulder."""
    from runtime.store.url import redacted

    if name == "env":
        return dict.fromkeys(value, HIDDEN)
    words = name.lower().split("_")
    if value and name not in _NAMES_OF_SECRETS and any(word in words for word in _SECRET_WORDS):
        return HIDDEN
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, tuple | list):
        return [redacted(part) if isinstance(part, str) else part for part in value]
    return value


def _plain(row: Row) -> dict[str, Any]:
    return {"value": row.value, "origin": row.origin}
