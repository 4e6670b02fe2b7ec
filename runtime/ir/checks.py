"""What stands in a workflow as text and will be evaluated: checked once, at registration."""

from collections.abc import Iterator, Mapping
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

    def template(self, node_id: str, place: str, value: Any, *, may_send_secrets: bool = False) -> None:
        """Check a template. Where a request is not told secrets, naming one there deserves a warning."""
        try:
            template = compile_template(value)
        except TemplateError as error:
            self._report.at_node(node_id, f"{place} does not parse: {error.detail}")
            return
        self._environment(node_id, place, template.env_names)
        for name in sorted(template.env_names & (self._policy.secrets or frozenset())):
            if not may_send_secrets:
                self._report.warn_at_node(
                    node_id,
                    f"{place} reads env.{name}, a secret: only headers and query of http nodes are told its"
                    " value, here it stays a reference",
                )

    def keys_of(self, table: str, entries: Mapping[str, Any]) -> None:
        """Every ``*_env`` key of a table, at any depth, names a secret."""
        for entry_name, entry in entries.items():
            for key, name in _named_variables(entry):
                if not self._policy.allows_secret(name):
                    self._report.problem(
                        f"ir.{table}.{entry_name}: {key} names {name!r}, which is no secret (JAMJET_SECRETS)"
                    )

    def secrets(self, table: str, value: Any) -> None:
        """Every ``*_env`` key, at any depth, names a variable."""
        for key, name in _named_variables(value):
            if name not in self._policy.template_env:
                self._report.problem(
                    f"ir.{table}: {key} names {name!r}, which is not allowed (JAMJET_TEMPLATE_ENV)"
                )

    def _environment(self, node_id: str, place: str, names: frozenset[str]) -> None:
        for name in sorted(names - self._policy.template_env):
            self._report.at_node(
                node_id, f"{place} reads env.{name}, which is not allowed (JAMJET_TEMPLATE_ENV)"
            )


def _named_variables(value: Any) -> Iterator[tuple[str, str]]:
    """Every key ``*_env``, and the variable that it names."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, dict):
            pending.extend(item.values())
            yield from (
                (key, name) for key, name in item.items() if key.endswith("_env") and isinstance(name, str)
            )
