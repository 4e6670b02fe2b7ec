"""Google's Gemini API: ``streamGenerateContent``."""

from typing import Any
from urllib.parse import quote

import msgspec

from runtime.nodes.models import refusal
from runtime.nodes.models.draft import Draft
from runtime.nodes.models.endpoint import Endpoint
from runtime.nodes.models.exchange import converse
from runtime.nodes.models.port import Count, ModelAnswer, ModelError, ModelRequest, OnToken
from runtime.nodes.models.structured import is_whole_json_schema
from runtime.nodes.models.urls import with_root

_BESIDE_THE_CONFIG = ("safetySettings", "cachedContent", "labels", "serviceTier")
"""Options that do not belong into ``generationConfig``."""
_FINISH = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "MALFORMED_FUNCTION_CALL": "tool_calls",
    "UNEXPECTED_TOOL_CALL": "tool_calls",
    **dict.fromkeys(
        ("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "LANGUAGE"),
        "content_filter",
    ),
}


class Google:
    """Asks Gemini."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def ask(self, request: ModelRequest, on_token: OnToken) -> ModelAnswer:
        reader = _Reader(self._endpoint.provider, request.model, Draft(on_token))
        # In a header, not in the query: URLs end up in logs.
        headers = {"x-goog-api-key": self._endpoint.key} if self._endpoint.key else {}
        model = quote(request.model.removeprefix("models/"), safe="")
        base = with_root(self._endpoint.base, "/v1beta")
        url = f"{base}/models/{model}:streamGenerateContent?alt=sse"
        await converse(self._endpoint, url, headers, _body(request), reader)
        return reader.answer()


def _body(request: ModelRequest) -> dict[str, Any]:
    beside = {name: request.options[name] for name in _BESIDE_THE_CONFIG if name in request.options}
    config = {name: value for name, value in request.options.items() if name not in beside}
    if request.temperature is not None:
        config["temperature"] = request.temperature
    if request.max_tokens is not None:
        config["maxOutputTokens"] = request.max_tokens
    if request.stop:
        config["stopSequences"] = list(request.stop)
    if request.schema is not None:
        config["responseMimeType"] = "application/json"
        # ``responseSchema`` is a smaller language of Google's own; what it lacks, the newer field has.
        whole = is_whole_json_schema(request.schema)
        config["responseJsonSchema" if whole else "responseSchema"] = request.schema
    body: dict[str, Any] = {
        **beside,
        "contents": [{"role": "user", "parts": [{"text": request.prompt}]}],
        "generationConfig": config,
    }
    if request.system:
        body["systemInstruction"] = {"parts": [{"text": request.system}]}
    return body


class _Part(msgspec.Struct):
    text: str | None = None
    thought: bool | None = None


class _Content(msgspec.Struct):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct):
    content: _Content | None = None
    finishReason: str | None = None


class _Usage(msgspec.Struct):
    promptTokenCount: Count | None = None
    candidatesTokenCount: Count | None = None
    thoughtsTokenCount: Count | None = None

    @property
    def output_tokens(self) -> int | None:
        """What is paid for as output, thoughts too."""
        counted = [
            count for count in (self.candidatesTokenCount, self.thoughtsTokenCount) if count is not None
        ]
        return sum(counted) if counted else None


class _Feedback(msgspec.Struct):
    blockReason: str | None = None


class _Chunk(msgspec.Struct):
    candidates: list[_Candidate] | None = None
    usageMetadata: _Usage | None = None
    modelVersion: str | None = None
    promptFeedback: _Feedback | None = None
    error: Any = None


class _Reader:
    def __init__(self, provider: str, model: str, draft: Draft) -> None:
        self.ended = False
        self._provider = provider
        self._model = model
        self._draft = draft
        self._usage = _Usage()
        self._reason = ""

    def read(self, frame: Any) -> None:
        chunk = msgspec.convert(frame, _Chunk)
        if chunk.error is not None:
            raise refusal.in_stream(self._provider, frame)
        blocked = chunk.promptFeedback.blockReason if chunk.promptFeedback else None
        if blocked:
            raise ModelError(
                f"{self._provider} blocked the prompt ({blocked})", "content_filter", retryable=False
            )
        self._model = chunk.modelVersion or self._model
        self._usage = chunk.usageMetadata or self._usage
        for candidate in (chunk.candidates or [])[:1]:
            parts = (candidate.content.parts if candidate.content else None) or []
            for part in parts:
                self._draft.add(None if part.thought else part.text)
            self._reason = candidate.finishReason or self._reason

    def complete(self) -> bool:
        return bool(self._reason)

    def answer(self) -> ModelAnswer:
        return ModelAnswer(
            text=self._draft.text(),
            model=self._model,
            finish_reason=_FINISH.get(self._reason, self._reason.lower()),
            input_tokens=self._usage.promptTokenCount,
            output_tokens=self._usage.output_tokens,
        )
