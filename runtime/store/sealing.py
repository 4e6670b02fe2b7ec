"""Sealing and pruning one tenant's audit log, each within one transaction of any store."""

from typing import NamedTuple, Protocol

from runtime.audit.entries import GENESIS, IDLE_MS
from runtime.audit.seals import Head, Seal, SigningKey, sealed

PRUNED_MAX = 5_000
"""Entries that one transaction deletes, about."""
SEALS_KEPT_MS = 2 * IDLE_MS
"""Seals that are younger stay, so that a chain is remembered until its writer would not go on with it."""


class ChainState(NamedTuple):
    """How far a chain goes, is sealed (and by which seal), and is pruned."""

    chain: str
    position: int
    sealed: int
    sealed_by: int
    pruned: int


class AuditTables(Protocol):
    """The rows of one tenant's audit log, in an open transaction."""

    tenant_id: str

    def now(self) -> int: ...

    def last_seal(self) -> Seal | None: ...

    def last_pruning(self) -> Seal | None:
        """The last seal that pruned."""

    def chains(self) -> list[ChainState]: ...

    def hash_at(self, chain: str, position: int) -> str | None: ...

    def first_since(self, chain: str, since: int) -> int | None:
        """The first position of a chain that is not older than ``since``."""

    def first_seal_since(self, since: int) -> int | None: ...

    def seal_hash(self, number: int) -> str | None: ...

    def insert_seal(self, seal: Seal) -> None: ...

    def mark_sealed(self, head: Head, number: int) -> None: ...

    def mark_pruned(self, chain: str, position: int) -> None: ...

    def forget_chain(self, chain: str) -> None: ...

    def delete_entries(self, chain: str, up_to: int) -> None: ...

    def delete_seals(self, below: int) -> None: ...


def seal_log(tables: AuditTables, key: SigningKey | None) -> bool:
    """Seal what has moved since the last seal; False: nothing has."""
    newest = tables.last_seal()
    moved = [state for state in tables.chains() if state.position > state.sealed]
    found = [(state.chain, state.position, tables.hash_at(state.chain, state.position)) for state in moved]
    heads = tuple(Head(chain, position, hashed) for chain, position, hashed in found if hashed is not None)
    if not heads:
        return False
    seal = _insert_next(tables, newest, key, heads=heads)
    for head in heads:
        tables.mark_sealed(head, seal.number)
    return True


def prune_log(tables: AuditTables, before: int, key: SigningKey | None) -> int:
    """Delete sealed entries, and seals, that are older than ``before``; says how many entries.

    What goes is the beginning of each chain, and the pruning seal tells where it was cut, so
    that the rest still verifies.
    """
    newest = tables.last_seal()
    states = tables.chains()
    cuts = _cuts(tables, states, before)
    if not cuts:
        return 0
    last = tables.last_pruning()
    needed = [state.sealed_by for state in states if cuts.get(state.chain, state.pruned) < state.sealed]
    kept_from, kept_after = _kept_seals(
        tables, newest, last, min(before, tables.now() - SEALS_KEPT_MS), needed
    )
    gone = [
        state.chain
        for state in states
        if cuts.get(state.chain, state.pruned) == state.position and state.sealed_by < kept_from
    ]
    heads = {} if last is None else {head.chain: head for head in last.pruned}
    for chain, position in cuts.items():
        heads[chain] = Head(chain, position, tables.hash_at(chain, position) or "")
    pruned = tuple(head for chain, head in sorted(heads.items()) if chain not in gone)
    _insert_next(tables, newest, key, pruned=pruned, kept_from=kept_from, kept_after=kept_after)
    for chain, position in cuts.items():
        tables.mark_pruned(chain, position)
        tables.delete_entries(chain, position)
    for chain in gone:
        tables.forget_chain(chain)
    tables.delete_seals(kept_from)
    before_cut = {state.chain: state.pruned for state in states}
    return sum(position - before_cut[chain] for chain, position in cuts.items())


def _cuts(tables: AuditTables, states: list[ChainState], before: int) -> dict[str, int]:
    """By chain: the last position to be deleted."""
    cuts: dict[str, int] = {}
    left = PRUNED_MAX
    for state in states:
        if left <= 0:
            break
        first_kept = tables.first_since(state.chain, before)
        old = state.position if first_kept is None else first_kept - 1
        cut = min(old, state.sealed, state.pruned + left)
        if cut > state.pruned:
            cuts[state.chain] = cut
            left -= cut - state.pruned
    return cuts


def _kept_seals(
    tables: AuditTables, newest: Seal | None, last: Seal | None, before: int, needed: list[int]
) -> tuple[int, str]:
    """The first seal to be kept, and the hash of the one before it.

    Args:
        newest: the last seal.
        last: the last pruning.
        needed: seals that stay, however old, as they cover entries that stay.
    """
    earlier = (1, GENESIS) if last is None else (last.kept_from, last.kept_after)
    first = tables.first_seal_since(before)
    if first is None:
        first = 1 if newest is None else newest.number
    first = min([first, *needed])
    if first <= earlier[0]:
        return earlier
    return first, tables.seal_hash(first - 1) or ""


def _insert_next(
    tables: AuditTables,
    newest: Seal | None,
    key: SigningKey | None,
    *,
    heads: tuple[Head, ...] = (),
    pruned: tuple[Head, ...] = (),
    kept_from: int = 0,
    kept_after: str = "",
) -> Seal:
    """Insert the seal after ``newest``, which was read before all that the seal is made of.

    So that whoever sealed or pruned meanwhile has taken its number, and it is refused.
    """
    number, previous = (1, GENESIS) if newest is None else (newest.number + 1, newest.hash)
    seal = Seal(
        tenant_id=tables.tenant_id,
        number=number,
        heads=heads,
        pruned=pruned,
        kept_from=kept_from,
        kept_after=kept_after,
        created_at=tables.now(),
    )
    made = sealed(seal, previous, key)
    tables.insert_seal(made)
    return made
