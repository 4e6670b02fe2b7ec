"""The IR as clients post it: tolerant models, one per table and supported node kind.

Unknown keys are allowed everywhere and a null means absent, because several
generations of clients write this. Durations become milliseconds here; everything
else is only checked for its type.
"""

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import orjson
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from runtime.demand import problem
from runtime.graph import END, Label, RetryPolicy
from runtime.ir.durations import DURATION_MS_MAX, duration_ms

NODES_MAX = 1_000
EDGES_MAX = 5_000
NAME_CHARS_MAX = 256
VERSION_CHARS_MAX = 64
STEPS_MAX = 1_000_000


def _name(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    if len(text) > NAME_CHARS_MAX:
        raise ValueError(f"is {len(text)} characters long, over the limit of {NAME_CHARS_MAX}")
    if not text.isprintable():
        raise ValueError(f"{text!r} has characters that cannot be printed")
    return text


def _labels(value: Any) -> Any:
    """Numbers and booleans are written as text; a null drops the label."""
    if not isinstance(value, dict):
        return value
    return {
        key: item if isinstance(item, str) else orjson.dumps(item).decode()
        for key, item in value.items()
        if item is not None
    }


def _condition(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.strip() or None if isinstance(value, str) else value


def _base_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"{text!r} is not the url of a server (http:// or https://)")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not have a user name or password in it")
    if parts.query or parts.fragment:
        raise ValueError("must not have a query or fragment")
    return text.rstrip("/")


def _positive(length: int) -> int:
    if length == 0:
        raise ValueError("must be greater than 0")
    return length


DurationMs = Annotated[int, BeforeValidator(duration_ms)]
"""Written in seconds or with a unit, kept in ms."""
TimeoutMs = Annotated[int, BeforeValidator(lambda value: _positive(duration_ms(value)))]
Millis = Annotated[int, Field(ge=0, le=DURATION_MS_MAX)]
Labels = Annotated[dict[str, str], BeforeValidator(_labels)]
Condition = Annotated[str | None, BeforeValidator(_condition)]
Stops = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
]
"""Texts at which a model stops."""


