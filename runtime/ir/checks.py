"""What stands in a workflow as text and will be evaluated: checked once, at registration."""

from typing import Any

from runtime.expr import ExpressionError, compile_expression
from runtime.ir.policy import RegistrationPolicy
from runtime.ir.report import Report
from runtime.template import TemplateError, compile_template

_SHOWN_CHARS = 80


class Checks:
    """Checks the texts of nodes against syntax and policy, and reports what is wrong."""

    def __init__(self, policy: RegistrationPolicy, report: Report) -> None:
        self._policy = policy
        self._report = report

    def condition(self, node_id: str, source: str) -> None:
        shown = source if len(source) <= _SHOWN_CHARS else source[: _SHOWN_CHARS - 3] + "..."
        try:
            expression = compile_expression(source)
        except ExpressionError as error:
            column = error.fields.get("column")
            place, reason = "", error.detail
            if column is not None:
                place, reason = f" at column {column}", error.detail.rpartition(f" at column {column}")[0]
            self._report.at_node(
                node_id, f"condition {shown!r} does not parse{place}: {reason or error.detail}"
            )
            return
        self._environment(node_id, f"condition {shown!r}", expression.env_names)

    def template(self, node_id: str, place: str, value: Any) -> None:
        try:
            template = compile_template(value)
        except TemplateError as error:
            self._report.at_node(node_id, f"{place} does not parse: {error.detail}")
            return
        self._environment(node_id, place, template.env_names)

    def secrets(self, table: str, value: Any) -> None:
        """Every ``*_env`` key, at any depth, names a variable."""
        pending = [value]
        while pending:
            item = pending.pop()
            if isinstance(item, list):
                pending.extend(item)
            elif isinstance(item, dict):
                for key, inner in item.items():
                    pending.append(inner)
                    named = key.endswith("_env") and isinstance(inner, str)
                    if named and inner not in self._policy.template_env:
                        self._report.problem(
                            f"ir.{table}: {key} names {inner!r}, which is not allowed (JAMJET_TEMPLATE_ENV)"
                        )

    def _environment(self, node_id: str, place: str, names: frozenset[str]) -> None:
        for name in sorted(names - self._policy.template_env):
            self._report.at_node(
                node_id, f"{place} reads env.{name}, which is not allowed (JAMJET_TEMPLATE_ENV)"
            )
