"""Audit entries, and the chains that show when one was changed afterwards.

An entry says who did what, and by which request; what an execution did refers to its
event by sequence and digest. Entries of one tenant that one process writes are a
*chain*: each has the hash of its own content and of the one before. The store
appends them (``runtime.store.audit_log``), the Supervisor seals them (``runtime.audit.seals``).
"""

import hashlib
import secrets
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

ActorType = Literal["human", "agent", "system"]
PolicyDecision = Literal["allow", "block", "require_approval"]

GENESIS = "0" * 64
"""Stands for the hash before a chain's first entry."""


class Origin(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who asks for a change, and by which request."""

    actor_id: str
    """``token:{id}``, ``agent:{workflow id}``, ``cli:{user}`` or ``system``."""
    actor_type: ActorType
    request_id: str | None = None
    http_method: str | None = None
    http_path: str | None = None
    ip_address: str | None = None

    def entry(self, event_type: str, **fields: Any) -> "AuditEntry":
        """An entry that says this origin did it."""
        return AuditEntry(
            event_type=event_type,
            actor_id=self.actor_id,
            actor_type=self.actor_type,
            request_id=self.request_id,
            http_method=self.http_method,
            http_path=self.http_path,
            ip_address=self.ip_address,
            **fields,
        )


SYSTEM = Origin(actor_id="system", actor_type="system")
"""The runtime itself."""


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was done, before it has its place in a chain."""

    execution_id: str | None = None
    event_type: str
    actor_id: str
    actor_type: ActorType
    created_at: int = 0
    """Milliseconds since the epoch by the database's clock; 0: when it is appended."""
    sequence: int | None = None
    """With ``event_digest``: the event of ``execution_id`` that this is about."""
    event_digest: str | None = None
    node_id: str | None = None
    tool_call_hash: str | None = None
    policy_decision: PolicyDecision | None = None
    request_id: str | None = None
    http_method: str | None = None
    http_path: str | None = None
    ip_address: str | None = None
    details: str | None = None
    """JSON text: what there is to say beside the event."""


class AuditRow(AuditEntry, frozen=True, kw_only=True):
    """An entry in its place: the ``position``-th of the chain (``tenant_id``, ``chain``), counted from 1."""

    tenant_id: str
    chain: str
    position: int
    hash: str

    @property
    def id(self) -> str:
        """Its name within the tenant."""
        return entry_id(self.chain, self.position)


def audit_row(values: Iterable[Any]) -> AuditRow:
    """A row from its values in the order of ``ROW_FIELDS``."""
    return AuditRow(**dict(zip(ROW_FIELDS, values, strict=True)))


def entry_id(chain: str, position: int) -> str:
    return f"audit_{chain}_{position}"


ENTRY_FIELDS = AuditEntry.__struct_fields__
ROW_FIELDS = ("tenant_id", "chain", "position", *ENTRY_FIELDS, "hash")
"""The order of a row's values wherever they are a plain tuple."""
_encode = msgspec.json.Encoder().encode


def entry_hash(previous: str, tenant_id: str, chain: str, position: int, content: tuple[Any, ...]) -> str:
    """SHA-256 of the JSON array of all values after the hash before; ``content`` as ``ENTRY_FIELDS`` says."""
    return hashlib.sha256(_encode((previous, tenant_id, chain, position, *content))).hexdigest()


def row_hash(previous: str, row: AuditRow) -> str:
    """What the hash of a row must be, after an entry with the hash ``previous``."""
    content = tuple(getattr(row, name) for name in ENTRY_FIELDS)
    return entry_hash(previous, row.tenant_id, row.chain, row.position, content)


def event_digest(data: str) -> str:
    """What an entry says of the stored text of its event."""
    return hashlib.sha256(data.encode()).hexdigest()


IDLE_MS = 12 * 3_600 * 1_000
"""A chain that was silent for so long is not continued: all of it may have been pruned meanwhile."""


class _Head(msgspec.Struct, frozen=True):
    """Where a chain stands."""

    chain: str
    position: int
    hash: str
    written_at: int


class Chains:
    """The chains that one process writes, one a tenant: where each stands."""

    def __init__(self) -> None:
        self._heads: dict[str, _Head] = {}
        self._proposed: dict[str, _Head] = {}

    def propose(self, entries: Iterable[tuple[str, AuditEntry]]) -> list[tuple[Any, ...]]:
        """Give each (tenant, entry) its place after the last ``committed``; forgets an earlier proposal.

        Returns rows as ``ROW_FIELDS`` orders their values.
        """
        heads: dict[str, _Head] = {}
        rows: list[tuple[Any, ...]] = []
        for tenant_id, entry in entries:
            head = heads.get(tenant_id) or self._heads.get(tenant_id)
            if head is None or entry.created_at - head.written_at > IDLE_MS:
                head = _Head(secrets.token_hex(8), 0, GENESIS, entry.created_at)
            position = head.position + 1
            content = msgspec.structs.astuple(entry)
            hashed = entry_hash(head.hash, tenant_id, head.chain, position, content)
            heads[tenant_id] = _Head(head.chain, position, hashed, entry.created_at)
            rows.append((tenant_id, head.chain, position, *content, hashed))
        self._proposed = heads
        return rows

    def committed(self) -> None:
        """What was proposed last is durable."""
        self._heads |= self._proposed
        self._proposed = {}

    def begin_anew(self) -> None:
        """Nobody knows what became of the last proposal: the next entries begin new chains."""
        self._heads, self._proposed = {}, {}


def moved_heads(rows: Iterable[tuple[Any, ...]]) -> list[tuple[str, str, int]]:
    """(tenant, chain, last position) of every chain in some rows, in one order for every writer."""
    heads: dict[tuple[str, str], int] = {}
    for tenant_id, chain, position, *_ in rows:
        heads[tenant_id, chain] = position
    return sorted((*place, position) for place, position in heads.items())
