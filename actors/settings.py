"""The settings of an installation, read once from the environment and passed on.

Actors and replicas get a ``Settings`` as an argument: no module reads the
environment by itself, so a test can run two installations in one process.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from runtime.errors import BadRequest
from runtime.net.policy import EgressPolicy
from runtime.net.secrets import Secrets

VERSION = "0.1.0"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting with its default. Names are the variables' without ``JAMJET_``, in lower case."""

    database_url: str = ".jamjet/runtime.db"
    bind: str = "127.0.0.1"
    port: int = 7700
    public_url: str | None = None
    dev_mode: bool = False
    log_level: str = "info"
    isolation: Literal["shared", "dedicated"] = "shared"
    live_max: int = 5_000
    backlog_max: int = 100_000
    execution_actors: int = 1
    """Shared ExecutionActors that take work on each node, beside one warm spare."""
    python_modules: tuple[str, ...] = ()
    """Globs of the modules whose functions workflows may call."""
    python_path: str | None = None
    """The folder that Python functions are imported from."""
    template_env: tuple[str, ...] = ()
    """Variables that templates and conditions may read."""
    function_env: tuple[str, ...] = ()
    """Variables that Python functions get."""
    secrets: tuple[str, ...] = ()
    """``NAME@host|host``: variables that requests of nodes may carry, and the hosts that they may go to."""
    http_allow: tuple[str, ...] = ()
    """Networks, addresses and hosts that nodes may reach beside the public internet."""
    env: dict[str, str] = field(default_factory=dict)
    """The values of all these variables, taken where the process started."""
    namespace: str = "jamjet"
    store_faults: str | None = None

    @property
    def one_node(self) -> bool:
        """Whether everything must run on the node that holds the database file."""
        return not self.database_url.startswith(("postgres:", "postgresql"))

    @property
    def readable_names(self) -> frozenset[str]:
        """What ``env.NAME`` in a template or condition may name."""
        return frozenset(self.template_env) | self.held_secrets().hosts.keys()

    def readable_env(self) -> dict[str, str]:
        """What ``env.NAME`` gives: the value, or of a secret a reference that requests alone resolve."""
        values = {name: self.env[name] for name in self.template_env if name in self.env}
        return values | {name: f"${{{name}}}" for name in self.held_secrets().hosts}

    def held_secrets(self) -> Secrets:
        """The secrets, each with the hosts that it may go to."""
        return Secrets.parse(self.secrets, self.env)

    def as_dict(self) -> dict[str, Any]:
        """A plain dict, to cross a Ray call."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Settings":
        return cls(**values)


_PLAIN = {"database_url": "DATABASE_URL"}
"""Settings whose variable has no prefix."""
_ALIASES = {"port": ("JAMJET_PORT", "PORT"), "log_level": ("JAMJET_LOG_LEVEL", "RUST_LOG")}


def load_settings(environ: Mapping[str, str] = os.environ, **overrides: Any) -> Settings:
    """Read the environment; ``overrides`` that are not None win.

    Raises:
        BadRequest: a variable has a value that its setting cannot take.
    """
    values: dict[str, Any] = {}
    for setting in fields(Settings):
        if setting.name == "env":
            continue
        for variable in _variables(setting.name):
            if environ.get(variable, "") != "":
                values[setting.name] = _read(variable, environ[variable], setting.default)
                break
    values.update({name: value for name, value in overrides.items() if value is not None})
    secrets = Secrets.parse(values.get("secrets", ()), environ)
    EgressPolicy.parse(values.get("http_allow", ()))
    listed = (*values.get("template_env", ()), *values.get("function_env", ()), *secrets.hosts)
    values["env"] = {name: environ[name] for name in listed if name in environ}
    if values.get("isolation", "shared") not in ("shared", "dedicated"):
        raise BadRequest(f"JAMJET_ISOLATION is {values['isolation']!r}: it must be shared or dedicated")
    return Settings(**values)


def _variables(name: str) -> tuple[str, ...]:
    return _ALIASES.get(name) or (_PLAIN.get(name, f"JAMJET_{name.upper()}"),)


def _read(variable: str, text: str, default: Any) -> Any:
    if isinstance(default, bool):
        return text.lower() in ("1", "true", "yes", "on")
    if isinstance(default, int):
        if not text.isdigit():
            raise BadRequest(f"{variable} is {text!r}: it must be a whole number")
        return int(text)
    if isinstance(default, tuple):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return text
