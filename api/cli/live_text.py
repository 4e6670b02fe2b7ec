"""What models say, on stderr as they say it."""

import sys
from typing import Any

from api.cli.output import HARMLESS


class LiveText:
    """Prints pieces of answers: a new line, led by the node, whenever another attempt speaks."""

    def __init__(self) -> None:
        self._speaker: tuple[Any, ...] | None = None

    def add(self, piece: dict[str, Any]) -> None:
        """Print one piece: ``{"node_id", "visit", "attempt", "text"}``."""
        speaker = (piece.get("node_id"), piece.get("visit"), piece.get("attempt"))
        if speaker != self._speaker:
            self.end_line()
            self._speaker = speaker
            attempt = piece.get("attempt")
            again = f" (attempt {attempt})" if isinstance(attempt, int) and attempt > 1 else ""
            _write(f"{_clean(str(piece.get('node_id')))}{again}> ")
        _write(_clean(str(piece.get("text", ""))))

    def end_line(self) -> None:
        """End the line that is begun, before anything else is printed."""
        if self._speaker is not None:
            self._speaker = None
            _write("\n")


def _clean(text: str) -> str:
    """A text without what a terminal would obey."""
    return "".join(sign if sign.isprintable() or sign in HARMLESS else "\ufffd" for sign in text)


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
