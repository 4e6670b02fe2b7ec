"""The port of model providers: one question, one answer, pieces of it on the way."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

import msgspec

from runtime.nodes.failure import CallFailed

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""Tokens, as a provider counts them."""
OnToken = Callable[[str], None]
"""Gets each piece of an answer's text as it comes."""


@dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """One question.

    Attributes:
        schema: a JSON Schema that the answer is to fit; None for free text.
        options: the provider's own parameters, put into the request as they are.
        key: the same on every attempt; for providers that know idempotency keys.
        visit, attempt: which try it is, from 1.
    """

    model: str
    prompt: str
    system: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""
    visit: int = 1
    attempt: int = 1


@dataclass(frozen=True, kw_only=True)
class ModelAnswer:
    """What a model said.

    Attributes:
        model: the model that answered, as the provider calls it.
        finish_reason: ``stop``, ``length``, ``tool_calls`` or ``content_filter``, else the provider's own.
        input_tokens, output_tokens: None if the provider did not count.
    """

    text: str
    model: str
    finish_reason: str = "stop"
    input_tokens: int | None = None
    output_tokens: int | None = None


class ModelError(CallFailed):
    """A provider's failure: no answer came, or none that serves."""


class Provider(Protocol):
    """A way to ask models."""

    async def ask(self, request: ModelRequest, on_token: OnToken) -> ModelAnswer:
        """Ask once. It may be cancelled.

        Raises:
            ModelError: no whole answer came.
        """
