"""Which headers a request of a workflow may set."""

import re

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OURS = frozenset(
    ("host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade")
)
"""Those that say where a request goes, where it ends, and what becomes of its connection."""


def header_name_problem(name: str) -> str | None:
    """Why a header of this name may not be set; None if it may."""
    if not _NAME.fullmatch(name):
        return f"header {name!r} has characters that no header may have"
    if name.lower() in _OURS:
        return f"header {name!r} is set by the server: leave it out"
    return None
