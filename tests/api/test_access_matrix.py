"""Every route under every kind of caller: no token, each role, each tenant, and ``X-Tenant-Id``."""

from dataclasses import dataclass

import pytest

from api.auth import Access
from runtime.ids import DEFAULT_TENANT
from tests.fixtures.api import OTHER_TENANT, ROLES, Api, assert_refused
from tests.fixtures.routes import INVALID, PROTECTED, TOO_LOW, call

NOBODY = "nobody"
"""The id of no tenant."""
STATUS = {
    DEFAULT_TENANT: "active",
    OTHER_TENANT: "active",
    "trusting": "active",
    "frozen": "suspended",
    "gone": "archived",
}
TRUSTING = "trusting"
"""The tenant whose policy lets reviewers approve."""
REACHES: dict[Access, set[str]] = {
    "read": {"operator", "developer", "reviewer", "viewer"},
    "write": {"operator", "developer"},
    "approve": {"operator", "developer"},
    "operate": {"operator"},
    "administer": {"operator"},
}
ALSO_SUSPENDED = ("/executions/{execution_id}/cancel", "/tokens/{token_id}", "/mcp", "/a2a")
"""What a suspended tenant may change: it may stop what runs, and lock out who has its tokens.

The last two change nothing themselves: what they are asked for, the routes that they ask refuse or not."""


@dataclass(frozen=True)
class Caller:
    """A token's role and tenant, and the tenant that ``X-Tenant-Id`` names."""

    role: str | None
    home: str = DEFAULT_TENANT
    named: str | None = None

    def __str__(self) -> str:
        return f"{self.role} of {self.home}" + (f" in {self.named}" if self.named else "")

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.named is None else {"X-Tenant-Id": self.named}


CALLERS = [
    Caller(None),
    Caller(None, named=OTHER_TENANT),
    *(Caller(role, home) for home in STATUS for role in ROLES),
    *(Caller(role, named=named) for named in (*STATUS, NOBODY) for role in ROLES),
    *(
        Caller("operator", home, named)
        for home in (OTHER_TENANT, "frozen", "gone")
        for named in (*STATUS, NOBODY)
    ),
]


def refusal(caller: Caller, method: str, path: str, access: Access) -> tuple[int, str] | None:
    """How this caller is refused on a route; None: not at all."""
    if caller.role is None or STATUS[caller.home] == "archived":
        return 401, INVALID
    trusted = (caller.role, caller.home, access) == ("reviewer", TRUSTING, "approve")
    if caller.role not in REACHES[access] and not trusted:
        return 403, TOO_LOW[access]
    if access == "administer" and caller.home != DEFAULT_TENANT:
        return 403, TOO_LOW[access]
    tenant_id = caller.named or caller.home
    if tenant_id != caller.home:
        if (caller.role, caller.home) != ("operator", DEFAULT_TENANT):
            return 403, "insufficient role — operator of tenant default required to act in another tenant"
        if tenant_id not in STATUS:
            return 404, f"not found: tenant {NOBODY}"
    if STATUS[tenant_id] == "active" or method == "GET" or path in ALSO_SUSPENDED or access == "administer":
        return None
    return (
        403,
        f"tenant {tenant_id} is {STATUS[tenant_id]}: it may read, cancel and revoke tokens, nothing else",
    )


@pytest.fixture
async def tenants_api(bare_api: Api, monkeypatch: pytest.MonkeyPatch) -> Api:
    """An API with a tenant of every status, and tokens named ``ROLE of TENANT``."""
    monkeypatch.setattr("api.attempts.FAILED_MAX", 10_000)
    system = bare_api.store.system
    for tenant_id, status in STATUS.items():
        if await system.tenant_row(tenant_id) is None:
            await system.create_tenant(tenant_id, tenant_id)
        policy = '{"reviewers_may_approve":true}' if tenant_id == TRUSTING else None
        await system.update_tenant(tenant_id, status=status, policy=policy)  # type: ignore[arg-type]
        for role in ROLES:
            name = f"{role} of {tenant_id}"
            bare_api.tokens[name] = await bare_api.create_token(name, role, tenant_id)
    return bare_api


@pytest.mark.parametrize("caller", CALLERS, ids=str)
async def test_a_caller_reaches_what_role_and_tenant_allow_and_nothing_else(
    tenants_api: Api, caller: Caller
) -> None:
    token = None if caller.role is None else f"{caller.role} of {caller.home}"
    for method, path, access in PROTECTED:
        answer = await call(tenants_api, method, path, role=token, headers=caller.headers)
        refused = refusal(caller, method, path, access)
        if refused is not None:
            assert_refused(answer, *refused)
        else:
            assert answer.status_code in (200, 201, 400, 404), f"{method} {path}: {answer.text}"
            assert not answer.text.endswith(f"tenant {NOBODY}")
