"""Workflows as people write them in YAML, made into IR.

Read are the dialects with a ``workflow:`` header and ``nodes:`` beside or inside
it (a map, or a list of objects with an id), and the one with the header's keys at
the top. Each node's targets (``next``, ``branches`` ...) become IR edges or fields of
its kind. A key that is not known is kept in the IR, with a warning.
"""

from collections.abc import Mapping
from typing import Any

from runtime.graph import END
from runtime.ir.report import refuse
from runtime.ir.yaml_nodes import YamlNode, read_node
from runtime.ir.yaml_text import load

_HEADER_KEYS = frozenset(
    (
        "workflow_id",
        "version",
        "name",
        "description",
        "state_schema",
        "start_node",
        "nodes",
        "edges",
        "retry_policies",
        "timeouts",
        "models",
        "tools",
        "mcp_servers",
        "remote_agents",
        "labels",
        "policy",
        "token_budget",
        "cost_budget_usd",
        "on_budget_exceeded",
        "data_policy",
        "continue_as_new",
        "strategy_metadata",
        "max_steps",
        "isolation",
        "resources",
        "expose",
        "input_schema",
    )
)
_TABLES = ("retry_policies", "timeouts", "models", "tools", "mcp_servers", "remote_agents", "labels")
_DEFAULT_VERSION = "0.1.0"


def yaml_to_ir(text: str) -> dict[str, Any]:
    """Convert YAML to IR. The IR is not yet checked: ``compile_ir`` does that.

    Raises:
        InvalidWorkflow: the text is no YAML, or no workflow.
    """
    return read_yaml(text)[0]


def read_yaml(text: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Convert YAML to IR, with warnings about what was not understood.

    Raises:
        InvalidWorkflow: as ``yaml_to_ir``.
    """
    document = load(text)
    if not isinstance(document, dict):
        refuse("the yaml text must be an object with 'workflow' and 'nodes'")
    for key in ("agent", "agents", "workflows"):
        if key in document and "nodes" not in document:
            refuse(f"yaml with {key!r} at the top is not supported: write 'workflow' and 'nodes'")
    if _is_ir(document):
        return document, ()
    return _Conversion(document).ir()


def _is_ir(document: dict[str, Any]) -> bool:
    return "workflow" not in document and isinstance(document.get("edges"), list)


class _Conversion:
    """One document on its way to IR."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._problems: list[str] = []
        self._warnings: list[str] = []
        self._header = self._renamed(document)
        self._nodes = [self._node(key, node) for key, node in self._listed(self._header.pop("nodes", None))]

    def ir(self) -> tuple[dict[str, Any], tuple[str, ...]]:
        by_id = {node.id: node for node in self._nodes}
        _Joining(by_id).connect()
        if self._problems:
            refuse(*self._problems)
        for key in sorted(self._header.keys() - _HEADER_KEYS):
            self._warnings.append(f"the key {key!r} of the workflow is not known")
        for node in self._nodes:
            self._warnings.extend(f"node {node.id!r}: the key {key!r} is not known" for key in node.unknown)
        edges = [edge for node in self._nodes for edge in node.edges()]
        tables: dict[str, Any] = {key: self._header.get(key) or {} for key in _TABLES}
        nodes = {node.id: node.ir() for node in self._nodes}
        return {**self._header, **tables, "nodes": nodes, "edges": edges}, tuple(self._warnings)

    def _renamed(self, document: dict[str, Any]) -> dict[str, Any]:
        """The keys of header and top in one object, under the IR's names."""
        header = document.get("workflow")
        if isinstance(header, str):
            header = {"id": header}
        if header is not None and not isinstance(header, dict):
            refuse("'workflow' must be an object")
        merged = {key: value for key, value in document.items() if key != "workflow"} | (header or {})
        identity = [merged.pop(key, None) for key in ("workflow_id", "id")]
        merged["workflow_id"] = next((value for value in identity if value is not None), merged.get("name"))
        merged["version"] = merged.get("version") or _DEFAULT_VERSION
        _move(merged, "start", merged, "start_node")
        _move(merged.pop("mcp", None), "servers", merged, "mcp_servers")
        _move(merged.pop("a2a", None), "remote_agents", merged, "remote_agents")
        timeouts = merged.get("timeouts") or {}
        if "timeout" in merged and isinstance(timeouts, dict):
            merged["timeouts"] = {"workflow_timeout": merged.pop("timeout"), **timeouts}
        return merged

    def _listed(self, nodes: Any) -> list[tuple[str, Any]]:
        if isinstance(nodes, dict):
            return list(nodes.items())
        if not isinstance(nodes, list):
            refuse("'nodes' is required: an object of nodes by id, or a list")
        for index, node in enumerate(nodes):
            if not isinstance(node, dict) or not isinstance(node.get("id"), str):
                refuse(f"nodes[{index}] must be an object with an id")
        pairs = [(node["id"], node) for node in nodes]
        twice = sorted({key for key, _ in pairs if [other for other, _ in pairs].count(key) > 1})
        if twice:
            refuse(*(f"the node id {key!r} stands twice" for key in twice))
        return pairs

    def _node(self, key: str, source: Any) -> YamlNode:
        if not isinstance(source, dict):
            self._problems.append(f"node {key!r}: must be an object")
            return YamlNode(key, "end")
        try:
            return read_node(key, source)
        except ValueError as error:
            self._problems.append(f"node {key!r}: {error}")
            return YamlNode(key, "end")


def _move(source: Any, key: str, target: dict[str, Any], name: str) -> None:
    if isinstance(source, dict) and source.get(key) is not None:
        target.setdefault(name, source.pop(key))


class _Joining:
    """Gives every node without ``next`` its successor: the join of the parallel it is in, else the end.

    A branch's nodes are those that its targets lead to, up to the join; an inner
    parallel with a join of its own counts as a step from it to that join.
    """

    def __init__(self, nodes: Mapping[str, YamlNode]) -> None:
        self._nodes = nodes
        self._arriving: dict[str, dict[str, None]] = {}
        """By join: the ends of branches, in the order of the branches."""

    def connect(self) -> None:
        for node in self._nodes.values():
            join = self._nodes.get(node.meets_at or "")
            if node.type == "parallel" and join is not None:
                self._connect_branches(node, join)
        for node in self._nodes.values():
            if node.wants_next:
                node.leads_to(END)
        for join_id, arriving in self._arriving.items():
            if self._nodes[join_id].type == "join":
                self._nodes[join_id].kind.setdefault("wait_for", list(arriving))

    def _connect_branches(self, parallel: YamlNode, join: YamlNode) -> None:
        arriving = self._arriving.setdefault(join.id, {})
        for branch in parallel.branches:
            for node in self._branch(branch, join.id):
                if node.wants_next:
                    node.leads_to(join.id)
                if join.id in node.targets():
                    arriving[node.id] = None

    def _branch(self, first: str, join: str) -> list[YamlNode]:
        found: dict[str, YamlNode] = {}
        pending = [first]
        while pending:
            node_id = pending.pop()
            if node_id == join or node_id in found or node_id not in self._nodes:
                continue
            node = found[node_id] = self._nodes[node_id]
            inner = node.type == "parallel" and node.meets_at in self._nodes and node.meets_at != join
            pending.extend([node.meets_at] if inner and node.meets_at else reversed(node.targets()))
        return list(found.values())
