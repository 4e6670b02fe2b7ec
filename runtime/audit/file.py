"""A tenant's audit log as lines of JSON: one that says whose it is, the seals, the entries."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from runtime.audit.entries import AuditRow
from runtime.audit.seals import Seal
from runtime.errors import BadRequest

FORMAT = 1


class _Header(msgspec.Struct, frozen=True, kw_only=True, tag="log", tag_field="kind"):
    tenant_id: str
    format: int = FORMAT


_encode = msgspec.json.Encoder().encode
_header = msgspec.json.Decoder(_Header)


def write_log(tenant_id: str, seals: Iterable[Seal], rows: Iterable[AuditRow]) -> Iterator[bytes]:
    """The lines of a log. Seals are read before entries, so that all they seal is in it."""
    yield _encode(_Header(tenant_id=tenant_id)) + b"\n"
    for seal in seals:
        yield _encode({"kind": "seal", **msgspec.structs.asdict(seal)}) + b"\n"
    for row in rows:
        yield _encode({"kind": "entry", **msgspec.structs.asdict(row)}) + b"\n"


def read_log(lines: Iterable[bytes]) -> tuple[str, list[Seal], Iterator[AuditRow]]:
    """The tenant, the seals, and the entries, which are read as they are asked for.

    Raises:
        BadRequest: a line is none of ours; also while entries are read.
    """
    numbered = enumerate(lines, start=1)
    _, first = next(numbered, (1, b""))
    try:
        header = _header.decode(first)
    except ValueError as error:
        raise BadRequest(f"this is no exported audit log: line 1: {error}") from error
    if header.format != FORMAT:
        raise BadRequest(f"the log has format {header.format}, this release reads {FORMAT}")
    seals: list[Seal] = []
    for number, line in numbered:
        found = _parsed(number, line)
        if isinstance(found, AuditRow):
            return header.tenant_id, seals, _rows(found, numbered)
        seals.append(found)
    return header.tenant_id, seals, iter(())


def _rows(first: AuditRow, numbered: Iterable[tuple[int, bytes]]) -> Iterator[AuditRow]:
    yield first
    for number, line in numbered:
        found = _parsed(number, line)
        if not isinstance(found, AuditRow):
            raise BadRequest(f"line {number}: a seal stands among the entries")
        yield found


def _parsed(number: int, line: bytes) -> AuditRow | Seal:
    try:
        fields: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
        kind = fields.pop("kind", None)
        if kind == "entry":
            return msgspec.convert(fields, AuditRow)
        if kind == "seal":
            return msgspec.convert(fields, Seal)
    except ValueError as error:
        raise BadRequest(f"line {number}: {error}") from error
    raise BadRequest(f"line {number}: neither a seal nor an entry")
