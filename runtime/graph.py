"""The normal form: what a workflow is to the machine. Nothing else is known to it.

Registration compiles IR and YAML into a ``Graph`` (``runtime.ir.compile``) and
stores it beside the IR. Every target, whatever it was called in the source
(``next``, ``on_error``, ``fallback_node``, ``branches`` ...), is a labelled
``Edge`` here. Values are immutable; times are milliseconds.
"""

from typing import Any, Literal

import msgspec

from runtime.redaction import DataPolicy

FORMAT = 1
END = "end"
"""Target of an edge that ends a path. Never a node."""

Label = Literal["ok", "error", "timeout", "approved", "rejected", "limit", "branch"]
"""The outcome that an edge waits for. ``branch`` edges belong to a condition's branches, in order."""

ErrorClass = str
"""``io_error``, ``timeout``, ``rate_limit``, ``server_error``, ``connection_reset``, or a custom name."""


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When to try a node again. An empty ``retryable_on`` means any error."""

    max_attempts: int = 1
    backoff: Literal["fixed", "linear", "exponential"] = "exponential"
    initial_delay_ms: int = 1_000
    max_delay_ms: int = 30_000
    jitter: bool = False
    retryable_on: tuple[ErrorClass, ...] = ()


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """From ``source`` to ``target`` when the source settles with ``label`` and ``condition`` holds."""

    source: str
    target: str
    label: Label = "ok"
    condition: str | None = None
    back: bool = False
    """True iff the target dominates the source: taking it starts the loop's next round."""


class Loop(msgspec.Struct, frozen=True, kw_only=True):
    """A natural loop: ``header`` and every node that reaches one of its back-edges without passing it."""

    header: str
    nodes: tuple[str, ...]
    """Sorted, the header included."""


class ToolPolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Globs (``*``, ``?``) of tools and models. An empty allowlist allows all models.

    See ``runtime.policy`` for the names that a node goes by.
    """

    blocked_tools: tuple[str, ...] = ()
    require_approval_for: tuple[str, ...] = ()
    model_allowlist: tuple[str, ...] = ()


class _NodeBase(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    id: str
    description: str | None = None
    labels: dict[str, str] = {}
    output_key: str | None = None
    """Where a result is set in the state; None where the kind has no result of its own."""
    retry: RetryPolicy | None = None
    timeout_ms: int | None = None
    policy: ToolPolicy | None = None
    data_policy: DataPolicy | None = None


class ConditionNode(_NodeBase, frozen=True, kw_only=True, tag="condition"):
    """Takes the first of its ``branch`` edges that holds, else its first other edge that holds."""


class ParallelNode(_NodeBase, frozen=True, kw_only=True, tag="parallel"):
    """Starts all its edges' targets."""


class JoinNode(_NodeBase, frozen=True, kw_only=True, tag="join"):
    """Meets branches. ``region`` are the nodes between its parallel and it, cancelled by ``first``."""

    wait_for: tuple[str, ...] = ()
    merge: Literal["collect", "first", "custom"] = "collect"
    module: str | None = None
    function: str | None = None
    region: tuple[str, ...] = ()


class WaitNode(_NodeBase, frozen=True, kw_only=True, tag="wait"):
    """Waits for a timer, an event with ``correlation_key`` (a template), or either.

    For ``timer`` and ``either`` the timer's length is ``delay_ms``; an
    ``external_event`` wait may have a deadline in ``timeout_ms``.
    """

    until: Literal["timer", "external_event", "either"]
    correlation_key: str | None = None
    delay_ms: int | None = None


class HumanApprovalNode(_NodeBase, frozen=True, kw_only=True, tag="human_approval"):
    """Waits for a person's decision, at most ``timeout_ms``."""


class LimitExceededNode(_NodeBase, frozen=True, kw_only=True, tag="limit_exceeded"):
    """Ends the execution as ``limit_exceeded``."""


