"""Identifiers: their shapes, and how to read them. Minting is the caller's (it needs randomness)."""

import re
from typing import NewType

TenantId = NewType("TenantId", str)
ExecutionId = NewType("ExecutionId", str)
Incarnation = NewType("Incarnation", str)

DEFAULT_TENANT = TenantId("default")

_HEX32 = re.compile(r"[0-9a-f]{32}")


def execution_id_from_hex(hex32: str) -> ExecutionId:
    """Make the public form, ``exec_`` and 32 hex digits."""
    return ExecutionId(f"exec_{hex32}")


def timed_hex(time_ms: int, random_hex: str) -> str:
    """32 hex digits of a time and 80 random bits (20 digits).

    What begins at one time lies together in every index, so that many commits touch few pages.
    """
    return f"{time_ms:012x}{random_hex}"


def parse_execution_id(text: str) -> ExecutionId:
    """Read an id as clients send it.

    A bare UUID (with or without hyphens) means the same execution as its
    ``exec_`` form: JamJet's own server prints ids that way. Any other text is
    returned as it is, and will be unknown rather than refused.
    """
    bare = text.replace("-", "").lower()
    if _HEX32.fullmatch(bare):
        return execution_id_from_hex(bare)
    return ExecutionId(text)


def call_key(execution_id: str, node_id: str, visit: int) -> str:
    """The key of a call to the outside: the same on every attempt of one visit (G5)."""
    return f"{execution_id}:{node_id}:{visit}"
