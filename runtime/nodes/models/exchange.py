"""One exchange with a provider: a JSON request, and the frames of its streamed answer."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

import httpcore2
import msgspec
import orjson

from runtime.net.egress import OpenAnswer
from runtime.net.errors import EgressError
from runtime.nodes.models import refusal
from runtime.nodes.models.endpoint import Endpoint
from runtime.nodes.models.framing import Events, Framing, Lines, Whole
from runtime.nodes.models.port import ModelError

STREAM_BYTES_MAX = 64 * 1024 * 1024
"""Of a whole stream: each few letters of an answer come in a frame of their own."""
_REFUSAL_BYTES_MAX = 64 * 1024
_ERROR_CHARS_MAX = 550
"""Of an error with the provider's own words. Cut after the key is taken out, lest a part of it stay."""
_FRAME_SHOWN_CHARS = 100
_DRAIN_S = 0.2
_BROKEN = (EgressError, httpcore2.NetworkError, httpcore2.ProtocolError)
"""What reading a body may raise."""
_NEVER = ("address_refused", "bad_url", "too_large", "secret_refused")
"""Failures that would only come again."""


class Reader(Protocol):
    """Puts an answer together from the frames of its stream."""

    ended: bool
    """Whether the frame came after which nothing of interest can follow."""

    def read(self, frame: Any) -> None:
        """Take a frame: any JSON value.

        Raises:
            msgspec.ValidationError: it is not of this provider's shape.
            ModelError: it tells of a failure.
        """

    def complete(self) -> bool:
        """Whether the whole answer has come."""


async def converse(
    endpoint: Endpoint, url: str, headers: Mapping[str, str], body: Mapping[str, Any], reader: Reader
) -> None:
    """Post ``body``, and give every frame of the answer to the reader.

    Raises:
        ModelError: the provider refused or broke off, or what came is no answer.
    """
    sent = {"Content-Type": "application/json", "User-Agent": "jamjet-ray", **headers}
    try:
        async with endpoint.egress.open(
            "POST", url, headers=sent, content=orjson.dumps(body), timeout_s=None
        ) as answer:
            if not 200 <= answer.status < 300:
                raise await _refused(endpoint, answer)
            await _read(endpoint, answer, reader)
    except EgressError as error:
        never = False if error.error_class in _NEVER else None
        raise ModelError(endpoint.hidden(str(error)), error.error_class, retryable=never) from error
    except ModelError as error:
        error.args = (endpoint.hidden(str(error))[:_ERROR_CHARS_MAX],)
        raise


async def _refused(endpoint: Endpoint, answer: OpenAnswer) -> ModelError:
    body = b""
    with contextlib.suppress(*_BROKEN):
        async for part in answer.chunks(_REFUSAL_BYTES_MAX):
            body += part
    return refusal.of_status(endpoint.provider, answer.status, answer.headers, body)


async def _read(endpoint: Endpoint, answer: OpenAnswer, reader: Reader) -> None:
    framing = _framing(endpoint, answer)
    parts = answer.chunks(STREAM_BYTES_MAX)
    async for part in parts:
        for frame in framing.feed(part):
            _take(endpoint, frame, reader)
            if reader.ended:
                return await _drain(parts)
    rest = framing.rest()
    if rest and (isinstance(framing, Whole) or _is_json(rest)):
        _take(endpoint, rest, reader)
    if not reader.complete():
        raise ModelError(
            f"{endpoint.provider} ended the stream before its answer was whole", "connection_reset"
        )
    return None


def _framing(endpoint: Endpoint, answer: OpenAnswer) -> Framing:
    media_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "text/html":
        raise ModelError(f"{endpoint.provider} sent a web page, which is no answer", "bad_answer")
    if media_type == "application/json":
        return Whole()
    return Lines() if "json" in media_type else Events()


def _take(endpoint: Endpoint, frame: bytes, reader: Reader) -> None:
    if frame == b"[DONE]":
        reader.ended = reader.complete()
        return
    try:
        # Not orjson: it refuses halves of surrogate pairs, which some servers send.
        reader.read(json.loads(frame))
    except (ValueError, RecursionError, msgspec.ValidationError) as error:
        shown = endpoint.hidden(frame.decode("utf-8", "replace"))[:_FRAME_SHOWN_CHARS]
        raise ModelError(
            f"{endpoint.provider} sent what is not part of an answer: {shown!r}", "bad_answer"
        ) from error


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return data == b"[DONE]"
    return True


async def _drain(parts: AsyncIterator[bytes]) -> None:
    """Read what little follows, so that the connection can serve again; it matters to nothing else."""
    with contextlib.suppress(*_BROKEN, TimeoutError):
        async with asyncio.timeout(_DRAIN_S):
            async for _ in parts:
                pass