class PythonFnNode(_NodeBase, frozen=True, kw_only=True, tag="python_fn"):
    """Calls ``module.function``: with the state, or with ``input_mapping`` rendered as keyword arguments.

    With ``resources`` (see ``runtime.demand``) this call alone runs on a machine that has them.
    """

    module: str
    function: str
    input_mapping: dict[str, Any] | None = None
    resources: dict[str, Any] | None = None


class ModelNode(_NodeBase, frozen=True, kw_only=True, tag="model"):
    """Asks a model. ``prompt`` and ``system_prompt`` are templates; ``options`` are the provider's own.

    With an ``output_schema`` (a JSON Schema) the answer is JSON. ``api_base`` is another server than the
    provider's own; ``api_key_env`` names the secret that goes there.
    """

    provider: str
    model: str
    prompt: str
    system_prompt: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    output_schema: dict[str, Any] | None = None
    api_base: str | None = None
    api_key_env: str | None = None
    options: dict[str, Any] = {}


class HttpNode(_NodeBase, frozen=True, kw_only=True, tag="http"):
    """Makes one HTTP exchange. ``url``, ``headers``, ``query`` and ``body`` are templates.

    ``accept`` are the statuses that count as success: ``"200"``, ``"2xx"``. The result is
    the decoded body, the status, or ``{"status", "headers", "body"}``.
    """

    method: str = "GET"
    url: str
    headers: dict[str, Any] = {}
    query: dict[str, Any] = {}
    body: Any = None
    response: Literal["body", "status", "full"] = "body"
    accept: tuple[str, ...] = ("2xx",)

    def accepts(self, status: int) -> bool:
        return f"{status}" in self.accept or f"{status // 100}xx" in self.accept


class A2aTaskNode(_NodeBase, frozen=True, kw_only=True, tag="a2a_task"):
    """Has a remote agent do something, by A2A.

    ``agent`` is the id of a registered agent, or, where ``url`` says where it is, a name for it. What
    ``input_mapping`` renders to is sent; ``token_env`` names the secret that is its bearer token.
    """

    agent: str
    url: str | None = None
    skill: str | None = None
    input_mapping: dict[str, Any] = {}
    stream: bool = False
    token_env: str | None = None


Node = (
    ConditionNode
    | ParallelNode
    | JoinNode
    | WaitNode
    | HumanApprovalNode
    | LimitExceededNode
    | PythonFnNode
    | ModelNode
    | HttpNode
    | A2aTaskNode
)

AttemptedNode = PythonFnNode | ModelNode | HttpNode | A2aTaskNode
"""The kinds whose visits begin with an attempt outside of the machine."""

SUPPORTED_KINDS = (
    "condition",
    "parallel",
    "join",
    "wait",
    "human_approval",
    "limit_exceeded",
    "python_fn",
    "model",
    "http",
    "a2a_task",
)


class Graph(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow in normal form.

    ``edges`` is in source order; an edge is named by its index. ``dead_edges``
    are those whose source no path from the start reaches. ``loops`` are listed
    innermost first. ``merges`` are the state keys that accumulate.
    """

    format: int = FORMAT
    workflow_id: str
    version: str
    start: str
    nodes: dict[str, Node]
    edges: tuple[Edge, ...] = ()
    dead_edges: tuple[int, ...] = ()
    loops: tuple[Loop, ...] = ()
    merges: dict[str, Literal["append", "add"]] = {}
    max_steps: int = 1_000
    timeout_ms: int | None = None
    isolation: Literal["shared", "dedicated"] | None = None
    resources: dict[str, Any] | None = None
    labels: dict[str, str] = {}
    policy: ToolPolicy | None = None
    data_policy: DataPolicy | None = None


def encode_graph(graph: Graph) -> str:
    """The graph as JSON text, as it is stored."""
    return msgspec.json.encode(graph).decode()


def decode_graph(text: str | bytes) -> Graph:
    """Read a stored graph."""
    return msgspec.json.decode(text, type=Graph)
