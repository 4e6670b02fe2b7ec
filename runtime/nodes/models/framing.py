"""A streamed body cut into frames: lines of JSON, server-sent events, or one JSON document.

Cut at bytes, so that a character split over two parts of the body is never torn.
"""

from typing import Protocol


class Framing(Protocol):
    """Takes a body in parts."""

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that this part completes."""

    def rest(self) -> bytes:
        """What is left at the end of the body: a last frame without its end, or nothing."""


class Lines:
    """Each line that is not blank is a frame."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        return [line for line in self.lines(data) if line.strip()]

    def lines(self, data: bytes) -> list[bytes]:
        """All lines that this part completes, blank ones too, without their ends."""
        if b"\n" not in data:
            # Joined once, when the line ends: a long line in many parts stays cheap.
            self._parts.append(data)
            return []
        *lines, last = b"".join((*self._parts, data)).split(b"\n")
        self._parts = [last]
        return [line.removesuffix(b"\r") for line in lines]

    def rest(self) -> bytes:
        return b"".join(self._parts).strip()


class Events:
    """Each server-sent event's data is a frame; names, ids and comments are dropped."""

    def __init__(self) -> None:
        self._lines = Lines()
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        frames = []
        for line in self._lines.lines(data):
            self._take(line)
            if not line and self._data:
                frames.append(b"\n".join(self._data))
                self._data = []
        return frames

    def rest(self) -> bytes:
        self._take(self._lines.rest())
        return b"\n".join(self._data)

    def _take(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))


class Whole:
    """The body is one frame."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        self._parts.append(data)
        return []

    def rest(self) -> bytes:
        return b"".join(self._parts)
