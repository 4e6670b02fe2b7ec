"""IR and YAML compiled to the normal form: checked as a whole, refused with every reason."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec
from pydantic import ValidationError

from runtime import jsonvalue
from runtime.errors import InvalidWorkflow, ValueRejected
from runtime.graph import END, Edge, Graph, JoinNode, Node, ToolPolicy
from runtime.ir.checks import Checks
from runtime.ir.durations import duration_ms
from runtime.ir.edges import label_edges
from runtime.ir.exposure import exposed_protocols
from runtime.ir.loops import Shape
from runtime.ir.models import END_KIND, KINDS, STEPS_MAX, Kind, NodeDef, Part, WorkflowIr
from runtime.ir.nodes import NodeBuilder
from runtime.ir.policy import RegistrationPolicy
from runtime.ir.report import Report, refuse
from runtime.ir.yaml_source import read_yaml
from runtime.redaction import DataPolicy

STEPS_BASE = 1_000
"""``max_steps`` of a workflow that sets none: this and one for each node."""

_WITHOUT_EFFECT = (
    "token_budget",
    "cost_budget_usd",
    "on_budget_exceeded",
    "continue_as_new",
)
POLICIES: dict[str, type] = {"policy": ToolPolicy, "data_policy": DataPolicy}


@dataclass(frozen=True)
class CompiledWorkflow:
    """A workflow that may be registered.

    Attributes:
        ir: as it was given, with its unknown keys; to be stored beside the graph.
        graph: the normal form.
        warnings: sentences for the author; they change nothing.
        exposed: the protocols other than REST that may start it.
    """

    ir: dict[str, Any]
    graph: Graph
    warnings: tuple[str, ...]
    exposed: tuple[str, ...] = ()


def compile_yaml(text: str, policy: RegistrationPolicy) -> CompiledWorkflow:
    """Compile YAML, by way of IR.

    Raises:
        InvalidWorkflow: with ``fields['problems']``.
    """
    ir, warnings = read_yaml(text)
    compiled = compile_ir(ir, policy)
    return replace(compiled, warnings=(*warnings, *compiled.warnings))


def compile_ir(ir: Any, policy: RegistrationPolicy) -> CompiledWorkflow:
    """Compile IR as it was posted.

    Raises:
        InvalidWorkflow: with every reason in ``fields['problems']``.
    """
    report = Report()
    source = _read(ir, report)
    exposed = exposed_protocols(source.expose, source.labels, report)
    graph = _Compilation(source, policy, report).graph()
    return CompiledWorkflow(ir, graph, tuple(dict.fromkeys(report.warnings)), exposed)


def _read(ir: Any, report: Report) -> WorkflowIr:
    if not isinstance(ir, dict):
        raise InvalidWorkflow("ir must be an object", problems=["ir must be an object"])
    try:
        jsonvalue.encode(ir, what="ir")
    except ValueRejected as error:
        raise InvalidWorkflow(error.detail, problems=[error.detail]) from error
    try:
        return WorkflowIr.model_validate(ir)
    except ValidationError as error:
        report.of_validation(error)
        refuse(*report.problems)


class _Compilation:
    """One workflow on its way into the normal form."""

    def __init__(self, ir: WorkflowIr, policy: RegistrationPolicy, report: Report) -> None:
        self._ir = ir
        self._report = report
        self._policy = policy
        self._ends = frozenset({END, *(key for key, node in ir.nodes.items() if node.type == END_KIND)})
        self._names = [key for key in ir.nodes if key not in self._ends]

    def graph(self) -> Graph:
        self._check_tables()
        kinds = {key: kind for key in self._ir.nodes if (kind := self._kind(key, self._ir.nodes[key]))}
        nodes = self._nodes(kinds)
        edges = label_edges(self._ir.edges, kinds, frozenset(self._names), self._ends, self._report)
        self._check_conditions(edges)
        start = self._start()
        merges = self._merges()
        extras = self._ir.__pydantic_extra__ or {}
        policies = self._policies(extras, self._report.problem, "ir.")
        isolation, resources = self._isolation()
        shape = Shape(start, self._names, edges) if start is not None else None
        if shape is not None:
            self._check_shape(shape)
        self._report.raise_problems()
        assert start is not None
        assert shape is not None
        return Graph(
            workflow_id=self._ir.workflow_id,
            version=self._ir.version,
            start=start,
            nodes={key: _with_region(node, shape) for key, node in nodes.items()},
            edges=tuple(
                msgspec.structs.replace(edge, back=index in shape.back) for index, edge in enumerate(edges)
            ),
            dead_edges=shape.dead,
            loops=shape.loops,
            merges=merges,
            max_steps=self._max_steps(),
            timeout_ms=self._timeout_ms(),
            isolation=isolation,
            resources=resources,
            labels=self._ir.labels,
            **policies,
        )

    def _isolation(self) -> tuple[Literal["shared", "dedicated"] | None, dict[str, Any] | None]:
        """Resources are those of an actor of one's own, so they ask for one."""
        resources = None if self._ir.resources is None else self._ir.resources.demand()
        if resources is None:
            return self._ir.isolation, None
        if self._ir.isolation == "shared":
            self._report.problem("ir.resources: only a dedicated execution has some, and isolation is shared")
        return "dedicated", resources

    def _policies(self, fields: Mapping[str, Any], report: Callable[[str], None], at: str) -> dict[str, Any]:
        """The policies of a workflow or a node; what is wrong in them is reported."""
        found: dict[str, Any] = {}
        for name, kind in POLICIES.items():
            if fields.get(name) is None:
                continue
            try:
                found[name] = msgspec.convert(fields[name], kind)
            except msgspec.ValidationError as error:
                report(f"{at}{name}: {str(error)[:1].lower()}{str(error)[1:]}")
        kept = found.get("data_policy")
        if kept is not None and kept.retention_days is not None:
            self._report.warn(f"{at}data_policy.retention_days has no effect: it counts in a tenant's policy")
        return found

    def _check_tables(self) -> None:
        extras = self._ir.__pydantic_extra__ or {}
        for key in _WITHOUT_EFFECT:
            if extras.get(key):
                self._report.warn(f"ir.{key} has no effect")
        for name, server in self._ir.mcp_servers.items():
            if server.command is not None:
                self._report.problem(f"ir.mcp_servers.{name}: a command is not allowed in a workflow")
        checks = Checks(self._policy, self._report)
        for table in ("models", "remote_agents"):
            entries: Mapping[str, Part] = getattr(self._ir, table)
            checks.keys_of(table, {name: entry.model_dump() for name, entry in entries.items()})
        checks.secrets("mcp_servers", self._ir.model_dump(include={"mcp_servers"}))

    def _kind(self, key: str, node: NodeDef) -> Kind | None:
        """The node's own part, or None if it is an end or cannot be read."""
        if node.id != key:
            self._report.at_node(key, f"its id is {node.id!r}, which differs from its key")
        if node.type == END_KIND:
            return None
        if key == END:
            self._report.at_node(key, f"the id {END!r} is reserved for the end of a path")
            return None
        if not isinstance(node.type, str) or not node.type:
            self._report.at_node(key, "kind.type is required")
            return None
        model = KINDS.get(node.type)
        if model is None:
            self._report.at_node(key, f"node kind {node.type!r} is not supported")
            return None
        fields = node.fields()
        if fields.get("resources") and "resources" not in model.model_fields:
            self._report.warn_at_node(key, "resources has no effect: only python_fn nodes have some")
        try:
            return model.model_validate(fields)
        except ValidationError as error:
            self._report.of_validation(error, node_id=key)
            return None

    def _nodes(self, kinds: Mapping[str, Kind]) -> dict[str, Node]:
        builder = NodeBuilder(self._ir, self._policy, self._report)
        built = ((key, builder.build(key, kind)) for key, kind in kinds.items())
        return {key: self._with_policies(key, node) for key, node in built if node is not None}

    def _with_policies(self, key: str, node: Node) -> Node:
        fields = self._ir.nodes[key].fields()
        policies = self._policies(fields, lambda problem: self._report.at_node(key, problem), "")
        return msgspec.structs.replace(node, **policies) if policies else node

    def _check_conditions(self, edges: list[Edge]) -> None:
        checks = Checks(self._policy, self._report)
        for edge in edges:
            if edge.condition is not None:
                checks.condition(edge.source, edge.condition)

    def _start(self) -> str | None:
        given = self._ir.start_node or self._ir.start
        if given is None:
            if not self._names:
                self._report.problem("ir.nodes: there must be a node that does not only end the workflow")
                return None
            return "start" if "start" in self._names else self._names[0]
        if given in self._names:
            return given
        reason = "only ends the workflow" if given in self._ends & self._ir.nodes.keys() else "does not exist"
        self._report.problem(f"ir.start_node {given!r} {reason}")
        return None

    def _check_shape(self, shape: Shape) -> None:
        for cycle in shape.tangles:
            path = " -> ".join((*cycle, cycle[0]))
            self._report.problem(
                f"the cycle {path} has no single entry: let every path from the start enter it at one node"
            )
        reachable = set(shape.reachable)
        for name in self._names:
            if name not in reachable:
                self._report.warn_at_node(name, "no path from the start reaches it")

    def _merges(self) -> dict[str, Literal["append", "add"]]:
        schema = self._ir.state_schema
        properties = schema.get("properties")
        if schema.get("type") == "object" and isinstance(properties, dict):
            schema = properties
        merges: dict[str, Literal["append", "add"]] = {}
        for key, rule in schema.items():
            match rule.get("merge") if isinstance(rule, dict) else None:
                case "append" | "add" as merge:
                    merges[key] = merge
                case None | "replace":
                    pass
                case other:
                    self._report.problem(
                        f"ir.state_schema.{key}.merge: {other!r} is none of 'append', 'add' and 'replace'"
                    )
        return merges

    def _limits(self) -> dict[str, Any]:
        limits = self._ir.strategy_metadata.get("limits")
        return limits if isinstance(limits, dict) else {}

    def _max_steps(self) -> int:
        candidates = (
            self._ir.max_steps,
            self._ir.labels.get("jamjet.max_steps"),
            self._limits().get("max_steps"),
        )
        for candidate in candidates:
            if candidate is not None and str(candidate).isdecimal() and int(candidate) > 0:
                return min(int(candidate), STEPS_MAX)
        return STEPS_BASE + len(self._names)

    def _timeout_ms(self) -> int | None:
        if self._ir.timeouts.workflow_timeout is not None:
            return self._ir.timeouts.workflow_timeout
        try:
            return duration_ms(self._limits().get("timeout_seconds")) or None
        except ValueError:
            return None


def _with_region(node: Node, shape: Shape) -> Node:
    if isinstance(node, JoinNode) and node.merge == "first":
        return msgspec.structs.replace(node, region=shape.region(node.id))
    return node
