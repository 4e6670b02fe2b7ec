"""The arguments of a call held against the schema of its tool."""

from typing import Any

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from jsonschema.exceptions import best_match  # type: ignore[import-untyped]

from api.mcp.tools import TOOLS

SENTENCE_CHARS_MAX = 300

_VALIDATORS = {name: Draft202012Validator(tool.input_schema) for name, tool in TOOLS.items()}


def problem_of(tool_name: str, given: dict[str, Any]) -> str | None:
    """A sentence that names what is wrong; None: nothing is, or the tool has no schema of ours."""
    validator = _VALIDATORS.get(tool_name)
    error = None if validator is None else best_match(validator.iter_errors(given))
    if error is None:
        return None
    place = ".".join(str(part) for part in error.absolute_path)
    message = _shortened(error.message)
    return f"bad request: {place}: {message}" if place else f"bad request: {message}"


def _shortened(message: str) -> str:
    """It begins with the value, which may be long, and ends with the reason."""
    half = SENTENCE_CHARS_MAX // 2
    return message if len(message) <= SENTENCE_CHARS_MAX else f"{message[:half]} … {message[-half:]}"
