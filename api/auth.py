"""Who calls, and what the role allows.

Tokens are ``jj_`` and 64 hex digits; the store has their SHA-256 only. A look-up tells
the token and its tenant's status, and is remembered for a few seconds: a revoked token is
refused everywhere within 5 s, a suspended tenant's changes are, and no request waits for
a write.
"""

import hashlib
import hmac
import ipaddress
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, Literal, NamedTuple, TypeVar

from fastapi import Request

from api.address import client_address
from api.attempts import Attempts
from api.rates import Rates
from api.token_uses import TokenUses
from runtime.errors import Forbidden, NotFound, Unauthorized
from runtime.ids import DEFAULT_TENANT
from runtime.policy import TenantPolicy, decode_tenant_policy
from runtime.store.port import Credential, SystemStore, TenantRow, TenantStatus, TokenRow, decode_limits

Role = Literal["operator", "developer", "reviewer", "viewer"]
Access = Literal["public", "read", "write", "approve", "operate", "administer"]
"""``approve`` is ``write``, and reviewers have it too where their tenant's policy says so.

``administer`` is about tenants themselves, so it takes an operator of tenant ``default``.
"""

ROLES: tuple[Role, ...] = ("operator", "developer", "reviewer", "viewer")
ALLOWED: dict[Access, tuple[Role, ...]] = {
    "read": ROLES,
    "write": ("operator", "developer"),
    "approve": ("operator", "developer"),
    "operate": ("operator",),
    "administer": ("operator",),
}
_NEEDS = {
    "write": "developer or operator required",
    "approve": "developer or operator required",
    "operate": "operator required",
    "administer": "operator of tenant default required",
}

TENANT_HEADER = "x-tenant-id"
"""Names the tenant that an operator of tenant ``default`` acts in, instead of their own."""
_READS = ("GET", "HEAD")

REMEMBERED_S = 4.0
REMEMBERED_MAX = 10_000

_TOKEN = re.compile(r"jj_[0-9a-f]{64}")

T = TypeVar("T")


@dataclass(frozen=True)
class Principal:
    """The caller. ``tenant_id`` is the tenant acted in, which need not be the token's."""

    id: str
    name: str
    role: str
    tenant_id: str


DEVELOPER = Principal("dev", "dev", "operator", DEFAULT_TENANT)
"""Everyone, where authentication is off."""


class _Standing(NamedTuple):
    """What a tenant's row says of requests in it."""

    status: TenantStatus
    requests_per_minute: int | None
    policy: TenantPolicy

    @classmethod
    def of(cls, row: TenantRow) -> "_Standing":
        limits = decode_limits(row.limits)
        return cls(row.status, limits.requests_per_minute, decode_tenant_policy(row.policy))


class _Known(NamedTuple):
    """What a token says of its bearer."""

    caller: Principal
    token: TokenRow
    standing: _Standing

    @classmethod
    def of(cls, found: Credential) -> "_Known":
        row = found.token
        caller = Principal(row.id, row.name, row.role, row.tenant_id)
        return cls(caller, row, _Standing.of(found.tenant))


