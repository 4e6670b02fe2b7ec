"""What the status and headers of a refusal say to a retry policy."""

from collections.abc import Mapping

RETRY_AFTER_MAX_MS = 3_600_000


def status_class(status: int) -> str:
    """The class of error that a status means to a retry policy."""
    if status == 429:
        return "rate_limit"
    if status in (408, 504):
        return "timeout"
    return "server_error" if status >= 500 else "client_error"


def retry_after_ms(headers: Mapping[str, str]) -> int:
    """What ``Retry-After`` asks for, if it is a number of seconds; an hour at most."""
    return bounded_ms(headers.get("retry-after", ""))


def bounded_ms(number: str, unit_ms: int = 1_000) -> int:
    """A text's number of seconds, or of another unit, in ms: an hour at most, 0 if it is no number."""
    try:
        return max(0, min(int(float(number) * unit_ms), RETRY_AFTER_MAX_MS))
    except (ValueError, OverflowError):
        return 0
