"""The ``scripted`` model provider: deterministic, for examples, tests and measurements.

Options of a model that uses it::

    models:
      fast: {provider: scripted, model: any, responses: [...], latency_ms: 0, token_ms: 0}

``responses`` has one entry for each visit of the node, the last one repeating: a
string, or an object (answered as JSON). An entry ``{"error": CLASS, "message": ...,
"times": N}`` makes the first N attempts (1 by default) of the visit fail with that
class, then the entry after it serves. Without responses the prompt is echoed.
"""

import asyncio
import re
from typing import Any

import msgspec

from runtime.nodes.models.port import ModelAnswer, ModelError, ModelRequest, OnToken

_PIECE = re.compile(r"\s*\S+|\s+$")


class Scripted:
    """Answers from the node's own list, after ``latency_ms``, word by word, one every ``token_ms``."""

    async def ask(self, request: ModelRequest, on_token: OnToken) -> ModelAnswer:
        latency_ms = request.options.get("latency_ms") or 0
        if latency_ms:
            await asyncio.sleep(latency_ms / 1_000)
        said = _scripted(request.options.get("responses") or [], request.visit, request.attempt)
        text = _text(request.prompt if said is None else said)
        token_ms = request.options.get("token_ms") or 0
        for piece in _PIECE.findall(text):
            on_token(piece)
            if token_ms:
                await asyncio.sleep(token_ms / 1_000)
        return ModelAnswer(
            text=text,
            model=request.model,
            input_tokens=len(request.prompt.split()),
            output_tokens=len(text.split()),
        )


def _text(said: Any) -> str:
    return said if isinstance(said, str) else msgspec.json.encode(said).decode()


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
