"""What the instance's processes print: kept for the case of failure, and passed on while they serve."""

import asyncio
import json
import re
from collections import deque
from collections.abc import Callable
from typing import Any

_KEPT_LINES = 15
_READ_BYTES = 65_536
_LINE_MAX_BYTES = 1_048_576
_NOT_SHOWN = "(raylet) A worker died or was killed"
"""Ray explains it in a thousand characters; that the process is gone and replaced is told by our own."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


_OURS = re.compile(r"\(\S+ pid=\d+[^)]*\) (\{.*\})")


def record_of(line: str) -> dict[str, Any] | None:
    """The fields of a line that one of our own processes logged, as Ray passes it on; None for any other."""
    match = _OURS.fullmatch(line)
    if match is None:
        return None
    try:
        record = json.loads(match[1])
    except ValueError:
        return None
    return record if isinstance(record, dict) and "event" in record else None


class Relay:
    """Reads one stream of output to its end.

    Attributes:
        open: whether lines are passed on; while a server starts or ends, what Ray prints helps nobody.
        last: the last few lines, passed on or not.
    """

    def __init__(self, show: Callable[[str], None], *, is_open: bool = False) -> None:
        self.open = is_open
        self.last: deque[str] = deque(maxlen=_KEPT_LINES)
        self._show = show

    async def run(self, stream: asyncio.StreamReader) -> None:
        """Returns when the stream ends. A line without end is cut."""
        rest = b""
        while chunk := await stream.read(_READ_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > _LINE_MAX_BYTES:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._take(line)
        if rest:
            self._take(rest)

    def _take(self, raw: bytes) -> None:
        line = _COLOUR.sub("", raw.decode(errors="replace")).rstrip()
        if not line:
            return
        self.last.append(line)
        if self.open and not line.startswith(_NOT_SHOWN):
            self._show(line)
