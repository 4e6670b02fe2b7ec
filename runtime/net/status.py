"""What the status and headers of a refusal say to a retry policy."""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime

RETRY_AFTER_MAX_MS = 3_600_000


def status_class(status: int) -> str:
    """The class of error that a status means to a retry policy."""
    if status == 429:
        return "rate_limit"
    if status in (408, 504):
        return "timeout"
    return "server_error" if status >= 500 else "client_error"


def retry_after_ms(headers: Mapping[str, str]) -> int:
    """What ``Retry-After`` asks for, in seconds or as a date by the answer's own clock; an hour at most."""
    told = headers.get("retry-after", "")
    return bounded_ms(told) or _until_ms(told, headers.get("date", ""))


def _until_ms(then: str, now: str) -> int:
    try:
        wait = parsedate_to_datetime(then) - parsedate_to_datetime(now)
    except (ValueError, TypeError):
        # The latter: only one of them names its time zone.
        return 0
    return bounded_ms(str(wait.total_seconds()))


def bounded_ms(number: str, unit_ms: int = 1_000) -> int:
    """A text's number of seconds, or of another unit, in ms: an hour at most, 0 if it is no number."""
    try:
        return max(0, min(int(float(number) * unit_ms), RETRY_AFTER_MAX_MS))
    except (ValueError, OverflowError):
        return 0
