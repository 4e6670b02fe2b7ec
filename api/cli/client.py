"""The REST API as the commands see it: one call, one JSON answer, or one sentence and an exit code.

Every POST carries an Idempotency-Key, so that a lost answer may be asked for
again: a repeat takes effect once, whatever became of the first.
"""

import contextlib
import json
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Self

from api.cli.dev_file import read_dev_server
from api.cli.dev_token import read_dev_token
from api.cli.exits import EXIT_FAILED, EXIT_NO_ACCESS, EXIT_NOT_FOUND, EXIT_UNREACHABLE, EXIT_USAGE, CliError

if TYPE_CHECKING:
    import httpx2

DEFAULT_URL = "http://127.0.0.1:7700"
_REQUEST_TIMEOUT_S = 30.0
_SILENCE_S = 45.0
"""A stream that is silent for so long, three of the server's pings, is broken."""
_RETRY_DELAYS_S = (0.1, 0.3, 0.6, 1.0)
_RETRY_AFTER_MAX_S = 3.0
_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")
_TEMPORARY = (502, 503, 504)

_EXITS = {
    400: EXIT_USAGE,
    401: EXIT_NO_ACCESS,
    403: EXIT_NO_ACCESS,
    404: EXIT_NOT_FOUND,
    413: EXIT_USAGE,
    415: EXIT_USAGE,
    422: EXIT_USAGE,
    429: EXIT_UNREACHABLE,
}


