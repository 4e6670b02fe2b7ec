"""One YAML node made into an IR node: its keys renamed, its durations in seconds, its targets collected."""

from dataclasses import dataclass, field
from typing import Any

from runtime.ir.durations import seconds

_TYPES = {
    "branch": "condition",
    "function": "python_fn",
    "python": "python_fn",
    "approval": "human_approval",
    "llm": "model",
}
"""Other names of types."""

_ON_NODE = ("description", "labels", "retry_policy", "retry", "policy", "data_policy", "resources")
_TARGETS = ("on_error", "on_timeout", "fallback_node", "on_approved", "on_rejected")
_ANY_KIND = frozenset((*_TARGETS, "type", "output_key", "input_mapping", "timeout_secs"))
_RENAMED = {"input": "input_mapping", "arguments": "input_mapping"}
_RENAMED_IN: dict[str, dict[str, str]] = {
    "model": {"model": "model_ref", "system": "system_prompt"},
    "agent": {"system": "system_prompt", "agent": "agent_ref"},
    "python_fn": {"fn": "function"},
    "tool": {"tool": "tool_ref"},
    "join": {"merge": "merge_strategy", "strategy": "merge_strategy"},
    "human_approval": {"message": "description", "fallback": "fallback_node"},
    "wait": {"event": "correlation_key"},
    "subgraph": {"workflow": "workflow_ref", "version": "workflow_version", "output": "output_mapping"},
    "memory_retrieval": {"connector": "connector_ref", "query": "query_expr"},
}
_KNOWN: dict[str, str] = {
    "model": (
        "model_ref prompt prompt_ref system_prompt temperature max_tokens stop output_schema tools options"
    ),
    "python_fn": "module function reference output_schema",
    "condition": "branches expression",
    "parallel": "branches",
    "join": "wait_for merge_strategy",
    "wait": "condition correlation_key",
    "human_approval": "description",
    "limit_exceeded": "description",
    "http": "method url headers query body response accept_status",
    "tool": "tool_ref output_schema",
    "mcp_tool": "server tool output_schema",
    "subgraph": "workflow_ref workflow_version output_mapping",
    "eval": "scorers on_fail max_retries input_expr",
    "a2a_task": "remote_agent agent_url skill stream auth on_input_required output_schema",
    "agent": "agent_ref autonomy system_prompt prompt model output_schema",
    "memory_retrieval": "connector_ref query_expr output_schema",
    "policy": "policy_ref on_violation",
    "finalizer": "tool_ref run_on",
    "coordinator": "task required_skills preferred_skills trust_domain budget tiebreaker strategy weights",
    "agent_tool": "agent mode timeout_ms budget",
    "agent_discovery": "skill protocol output_binding",
    "java_fn": "class_name method output_schema",
    "end": "",
}
_KIND_HAS_TIMEOUT = frozenset(("wait", "human_approval", "http", "a2a_task", "limit_exceeded"))


@dataclass
class YamlNode:
    """A node being converted.

    ``next`` are its explicit edges (target, condition); ``branches`` the targets of a
    parallel, which meet at ``meets_at``; ``unknown`` the keys that were only kept.
    """

    id: str
    type: str
    kind: dict[str, Any] = field(default_factory=dict)
    around: dict[str, Any] = field(default_factory=dict)
    next: list[tuple[Any, str | None]] = field(default_factory=list)
    branches: list[str] = field(default_factory=list)
    meets_at: str | None = None
    unknown: list[str] = field(default_factory=list)

    @property
    def wants_next(self) -> bool:
        """Whether it names no successor, though its type has one."""
        own_targets = (
            self.type in ("condition", "parallel", "end", "limit_exceeded") or "on_approved" in self.kind
        )
        return not self.next and not own_targets

    def leads_to(self, target: str) -> None:
        self.next.append((target, None))

    def targets(self) -> list[str]:
        """All nodes that it names as following it."""
        named = [target for target, _ in self.next] + self.branches
        if self.type == "condition":
            named += [branch["target"] for branch in self.kind["branches"]]
        return named + [self.kind[key] for key in _TARGETS if isinstance(self.kind.get(key), str)]

    def edges(self) -> list[dict[str, Any]]:
        """Its IR edges, those of its branches included."""
        named = list(self.next)
        if self.type == "condition":
            named += [(branch["target"], branch["condition"]) for branch in self.kind["branches"]]
        named += [(target, None) for target in self.branches]
        return [{"from": self.id, "to": target, "condition": condition} for target, condition in named]

    def ir(self) -> dict[str, Any]:
        return {"id": self.id, "kind": {"type": self.type, **self.kind}, **self.around}


