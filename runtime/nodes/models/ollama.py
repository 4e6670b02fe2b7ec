"""Ollama's ``/api/chat``: a JSON document for each piece of the answer."""

from typing import Any

import msgspec

from runtime.nodes.models import refusal
from runtime.nodes.models.draft import Draft
from runtime.nodes.models.endpoint import Endpoint
from runtime.nodes.models.exchange import converse
from runtime.nodes.models.port import Count, ModelAnswer, ModelRequest, OnToken

_BESIDE_THE_OPTIONS = ("keep_alive", "think")
"""Options of a node that are not options of the model to Ollama."""


class Ollama:
    """Asks a model that an Ollama server runs."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def ask(self, request: ModelRequest, on_token: OnToken) -> ModelAnswer:
        reader = _Reader(self._endpoint.provider, request.model, Draft(on_token))
        headers = {"Authorization": f"Bearer {self._endpoint.key}"} if self._endpoint.key else {}
        await converse(self._endpoint, f"{self._endpoint.base}/api/chat", headers, _body(request), reader)
        return reader.answer()


def _body(request: ModelRequest) -> dict[str, Any]:
    beside = {name: request.options[name] for name in _BESIDE_THE_OPTIONS if name in request.options}
    options = {name: value for name, value in request.options.items() if name not in beside}
    if request.temperature is not None:
        options["temperature"] = request.temperature
    if request.max_tokens is not None:
        options["num_predict"] = request.max_tokens
    if request.stop:
        options["stop"] = list(request.stop)
    system = [{"role": "system", "content": request.system}] if request.system else []
    body: dict[str, Any] = {
        **beside,
        "model": request.model,
        "messages": [*system, {"role": "user", "content": request.prompt}],
        "stream": True,
        "options": options,
    }
    if request.schema is not None:
        body["format"] = request.schema
    return body


class _Message(msgspec.Struct):
    content: str | None = None


class _Piece(msgspec.Struct):
    model: str | None = None
    message: _Message | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: Count | None = None
    eval_count: Count | None = None
    error: Any = None


class _Reader:
    def __init__(self, provider: str, model: str, draft: Draft) -> None:
        self.ended = False
        self._provider = provider
        self._model = model
        self._draft = draft
        self._last = _Piece()

    def read(self, frame: Any) -> None:
        piece = msgspec.convert(frame, _Piece)
        if piece.error is not None:
            raise refusal.in_stream(self._provider, frame)
        self._model = piece.model or self._model
        if piece.message is not None:
            self._draft.add(piece.message.content)
        if piece.done:
            self._last = piece
            self.ended = True

    def complete(self) -> bool:
        return self.ended

    def answer(self) -> ModelAnswer:
        reason = self._last.done_reason or "stop"
        return ModelAnswer(
            text=self._draft.text(),
            model=self._model,
            finish_reason="stop" if reason in ("load", "unload") else reason,
            input_tokens=self._last.prompt_eval_count,
            output_tokens=self._last.eval_count,
        )
