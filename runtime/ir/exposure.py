"""Which workflows other protocols than REST may start, and what their callers are told of the input."""

from typing import Any

from runtime.ir.report import Report

PROTOCOLS = ("a2a", "mcp")
LABEL = "jamjet.expose"
"""Says the same as ``expose``, for clients that keep labels only."""

_TYPES = {
    **dict.fromkeys(("str", "string", "text"), "string"),
    **dict.fromkeys(("int", "integer"), "integer"),
    **dict.fromkeys(("float", "number", "double"), "number"),
    **dict.fromkeys(("bool", "boolean"), "boolean"),
    **dict.fromkeys(("list", "array"), "array"),
    **dict.fromkeys(("dict", "object", "map"), "object"),
}


def exposed_protocols(expose: Any, labels: dict[str, str], report: Report) -> tuple[str, ...]:
    """The protocols that a workflow names in ``expose`` or in its label, in one order."""
    given = [name.strip() for name in labels.get(LABEL, "").split(",") if name.strip()]
    if isinstance(expose, str):
        expose = [expose]
    if expose is not None and not isinstance(expose, list):
        report.problem("ir.expose must be a list of " + " and ".join(PROTOCOLS))
        expose = []
    for name in [*(expose or []), *given]:
        if name not in PROTOCOLS:
            report.problem(f"ir.expose: {name!r} is none of {', '.join(PROTOCOLS)}")
    return tuple(name for name in PROTOCOLS if name in (expose or []) or name in given)


def input_schema(ir: dict[str, Any]) -> dict[str, Any]:
    """A JSON Schema of a workflow's input: its own ``input_schema``, else what its state's schema says.

    Every key is optional, as the state's schema also has what the workflow itself sets.
    """
    own = ir.get("input_schema")
    if isinstance(own, dict):
        return {"type": "object", **own}
    schema = ir.get("state_schema")
    if not isinstance(schema, dict):
        return {"type": "object"}
    properties = schema.get("properties") if schema.get("type") == "object" else schema
    if not isinstance(properties, dict) or not properties:
        return {"type": "object"}
    return {"type": "object", "properties": {key: _property(rule) for key, rule in properties.items()}}


def _property(rule: Any) -> dict[str, Any]:
    """A state's key as a JSON Schema: it may be the name of a type, or an object with one."""
    if isinstance(rule, str):
        return {"type": _TYPES[rule.lower()]} if rule.lower() in _TYPES else {}
    if not isinstance(rule, dict):
        return {}
    shown = {key: rule[key] for key in ("description", "enum", "items", "properties") if key in rule}
    named = rule.get("type")
    return shown | (_property(named) if isinstance(named, str) else {})