class Part(BaseModel):
    """A piece of IR."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value is not None}
        return data


_ERROR_CLASSES = {
    "model_overloaded": "server_error",
    "overloaded": "server_error",
    "rate_limited": "rate_limit",
}


class RetryDef(Part):
    """A retry policy: the table's form (delays in seconds) and the inline one (``delay_ms``)."""

    max_attempts: Annotated[int, Field(ge=1, le=1_000)]
    backoff: Literal["fixed", "linear", "exponential"] = "exponential"
    initial_delay: DurationMs | None = None
    initial_delay_ms: Millis | None = Field(
        None, validation_alias=AliasChoices("initial_delay_ms", "delay_ms")
    )
    max_delay: DurationMs | None = None
    max_delay_ms: Millis | None = None
    jitter: bool = False
    retryable_on: list[str] = Field([], validation_alias=AliasChoices("retryable_on", "retry_on"))

    @field_validator("backoff", mode="before")
    @classmethod
    def _constant_is_fixed(cls, value: Any) -> Any:
        return "fixed" if value == "constant" else value

    @field_validator("retryable_on", mode="before")
    @classmethod
    def _error_classes(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        names = [item["custom"] if isinstance(item, dict) and "custom" in item else item for item in value]
        return [_ERROR_CLASSES.get(name, name) if isinstance(name, str) else name for name in names]

    def policy(self) -> RetryPolicy:
        """The same in milliseconds; a cap below the first delay is raised to it."""
        defaults = RetryPolicy()
        initial = _first(self.initial_delay_ms, self.initial_delay, defaults.initial_delay_ms)
        longest = _first(self.max_delay_ms, self.max_delay, max(defaults.max_delay_ms, initial))
        return RetryPolicy(
            max_attempts=self.max_attempts,
            backoff=self.backoff,
            initial_delay_ms=initial,
            max_delay_ms=max(longest, initial),
            jitter=self.jitter,
            retryable_on=tuple(self.retryable_on),
        )


def _first(*values: int | None) -> int:
    return next(value for value in values if value is not None)


BUILT_IN_RETRIES = {
    "io_default": RetryPolicy(
        max_attempts=3,
        initial_delay_ms=1_000,
        max_delay_ms=30_000,
        jitter=True,
        retryable_on=("io_error", "timeout", "connection_reset"),
    ),
    "llm_default": RetryPolicy(
        max_attempts=3,
        initial_delay_ms=2_000,
        max_delay_ms=60_000,
        jitter=True,
        retryable_on=("rate_limit", "timeout", "server_error"),
    ),
    "no_retry": RetryPolicy(max_attempts=1),
    "fast": RetryPolicy(max_attempts=2, backoff="fixed", initial_delay_ms=1_000),
}


class TimeoutConfig(Part):
    node_timeout: TimeoutMs | None = None
    workflow_timeout: TimeoutMs | None = None
    approval_timeout: TimeoutMs | None = None


class ModelConfig(Part):
    """An entry of ``models``; keys that are not named here are the provider's options.

    ``api_base`` is the base URL of a server that speaks the provider's wire; ``api_key_env`` names the
    secret that is its key.
    """

    provider: str | None = None
    model: str | None = None
    temperature: float | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: Stops | None = None
    api_base: Annotated[str, AfterValidator(_base_url)] | None = None
    api_key_env: str | None = None
    timeout_secs: TimeoutMs | None = None
    retry_policy: str | None = None


class McpServerConfig(Part):
    command: Any = None


class RemoteAgentConfig(Part):
    """An entry of ``remote_agents``. ``auth`` names a secret under ``token_env``."""

    url: Annotated[str, AfterValidator(_base_url)]
    auth: dict[str, Any] = {}


class Resources(Part):
    """What an execution or a function asks of the machine that it runs on; see ``runtime.demand``."""

    model_config = ConfigDict(extra="forbid")

    num_cpus: Annotated[float, Field(ge=0)] | None = None
    num_gpus: Annotated[float, Field(ge=0)] | None = None
    memory: Annotated[int, Field(ge=0)] | None = None
    custom: dict[str, Annotated[float, Field(ge=0)]] = {}
    labels: Labels = {}

    @model_validator(mode="after")
    def _can_be_asked_for(self) -> "Resources":
        found = problem(self.model_dump())
        if found is not None:
            raise ValueError(found)
        return self

    def demand(self) -> dict[str, Any] | None:
        """What is asked for, by key; None: nothing is."""
        return self.model_dump(exclude_defaults=True) or None


class EdgeDef(Part):
    source: str = Field(alias="from")
    target: str = Field(alias="to")
    condition: Condition = None
    label: Label | None = None


class NodeDef(Part):
    """A node before its kind is known. Its own keys serve where ``kind`` does not have them."""

    id: str
    kind: dict[str, Any]

    @field_validator("id")
    @classmethod
    def _printable(cls, value: str) -> str:
        return _name(value)

    @model_validator(mode="before")
    @classmethod
    def _spell_out_kind(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        kind = data.get("kind", data.get("type"))
        return {**data, "kind": {"type": kind}} if isinstance(kind, str) else data

    @property
    def type(self) -> Any:
        return self.kind.get("type")

    def fields(self) -> dict[str, Any]:
        """Node and kind as one object; a null does not hide the other's value."""
        own = dict(self.__pydantic_extra__ or {})
        own.pop("type", None)
        return own | {key: value for key, value in self.kind.items() if value is not None}


class WorkflowIr(Part):
    workflow_id: str
    version: str
    description: str | None = None
    state_schema: dict[str, Any] = {}
    start_node: str | None = None
    start: str | None = None
    nodes: dict[str, NodeDef]
    edges: list[EdgeDef] = []
    retry_policies: dict[str, RetryDef] = {}
    timeouts: TimeoutConfig = TimeoutConfig()
    models: dict[str, ModelConfig] = {}
    mcp_servers: dict[str, McpServerConfig] = {}
    remote_agents: dict[str, RemoteAgentConfig] = {}
    labels: Labels = {}
    max_steps: Annotated[int, Field(ge=1, le=STEPS_MAX)] | None = None
    isolation: Literal["shared", "dedicated"] | None = None
    resources: Resources | None = None
    strategy_metadata: dict[str, Any] = {}
    expose: Any = None

    @model_validator(mode="before")
    @classmethod
    def _empty_name_is_absent(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {
            key: value for key, value in data.items() if value != "" or key not in ("workflow_id", "version")
        }

    @field_validator("workflow_id")
    @classmethod
    def _printable(cls, value: str) -> str:
        return _name(value)

    @field_validator("version")
    @classmethod
    def _short(cls, value: str) -> str:
        if len(value) > VERSION_CHARS_MAX or not value.isprintable():
            raise ValueError(f"must be at most {VERSION_CHARS_MAX} printable characters")
        return value

    @field_validator("state_schema", mode="before")
    @classmethod
    def _schema_object(cls, value: Any) -> Any:
        """A schema may be a class's name, which says nothing here, or an object as JSON text."""
        if not isinstance(value, str):
            return value
        try:
            parsed = orjson.loads(value)
        except orjson.JSONDecodeError:
            return {}
        return parsed if isinstance(parsed, dict) else {}

    @field_validator("nodes", mode="before")
    @classmethod
    def _nodes_by_id(cls, value: Any) -> Any:
        if isinstance(value, list):
            value = _listed_nodes(value)
        if not isinstance(value, dict):
            return value
        if not value:
            raise ValueError("there must be at least one node")
        if len(value) > NODES_MAX:
            raise ValueError(f"{len(value)} nodes are over the limit of {NODES_MAX}")
        return {key: _with_id(key, node) for key, node in value.items()}

    @field_validator("edges")
    @classmethod
    def _bounded(cls, value: list[EdgeDef]) -> list[EdgeDef]:
        if len(value) > EDGES_MAX:
            raise ValueError(f"{len(value)} edges are over the limit of {EDGES_MAX}")
        return value


def _with_id(key: Any, node: Any) -> Any:
    if not isinstance(node, dict) or node.get("id") is not None:
        return node
    return {**node, "id": key}


def _listed_nodes(nodes: list[Any]) -> dict[str, Any]:
    by_id: dict[str, Any] = {}
    for index, node in enumerate(nodes):
        if not isinstance(node, dict) or not isinstance(node.get("id"), str):
            raise ValueError(f"item {index} must be an object with an id")
        if node["id"] in by_id:
            raise ValueError(f"the id {node['id']!r} stands twice")
        by_id[node["id"]] = node
    return by_id


# --- node kinds -----------------------------------------------------------------------------------


class Kind(Part):
    """What any node may say about itself."""

    description: str | None = None
    labels: Labels = {}
    output_key: str | None = None
    retry_policy: str | None = None
    retry: RetryDef | None = None
    timeout_secs: TimeoutMs | None = None
    node_timeout_secs: TimeoutMs | None = None
    on_error: str | None = None
    on_timeout: str | None = None
    fallback_node: str | None = None
    on_approved: str | None = None
    on_rejected: str | None = None

    @property
    def timeout_ms(self) -> int | None:
        return self.timeout_secs if self.timeout_secs is not None else self.node_timeout_secs


class Branch(Part):
    condition: Condition = None
    target: str


class ConditionKind(Kind):
    branches: list[Branch] = []


class ParallelKind(Kind):
    branches: list[str] = []


class CustomMerge(Part):
    function_ref: str


class JoinKind(Kind):
    wait_for: list[str] = []
    merge_strategy: Literal["collect", "first"] | CustomMerge = Field(
        "collect", validation_alias=AliasChoices("merge_strategy", "merge")
    )

    @field_validator("merge_strategy", mode="before")
    @classmethod
    def _custom(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return CustomMerge.model_validate(value.get("custom", value))
        if value not in ("collect", "first"):
            raise ValueError(
                f"{value!r} is none of 'collect', 'first' and {{'custom': {{'function_ref': ...}}}}"
            )
        return value


class WaitKind(Kind):
    """``timeout_secs`` is the timer's length, which may be 0, or the deadline of an event."""

    timeout_secs: DurationMs | None = None
    condition: Literal["timer", "external_event", "either"] | None = None
    correlation_key: str | None = None

    @property
    def until(self) -> Literal["timer", "external_event", "either"]:
        return self.condition or ("external_event" if self.correlation_key else "timer")


class HumanApprovalKind(Kind):
    pass


class LimitExceededKind(Kind):
    pass


class PythonFnKind(Kind):
    """``module`` and ``function``, or both as ``reference`` (or ``function``): ``module:function``."""

    module: str
    function: str
    input_mapping: dict[str, Any] | None = None
    resources: Resources | None = None

    @model_validator(mode="before")
    @classmethod
    def _reference(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("module"):
            return data
        reference = data.get("reference") or data.get("function")
        if not isinstance(reference, str) or ":" not in reference:
            return data
        module, _, function = reference.partition(":")
        return {**data, "module": module, "function": function}


HTTP_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_STATUS = re.compile(r"[1-5](?:[0-9]{2}|xx)")


class HttpKind(Kind):
    """``accept_status`` lists the statuses that count as success: ``200``, ``"2xx"``."""

    method: str = "GET"
    url: str
    headers: dict[str, Any] = {}
    query: dict[str, Any] = {}
    body: Any = None
    response: Literal["body", "status", "full"] = "body"
    accept_status: list[str] = ["2xx"]

    @field_validator("method")
    @classmethod
    def _known_method(cls, value: str) -> str:
        if value.upper() not in HTTP_METHODS:
            raise ValueError(f"{value!r} is none of {', '.join(HTTP_METHODS)}")
        return value.upper()

    @field_validator("accept_status", mode="before")
    @classmethod
    def _statuses(cls, value: Any) -> Any:
        listed = value if isinstance(value, list) else [value]
        statuses = [str(status).lower() for status in listed if not isinstance(status, bool)]
        if not statuses or not all(_STATUS.fullmatch(status) for status in statuses):
            raise ValueError("must be statuses such as 200 or '2xx'")
        return statuses


class ModelKind(Kind):
    model_ref: str | None = None
    model: str | None = None
    prompt: str | None = None
    prompt_ref: str | None = None
    system_prompt: str | None = None
    temperature: float | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: Stops | None = None
    output_schema: Any = None
    tools: list[Any] = []
    options: dict[str, Any] = {}


class A2aTaskKind(Kind):
    """``remote_agent`` is a name in ``remote_agents`` or the id of a registered agent; or ``agent_url``."""

    remote_agent: str | None = None
    agent_url: Annotated[str, AfterValidator(_base_url)] | None = None
    skill: str | None = None
    input_mapping: dict[str, Any] = {}
    stream: bool = False
    auth: dict[str, Any] = {}
    on_input_required: str | None = None


KINDS: dict[str, type[Kind]] = {
    "condition": ConditionKind,
    "branch": ConditionKind,
    "parallel": ParallelKind,
    "join": JoinKind,
    "wait": WaitKind,
    "human_approval": HumanApprovalKind,
    "limit_exceeded": LimitExceededKind,
    "python_fn": PythonFnKind,
    "model": ModelKind,
    "http": HttpKind,
    "a2a_task": A2aTaskKind,
}

END_KIND = END
"""Nodes of this type only give the end of a path a name."""
