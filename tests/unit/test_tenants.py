"""What an owner knows of tenants."""

from collections import Counter
from typing import Any

from actors.tenants import OVERLAP_MS, Tenants
from runtime.policy import NO_POLICY
from runtime.store.port import TenantRow


def row(tenant_id: str, at: int, policy: str = "{}", status: Any = "active") -> TenantRow:
    return TenantRow(
        tenant_id=tenant_id, name="", status=status, policy=policy, limits="{}", created_at=0, updated_at=at
    )


class System:
    """Tells of these tenants, and counts how it was asked."""

    def __init__(self, *rows: TenantRow) -> None:
        self.rows = list(rows)
        self.asked: Counter[int] = Counter()

    async def tenants_changed(self, since: int) -> list[TenantRow]:
        self.asked[since] += 1
        return [row for row in self.rows if row.updated_at >= since]


async def test_only_changes_are_asked_for() -> None:
    system, tenants = System(row("a", 100_000), row("b", 200_000, status="suspended")), Tenants()
    await tenants.refresh(system)  # type: ignore[arg-type]
    system.rows[0] = row("a", 190_000, '{"blocked_tools":["x"]}')
    await tenants.refresh(system)  # type: ignore[arg-type]

    assert list(system.asked) == [0, 200_000 - OVERLAP_MS]
    assert (tenants.is_active("a"), tenants.is_active("b"), tenants.is_active("new")) == (True, False, True)
    assert tenants.policy("a").blocked_tools == ("x",)
    assert tenants.policy("new") == NO_POLICY


async def test_a_tenant_whose_policy_cannot_be_read_is_held_and_no_other() -> None:
    rows = [row("broken", 1, "{"), row("wrong", 2, '{"blocked_tools":7}'), row("good", 3)]
    system, tenants = System(*rows), Tenants()
    await tenants.refresh(system)  # type: ignore[arg-type]
    assert [tenants.is_active(r.tenant_id) for r in rows] == [False, False, True]

    system.rows[0] = row("broken", 4)
    await tenants.refresh(system)  # type: ignore[arg-type]
    assert tenants.is_active("broken")
    assert tenants.retention_days() == {}
