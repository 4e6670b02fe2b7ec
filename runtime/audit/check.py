"""Verification of one tenant's audit log: entries, their chains, and the seals over them.

It trusts nothing but the keys that it is given, so it says the same of a database and
of an exported file. The first thing that is wrong is named.
"""

from collections.abc import Iterable, Sequence

import msgspec

from runtime.audit.entries import GENESIS, AuditRow, entry_id, row_hash
from runtime.audit.seals import Head, Seal, VerifyingKey, seal_hash


class Problem(msgspec.Struct, frozen=True):
    """What is wrong, and with which entry or seal: ``audit_...``, or ``seal 12``."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class Report(msgspec.Struct, kw_only=True):
    """What was found in one tenant's log."""

    tenant_id: str
    entries: int = 0
    chains: int = 0
    seals: int = 0
    unsealed: int = 0
    """Entries that no seal covers yet; what is younger than a second need not be."""
    unsigned: int = 0
    """Seals without a signature."""
    last_seal: str | None = None
    """``{number}:{hash}`` of the last seal: kept elsewhere, it shows later whether the log was cut here."""
    problem: Problem | None = None


class _Bad(Exception):
    def __init__(self, where: str, what: str) -> None:
        super().__init__(what)
        self.problem = Problem(where, what)


def check_log(
    tenant_id: str,
    seals: Iterable[Seal],
    rows: Iterable[AuditRow],
    *,
    keys: Sequence[VerifyingKey] = (),
    anchor: str | None = None,
) -> Report:
    """Verify a log, as far as the first problem.

    Args:
        seals: in the order of their numbers.
        rows: in the order of (chain, position).
        keys: who may have signed; without any, signatures are not checked.
        anchor: ``{number}:{hash}`` of a seal that was kept elsewhere.
    """
    report = Report(tenant_id=tenant_id)
    try:
        known = _Sealed(report, keys, anchor)
        known.read(seals)
        _check_chains(report, rows, known)
    except _Bad as bad:
        report.problem = bad.problem
    return report


class _Sealed:
    """What the seals say of the chains, once they are found to be right."""

    def __init__(self, report: Report, keys: Sequence[VerifyingKey], anchor: str | None) -> None:
        self.heads: dict[str, dict[int, str]] = {}
        """By chain: position to hash."""
        self.pruned: dict[str, Head] = {}
        self._report = report
        self._keys = {key.id: key for key in keys}
        self._anchor = anchor

    def read(self, seals: Iterable[Seal]) -> None:
        held = list(seals)
        kept_from, previous = _beginning(held)
        # What the last deleted seal was, the pruning says.
        names = {f"{kept_from - 1}:{previous}"}
        for number, seal in enumerate(held, start=kept_from):
            where = f"seal {number}"
            if seal.number != number:
                raise _Bad(where, "is missing")
            if seal.tenant_id != self._report.tenant_id:
                raise _Bad(where, f"belongs to tenant {seal.tenant_id}")
            if seal_hash(previous, seal) != seal.hash:
                raise _Bad(where, "was changed, or the one before it was")
            self._check_signature(seal, where)
            self._take(seal)
            previous = seal.hash
            name = f"{seal.number}:{seal.hash}"
            names.add(name)
            self._report.seals += 1
            self._report.last_seal = name
        if self._anchor is not None and self._anchor not in names:
            raise _without_anchor(self._anchor, kept_from)

    def _check_signature(self, seal: Seal, where: str) -> None:
        if seal.signature is None:
            self._report.unsigned += 1
            if self._keys:
                raise _Bad(where, "is not signed")
            return
        if not self._keys:
            return
        key = self._keys.get(seal.key_id or "")
        if key is None:
            raise _Bad(where, f"is signed with another key than was given ({seal.key_id})")
        if not key.has_signed(seal):
            raise _Bad(where, "has a signature that is not that of its key")

    def _take(self, seal: Seal) -> None:
        for chain, position, hashed in seal.heads:
            self.heads.setdefault(chain, {})[position] = hashed
        for head in seal.pruned:
            self.pruned[head.chain] = head

    def expect_end(self, chain: str, last: int) -> None:
        """The chain ends at ``last``: nothing that was sealed may be missing after it."""
        highest = max(self.heads.get(chain, ()), default=0)
        if highest > last:
            raise _Bad(entry_id(chain, last + 1), "is missing: it was sealed")


def _beginning(seals: Sequence[Seal]) -> tuple[int, str]:
    """The number of the first seal that must be there, and the hash before it: as the last pruning says."""
    for seal in reversed(seals):
        if not isinstance(seal.kept_from, int):
            raise _Bad(f"seal {seal.number}", "was changed")
        if seal.kept_from:
            return seal.kept_from, seal.kept_after
    return 1, GENESIS


def _without_anchor(anchor: str, kept_from: int) -> _Bad:
    """What to say of a seal that was kept elsewhere, and is not here."""
    number = anchor.partition(":")[0]
    if number.isdecimal() and int(number) < kept_from - 1:
        return _Bad(f"seal {number}", "was pruned, so it cannot be compared any more: keep a newer one")
    return _Bad(f"seal {number}", "is not the one that was kept")


def _check_chains(report: Report, rows: Iterable[AuditRow], known: _Sealed) -> None:
    chain, last, sealed = "", Head("", 0, GENESIS), 0
    for row in rows:
        if row.tenant_id != report.tenant_id:
            raise _Bad(row.id, f"belongs to tenant {row.tenant_id}")
        if not report.chains or row.chain != chain:
            _close(report, known, last, sealed)
            chain, report.chains = row.chain, report.chains + 1
            last = known.pruned.pop(chain, Head(chain, 0, GENESIS))
            sealed = max(known.heads.get(chain, ()), default=0)
        _check_entry(row, last, known)
        last = Head(chain, row.position, row.hash)
        report.entries += 1
    _close(report, known, last, sealed)
    for head in known.pruned.values():
        known.expect_end(head.chain, head.position)
        known.heads.pop(head.chain, None)
    for name in known.heads:
        known.expect_end(name, 0)


def _check_entry(row: AuditRow, last: Head, known: _Sealed) -> None:
    """An entry fits the one before it in its chain, and what was sealed of it."""
    if not isinstance(row.position, int):  # SQLite keeps what it is given
        raise _Bad(row.id, "was changed")
    expected = last.position + 1
    if row.position > expected:
        raise _Bad(entry_id(row.chain, expected), "is missing")
    if row.position < expected:
        raise _Bad(row.id, "was pruned, and is there again")
    if row_hash(last.hash, row) != row.hash:
        raise _Bad(row.id, "was changed, or the one before it was")
    if known.heads.get(row.chain, {}).get(row.position, row.hash) != row.hash:
        raise _Bad(row.id, "is not what was sealed")


def _close(report: Report, known: _Sealed, last: Head, sealed: int) -> None:
    """A chain has been read to its end."""
    if last.chain:
        known.expect_end(last.chain, last.position)
        known.heads.pop(last.chain, None)
        report.unsealed += max(0, last.position - sealed)