def read_node(node_id: str, source: dict[str, Any]) -> YamlNode:
    """Convert one node; its ``next`` may still be missing.

    Raises:
        ValueError: a value has the wrong shape.
    """
    fields = {key: value for key, value in _flat(source).items() if value is not None}
    kind = fields.pop("type", None)
    if not isinstance(kind, str) or not kind:
        raise ValueError("type is required")
    if kind == "tool" and "server" in fields:
        kind = "mcp_tool"
    node = YamlNode(node_id, _TYPES.get(kind, kind))
    fields.pop("id", None)
    node.next = _next(fields.pop("next", fields.pop("edges", None)))
    node.around = {key: fields.pop(key) for key in _ON_NODE if key in fields}
    _name_the_retry(node.around)
    _own_targets(node, fields)
    _durations(node, fields)
    node.kind |= _renamed(node, fields)
    known = _ANY_KIND.union(_KNOWN.get(node.type, "").split())
    node.unknown = sorted(node.kind.keys() - known)
    return node


def _flat(source: dict[str, Any]) -> dict[str, Any]:
    """Type, ``config`` and the other keys in one object; ``kind`` is the type's name or the IR's object."""
    fields = dict(source)
    kind, config = fields.pop("kind", None), fields.pop("config", None)
    if isinstance(kind, str):
        fields.setdefault("type", kind)
    elif isinstance(kind, dict):
        fields |= kind
    if config is not None and not isinstance(config, dict):
        raise ValueError("config must be an object")
    return fields | (config or {})


def _name_the_retry(around: dict[str, Any]) -> None:
    """A policy may be given in the place of its name, and the other way round."""
    if isinstance(around.get("retry_policy"), dict):
        around["retry"] = around.pop("retry_policy")
    elif isinstance(around.get("retry"), str):
        around["retry_policy"] = around.pop("retry")


def _renamed(node: YamlNode, fields: dict[str, Any]) -> dict[str, Any]:
    names = _RENAMED | _RENAMED_IN.get(node.type, {})
    kind: dict[str, Any] = {}
    for key, value in fields.items():
        name = names.get(key, key)
        if name in kind or (name != key and name in fields):
            raise ValueError(f"{key} and {name} say the same: keep one of them")
        kind[name] = value
    if node.type == "model" and "prompt" in kind:
        kind.setdefault("prompt_ref", kind["prompt"])
    if node.type == "eval" and isinstance(kind.get("scorers"), list):
        kind["scorers"] = [_scorer(scorer) for scorer in kind["scorers"]]
    if node.type == "human_approval" and "description" in node.around:
        kind.setdefault("description", node.around["description"])
    return kind


def _scorer(scorer: Any) -> Any:
    if not isinstance(scorer, dict):
        return scorer
    names = {"check": "checks", "max_ms": "threshold_ms"}
    return {names.get(key, key): value for key, value in scorer.items()}


def _durations(node: YamlNode, fields: dict[str, Any]) -> None:
    """``timeout`` where the IR wants it; the length of a wait under whichever key it was written."""
    if node.type == "wait":
        _wait_length(node, fields)
    if "timeout" in fields:
        length = seconds(fields.pop("timeout"))
        if node.type in _KIND_HAS_TIMEOUT:
            node.kind["timeout_secs"] = length
        else:
            node.around["node_timeout_secs"] = length
    if "node_timeout_secs" in fields:
        node.around["node_timeout_secs"] = seconds(fields.pop("node_timeout_secs"))


