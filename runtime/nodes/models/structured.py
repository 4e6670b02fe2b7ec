"""Answers that are JSON: what providers are asked, and what comes back."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from runtime import jsonvalue
from runtime.errors import ValueRejected
from runtime.jsonvalue import JsonValue
from runtime.nodes.models.port import ModelAnswer, ModelError

_FENCE = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL)
_SHOWN_CHARS = 100
_TYPES: dict[str, type | tuple[type, ...]] = {"object": dict, "array": list, "string": str}
_WHOLE = {"$schema", "$ref", "$defs", "additionalProperties", "const", "oneOf", "allOf", "not"}
_WITHOUT_SCHEMAS = ("enum", "const", "default", "examples", "required")


def value_of(answer: ModelAnswer, schema: Mapping[str, Any] | None) -> JsonValue:
    """What an answer means: JSON if a schema was given, or if all of it is one object or list; else its text.

    Raises:
        ModelError: (``bad_answer``) there is a schema, and the answer is not JSON of its type.
    """
    if schema is None:
        return _json_or_text(answer.text)
    fenced = _FENCE.fullmatch(answer.text.strip())
    try:
        value = jsonvalue.parse((fenced[1] if fenced else answer.text).encode(), what="the model's answer")
    except ValueRejected as error:
        raise _bad(answer, error.detail) from error
    expected = schema.get("type")
    if isinstance(expected, str) and expected in _TYPES and not isinstance(value, _TYPES[expected]):
        raise _bad(answer, f"the model's answer is not of type {expected!r}, as output_schema asks")
    return value


def _bad(answer: ModelAnswer, reason: str) -> ModelError:
    if answer.finish_reason == "length":
        reason += "; it was cut off at max_tokens"
    shown = answer.text[:_SHOWN_CHARS] + ("..." if len(answer.text) > _SHOWN_CHARS else "")
    return ModelError(f"{reason}: {shown!r}", "bad_answer")


def _json_or_text(text: str) -> JsonValue:
    stripped = text.strip()
    if not stripped.startswith(("{", "[")):
        return text
    try:
        return jsonvalue.parse(stripped.encode(), what="the model's answer")
    except ValueRejected:
        return text


def is_strict(schema: Mapping[str, Any]) -> bool:
    """Whether every object is closed and all its properties are required, as OpenAI's strict mode wants."""
    objects = [part for part in _parts(schema) if part.get("type") == "object" or "properties" in part]
    return all(
        part.get("additionalProperties") is False
        and set(part.get("required") or ()) == set(part.get("properties") or ())
        for part in objects
    )


def closed(schema: Any) -> Any:
    """A schema whose objects allow no further properties, unless they say that they do."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    copy = {key: value if key in _WITHOUT_SCHEMAS else closed(value) for key, value in schema.items()}
    if schema.get("type") == "object":
        copy.setdefault("additionalProperties", False)
    return copy


def is_whole_json_schema(schema: Mapping[str, Any]) -> bool:
    """Whether it uses words that the small schemas of OpenAPI, which Google took over, lack."""
    return any(_WHOLE & part.keys() or isinstance(part.get("type"), list) for part in _parts(schema))


def told_in_words(schema: Mapping[str, Any]) -> str:
    """For a model whose API takes no schema."""
    return f"Answer with JSON alone, which fits this JSON Schema: {json.dumps(schema, ensure_ascii=False)}"


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    """Every object within a schema, those that only hold others too."""
    pending = [schema]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, Mapping):
            part = dict(item)
            yield part
            pending.extend(value for key, value in part.items() if key not in _WITHOUT_SCHEMAS)
