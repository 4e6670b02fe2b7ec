"""One execution's event stream (Server-Sent Events), joined again where it breaks."""

import json
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from api.cli.client import ApiClient
from api.cli.exits import EXIT_UNREACHABLE, CliError

if TYPE_CHECKING:
    import httpx2

_FRUITLESS_MAX = 3
_PAUSE_S = 0.3
_MEDIA_TYPE = "text/event-stream"

LAST_KINDS = ("WorkflowCompleted", "WorkflowFailed", "WorkflowCancelled", "WorkflowLimitExceeded")
"""The kinds of event after which none follows."""

OnToken = Callable[[dict[str, Any]], None]
"""Given each piece of a model's answer: ``{"node_id", "visit", "attempt", "text"}``."""


class TimedOut(Exception):
    """The time to follow is over; the execution is not."""


class EventStream:
    """The events after a sequence.

    Attributes:
        after: the sequence that was seen last.
        ended: whether the execution's last event was seen. When ``events`` returns without it,
            this server cannot be followed by stream.
    """

    def __init__(
        self,
        client: ApiClient,
        execution_id: str,
        *,
        after: int,
        deadline: float | None,
        on_token: OnToken | None,
    ) -> None:
        self.after = after
        self.ended = False
        self._client = client
        self._path = f"/executions/{execution_id}/events/stream"
        self._deadline = deadline
        self._on_token = on_token
        self._unsupported = False
        self._frames = 0

    def events(self) -> Iterator[dict[str, Any]]:
        """Each event, once and in order. Several connections in vain end it.

        Raises:
            TimedOut: the deadline passed.
            CliError: the server refuses this caller.
        """
        fruitless = 0
        while not self._unsupported and fruitless < _FRUITLESS_MAX:
            self._require_time()
            time.sleep(_PAUSE_S * fruitless)
            frames_before = self._frames
            yield from self._connection()
            if self.ended:
                return
            fruitless = 0 if self._frames > frames_before else fruitless + 1

    def _connection(self) -> Iterator[dict[str, Any]]:
        """The events of one connection, until it ends or breaks."""
        import httpx2

        seen = str(self.after)
        where: dict[str, Any] = {"params": {}, "headers": {"Last-Event-ID": seen}}
        if not self._frames:
            where = {"params": {"after": seen}, "headers": {}}
        try:
            with self._client.stream(self._path, deadline=self._deadline, **where) as response:
                self._unsupported = not _is_stream(response)
                if not self._unsupported:
                    yield from self._read(response)
        except httpx2.TransportError:
            pass
        except CliError as error:
            if error.exit_code != EXIT_UNREACHABLE:
                raise

    def _read(self, response: "httpx2.Response") -> Iterator[dict[str, Any]]:
        import httpx2

        for frame in httpx2.EventSource(response, max_event_size=None):
            self._require_time()
            data = _object(frame.data)
            if frame.event == "token":
                self._frames += 1
                if self._on_token is not None:
                    self._on_token(data)
            elif frame.event == "end":
                self.ended = True
            elif data.get("sequence", 0) > self.after:
                self._frames += 1
                self.after = data["sequence"]
                self.ended = data.get("kind") in LAST_KINDS
                yield data
            if self.ended:
                return

    def _require_time(self) -> None:
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise TimedOut


def _is_stream(response: "httpx2.Response") -> bool:
    return response.is_success and response.headers.get("content-type", "").startswith(_MEDIA_TYPE)


def _object(text: str) -> dict[str, Any]:
    """A frame's data; empty for one that is none of ours."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
