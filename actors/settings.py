"""The settings of an installation, read once from the environment and passed on.

Actors and replicas get a ``Settings`` as an argument: no module reads the
environment by itself, so a test can run two installations in one process.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal
from urllib.parse import urlsplit

from runtime.errors import BadRequest
from runtime.net.policy import EgressPolicy
from runtime.net.secrets import Secrets
from runtime.nodes.models.prices import load_prices
from runtime.providers import VARIABLES

VERSION = "0.1.0"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting with its default. Names are the variables' without ``JAMJET_``, in lower case."""

    database_url: str = field(default=".jamjet/runtime.db", repr=False)
    """A SQLite file, or a PostgreSQL URL (``postgresql://...``)."""
    bind: str = "127.0.0.1"
    """The address to listen on. Without authentication it must be a loopback address."""
    port: int = 7700
    """The HTTP port."""
    dev_mode: bool = False
    """No authentication: everyone who reaches the server is an operator."""
    log_level: str = "info"
    """``info``, or with levels of some loggers, ``info,jamjet.http=debug``."""
    otlp_endpoint: str | None = field(default=None, repr=False)
    """Where traces go, as in ``http://localhost:4318``. Without it nothing is traced."""
    isolation: Literal["shared", "dedicated"] = "shared"
    """Where executions run unless they say otherwise: ``shared`` or ``dedicated``."""
    live_max: int = 5_000
    """Executions that one ExecutionActor holds at once. More wait for a seat."""
    backlog_max: int = 100_000
    """Executions that may wait for a seat; beyond it, starts are refused with 429."""
    execution_actors_min: int = 1
    """Shared ExecutionActors that take work on each node, at least, beside a warm spare. With 0, nodes stand
    empty while there is little to do, so that an autoscaler may take them back."""
    execution_actors_max: int = 0
    """Shared ExecutionActors that take work on each node, at most. 0: one for every two CPUs of the node, and
    with SQLite one."""
    execution_actor_cpus: float = 0.5
    """CPUs that a shared ExecutionActor counts for with Ray. Nodes that have fewer get none."""
    warm_actors: int = 1
    """Processes on each node that are kept ready for dedicated executions. 0: each starts its own."""
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
    discovery_allow: tuple[str, ...] = ()
    """Networks, addresses and hosts at which agents may be discovered, by http too. Others must be public and
    are asked by https."""
    public_url: str | None = None
    """Where others reach this server, as in ``https://agents.example.com``. If not set: ``http://{bind}:{port}``."""
    agent_heartbeat: int = 10
    """Seconds between an agent's heartbeats: one that has missed three is shown as stale."""
    agent_expiry: int = 0
    """Seconds of silence after which an active agent is paused, until it beats again; 0: never."""
    model_prices: str | None = None
    """A JSON file of what models cost, which goes before the built-in table."""
    audit_key: str | None = None
    """A PEM file with the Ed25519 key that signs the audit log. Without it, one is made beside a SQLite file,
    and on PostgreSQL nothing is signed."""
    env: dict[str, str] = field(default_factory=dict, repr=False)
    """The values of all these variables, and of the model providers' (``runtime.providers.VARIABLES``), taken
    where the process started. Of JAMJET_MODEL_PRICES it is what the file holds, as other machines lack it."""
    namespace: str = "jamjet"
    """The Ray namespace of the actors."""

    @property
    def one_node(self) -> bool:
        """Whether everything must run on the node that holds the database file."""
        return not self.database_url.startswith(("postgres:", "postgresql"))

    @property
    def reachable_url(self) -> str:
        """Where others reach this server, without a slash at the end."""
        host = f"[{self.bind}]" if ":" in self.bind else self.bind
        return (self.public_url or f"http://{host}:{self.port}").rstrip("/")

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

    @property
    def secret_names(self) -> frozenset[str]:
        """What a model's ``api_key_env`` may name."""
        return frozenset(self.held_secrets().hosts)

    def held_prices(self) -> dict[str, Any]:
        """The operator's own prices of models."""
        prices: dict[str, Any] = json.loads(self.env.get(_PRICES, "{}"))
        return prices

    def digest(self) -> str:
        """Tells settings and release apart: what was made with another one is to be made anew."""
        told = json.dumps([VERSION, self.as_dict()], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def as_dict(self) -> dict[str, Any]:
        """A plain dict, to cross a Ray call."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Settings":
        return cls(**values)


_PRICES = "JAMJET_MODEL_PRICES"
_WHOLE_NUMBER = re.compile(r"[0-9]{1,18}")
_NUMBER = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,4})?")
_AT_LEAST_ONE = ("live_max", "agent_heartbeat")
_PLAIN = {"database_url": "DATABASE_URL"}
"""Settings whose variable has no prefix."""
_ALIASES = {
    "port": ("JAMJET_PORT", "PORT"),
    "log_level": ("JAMJET_LOG_LEVEL", "RUST_LOG"),
    "otlp_endpoint": ("JAMJET_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
}


def load_settings(
    environ: Mapping[str, str] = os.environ, *, below: Mapping[str, Any] | None = None, **overrides: Any
) -> Settings:
    """Read the environment over the settings in ``below``; ``overrides`` that are not None win over both.

    Raises:
        BadRequest: a variable has a value that its setting cannot take.
    """
    values: dict[str, Any] = dict(below or {})
    for setting in fields(Settings):
        variable = None if setting.name == "env" else variable_of(setting.name, environ)
        if variable is not None:
            values[setting.name] = read_setting(variable, environ[variable], setting.default)
    values.update({name: value for name, value in overrides.items() if value is not None})
    secrets = Secrets.parse(values.get("secrets", ()), environ)
    for name in ("http_allow", "discovery_allow"):
        EgressPolicy.parse(values.get(name, ()))
    listed = (*values.get("template_env", ()), *values.get("function_env", ()), *secrets.hosts, *VARIABLES)
    values["env"] = {name: environ[name] for name in listed if name in environ}
    if values.get("model_prices"):
        values["env"][_PRICES] = json.dumps(load_prices(values["model_prices"]))
    for name in _AT_LEAST_ONE:
        if values.get(name, 1) < 1:
            raise BadRequest(f"JAMJET_{name.upper()} is {values[name]}: it must be at least 1")
    _check_fleet(values)
    expiry, heartbeat = values.get("agent_expiry", 0), values.get("agent_heartbeat", Settings.agent_heartbeat)
    if 0 < expiry <= heartbeat:
        raise BadRequest(
            f"JAMJET_AGENT_EXPIRY is {expiry}: it must be 0, or more than JAMJET_AGENT_HEARTBEAT, {heartbeat}"
        )
    _check_public_url(values.get("public_url"))
    if values.get("isolation", "shared") not in ("shared", "dedicated"):
        raise BadRequest(f"JAMJET_ISOLATION is {values['isolation']!r}: it must be shared or dedicated")
    return Settings(**values)


def _check_fleet(values: Mapping[str, Any]) -> None:
    floor, ceiling = values.get("execution_actors_min", 1), values.get("execution_actors_max", 0)
    if 0 < ceiling < floor:
        raise BadRequest(
            f"JAMJET_EXECUTION_ACTORS_MAX is {ceiling}: it must be 0, or no less than"
            f" JAMJET_EXECUTION_ACTORS_MIN, {floor}"
        )
    cpus = values.get("execution_actor_cpus", Settings.execution_actor_cpus)
    if cpus > 1 and cpus != int(cpus):
        raise BadRequest(f"JAMJET_EXECUTION_ACTOR_CPUS is {cpus}: over 1, it must be a whole number")


def _check_public_url(url: str | None) -> None:
    if url is None:
        return
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment or parts.username is not None:
        raise BadRequest(f"JAMJET_PUBLIC_URL is {url!r}: it must be like https://agents.example.com")


def variable_of(name: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """The variable that gives this setting its value in an environment, if one does."""
    variables = _ALIASES.get(name) or (_PLAIN.get(name, f"JAMJET_{name.upper()}"),)
    return next((variable for variable in variables if environ.get(variable, "") != ""), None)


def read_setting(variable: str, text: str, default: Any) -> Any:
    """A setting from text, by the type of its default.

    Raises:
        BadRequest: the text is no value of that type; the message names ``variable``.
    """
    if isinstance(default, bool):
        return text.lower() in ("1", "true", "yes", "on")
    if isinstance(default, int):
        if not _WHOLE_NUMBER.fullmatch(text):
            raise BadRequest(f"{variable} is {text!r}: it must be a whole number")
        return int(text)
    if isinstance(default, float):
        if not _NUMBER.fullmatch(text):
            raise BadRequest(f"{variable} is {text!r}: it must be a number, as 1 or 0.5")
        return float(text)
    if isinstance(default, tuple):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return text
