"""The ``scripted`` model provider: deterministic, for examples, tests and measurements.

Options of a model that uses it::

    models:
      fast: {provider: scripted, model: any, responses: [...], latency_ms: 0}

``responses`` has one entry for each visit of the node, the last one repeating: a
string, or an object (answered as JSON). An entry ``{"error": CLASS, "message": ...,
"times": N}`` makes the first N attempts (1 by default) of the visit fail with that
class, then the entry after it serves. Without responses the prompt is echoed.
"""

from dataclasses import dataclass
from typing import Any

import msgspec

from runtime.graph import ModelNode
from runtime.jsonvalue import JsonValue


@dataclass(frozen=True)
class ModelAnswer:
    """What a model said: the text, what it means (parsed if it is a JSON object or list), and telemetry."""

    value: JsonValue
    input_tokens: int
    output_tokens: int
    finish_reason: str = "stop"
    cost_usd: float = 0.0


class ModelError(Exception):
    """A provider's failure, with its retry class."""

    def __init__(self, message: str, error_class: str) -> None:
        super().__init__(message)
        self.error_class = error_class


def answer(node: ModelNode, prompt: str, *, visit: int, attempt: int) -> ModelAnswer:
    """Answer one attempt.

    Raises:
        ModelError: the script says that this attempt fails.
    """
    said = _scripted(node.options.get("responses") or [], visit, attempt)
    text = prompt if said is None else said if isinstance(said, str) else msgspec.json.encode(said).decode()
    return ModelAnswer(
        value=parse_structured(text), input_tokens=len(prompt.split()), output_tokens=len(text.split())
    )


def _scripted(responses: list[Any], visit: int, attempt: int) -> Any:
    """The entry that serves this attempt of this visit, or None to echo."""
    served = 0
    failures = 0
    last: Any = None
    for entry in responses:
        if isinstance(entry, dict) and "error" in entry:
            failures += int(entry.get("times", 1))
            if served == visit - 1 and attempt <= failures:
                raise ModelError(str(entry.get("message", "scripted failure")), str(entry["error"]))
            continue
        served += 1
        last = entry
        if served == visit:
            return entry
        failures = 0
    return last


def parse_structured(text: str) -> JsonValue:
    """A text that is one JSON object or list, parsed; any other text as it is."""
    stripped = text.strip()
    if not stripped.startswith(("{", "[")):
        return text
    try:
        return msgspec.json.decode(stripped)
    except msgspec.DecodeError:
        return text
