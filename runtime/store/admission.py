"""Who may begin: the status and the limits of tenants, decided in the transaction of the turn itself.

Slots are not counted anywhere: what has begun and not ended is, by its rows, each time.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from runtime.store.port import (
    BEGUN_STATUSES,
    Admission,
    Outcome,
    TenantLimits,
    Turn,
    Usage,
    Use,
    decode_limits,
    month_of,
)
from runtime.store.sql import Session, Statement, clock_ms, param
from runtime.store.tables import executions, idempotency, tenant_usage, tenants

NO_LIMITS = "{}"


class AdmissionQueries:
    """The statements of one dialect."""

    def __init__(self, dialect: sa.Dialect) -> None:
        self._dialect = dialect
        table, own = executions.c, executions.c.tenant_id == param("tenant_id")
        begun: list[Any] = [sa.literal_column(f"'{status}'") for status in BEGUN_STATUSES]
        count = sa.select(sa.func.count()).select_from(executions)
        self.standing = self._make(
            sa.select(tenants.c.status, tenants.c.limits).where(tenants.c.tenant_id == param("tenant_id"))
        )
        self.begun = self._make(count.where(own, table.status.in_(begun)))
        self.queued = self._make(count.where(own, table.status == sa.literal_column("'queued'")))
        self.used = self._make(
            sa.select(
                sa.cast(sa.func.coalesce(sa.func.sum(tenant_usage.c.tokens), 0), sa.BigInteger),
                sa.func.coalesce(sa.func.sum(tenant_usage.c.cost_usd), sa.literal_column("0.0")),
            ).where(tenant_usage.c.tenant_id == param("tenant_id"), tenant_usage.c.month == param("month"))
        )
        one: Any = sa.select(sa.literal_column("1"))
        self.exists = self._make(
            one.select_from(executions).where(table.execution_id == param("execution_id"))
        )
        record = idempotency.c
        self.taken = self._make(
            one.select_from(idempotency).where(
                record.tenant_id == param("tenant_id"),
                record.route == param("route"),
                record.key == param("key"),
                record.expires_at > clock_ms(),
            )
        )
        insert: Any = sqlite.insert if dialect.name == "sqlite" else postgresql.insert
        used = insert(tenant_usage).values(
            {name: param(name) for name in ("tenant_id", "month", "tokens", "cost_usd")}
            | {"shard": sa.literal_column("0")}
        )
        self.use = self._make(
            used.on_conflict_do_update(
                index_elements=["tenant_id", "month", "shard"],
                set_={
                    "tokens": tenant_usage.c.tokens + used.excluded.tokens,
                    "cost_usd": tenant_usage.c.cost_usd + used.excluded.cost_usd,
                },
            )
        )

    def _make(self, clause: Any) -> Statement:
        return Statement(clause, self._dialect)

    def use_of(self, session: Session, tenant_id: str, month: str) -> Use:
        """What a tenant has begun, queued and used."""
        tokens, cost_usd = session.rows(self.used, tenant_id=tenant_id, month=month)[0]
        return Use(
            executions=session.scalar(self.begun, tenant_id=tenant_id),
            queued=session.scalar(self.queued, tenant_id=tenant_id),
            tokens=tokens,
            cost_usd=cost_usd,
        )


def free_slots(limits: TenantLimits, use: Use) -> int | None:
    """How many more may begin; None: as many as like."""
    most = limits.max_concurrent_executions
    return None if most is None else max(0, most - use.executions)


def slots_for_queue(limits: TenantLimits, use: Use, most: int) -> int:
    """How many of those that wait may begin now, at most ``most``."""
    if is_spent(limits, use):
        return 0
    free = free_slots(limits, use)
    return most if free is None else min(free, most)


def is_spent(limits: TenantLimits, use: Use) -> bool:
    """Whether a limit of the month is used up."""
    tokens, cost_usd = limits.max_tokens_per_month, limits.max_cost_per_month_usd
    return (tokens is not None and use.tokens >= tokens) or (
        cost_usd is not None and use.cost_usd >= cost_usd
    )


def refusal(admission: Admission, status: str, limits: TenantLimits, use: Use) -> Outcome | None:
    """Why a turn is not let in; None: it is.

    Who comes new does not go before those that wait; who resumes has kept its slot.
    """
    if status != "active":
        return Outcome.SUSPENDED
    if admission is Admission.RESUME:
        return None
    if is_spent(limits, use):
        return Outcome.SPENT
    free = free_slots(limits, use)
    if admission is Admission.QUEUE or free is None:
        return None
    if free <= (use.queued if admission is Admission.START else 0):
        return Outcome.NO_SLOT
    return None


class _Standing(NamedTuple):
    status: str
    limits: TenantLimits | None
    """None: there are none."""


class Gate:
    """Lets turns in, one after the other, within one transaction that excludes others on the same tenants."""

    def __init__(self, session: Session, queries: AdmissionQueries) -> None:
        self._session = session
        self._queries = queries
        self._standings: dict[str, _Standing] = {}
        self._begun: dict[str, int] = {}
        """Slots that were taken through this gate, and are in no row yet."""

    def refusal(self, turn: Turn) -> Outcome | None:
        """Why a turn is not let in; None: it is, or it is a repeat of one that was."""
        if turn.admission is None:
            return None
        standing = self._standing(turn.tenant_id)
        if standing.limits is None and standing.status == "active":
            return None
        limits = standing.limits or TenantLimits()
        use = self._queries.use_of(self._session, turn.tenant_id, month_of(turn.updated_at))
        begun = self._begun.get(turn.tenant_id, 0)
        counted = Use(
            executions=use.executions + begun, queued=use.queued, tokens=use.tokens, cost_usd=use.cost_usd
        )
        found = refusal(turn.admission, standing.status, limits, counted)
        return None if found is not None and self._is_repeat(turn) else found

    def takes_slot(self, turn: Turn) -> None:
        """The turn was let in; its row comes later."""
        if turn.admission in (Admission.START, Admission.DEQUEUE):
            self._begun[turn.tenant_id] = self._begun.get(turn.tenant_id, 0) + 1

    def _standing(self, tenant_id: str) -> _Standing:
        known = self._standings.get(tenant_id)
        if known is None:
            row = self._session.row(self._queries.standing, tenant_id=tenant_id)
            status, limits = ("active", NO_LIMITS) if row is None else row
            known = _Standing(status, None if limits == NO_LIMITS else decode_limits(limits))
            self._standings[tenant_id] = known
        return known

    def _is_repeat(self, turn: Turn) -> bool:
        """Whether the turn, or its request, has been committed before: then the fence says so."""
        record = turn.idempotency
        if record is not None and self._session.row(
            self._queries.taken, tenant_id=turn.tenant_id, route=record.route, key=record.key
        ):
            return True
        return turn.new is not None and bool(
            self._session.row(self._queries.exists, execution_id=turn.execution_id)
        )


def total_usage(turns: Iterable[Turn]) -> list[tuple[str, Usage]]:
    """What some turns used, by tenant and month, in one order for every writer."""
    totals: dict[tuple[str, str], tuple[int, float]] = {}
    for turn in turns:
        if turn.usage is not None:
            tokens, cost_usd = totals.get((turn.tenant_id, turn.usage.month), (0, 0.0))
            totals[turn.tenant_id, turn.usage.month] = (
                tokens + turn.usage.tokens,
                cost_usd + turn.usage.cost_usd,
            )
    return [
        (tenant_id, Usage(month=month, tokens=tokens, cost_usd=cost_usd))
        for (tenant_id, month), (tokens, cost_usd) in sorted(totals.items())
    ]
