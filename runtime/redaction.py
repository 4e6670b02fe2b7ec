"""Data policies: what is withheld where events, the audit log and logs are shown.

The stored log stays whole, since recovery folds it; what is shown of it is redacted.
Detectors are made of patterns without nested repetition, so their time grows with the text.
"""

import hashlib
import ipaddress
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import msgspec

from runtime.jsonvalue import JsonValue

Detector = Literal["email", "ssn", "credit_card", "phone", "ip_address"]
Mode = Literal["mask", "hash", "remove"]
Path = tuple[str, ...]

MASK = "[REDACTED]"
_STRICTNESS: tuple[Mode, ...] = ("mask", "hash", "remove")
_HASH_DIGITS = 16


class DataPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a tenant, a workflow or a node wants withheld.

    ``pii_fields`` are paths such as ``$.customer.email`` or ``$.orders[*].card``: values under
    keys in that order, wherever they begin. Prompts are withheld unless the policy retains them.
    """

    pii_fields: tuple[str, ...] = ()
    pii_detectors: tuple[Detector, ...] = ()
    redaction_mode: Mode = "mask"
    retain_prompts: bool = False
    retain_outputs: bool = True
    retention_days: int | None = None

    def __post_init__(self) -> None:
        for field in self.pii_fields:
            parse_path(field)
        if self.retention_days is not None and not 1 <= self.retention_days <= 100_000:
            raise ValueError("retention_days must be from 1 to 100000")


_STEP = re.compile(r"\.([A-Za-z_][A-Za-z0-9_-]*)|\[(?:\*|[0-9]+)\]")


def parse_path(text: str) -> Path:
    """The keys of a path; places in lists do not count.

    Raises:
        ValueError: it is no path.
    """
    keys: list[str] = []
    at = 1
    if not text.startswith("$"):
        raise ValueError(f"pii_fields: {text!r} is no path such as '$.customer.email'")
    while at < len(text):
        step = _STEP.match(text, at)
        if step is None:
            raise ValueError(f"pii_fields: {text!r} is no path such as '$.customer.email'")
        if step[1]:
            keys.append(step[1])
        at = step.end()
    if not keys:
        raise ValueError(f"pii_fields: {text!r} names no key")
    return tuple(keys)


def merged(policies: Iterable[DataPolicy | None]) -> DataPolicy | None:
    """All of them at once: each may only add. None: there is none."""
    given = [policy for policy in policies if policy is not None]
    if not given:
        return None
    days = [policy.retention_days for policy in given if policy.retention_days is not None]
    return DataPolicy(
        pii_fields=tuple(dict.fromkeys(field for policy in given for field in policy.pii_fields)),
        pii_detectors=tuple(dict.fromkeys(name for policy in given for name in policy.pii_detectors)),
        redaction_mode=max((policy.redaction_mode for policy in given), key=_STRICTNESS.index),
        retain_prompts=all(policy.retain_prompts for policy in given),
        retain_outputs=all(policy.retain_outputs for policy in given),
        retention_days=min(days, default=None),
    )


class Redactor:
    """Withholds what one policy says from values and texts.

    Args:
        salt: mixed into hashes, so that equal values are comparable within one tenant alone.
    """

    def __init__(self, policy: DataPolicy, salt: str) -> None:
        self._paths = [parse_path(field) for field in policy.pii_fields]
        self._detectors = [_DETECTORS[name] for name in policy.pii_detectors]
        self._mode = policy.redaction_mode
        self._salt = salt

    def value(self, value: JsonValue, at: Path = ()) -> JsonValue:
        """A JSON value, that stands under the keys ``at``, without what is to be withheld."""
        if at and self._is_named(at):
            return None if self._mode == "remove" else self._shown(value)
        return self._walk(value, at)

    def text(self, text: str) -> str:
        """A text without what the detectors find."""
        for pattern, is_meant in self._detectors:
            text = pattern.sub(partial(self._replaced, is_meant), text)
        return text

    def _replaced(self, is_meant: Callable[[str], bool], found: re.Match[str]) -> str:
        return self._shown(found[0]) if is_meant(found[0]) else found[0]

    def _walk(self, value: Any, path: Path) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self._walk(item, path) for item in value]
        if isinstance(value, dict):
            shown = {}
            for key, item in value.items():
                below = (*path, key)
                if not self._is_named(below):
                    shown[self.text(key)] = self._walk(item, below)
                elif self._mode != "remove":
                    shown[key] = self._shown(item)
            return shown
        if isinstance(value, int) and not isinstance(value, bool) and self._detectors:
            text = str(value)
            return value if self.text(text) == text else self._shown(text)
        return value

    def _is_named(self, path: Path) -> bool:
        return any(path[-len(named) :] == named for named in self._paths)

    def _shown(self, value: Any) -> str:
        if self._mode == "mask":
            return MASK
        if self._mode == "remove":
            return ""
        content = value if isinstance(value, str) else msgspec.json.encode(value, order="sorted").decode()
        digest = hashlib.sha256(f"{self._salt}\x1f{content}".encode()).hexdigest()
        return f"sha256:{digest[:_HASH_DIGITS]}"


def _passes_luhn(text: str) -> bool:
    digits = [int(char) for char in text if char.isdigit()]
    if not 13 <= len(digits) <= 19:
        return False
    doubled = [
        digit * 2 - 9 * (digit > 4) if place % 2 else digit for place, digit in enumerate(digits[::-1])
    ]
    return sum(doubled) % 10 == 0


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_phone(text: str) -> bool:
    return 8 <= sum(char.isdigit() for char in text) <= 15


def _always(text: str) -> bool:
    return True


# Bounded repetition only, begun where the character before could not belong to it: linear in the text.
_DETECTORS: dict[Detector, tuple[re.Pattern[str], Callable[[str], bool]]] = {
    "email": (
        re.compile(
            r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}"
        ),
        _always,
    ),
    "ssn": (re.compile(r"(?<![0-9-])[0-9]{3}-[0-9]{2}-[0-9]{4}(?![0-9-])"), _always),
    "credit_card": (re.compile(r"(?<![0-9])[0-9](?:[ -]?[0-9]){12,18}(?![0-9])"), _passes_luhn),
    "phone": (re.compile(r"(?<![0-9A-Za-z+])(?:\+|\()[0-9][0-9 ()./-]{5,20}[0-9](?![0-9])"), _is_phone),
    "ip_address": (
        re.compile(
            r"(?<![0-9A-Za-z.:])(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7})"
            r"(?![0-9A-Za-z:]|\.[0-9])"
        ),
        _is_address,
    ),
}
