"""Refused requests in the audit log: one entry for each caller, tenant and minute, with their number."""

import asyncio
import contextlib
import contextvars
import logging
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request

from api.address import client_address
from api.auth import Principal, token_hash
from api.origin import origin_of
from runtime.audit.admin import requests_refused
from runtime.audit.entries import AuditEntry, Origin
from runtime.errors import Forbidden, JamjetError, Unauthorized
from runtime.ids import DEFAULT_TENANT
from runtime.store.port import Store

EVERY_S = 60.0
CALLERS_MAX = 1_000
"""Callers that are told apart within a minute; all others share one entry."""
PATHS_MAX = 5
HASH_SHOWN = 16

log = logging.getLogger("jamjet.api")

_Key = tuple[Any, ...]


@dataclass
class _Refused:
    origin: Origin
    tenant_id: str
    status: int
    token_hash: str | None
    count: int = 0
    paths: list[str] = field(default_factory=list)

    def entry(self) -> AuditEntry:
        return requests_refused(
            self.origin, status=self.status, count=self.count, token_hash=self.token_hash, paths=self.paths
        )


class Refusals:
    """The refusals of one replica. Those of the last minute are lost if it is killed."""

    def __init__(self, store: Store, *, every_s: float = EVERY_S) -> None:
        self._store = store
        self._every_s = every_s
        self._counted: dict[_Key, _Refused] = {}
        self._closing = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None

    def note(self, request: Request, error: JamjetError) -> None:
        """Count a refusal, if that is what the error is."""
        if not isinstance(error, Unauthorized | Forbidden):
            return
        found = _described(request, error)
        key = (
            found.tenant_id,
            found.origin.ip_address,
            found.origin.actor_id,
            found.token_hash,
            found.status,
        )
        if key not in self._counted and len(self._counted) >= CALLERS_MAX:
            key, found = _OTHERS, _others()
        refused = self._counted.setdefault(key, found)
        refused.count += 1
        path = f"{request.method} {request.scope['path'][:200]}"
        if path not in refused.paths and len(refused.paths) < PATHS_MAX:
            refused.paths.append(path)
        if self._writing is None or self._writing.done():
            # In no request's context: the entries are about many.
            self._writing = asyncio.get_running_loop().create_task(
                self._write_later(), context=contextvars.Context()
            )

    async def _write_later(self) -> None:
        while self._counted:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._every_s):
                    await self._closing.wait()
            await self._write()

    async def _write(self) -> None:
        counted, self._counted = self._counted, {}
        by_tenant: dict[str, list[_Refused]] = {}
        for refused in counted.values():
            by_tenant.setdefault(refused.tenant_id, []).append(refused)
        for tenant_id, refusals in by_tenant.items():
            try:
                await self._store.tenant(tenant_id).record(*(refused.entry() for refused in refusals))
            except JamjetError as error:
                total = sum(refused.count for refused in refusals)
                log.warning("%d refused requests were not audited: %s", total, error)

    async def close(self) -> None:
        """Write what is counted, and stop."""
        self._closing.set()
        if self._writing is not None:
            # Not cancelled, as what it is just writing would be lost.
            await self._writing


def _described(request: Request, error: JamjetError) -> _Refused:
    caller: Principal | None = getattr(request.state, "caller", None)
    status = 401 if isinstance(error, Unauthorized) else 403
    if caller is not None:
        by = origin_of(request, caller)
        origin = Origin(actor_id=by.actor_id, actor_type=by.actor_type, ip_address=by.ip_address)
        return _Refused(origin, caller.tenant_id, status, None)
    bearer = request.headers.get("authorization", "").partition(" ")[2].strip()
    hashed = token_hash(bearer)[:HASH_SHOWN] if bearer else None
    return _Refused(_unknown(request), DEFAULT_TENANT, status, hashed)


def _unknown(request: Request) -> Origin:
    return Origin(actor_id="unknown", actor_type="human", ip_address=client_address(request))


_OTHERS: _Key = ("others",)


def _others() -> _Refused:
    return _Refused(Origin(actor_id="others", actor_type="human"), DEFAULT_TENANT, 401, None)
