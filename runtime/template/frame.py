"""One rendering: what it reads, what it may still cost and show, and what it warns of."""

from collections.abc import Callable, Mapping
from typing import Any

from runtime.expr import values
from runtime.expr.evaluate import Frame as Evaluation

OUTPUT_BYTES_MAX = 256 * 1024
"""UTF-8 bytes that one rendering may produce from expressions and the texts around them."""
WARNINGS_MAX = 20


class Frame(Evaluation):
    """One rendering: an evaluation that also counts what it shows and keeps warnings, in order."""

    __slots__ = ("room_left", "warnings")

    def __init__(self, scope: Mapping[str, Any]) -> None:
        super().__init__(scope)
        self.room_left = OUTPUT_BYTES_MAX
        self.warnings: dict[str, None] = {}

    def warn(self, text: str) -> None:
        if len(self.warnings) < WARNINGS_MAX:
            self.warnings[text] = None

    def known(self, value: Any) -> Any:
        """The value; null with a warning in place of a path that does not exist."""
        if type(value) is Missing:
            self.warn(f"{value.path} is undefined")
            return None
        return value

    def show(self, value: Any) -> str:
        """The value as part of a text."""
        value = self.known(value)
        return "" if value is None else values.text(self, value)

    def produce(self, size: int) -> None:
        self.room_left -= size
        if self.room_left < 0:
            raise values.LimitExceeded(f"its output is over {OUTPUT_BYTES_MAX} bytes")


class Missing:
    """What a path that does not exist gives, until something wants its value."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def __bool__(self) -> bool:
        return False


Run = Callable[[Frame], Any]
