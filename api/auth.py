"""Who calls, and what the role allows.

Tokens are ``jj_`` and 64 hex digits; the store has their SHA-256 only. A look-up is
remembered for a few seconds, so a revoked token is refused everywhere within 5 s and
no request writes to the store.
"""

import hashlib
import hmac
import ipaddress
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fastapi import Request

from runtime.errors import Forbidden, Unauthorized
from runtime.ids import DEFAULT_TENANT
from runtime.store.port import SystemStore, TokenRow

Role = Literal["operator", "developer", "reviewer", "viewer"]
Access = Literal["public", "read", "write", "operate"]

ROLES: tuple[Role, ...] = ("operator", "developer", "reviewer", "viewer")
ALLOWED: dict[Access, tuple[Role, ...]] = {
    "read": ROLES,
    "write": ("operator", "developer"),
    "operate": ("operator",),
}
_NEEDS = {"write": "developer or operator required", "operate": "operator required"}

REMEMBERED_S = 4.0
REMEMBERED_MAX = 10_000

_TOKEN = re.compile(r"jj_[0-9a-f]{64}")


@dataclass(frozen=True)
class Principal:
    """The caller."""

    id: str
    name: str
    role: str
    tenant_id: str


DEVELOPER = Principal("dev", "dev", "operator", DEFAULT_TENANT)
"""Everyone, where authentication is off."""


def token_hash(token: str) -> str:
    """What the store knows of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


class Authenticator:
    """Finds the principal of a request, and checks its role."""

    def __init__(
        self, system: SystemStore, *, dev_mode: bool, clock: Callable[[], float] = time.time
    ) -> None:
        self._system = system
        self._dev_mode = dev_mode
        self._clock = clock
        self._remembered: OrderedDict[str, tuple[float, TokenRow | None]] = OrderedDict()

    async def authorise(self, request: Request, access: Access) -> Principal:
        """The principal, if it may have this access.

        Raises:
            Unauthorized, Forbidden
        """
        if self._dev_mode:
            _require_local_host(request)
            return DEVELOPER
        row = await self._token(request.headers.get("authorization", ""))
        if row.role not in ALLOWED[access]:
            raise Forbidden(f"insufficient role — {_NEEDS[access]}")
        return Principal(row.id, row.name, row.role, row.tenant_id)

    async def _token(self, header: str) -> TokenRow:
        scheme, _, token = header.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not _TOKEN.fullmatch(token):
            raise Unauthorized("invalid or expired token")
        hashed = token_hash(token)
        row = await self._look_up(hashed)
        valid = (
            row is not None
            and hmac.compare_digest(row.token_hash, hashed)
            and row.revoked_at is None
            and (row.expires_at is None or row.expires_at > self._clock() * 1_000)
        )
        if row is None or not valid:
            raise Unauthorized("invalid or expired token")
        return row

    async def _look_up(self, hashed: str) -> TokenRow | None:
        now = self._clock()
        known = self._remembered.get(hashed)
        if known is not None and 0 <= now - known[0] < REMEMBERED_S:
            return known[1]
        row = await self._system.token_by_hash(hashed)
        self._remembered[hashed] = (now, row)
        self._remembered.move_to_end(hashed)
        if len(self._remembered) > REMEMBERED_MAX:
            self._remembered.popitem(last=False)
        return row


def _require_local_host(request: Request) -> None:
    """Without authentication, only pages of this very machine may call (no DNS rebinding)."""
    host = request.url.hostname or ""
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise Forbidden(f"authentication is off, so only localhost may be addressed, not {host!r}")
