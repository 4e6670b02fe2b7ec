"""The executor of ``http`` nodes: one exchange with the outside, its failure named for the retry policy."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import httpx2
import orjson

from runtime import jsonvalue
from runtime.errors import ValueRejected
from runtime.graph import HttpNode
from runtime.headers import header_name_problem
from runtime.jsonvalue import JsonValue
from runtime.net.egress import Answer, Egress, parse_url
from runtime.net.errors import EgressError
from runtime.net.secrets import Secrets
from runtime.net.status import retry_after_ms, status_class
from runtime.nodes.failure import CallFailed

REDIRECTS_MAX = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_SAFE = ("GET", "HEAD")
_ERROR_TEXT_MAX = 300


class HttpFailed(CallFailed):
    """The exchange failed, or its status is not one of those that count as success."""


class HttpExecutor:
    """Makes the calls of ``http`` nodes.

    Args:
        more_headers: asked at each call for headers that it is to have unless its node sets them.
    """

    def __init__(
        self, egress: Egress, secrets: Secrets, more_headers: Callable[[], Mapping[str, str]] = dict
    ) -> None:
        self._egress = egress
        self._secrets = secrets
        self._more_headers = more_headers

    async def run(self, node: HttpNode, rendered: Mapping[str, Any], *, key: str) -> JsonValue:
        """Make one attempt: ``rendered`` has url, headers, query and body, ``key`` is its Idempotency-Key.

        Raises:
            HttpFailed
        """
        try:
            answer = await self._exchange(node, rendered, key)
        except EgressError as error:
            never = error.error_class in ("address_refused", "bad_url", "too_large", "secret_refused")
            said = self._secrets.withheld(str(error).encode("utf-8", "replace")).decode()
            raise HttpFailed(said, error.error_class, retryable=False if never else None) from error
        answer = self._withheld(answer)
        if not node.accepts(answer.status):
            raise _refused(node.method, answer)
        return _result(node, answer)

    def _withheld(self, answer: Answer) -> Answer:
        """The answer without secrets: some services tell their callers what they were sent."""
        headers = {
            # As Latin-1 every byte is a character.
            name: self._secrets.withheld(value.encode("latin-1")).decode("latin-1")
            for name, value in answer.headers.items()
        }
        return Answer(answer.status, headers, self._secrets.withheld(answer.body))

    async def _exchange(self, node: HttpNode, rendered: Mapping[str, Any], key: str) -> Answer:
        url = parse_url(_text(rendered["url"]))
        headers = self._headers(node, rendered, key, url.host)
        query = self._query(rendered.get("query"), url.host)
        if query:
            url = url.copy_with(query="&".join(filter(None, (url.query.decode(), query))).encode())
        content = self._content(rendered.get("body"), headers)
        timeout_s = None if node.timeout_ms is None else node.timeout_ms / 1_000
        try:
            async with asyncio.timeout(timeout_s):
                return await self._followed(node.method, url, headers, content)
        except TimeoutError as error:
            raise EgressError(f"{url.host} did not answer in time", "timeout") from error

    async def _followed(
        self, method: str, url: httpx2.URL, headers: dict[str, str], content: bytes
    ) -> Answer:
        """The answer behind all redirects."""
        for _ in range(REDIRECTS_MAX + 1):
            answer = await self._egress.request(
                method, str(url), headers=headers, content=content, timeout_s=None
            )
            onward = _redirected(method, url, answer)
            if onward is None:
                return answer
            if onward.host != url.host or onward.scheme != url.scheme or onward.port != url.port:
                # What was meant for one host is nothing to another.
                headers, content = {}, b""
            url = onward
        raise HttpFailed(f"more than {REDIRECTS_MAX} redirects", "io_error", retryable=False)

    def _headers(self, node: HttpNode, rendered: Mapping[str, Any], key: str, host: str) -> dict[str, str]:
        given = rendered.get("headers") or {}
        headers = {
            name: self._secrets.expand(_text(value), host).strip(" \t") for name, value in given.items()
        }
        for name, value in headers.items():
            problem = header_name_problem(name)
            if problem is None and any(char in value for char in "\r\n\0"):
                problem = f"header {name!r} has characters that no header may have"
            if problem is not None:
                raise HttpFailed(problem, "bad_header", retryable=False)
        names = {name.lower() for name in headers}
        if node.method not in _SAFE and "idempotency-key" not in names:
            headers["Idempotency-Key"] = key
        if "user-agent" not in names:
            headers["User-Agent"] = "jamjet-ray"
        more = {name: value for name, value in self._more_headers().items() if name.lower() not in names}
        return headers | more

    def _query(self, given: Any, host: str) -> str:
        if not isinstance(given, dict):
            return ""
        pairs = [
            (name, one)
            for name, value in given.items()
            for one in (value if isinstance(value, list) else [value])
        ]
        return urlencode(
            [(name, self._secrets.expand(_text(one), host)) for name, one in pairs if one is not None]
        )

    def _content(self, body: Any, headers: dict[str, str]) -> bytes:
        if body is None:
            return b""
        has_type = any(name.lower() == "content-type" for name in headers)
        if isinstance(body, str):
            if not has_type:
                headers["Content-Type"] = "text/plain; charset=utf-8"
            return body.encode()
        if not has_type:
            headers["Content-Type"] = "application/json"
        return orjson.dumps(body)


def _redirected(method: str, url: httpx2.URL, answer: Answer) -> httpx2.URL | None:
    """Where a safe request is to be sent again, if anywhere."""
    if method not in _SAFE or answer.status not in _REDIRECTS or "location" not in answer.headers:
        return None
    try:
        return parse_url(str(url.join(answer.headers["location"])))
    except (httpx2.InvalidURL, ValueError) as error:
        raise EgressError(f"redirected to what is not a url: {error}", "bad_url") from error


def _result(node: HttpNode, answer: Answer) -> JsonValue:
    body = _decoded(answer)
    if node.response == "full":
        return {"status": answer.status, "headers": answer.headers, "body": body}
    return answer.status if node.response == "status" else body


def _decoded(answer: Answer) -> JsonValue:
    """The body as JSON where it says that it is, else as text; an empty one is null."""
    if not answer.body:
        return None
    media_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "application/json" or media_type.endswith("+json"):
        try:
            return jsonvalue.parse(answer.body, what="the answer")
        except ValueRejected as error:
            raise HttpFailed(error.detail, "bad_answer", retryable=False) from error
    text = answer.body.decode("utf-8", "replace")
    return text.replace("\0", "\ufffd")


def _refused(method: str, answer: Answer) -> HttpFailed:
    said = answer.body[:_ERROR_TEXT_MAX].decode("utf-8", "replace").strip()
    error_class = status_class(answer.status)
    return HttpFailed(
        f"{method} was answered {answer.status}" + (f": {said}" if said else ""),
        error_class,
        retryable=False if error_class == "client_error" else None,
        retry_after_ms=retry_after_ms(answer.headers),
    )


def _text(value: JsonValue) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()
