"""An answer's text while it grows."""

from runtime.nodes.models.port import OnToken


class Draft:
    """Collects the pieces of a text, and passes each on.

    What is passed on can always be encoded: half of a surrogate pair waits for its other half (some
    servers cut between them), and U+0000, which cannot be stored, becomes U+FFFD.
    """

    def __init__(self, on_token: OnToken) -> None:
        self._on_token = on_token
        self._pieces: list[str] = []
        self._half = ""

    def add(self, piece: str | None) -> None:
        text = self._half + (piece or "")
        self._half = text[-1] if text and "\ud800" <= text[-1] <= "\udbff" else ""
        self._append(text[: len(text) - len(self._half)])

    def text(self) -> str:
        """The whole text; nothing may be added after it."""
        self._append(self._half)
        self._half = ""
        return "".join(self._pieces)

    def _append(self, text: str) -> None:
        if text:
            whole = encodable(text)
            self._pieces.append(whole)
            self._on_token(whole)


def encodable(text: str) -> str:
    """A provider's text as it can be stored: surrogate pairs joined, lost halves and U+0000 replaced."""
    if not text.isascii():
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text.replace("\0", "\ufffd")
