"""Policies: which tools and models a workflow may use, and for which it must ask a person.

They stand at three levels: tenant, workflow and node. A narrower level may only add to what
a broader one forbids, so the order of the levels does not matter to what is allowed.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from runtime.errors import BadRequest
from runtime.graph import A2aTaskNode, HttpNode, JoinNode, ModelNode, Node, PythonFnNode, ToolPolicy
from runtime.redaction import DataPolicy

Scope = Literal["tenant", "workflow", "node"]


class TenantPolicy(ToolPolicy, frozen=True, kw_only=True):
    """What a tenant's operators decide for all its workflows."""

    reviewers_may_approve: bool = False
    publish: bool = False
    """Its active agents, and its workflows that are exposed to A2A, are told to everybody."""
    data_policy: DataPolicy | None = None


NO_POLICY = TenantPolicy()


class Verdict(NamedTuple):
    """Why a node may not run as it is. ``rule`` is a sentence."""

    decision: Literal["block", "require_approval"]
    tool: str
    rule: str
    scope: Scope


def parse_tenant_policy(value: object) -> TenantPolicy:
    """A tenant's policy as it is posted.

    Raises:
        BadRequest: naming the place that is wrong.
    """
    try:
        return msgspec.convert(value, TenantPolicy)
    except msgspec.ValidationError as error:
        raise BadRequest(f"policy: {_lowered(str(error))}") from error


def decode_tenant_policy(text: str) -> TenantPolicy:
    """A tenant's policy as its row keeps it. Keys of a later release are passed over, not refused."""
    if text == "{}":
        return NO_POLICY
    try:
        return _decode(text)
    except msgspec.ValidationError:
        fields = msgspec.json.decode(text, type=dict[str, Any])
        known = {name: fields[name] for name in TenantPolicy.__struct_fields__ if name in fields}
        if isinstance(known.get("data_policy"), dict):
            names = DataPolicy.__struct_fields__
            kept = {name: value for name, value in known["data_policy"].items() if name in names}
            known["data_policy"] = kept
        return msgspec.convert(known, TenantPolicy)


def encode_tenant_policy(policy: TenantPolicy) -> str:
    return msgspec.json.encode(policy).decode()


_decode = msgspec.json.Decoder(TenantPolicy).decode


def verdict(node: Node, levels: Sequence[tuple[Scope, ToolPolicy | None]]) -> Verdict | None:
    """What the policies of all levels say of a node; None: it may run. What forbids goes before what asks."""
    given = [(scope, policy) for scope, policy in levels if policy is not None]
    tools = tool_names(node)
    for scope, policy in given:
        found = _first_match(policy.blocked_tools, tools)
        if found is not None:
            name, pattern = found
            return Verdict("block", name, f"tool {name!r} matches blocked pattern {pattern!r}", scope)
        if isinstance(node, ModelNode) and not _is_listed(policy.model_allowlist, node):
            name = model_names(node)[0]
            return Verdict("block", name, f"model {name!r} is not in the allowlist", scope)
    for scope, policy in given:
        found = _first_match(policy.require_approval_for, tools)
        if found is not None:
            name, pattern = found
            return Verdict("require_approval", name, f"tool {name!r} matches pattern {pattern!r}", scope)
    return None


def tool_names(node: Node) -> tuple[str, ...]:
    """The names under which policies know what a node calls."""
    match node:
        case PythonFnNode():
            return (f"{node.module}:{node.function}", f"{node.module}.{node.function}", "python_fn")
        case JoinNode(merge="custom"):
            return (f"{node.module}:{node.function}", f"{node.module}.{node.function}", "python_fn")
        case HttpNode():
            return (node.id, "http")
        case A2aTaskNode():
            named = (f"{node.agent}/{node.skill}", node.skill) if node.skill else ()
            return (*named, node.agent, "a2a_task")
        case _:
            return ()


def model_names(node: ModelNode) -> tuple[str, str]:
    return (f"{node.provider}/{node.model}", node.model)


def _is_listed(allowlist: Sequence[str], node: ModelNode) -> bool:
    return not allowlist or _first_match(allowlist, model_names(node)) is not None


def _first_match(patterns: Sequence[str], names: Sequence[str]) -> tuple[str, str] | None:
    """The first name and pattern that match."""
    for pattern in patterns:
        for name in names:
            if matches(pattern, name):
                return name, pattern
    return None


def matches(pattern: str, name: str) -> bool:
    """Whether a glob of ``*`` and ``?`` matches a whole name; time grows with the product at most."""
    at = star = -1
    here, i = 0, 0
    while i < len(name):
        if here < len(pattern) and pattern[here] == "*":
            star, at = here, i
            here += 1
        elif here < len(pattern) and pattern[here] in ("?", name[i]):
            here += 1
            i += 1
        elif star >= 0:
            at += 1
            here, i = star + 1, at
        else:
            return False
    return pattern[here:].strip("*") == ""


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]