class ApiClient:
    """One server and one token. Not safe for use by several threads.

    Without a url, the ``jamjet dev`` of this folder is talked to. Without a token, the one that it
    left there is taken, for a server on this machine.

    Attributes:
        has_token: whether a token is sent.
    """

    def __init__(self, url: str | None, token: str | None) -> None:
        import httpx2

        url = url or url_of_this_folder()
        self.url = url.rstrip("/")
        try:
            parsed = httpx2.URL(self.url)
        except httpx2.InvalidURL as error:
            raise CliError(f"{url!r} is not a url: {error}", EXIT_USAGE) from None
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise CliError(f"the url {url!r} must begin with http:// or https:// and name a host", EXIT_USAGE)
        if not token and parsed.host in _THIS_MACHINE:
            token = read_dev_token()
        if token and not token.isascii():
            raise CliError("the token has characters that no token has: look at JAMJET_TOKEN", EXIT_USAGE)
        self.has_token = bool(token)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx2.Client(base_url=self.url, headers=headers, timeout=_REQUEST_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, *, timeout_s: float = _REQUEST_TIMEOUT_S, **params: Any) -> dict[str, Any]:
        """GET; parameters that are None are left out.

        Raises:
            CliError: with the sentence and the exit code that the user gets.
        """
        given = {name: value for name, value in params.items() if value is not None}
        return self._call("GET", path, params=given, timeout=timeout_s)

    def delete(self, path: str) -> dict[str, Any]:
        """DELETE; an answer that was lost is asked for again, as a repeat changes nothing more.

        Raises:
            CliError: with the sentence and the exit code that the user gets.
        """
        return self._call("DELETE", path)

    def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """POST under a fresh Idempotency-Key; an answer that was lost is asked for again.

        Raises:
            CliError: with the sentence and the exit code that the user gets.
        """
        headers = {"Idempotency-Key": secrets.token_hex(16)}
        return self._call("POST", path, headers=headers, **({} if body is None else {"json": body}))

    def put(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """PUT; an answer that was lost is asked for again, as a repeat changes nothing more.

        Raises:
            CliError: with the sentence and the exit code that the user gets.
        """
        return self._call("PUT", path, json=body)

    @contextlib.contextmanager
    def stream(
        self, path: str, *, params: dict[str, Any], headers: dict[str, str], deadline: float | None
    ) -> Iterator["httpx2.Response"]:
        """GET an answer that comes bit by bit. Its body ends, or breaks, at ``deadline`` (monotonic) at last.

        The answer is 2xx or 404: a server without such a route says 404, as for an unknown thing.

        Raises:
            CliError: it could not be opened.
            httpx2.TransportError: it broke.
        """
        import httpx2

        timeout = httpx2.Timeout(_REQUEST_TIMEOUT_S, read=_SILENCE_S)
        accept = {"Accept": "text/event-stream", **headers}
        request = self._http.build_request("GET", path, params=params, headers=accept, timeout=timeout)
        response = self._http.send(request, stream=True)
        try:
            if not response.is_success and response.status_code != 404:
                response.read()
                raise CliError(_refusal(response), _exit_of(response.status_code))
            with _cut_off(response, deadline):
                yield response
        finally:
            response.close()

    def _call(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        response = self._send(method, path, request)
        if response.is_success:
            return _json_object(response, self.url)
        raise CliError(_refusal(response), _exit_of(response.status_code))

    def _send(self, method: str, path: str, request: dict[str, Any]) -> "httpx2.Response":
        import httpx2

        for delay_s in (*_RETRY_DELAYS_S, None):
            try:
                response = self._http.request(method, path, **request)
            except httpx2.TransportError as error:
                if delay_s is None:
                    raise CliError(_unreachable(self.url, error), EXIT_UNREACHABLE) from None
            else:
                if delay_s is None or not _is_temporary(response):
                    return response
                delay_s = max(delay_s, min(_retry_after_s(response), _RETRY_AFTER_MAX_S))
            time.sleep(delay_s)
        raise AssertionError("the last attempt returns or raises")


@contextlib.contextmanager
def _cut_off(response: "httpx2.Response", deadline: float | None) -> Iterator[None]:
    """Shut the connection down at the deadline: a read waits for the server, not for our clock."""
    connection = response.extensions["network_stream"].get_extra_info("socket")

    def shut() -> None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    if deadline is None:
        yield
        return
    timer = threading.Timer(max(0.0, deadline - time.monotonic()), shut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def url_of_this_folder() -> str:
    """Where the ``jamjet dev`` of this folder answers, or would by default."""
    server = read_dev_server()
    return DEFAULT_URL if server is None else server.url


def _json_object(response: "httpx2.Response", url: str) -> dict[str, Any]:
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise CliError(
            f"{url} did not answer with a JSON object: is it a jamjet server? Check JAMJET_URL",
            EXIT_UNREACHABLE,
        )
    return answer


def _refusal(response: "httpx2.Response") -> str:
    """The server's sentence, and where it helps, what to do next."""
    try:
        error = str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        error = f"the server answered {response.status_code} {response.reason_phrase}"
    if response.status_code == 401:
        return f"{error}: set JAMJET_TOKEN, or make a token with `jamjet token create`"
    if response.status_code == 429 and "Retry-After" in response.headers:
        return f"{error}: try again in {duration(response.headers['Retry-After'])}"
    return error


def _unreachable(url: str, error: Exception) -> str:
    import httpx2

    if isinstance(error, httpx2.TimeoutException) and not isinstance(error, httpx2.ConnectTimeout):
        return f"the server at {url} did not answer in time: try again, or look at its log"
    return f"no server answers at {url}: start one with `jamjet dev`, or set JAMJET_URL"


def _is_temporary(response: "httpx2.Response") -> bool:
    """Whether to ask again. What another server has not answered to ours, it will not the next moment."""
    if response.status_code == 502:
        return b'"code":"unreachable"' not in response.read()
    return response.status_code in _TEMPORARY


def _exit_of(status: int) -> int:
    return _EXITS.get(status, EXIT_UNREACHABLE if status >= 500 else EXIT_FAILED)


def _retry_after_s(response: "httpx2.Response") -> float:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 12 else 0.0


def duration(seconds: str) -> str:
    """A number of seconds in words; what is no number as it is."""
    if not seconds.isascii() or not seconds.isdigit():
        return seconds
    number = int(seconds) or 1
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if number >= 2 * length:
            return f"{number // length} {unit}"
    return f"{number} s"


def parse_json_object(text: str, where: str) -> dict[str, Any]:
    """Read the JSON object of an option or a file.

    Raises:
        CliError: it is no JSON, or JSON but no object.
    """
    value = parse_json(text, where)
    if not isinstance(value, dict):
        raise CliError(f"{where} must be a JSON object, such as '{{\"key\": 1}}'", EXIT_USAGE)
    return value


def parse_json(text: str, where: str) -> Any:
    """Read the JSON value of an option or a file.

    Raises:
        CliError: it is no JSON.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise CliError(f"{where} is not JSON: {error}", EXIT_USAGE) from None