def token_hash(token: str) -> str:
    """What the store knows of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


class Authenticator:
    """Finds the principal of a request, and checks its role and its tenant."""

    def __init__(
        self, system: SystemStore, *, dev_mode: bool, clock: Callable[[], float] = time.time
    ) -> None:
        self._system = system
        self._dev_mode = dev_mode
        self._clock = clock
        self._credentials: _Remembered[_Known | None] = _Remembered()
        self._standings: _Remembered[_Standing] = _Remembered()
        self._uses = TokenUses(system)
        self._attempts = Attempts()
        self._rates = Rates()

    async def authorise(
        self, request: Request, access: Access, *, while_suspended: bool = False, counted: bool = True
    ) -> Principal:
        """The principal, if it may have this access.

        ``request.state.caller`` is set as soon as the caller is known, whatever is allowed, and
        ``request.state.policy`` to the policy of the tenant that is acted in.

        Args:
            while_suspended: whether the request is good also where the tenant may change nothing.
            counted: whether it counts against ``requests_per_minute``.

        Raises:
            Unauthorized, Forbidden
            TooManyAttempts: too many tokens from its address were bad.
            LimitReached: its tenant asks too often.
            NotFound: ``X-Tenant-Id`` names no tenant.
        """
        caller, standing = await self._caller(request)
        request.state.caller = caller
        if not _may(caller, access, standing):
            raise Forbidden(f"insufficient role — {_NEEDS[access]}")
        named = request.headers.get(TENANT_HEADER)
        if named is not None and named != caller.tenant_id:
            caller, standing = await self._elsewhere(caller, named)
        status = standing.status
        if status != "active" and not (while_suspended or request.method in _READS or access == "administer"):
            raise Forbidden(
                f"tenant {caller.tenant_id} is {status}: it may read, cancel and revoke tokens, nothing else"
            )
        if counted and standing.requests_per_minute is not None:
            self._rates.take(caller.tenant_id, standing.requests_per_minute)
        request.state.policy = standing.policy
        return caller

    async def close(self) -> None:
        """Write what is known of the tokens' uses."""
        await self._uses.close()

    async def _caller(self, request: Request) -> tuple[Principal, _Standing]:
        """Who sent it, and how the token's own tenant stands."""
        if self._dev_mode:
            _require_local_host(request)
            return DEVELOPER, await self._standing_of(DEFAULT_TENANT)
        known = await self._bearer(request)
        self._uses.note(known.caller.id)
        return known.caller, known.standing

    async def _elsewhere(self, caller: Principal, tenant_id: str) -> tuple[Principal, _Standing]:
        """The same caller in another tenant, and how that one stands."""
        if not _may(caller, "administer"):
            raise Forbidden(f"insufficient role — {_NEEDS['administer']} to act in another tenant")
        return replace(caller, tenant_id=tenant_id), await self._standing_of(tenant_id)

    async def _standing_of(self, tenant_id: str) -> _Standing:
        now = self._clock()
        kept = self._standings.get(tenant_id, now)
        if kept is None:
            row = await self._system.tenant_row(tenant_id)
            if row is None:
                raise NotFound(f"tenant {tenant_id[:100]}")
            kept = self._standings.keep(tenant_id, _Standing.of(row), now)
        return kept[1]

    async def _bearer(self, request: Request) -> _Known:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        token = token.strip()
        is_token = scheme.lower() == "bearer" and _TOKEN.fullmatch(token) is not None
        address, hashed = client_address(request) or "unknown", token_hash(token) if is_token else None
        self._attempts.check(address, hashed)
        known = None if hashed is None else await self._look_up(hashed)
        if known is None or known.standing.status == "archived" or not self._is_valid(known.token, hashed):
            self._attempts.failed(address)
            raise Unauthorized("invalid or expired token")
        return known

    def _is_valid(self, row: TokenRow, hashed: str | None) -> bool:
        return (
            hmac.compare_digest(row.token_hash, hashed or "")
            and row.revoked_at is None
            and (row.expires_at is None or row.expires_at > self._clock() * 1_000)
        )

    async def _look_up(self, hashed: str) -> _Known | None:
        now = self._clock()
        kept = self._credentials.get(hashed, now)
        if kept is None:
            found = await self._system.credential(hashed)
            if found is not None and self._is_valid(found.token, hashed):
                self._attempts.succeeded(hashed)
            kept = self._credentials.keep(hashed, None if found is None else _Known.of(found), now)
        return kept[1]


class _Remembered(Generic[T]):
    """What the store said a moment ago, by key: ``REMEMBERED_MAX`` answers, each for ``REMEMBERED_S``."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[float, T]] = OrderedDict()

    def get(self, key: str, now: float) -> tuple[float, T] | None:
        """When it was asked for, and what the answer was; None: not lately."""
        kept = self._kept.get(key)
        return kept if kept is not None and 0 <= now - kept[0] < REMEMBERED_S else None

    def keep(self, key: str, answer: T, asked_at: float) -> tuple[float, T]:
        kept = self._kept[key] = (asked_at, answer)
        self._kept.move_to_end(key)
        if len(self._kept) > REMEMBERED_MAX:
            self._kept.popitem(last=False)
        return kept


def _may(caller: Principal, access: Access, standing: _Standing | None = None) -> bool:
    """Whether a role, in its own tenant, reaches so far."""
    if access == "administer" and caller.tenant_id != DEFAULT_TENANT:
        return False
    if access == "approve" and caller.role == "reviewer":
        return standing is not None and standing.policy.reviewers_may_approve
    return caller.role in ALLOWED[access]


def _require_local_host(request: Request) -> None:
    """Without authentication, only pages of this very machine may call (no DNS rebinding)."""
    host = request.url.hostname or ""
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise Forbidden(f"authentication is off, so only localhost may be addressed, not {host!r}")
