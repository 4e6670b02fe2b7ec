"""What data policies withhold from events, approvals and the audit log where they are shown.

Policies of the tenant, the workflow and the node count together. The stored log stays
whole, as recovery folds it, and so does the state of an execution, which is its result.
"""

from typing import Any

from runtime.graph import Graph, ModelNode
from runtime.policy import TenantPolicy
from runtime.redaction import DataPolicy, Redactor, merged

PAYLOADS = (
    "initial_input", "final_state", "input", "output", "state_patch", "payload", "error", "description",
    "comment", "user_id", "reason", "rule", "correlation_key", "consumed_key", "context",
)  # fmt: skip
"""The fields of events that hold what people, functions and models said."""


class Withheld:
    """The data policies that hold for one execution."""

    def __init__(self, tenant_id: str, policy: TenantPolicy, graph: Graph) -> None:
        self._tenant_id = tenant_id
        self._graph = graph
        self._common = merged((policy.data_policy, graph.data_policy))
        self._by_node: dict[str | None, tuple[DataPolicy, Redactor] | None] = {}
        nodes = graph.nodes.values()
        self.applies = self._common is not None or any(node.data_policy is not None for node in nodes)
        """Whether anything may have to be withheld."""
        policies = [self._common, *(node.data_policy for node in nodes)]
        self.of_answers = any(policy is not None and _is_about_answers(policy) for policy in policies)
        """Whether anything may have to be withheld of what models say."""

    def value(self, value: Any) -> Any:
        """Something that belongs to no node, such as the state."""
        found = self._of(None)
        return value if found is None else found[1].value(value)

    def fields(self, type_name: str, node_id: str | None, fields: dict[str, Any]) -> dict[str, Any]:
        """An event's fields."""
        found = self._of(node_id)
        if found is None:
            return fields
        policy, redactor = found
        shown = dict(fields)
        is_model = node_id is not None and isinstance(self._graph.nodes.get(node_id), ModelNode)
        if is_model and type_name == "node_started" and not policy.retain_prompts:
            shown.pop("input", None)
        if is_model and type_name == "node_completed" and not policy.retain_outputs:
            shown.pop("output", None)
        key = fields.get("output_key")
        for name in PAYLOADS:
            if name in shown:
                at = (key,) if name == "output" and key is not None else ()
                shown[name] = redactor.value(shown[name], at)
        return shown

    def _of(self, node_id: str | None) -> tuple[DataPolicy, Redactor] | None:
        if node_id not in self._by_node:
            node = None if node_id is None else self._graph.nodes.get(node_id)
            policy = merged((self._common, None if node is None else node.data_policy))
            made = None if policy is None else (policy, Redactor(policy, self._tenant_id))
            self._by_node[node_id] = made
        return self._by_node[node_id]


def _is_about_answers(policy: DataPolicy) -> bool:
    return bool(policy.pii_fields or policy.pii_detectors) or not policy.retain_outputs


def audit_redactor(tenant_id: str, policy: TenantPolicy) -> Redactor | None:
    """What the tenant's own policy withholds from its audit log."""
    return None if policy.data_policy is None else Redactor(policy.data_policy, tenant_id)
