"""Idempotency-Key: the same request twice has one effect and one answer."""

import hashlib
import time
from dataclasses import dataclass

from fastapi import Request
from starlette.responses import Response

from api.render import answer
from runtime.errors import BadRequest, IdempotencyMismatch
from runtime.store.port import IDEMPOTENCY_KEPT_MS, IdempotencyRecord, TenantStore

KEY_LENGTH_MAX = 255


@dataclass(frozen=True)
class Idempotency:
    """One keyed request: its key, its route, and what it asks for."""

    key: str
    route: str
    fingerprint: str

    @classmethod
    def of(cls, request: Request, body: bytes) -> "Idempotency | None":
        """The request's, or None without a key.

        Raises:
            BadRequest: the key is not 1 to 255 printable ASCII characters.
        """
        key = request.headers.get("idempotency-key")
        if key is None:
            return None
        if not 0 < len(key) <= KEY_LENGTH_MAX or not key.isascii() or not key.isprintable():
            raise BadRequest("Idempotency-Key: must be 1 to 255 printable ASCII characters")
        route = f"{request.method} {request.scope['path']}"
        return cls(key, route, hashlib.sha256(route.encode() + b"\0" + body).hexdigest())

    def record(self, status: int, body: str) -> IdempotencyRecord:
        """What is committed together with the effect. An empty ``body`` is filled in by the owner."""
        return IdempotencyRecord(
            key=self.key,
            route=self.route,
            fingerprint=self.fingerprint,
            status=status,
            body=body,
            expires_at=int(time.time() * 1_000) + IDEMPOTENCY_KEPT_MS,
        )

    async def recorded(self, tenant: TenantStore) -> IdempotencyRecord | None:
        """The record of an earlier request with this key.

        Raises:
            IdempotencyMismatch: that request was another one.
        """
        found = await tenant.idempotency(self.key, self.route)
        if found is not None and found.fingerprint != self.fingerprint:
            raise IdempotencyMismatch("this Idempotency-Key came with another request before")
        return found


def replay(record: IdempotencyRecord, headers: dict[str, str] | None = None) -> Response:
    """The recorded answer once more."""
    return answer(record.body.encode(), record.status, {**(headers or {}), "Idempotent-Replayed": "true"})
