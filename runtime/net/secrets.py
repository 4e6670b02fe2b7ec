"""Secrets of the operator's environment, by name, each bound to the hosts that it may be sent to.

Workflows only ever hold the name, as ``${NAME}``; the value is put in as a request leaves, so it stands in
no event, log or error.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from urllib.parse import quote, quote_plus

from runtime.errors import BadRequest
from runtime.net.errors import EgressError

CHARS_MIN = 6
"""A shorter value is no secret, and would be found everywhere."""

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Secrets:
    """What may be sent where. ``hosts`` has patterns as of file names; one for each name at least."""

    hosts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, entries: Iterable[str], environ: Mapping[str, str]) -> "Secrets":
        """Read ``NAME@host`` entries; further hosts of a name after ``|``.

        Blanks and line ends around a value do not belong to it: no header could carry them.

        Raises:
            BadRequest: an entry has another form.
        """
        hosts: dict[str, tuple[str, ...]] = {}
        for entry in entries:
            name, _, listed = entry.partition("@")
            patterns = tuple(host.strip().lower() for host in listed.split("|") if host.strip())
            if not _NAME.fullmatch(name) or not patterns:
                raise BadRequest(
                    f"the secret {name!r} needs the hosts that it may be sent to: NAME@host|host"
                )
            hosts[name] = hosts.get(name, ()) + patterns
        return cls(hosts, {name: environ[name].strip() for name in hosts if name in environ})

    def expand(self, text: str, host: str) -> str:
        """A text with its references to secrets replaced, for a request to ``host``. Others stay literal.

        Raises:
            EgressError: a secret is not set, or may not be sent there.
        """
        return _REFERENCE.sub(lambda found: self._value(found, host), text)

    def value(self, name: str, host: str) -> str | None:
        """One secret for a request to ``host``; None if it is not set.

        Raises:
            EgressError: it may not be sent there.
        """
        if not any(fnmatchcase(host.lower(), pattern) for pattern in self.hosts.get(name, ())):
            raise EgressError(f"the secret {name} may not be sent to {host}", "secret_refused")
        return self.values.get(name)

    def withheld(self, data: bytes) -> bytes:
        """What comes from outside, with the secrets that it gives back turned into references again."""
        for written, reference in self._written:
            data = data.replace(written, reference)
        return data

    @cached_property
    def _written(self) -> list[tuple[bytes, bytes]]:
        """Every way to write each secret, with its reference; what may contain another goes first."""
        found = [
            (written, f"${{{name}}}".encode())
            for name, value in self.values.items()
            if len(value) >= CHARS_MIN
            for written in _ways_to_write(value)
        ]
        return sorted(found, key=lambda pair: len(pair[0]), reverse=True)

    def _value(self, found: re.Match[str], host: str) -> str:
        if found[1] not in self.hosts:
            return found[0]
        value = self.value(found[1], host)
        if value is None:
            raise EgressError(f"the secret {found[1]} is not set on the server", "secret_missing")
        return value


def _ways_to_write(value: str) -> Iterator[bytes]:
    """A text as it is, in a URL, and in JSON; also by one who took its UTF-8 for Latin-1."""
    for text in dict.fromkeys((value, value.encode().decode("latin-1"))):
        yield text.encode()
        yield quote(text, safe="").encode()
        yield quote_plus(text).encode()
        yield json.dumps(text)[1:-1].encode()
        yield json.dumps(text, ensure_ascii=False)[1:-1].encode()