def _wait_length(node: YamlNode, fields: dict[str, Any]) -> None:
    """An event with a ``timeout`` has a deadline; one with a ``duration`` goes on when that has passed."""
    by_event = "event" in fields or "correlation_key" in fields
    if "timeout_hours" in fields:
        fields["timeout"] = f"{fields.pop('timeout_hours')}h"
    has_duration = "duration" in fields
    if has_duration and "timeout" in fields:
        raise ValueError("duration and timeout say the same: keep one of them")
    if has_duration:
        fields["timeout"] = fields.pop("duration")
    default = "timer" if not by_event else "either" if has_duration else "external_event"
    fields.setdefault("condition", default)


def _own_targets(node: YamlNode, fields: dict[str, Any]) -> None:
    if node.type == "condition":
        _branches(node, fields)
    elif node.type == "parallel":
        node.branches = _targets(fields.get("branches", []), "branches")
        node.meets_at = fields.pop("join", None)
        if node.meets_at is None and len(node.next) == 1 and node.next[0][1] is None:
            # The step after a parallel without a join is where its branches meet.
            node.meets_at = node.next.pop()[0]
        if node.meets_at is not None and not isinstance(node.meets_at, str):
            raise ValueError("join must be the id of a node")


def _targets(value: Any, place: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(target, str) for target in value):
        raise ValueError(f"{place} must be a list of ids of nodes")
    return list(value)


def _branches(node: YamlNode, fields: dict[str, Any]) -> None:
    """``conditions`` or ``branches`` with ``default``, or a ``next`` with conditions: all are branches."""
    entries = fields.pop("conditions", None) or fields.pop("branches", None) or []
    if not isinstance(entries, list):
        raise ValueError("branches must be a list")
    branches = [_branch(entry) for entry in entries]
    if not branches and any(condition is not None for _, condition in node.next):
        branches = sorted(node.next, key=lambda branch: branch[1] is None)
        node.next = []
    default = fields.pop("default", fields.pop("else", None))
    if default is not None:
        branches.append((_target(default), None))
    node.kind["branches"] = [{"condition": condition, "target": target} for target, condition in branches]


_ELSE = "else"


def _branch(entry: Any) -> tuple[str, str | None]:
    target, condition = _guarded(entry)
    return target, None if condition == _ELSE else condition


def _next(value: Any) -> list[tuple[Any, str | None]]:
    """Edges of ``next``: an id, an object, or a list of them; ``else`` is what no other entry takes."""
    if value is None:
        return []
    entries = [_guarded(entry) for entry in (value if isinstance(value, list) else [value])]
    conditions = [condition for _, condition in entries if condition not in (None, _ELSE)]
    otherwise = f"not ({' or '.join(f'({condition})' for condition in conditions)})" if conditions else None
    return [(target, otherwise if condition == _ELSE else condition) for target, condition in entries]


def _guarded(entry: Any) -> tuple[str, str | None]:
    """An entry's target, and its condition: None where there is none, ``else`` for an else."""
    if isinstance(entry, str):
        return entry, None
    if not isinstance(entry, dict):
        raise ValueError(f"{entry!r} is not a target")
    known = ("to", "target", "next", "when", "if", "condition", "else", "default")
    strange = sorted(entry.keys() - set(known))
    if strange:
        raise ValueError(f"the key {strange[0]!r} of a target is not known (known: {', '.join(known)})")
    otherwise = entry.get("else", entry.get("default"))
    if otherwise is not None:
        return _target(otherwise), _ELSE
    target = next((entry[key] for key in ("to", "target", "next") if entry.get(key) is not None), None)
    condition = next((entry[key] for key in ("when", "if", "condition") if entry.get(key) is not None), None)
    if isinstance(condition, bool):
        condition = "true" if condition else "false"
    if condition is not None and not isinstance(condition, str):
        raise ValueError(f"{condition!r} is not a condition")
    return _target(target), condition


def _target(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"a target must be the id of a node, not {value!r}")
    return value
