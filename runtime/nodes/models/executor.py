"""The executor of ``model`` nodes: one question to the node's provider, and what its completion tells."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from runtime import jsonvalue
from runtime.graph import ModelNode
from runtime.nodes.models.anthropic import Anthropic
from runtime.nodes.models.draft import encodable
from runtime.nodes.models.endpoint import Endpoint, Endpoints
from runtime.nodes.models.google import Google
from runtime.nodes.models.ollama import Ollama
from runtime.nodes.models.openai import OpenAi
from runtime.nodes.models.port import ModelAnswer, ModelError, ModelRequest, OnToken, Provider
from runtime.nodes.models.prices import Prices
from runtime.nodes.models.scripted import Scripted
from runtime.nodes.models.structured import value_of
from runtime.providers import VENDORS, Vendor

_NAME_CHARS_MAX = 256


class ModelExecutor:
    """Makes the calls of ``model`` nodes."""

    def __init__(self, endpoints: Endpoints, prices: Prices) -> None:
        self._endpoints = endpoints
        self._prices = prices

    async def run(
        self,
        node: ModelNode,
        rendered: Mapping[str, Any],
        *,
        key: str,
        visit: int,
        attempt: int,
        on_token: OnToken,
    ) -> dict[str, Any]:
        """Make one attempt, within the node's timeout.

        Args:
            rendered: has ``prompt`` and ``system_prompt``, each any JSON value.

        Returns:
            The fields of a ``NodeSucceeded``: ``output`` and what telemetry there is.

        Raises:
            ModelError: no answer came, or none that serves.
            ValueRejected: the answer cannot be stored.
        """
        request = _request(node, rendered, key=key, visit=visit, attempt=attempt)
        limit_s = None if node.timeout_ms is None else node.timeout_ms / 1_000
        try:
            async with asyncio.timeout(limit_s):
                answer = await self._ask(node, request, on_token)
        except TimeoutError as error:
            raise ModelError(f"no result within {limit_s:g} s", "timeout") from error
        return self._told(node, answer)

    async def close(self) -> None:
        await self._endpoints.close()

    async def _ask(self, node: ModelNode, request: ModelRequest, on_token: OnToken) -> ModelAnswer:
        vendor = VENDORS.get(node.provider)
        if vendor is None:
            raise ModelError(
                f"model provider {node.provider!r} is not supported", "client_error", retryable=False
            )
        if vendor.wire == "scripted":
            return await Scripted().ask(request, on_token)
        endpoint = self._endpoints.of(node)
        provider = _speaking(vendor, endpoint, own=node.api_base is None)
        answer = await provider.ask(request, lambda text: on_token(endpoint.hidden_in_answer(text)))
        return _storable(answer, endpoint)

    def _told(self, node: ModelNode, answer: ModelAnswer) -> dict[str, Any]:
        if answer.finish_reason == "content_filter" and not answer.text:
            raise ModelError(f"{node.provider} withheld its answer", "content_filter", retryable=False)
        value = value_of(answer, node.output_schema)
        jsonvalue.encode(value, what="the model's answer")
        return {
            "output": value,
            "gen_ai_system": node.provider,
            "gen_ai_model": answer.model,
            "input_tokens": answer.input_tokens,
            "output_tokens": answer.output_tokens,
            "finish_reason": answer.finish_reason,
            "cost_usd": self._prices.cost_usd(
                node.provider,
                answer.model,
                node.model,
                input_tokens=answer.input_tokens,
                output_tokens=answer.output_tokens,
            ),
        }


def _storable(answer: ModelAnswer, endpoint: Endpoint) -> ModelAnswer:
    """The answer without the key, should the server have sent it back, and with names that can be kept."""
    return replace(
        answer,
        text=endpoint.hidden_in_answer(answer.text),
        model=encodable(endpoint.hidden_in_answer(answer.model))[:_NAME_CHARS_MAX],
        finish_reason=encodable(endpoint.hidden_in_answer(answer.finish_reason))[:_NAME_CHARS_MAX],
    )


def _speaking(vendor: Vendor, endpoint: Endpoint, *, own: bool) -> Provider:
    """The adapter for a vendor's wire; ``own`` if the server is that of the vendor, or stands for it."""
    match vendor.wire:
        case "anthropic":
            return Anthropic(endpoint)
        case "google":
            return Google(endpoint)
        case "ollama":
            return Ollama(endpoint)
        case _:
            # Servers of others know the older name better.
            return OpenAi(endpoint, vendor if own else replace(vendor, tokens_key="max_tokens"))


def _request(
    node: ModelNode, rendered: Mapping[str, Any], *, key: str, visit: int, attempt: int
) -> ModelRequest:
    return ModelRequest(
        model=node.model,
        prompt=as_text(rendered.get("prompt")),
        system=as_text(rendered.get("system_prompt")) or None,
        temperature=node.temperature,
        max_tokens=node.max_tokens,
        stop=node.stop,
        schema=node.output_schema,
        options=node.options,
        key=key,
        visit=visit,
        attempt=attempt,
    )


def as_text(value: Any) -> str:
    """A rendered prompt as text: a template that is one expression may give any JSON value."""
    if value is None:
        return ""
    return value if isinstance(value, str) else jsonvalue.encode(value).decode()
