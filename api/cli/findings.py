"""What a check of ``jamjet doctor`` found."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a finding is meant. Only what is wrong makes the command fail."""

    OK = "ok"
    NOTE = "note"
    WRONG = "wrong"


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        todo: what to do about it, for all that is not ok.
    """

    check: str
    status: Status
    said: str
    todo: str | None = None


def ok(check: str, said: str) -> Finding:
    return Finding(check, Status.OK, said)


def note(check: str, said: str, todo: str) -> Finding:
    return Finding(check, Status.NOTE, said, todo)


def wrong(check: str, said: str, todo: str) -> Finding:
    return Finding(check, Status.WRONG, said, todo)
