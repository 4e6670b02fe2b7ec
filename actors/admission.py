"""Starts and tenants' limits: what is asked for, and what is said where it is refused."""

import time
from datetime import UTC, datetime

from runtime.errors import Forbidden, JamjetError, LimitReached
from runtime.store.port import Outcome, SystemStore, TenantLimits, Use, decode_limits, month_of

NOT_ADMITTED = (Outcome.NO_SLOT, Outcome.SPENT, Outcome.SUSPENDED)
RETRY_AFTER_S = 1


async def refused_start(system: SystemStore, tenant_id: str, outcome: Outcome) -> JamjetError:
    """What whoever asked for a start is told. It names the limit, as the tenant has it now."""
    tenant = await system.tenant_row(tenant_id)
    if outcome is Outcome.SUSPENDED or tenant is None:
        status = "suspended" if tenant is None else tenant.status
        return Forbidden(
            f"tenant {tenant_id} is {status}: it may read, cancel and revoke tokens, nothing else"
        )
    limits = decode_limits(tenant.limits)
    if outcome is Outcome.NO_SLOT:
        return LimitReached(
            f"tenant {tenant_id!r} runs as many executions as it may: max_concurrent_executions is"
            f" {limits.max_concurrent_executions}",
            limit="max_concurrent_executions",
            retry_after_s=RETRY_AFTER_S,
        )
    now = int(time.time() * 1_000)
    name, most = _spent(limits, await system.use_of(tenant_id, month_of(now)))
    return LimitReached(
        f"tenant {tenant_id!r} has used up {name} of this month, which is {most}",
        limit=name,
        retry_after_s=_seconds_left(now),
    )


def _spent(limits: TenantLimits, use: Use) -> tuple[str, float | None]:
    most = limits.max_tokens_per_month
    if most is not None and use.tokens >= most:
        return "max_tokens_per_month", most
    return "max_cost_per_month_usd", limits.max_cost_per_month_usd


def _seconds_left(now_ms: int) -> int:
    """Until the next month begins, in UTC."""
    now = datetime.fromtimestamp(now_ms / 1_000, UTC)
    year, month = (now.year + 1, 1) if now.month == 12 else (now.year, now.month + 1)
    return int((datetime(year, month, 1, tzinfo=UTC) - now).total_seconds()) + 1
