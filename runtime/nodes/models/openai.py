"""OpenAI's Chat Completions, which many other servers speak too."""

from typing import Any

import msgspec

from runtime.nodes.models import refusal
from runtime.nodes.models.draft import Draft
from runtime.nodes.models.endpoint import Endpoint
from runtime.nodes.models.exchange import converse
from runtime.nodes.models.port import Count, ModelAnswer, ModelRequest, OnToken
from runtime.nodes.models.structured import is_strict, told_in_words
from runtime.nodes.models.urls import with_root
from runtime.providers import Vendor

_FINISH = {"function_call": "tool_calls", "end_turn": "stop", "eos": "stop", "max_tokens": "length"}


class OpenAi:
    """Asks a server that speaks Chat Completions; ``vendor`` tells its peculiarities."""

    def __init__(self, endpoint: Endpoint, vendor: Vendor) -> None:
        self._endpoint = endpoint
        self._vendor = vendor

    async def ask(self, request: ModelRequest, on_token: OnToken) -> ModelAnswer:
        reader = _Reader(self._endpoint.provider, request.model, Draft(on_token))
        headers = {"Idempotency-Key": request.key} if request.key else {}
        if self._endpoint.key:
            headers["Authorization"] = f"Bearer {self._endpoint.key}"
        url = f"{with_root(self._endpoint.base, '/v1')}/chat/completions"
        await converse(self._endpoint, url, headers, _body(request, self._vendor), reader)
        return reader.answer()


def _body(request: ModelRequest, vendor: Vendor) -> dict[str, Any]:
    body: dict[str, Any] = {
        **request.options,
        "model": request.model,
        "messages": _messages(request, vendor),
        "stream": True,
    }
    if vendor.counts_on_request:
        body["stream_options"] = {"include_usage": True}
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.max_tokens is not None:
        body[vendor.tokens_key] = request.max_tokens
    if request.stop:
        body["stop"] = list(request.stop)
    if request.schema is not None:
        body["response_format"] = _response_format(request, vendor)
    return body


def _messages(request: ModelRequest, vendor: Vendor) -> list[dict[str, str]]:
    system = request.system or ""
    if request.schema is not None and vendor.structured == "json_object":
        system = f"{system}\n\n{told_in_words(request.schema)}".strip()
    asked = {"role": "user", "content": request.prompt}
    return [{"role": "system", "content": system}, asked] if system else [asked]


def _response_format(request: ModelRequest, vendor: Vendor) -> dict[str, Any]:
    assert request.schema is not None
    if vendor.structured == "json_object":
        return {"type": "json_object"}
    schema = {"name": "answer", "schema": request.schema, "strict": is_strict(request.schema)}
    return {"type": "json_schema", "json_schema": schema}


class _Usage(msgspec.Struct):
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None


class _Message(msgspec.Struct):
    content: str | list[Any] | None = None
    refusal: str | None = None

    def text(self) -> str | None:
        if isinstance(self.content, list):
            parts = [part for part in self.content if isinstance(part, dict)]
            return "".join(str(part.get("text", "")) for part in parts if part.get("type") == "text")
        return self.content


class _Choice(msgspec.Struct):
    delta: _Message | None = None
    message: _Message | None = None
    """In place of a delta, from a server that does not stream."""
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


class _Reader:
    def __init__(self, provider: str, model: str, draft: Draft) -> None:
        self.ended = False
        self._provider = provider
        self._model = model
        self._draft = draft
        self._usage = _Usage()
        self._reason = ""
        self._refused = False

    def read(self, frame: Any) -> None:
        chunk = msgspec.convert(frame, _Chunk)
        if chunk.error is not None:
            raise refusal.in_stream(self._provider, frame)
        self._model = chunk.model or self._model
        self._usage = chunk.usage or self._usage
        for choice in (chunk.choices or [])[:1]:
            said = choice.delta or choice.message
            if said is not None:
                self._refused = self._refused or bool(said.refusal)
                self._draft.add(said.text() or said.refusal)
            self._reason = choice.finish_reason or self._reason

    def complete(self) -> bool:
        return bool(self._reason)

    def answer(self) -> ModelAnswer:
        reason = "content_filter" if self._refused else _FINISH.get(self._reason, self._reason)
        return ModelAnswer(
            text=self._draft.text(),
            model=self._model,
            finish_reason=reason,
            input_tokens=self._usage.prompt_tokens,
            output_tokens=self._usage.completion_tokens,
        )
