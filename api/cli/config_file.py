"""``jamjet.toml``: the settings of a project, below the environment and the command line.

The tables that JamJet documents are read where this server has the like; any setting of
``actors.settings`` may stand in ``[jamjet]`` under its own name. A text may name variables as ``${VAR}``.
"""

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from actors.settings import Settings, load_settings, read_setting, variable_of
from runtime.errors import BadRequest

CONFIG_NAME = "jamjet.toml"
CONFIG_VARIABLE = "JAMJET_CONFIG"

_SETTING_OF = {
    "runtime.port": "port",
    "runtime.workers": "execution_actors_min",
    "database.url": "database_url",
    "auth.enabled": "dev_mode",
    "telemetry.otlp.endpoint": "otlp_endpoint",
}
"""Documented keys that are settings under another name."""

_OPPOSITE = ("auth.enabled",)
"""Switches that say the opposite of what they set."""

_TELEMETRY_SWITCH = "telemetry.enabled"
"""False takes the file's endpoint away."""

_INFORMATIVE = ("project.name", "project.version")

_WITHOUT_EFFECT = (
    *("database.pool_size", "database.max_overflow", "database.auto_migrate", "auth.method"),
    *("telemetry.service_name", "mcp", "mcp_servers", "a2a", "agent", "logging.redact_state"),
)
"""What JamJet documents and this server has no use for: keys, and tables with all that is in them."""

Say = Callable[[str], None]

_NOT_IN_FILES = ("env",)
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_HINTS = get_type_hints(Settings)


@dataclass(frozen=True)
class ConfigFile:
    """What a ``jamjet.toml`` says.

    Attributes:
        path: where it is; None when there is none.
        settings: by the names of ``Settings``.
        keys: of each of them, the key that gives it: ``{"port": "runtime.port"}``.
        warnings: a sentence for each key that has no effect.
    """

    path: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def load_project(say: Say, environ: Mapping[str, str] = os.environ, **options: Any) -> Settings:
    """The settings of a server: options over the environment over the file.

    Args:
        say: told each warning, a line at a time.

    Raises:
        BadRequest: a value is of the wrong type, or the file cannot be read.
    """
    file = read_config_file(environ)
    for warning in file.warnings:
        say(warning)
    return load_settings(environ, below=file.settings, **options)


def read_config_file(
    environ: Mapping[str, str] = os.environ, *, needed: Collection[str] | None = None
) -> ConfigFile:
    """Read the file that ``JAMJET_CONFIG`` names, else the current folder's, if it has one.

    Args:
        environ: gives ``${VAR}``; a reference in a key that the environment overrides may be unset.
        needed: the settings to read; all when None. Of others not even the type is looked at.

    Raises:
        BadRequest: the file cannot be read, a value has the wrong type, or a variable is not set.
    """
    path = _find(environ)
    if path is None:
        return ConfigFile()
    reader = _Reader(path, environ, needed)
    for key, value in _flattened(_parsed(path)):
        reader.take(key, value)
    return reader.result()


class _Reader:
    """Sorts the keys of one file."""

    def __init__(self, path: Path, environ: Mapping[str, str], needed: Collection[str] | None) -> None:
        self._path = path
        self._environ = environ
        self._needed = needed
        self._settings: dict[str, Any] = {}
        self._keys: dict[str, str] = {}
        self._warnings: list[str] = []
        self._is_traced = True

    def take(self, key: str, value: Any) -> None:
        name = _setting_named(key)
        if name is not None:
            if self._needed is None or name in self._needed:
                self._set(key, name, value)
        elif key == _TELEMETRY_SWITCH:
            self._is_traced = self._checked(key, self._expanded(key, value, True), bool)
        elif _is_without_effect(key):
            self._warnings.append(f"{self._path}: {key} has no effect on this server")
        elif key not in _INFORMATIVE:
            self._warnings.append(f"{self._path}: {key} is unknown and has no effect: is it misspelt?")

    def result(self) -> ConfigFile:
        if not self._is_traced:
            self._settings.pop("otlp_endpoint", None)
            self._keys.pop("otlp_endpoint", None)
        return ConfigFile(self._path, self._settings, self._keys, tuple(self._warnings))

    def _set(self, key: str, name: str, value: Any) -> None:
        if _has_reference(value) and variable_of(name, self._environ) is not None:
            return
        if name in self._keys:
            raise BadRequest(f"{self._path}: {self._keys[name]} and {key} set the same: keep one of them")
        default = Settings.__dataclass_fields__[name].default
        found = self._checked(key, self._expanded(key, value, default), _HINTS[name])
        self._settings[name] = not found if key in _OPPOSITE else found
        self._keys[name] = key

    def _expanded(self, key: str, value: Any, default: Any) -> Any:
        """The value with its references replaced; a text that had one is read as a variable's would be."""
        if isinstance(value, list):
            return [self._replaced(key, part) if isinstance(part, str) else part for part in value]
        if not _has_reference(value):
            return value
        return read_setting(f"{self._path}: {key}", self._replaced(key, value), default)

    def _replaced(self, key: str, text: str) -> str:
        def value_of(reference: re.Match[str]) -> str:
            if reference[1] not in self._environ:
                raise BadRequest(f"{self._path}: {key} names the variable {reference[1]}, which is not set")
            return self._environ[reference[1]]

        return _REFERENCE.sub(value_of, text)

    def _checked(self, key: str, value: Any, hint: Any) -> Any:
        if not _fits(value, hint):
            raise BadRequest(f"{self._path}: {key} must be {_expected(hint)}")
        return tuple(value) if isinstance(value, list) else value


def _find(environ: Mapping[str, str]) -> Path | None:
    named = environ.get(CONFIG_VARIABLE)
    if named:
        return Path(named)
    here = Path(CONFIG_NAME)
    return here if here.exists() else None


def _parsed(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise BadRequest(f"{CONFIG_VARIABLE} names {str(path)!r}, and there is no such file") from None
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"{path} is not TOML: {error}") from None


def _flattened(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The keys with their values, tables dissolved: ``telemetry.otlp.endpoint``."""
    for name, value in table.items():
        key = prefix + name
        if isinstance(value, dict) and _setting_named(key) is None:
            yield from _flattened(value, f"{key}.")
        else:
            yield key, value


def _setting_named(key: str) -> str | None:
    table, _, name = key.partition(".")
    if table == "jamjet" and name in _HINTS and name not in _NOT_IN_FILES:
        return name
    return _SETTING_OF.get(key)


def _is_without_effect(key: str) -> bool:
    return any(key == known or key.startswith(f"{known}.") for known in _WITHOUT_EFFECT)


def _has_reference(value: Any) -> bool:
    texts = value if isinstance(value, list) else [value]
    return any(isinstance(text, str) and _REFERENCE.search(text) for text in texts)


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, list | tuple) and all(isinstance(part, str) for part in value)
    if get_origin(hint) is dict:
        return isinstance(value, dict)
    if get_args(hint):
        return any(_fits(value, part) for part in get_args(hint))
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint)


def _expected(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(repr(value) for value in get_args(hint))
    if get_origin(hint) is tuple:
        return "a list of strings"
    if get_origin(hint) is dict:
        return "a table"
    if get_args(hint):
        return " or ".join(_expected(part) for part in get_args(hint) if part is not NoneType)
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}[hint]
