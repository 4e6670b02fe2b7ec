"""Anthropic's Messages API."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from runtime.nodes.models import refusal
from runtime.nodes.models.draft import Draft
from runtime.nodes.models.endpoint import Endpoint
from runtime.nodes.models.exchange import converse
from runtime.nodes.models.port import Count, ModelAnswer, ModelRequest, OnToken
from runtime.nodes.models.structured import closed

VERSION = "2023-06-01"
MAX_TOKENS = 8_192
"""When the node names no limit: this API wants one."""

_TOOL = "answer"
_BY_TOOL_ONLY = re.compile(r"claude-(?:[23]|instant|(?:opus|sonnet)-4(?:-[01])?(?:-\d{8}|$))")
"""Models from before the API had structured output. Newer ones that always think refuse a forced tool."""
_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


class Anthropic:
    """Asks Claude."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def ask(self, request: ModelRequest, on_token: OnToken) -> ModelAnswer:
        reader = _Reader(self._endpoint.provider, request.model, Draft(on_token))
        headers = {"anthropic-version": VERSION}
        if self._endpoint.key:
            headers["x-api-key"] = self._endpoint.key
        url = f"{self._endpoint.base.removesuffix('/v1')}/v1/messages"
        await converse(self._endpoint, url, headers, _body(request), reader)
        return reader.answer()


def _body(request: ModelRequest) -> dict[str, Any]:
    options = dict(request.options)
    by_tool = options.pop("structured", None) == "tool" or _BY_TOOL_ONLY.match(request.model) is not None
    body: dict[str, Any] = {
        **options,
        "model": request.model,
        "max_tokens": request.max_tokens or MAX_TOKENS,
        "messages": [{"role": "user", "content": request.prompt}],
        "stream": True,
    }
    if request.system:
        body["system"] = request.system
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.stop:
        body["stop_sequences"] = list(request.stop)
    if request.schema is not None:
        body |= _forced_tool(request.schema) if by_tool else _format(request.schema, body)
    return body


def _forced_tool(schema: Mapping[str, Any]) -> dict[str, Any]:
    tool = {"name": _TOOL, "description": "Gives the answer.", "input_schema": schema}
    return {"tools": [tool], "tool_choice": {"type": "tool", "name": _TOOL}}


def _format(schema: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    given = body.get("output_config")
    others = given if isinstance(given, dict) else {}
    return {"output_config": {**others, "format": {"type": "json_schema", "schema": closed(schema)}}}


class _Usage(msgspec.Struct):
    input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    output_tokens: Count | None = None

    @property
    def prompt_tokens(self) -> int | None:
        if self.input_tokens is None:
            return None
        return (
            self.input_tokens + (self.cache_creation_input_tokens or 0) + (self.cache_read_input_tokens or 0)
        )


class _Message(msgspec.Struct):
    model: str | None = None
    usage: _Usage | None = None


class _Delta(msgspec.Struct):
    type: str | None = None
    text: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None


class _Block(msgspec.Struct):
    type: str | None = None
    name: str | None = None


class _Event(msgspec.Struct):
    type: str
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None


class _Reader:
    def __init__(self, provider: str, model: str, draft: Draft) -> None:
        self.ended = False
        self._provider = provider
        self._model = model
        self._draft = draft
        self._input_tokens: int | None = None
        self._output_tokens: int | None = None
        self._reason = ""
        self._answered_by_tool = False

    def read(self, frame: Any) -> None:
        event = msgspec.convert(frame, _Event)
        if event.type == "error":
            raise refusal.in_stream(self._provider, frame)
        if event.message is not None:
            self._model = event.message.model or self._model
            self._count(event.message.usage)
        if event.content_block is not None and event.content_block.type == "tool_use":
            self._answered_by_tool = event.content_block.name == _TOOL
        if event.delta is not None:
            self._draft.add(event.delta.text or event.delta.partial_json)
            self._reason = event.delta.stop_reason or self._reason
        self._count(event.usage)
        self.ended = event.type == "message_stop"

    def complete(self) -> bool:
        return self.ended

    def answer(self) -> ModelAnswer:
        reason = _FINISH.get(self._reason, self._reason or "stop")
        # The tool is only a form for the answer: to whoever asked, the model simply answered.
        if self._answered_by_tool and reason == "tool_calls":
            reason = "stop"
        return ModelAnswer(
            text=self._draft.text(),
            model=self._model,
            finish_reason=reason,
            input_tokens=self._input_tokens,
            output_tokens=self._output_tokens,
        )

    def _count(self, usage: _Usage | None) -> None:
        """Counts are running totals: the latest holds."""
        if usage is None:
            return
        if usage.prompt_tokens is not None:
            self._input_tokens = usage.prompt_tokens
        if usage.output_tokens is not None:
            self._output_tokens = usage.output_tokens
