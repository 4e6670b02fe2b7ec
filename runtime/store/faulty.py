"""A store that fails on purpose, to prove that its callers survive it.

It stands between a caller and any other store. The same seed makes the same
choices for the same sequence of calls; what is committed is committed for real.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from enum import StrEnum
from typing import Any, cast

from runtime.audit.entries import SYSTEM, Origin
from runtime.errors import OutcomeUnknown, Unavailable
from runtime.store.agent_port import AgentStore, AllAgents
from runtime.store.port import InboxMessage, Journal, Outcome, Store, SystemStore, TenantStore, Turn

DELAY_MAX_S = 0.05

Sleep = Callable[[float], Awaitable[None]]
"""Awaited with seconds; a simulation passes its own."""


class Fault(StrEnum):
    """What may happen to a call."""

    REFUSE = "refuse"
    """Unavailable, and nothing is done."""
    DELAY = "delay"
    """It is done, late."""
    LOSE_ANSWER = "lose_answer"
    """It is done, and then OutcomeUnknown is raised."""
    LOSE_CALL = "lose_call"
    """OutcomeUnknown, and nothing is done: the process stopped before its COMMIT arrived."""
    DUPLICATE = "duplicate"
    """It is done twice; the second must come to nothing, and is hidden."""


COMMIT_FAULTS = tuple(Fault)
WRITE_FAULTS = (Fault.REFUSE, Fault.DELAY, Fault.LOSE_ANSWER, Fault.LOSE_CALL)
READ_FAULTS = (Fault.REFUSE, Fault.DELAY)

TENANT_CALLS: Mapping[str, tuple[Fault, ...]] = {
    "register_workflow": WRITE_FAULTS,
    "workflow": READ_FAULTS,
    "workflows": READ_FAULTS,
    "exposed_workflows": READ_FAULTS,
    "execution": READ_FAULTS,
    "executions": READ_FAULTS,
    "stored_execution": READ_FAULTS,
    "events": READ_FAULTS,
    "idempotency": READ_FAULTS,
    "create_token": WRITE_FAULTS,
    "tokens": READ_FAULTS,
    "revoke_token": WRITE_FAULTS,
    "audit": READ_FAULTS,
    "audit_rows": READ_FAULTS,
    "seals": READ_FAULTS,
    "record": WRITE_FAULTS,
}
SYSTEM_CALLS: Mapping[str, tuple[Fault, ...]] = {
    "now": READ_FAULTS,
    "installation_key": WRITE_FAULTS,
    "credential": READ_FAULTS,
    "mark_tokens_used": WRITE_FAULTS,
    "create_tenant": WRITE_FAULTS,
    "tenant_row": READ_FAULTS,
    "tenants": READ_FAULTS,
    "update_tenant": WRITE_FAULTS,
    "fence": READ_FAULTS,
    "stored_execution": READ_FAULTS,
    "workflow": READ_FAULTS,
    "register_executor": WRITE_FAULTS,
    "heartbeat": WRITE_FAULTS,
    "mark_dead": WRITE_FAULTS,
    "executors": READ_FAULTS,
    "owned_by": READ_FAULTS,
    "sweep": READ_FAULTS,
    "dequeue": READ_FAULTS,
    "use_of": READ_FAULTS,
    "tenants_changed": READ_FAULTS,
    "backlog": READ_FAULTS,
    "load": READ_FAULTS,
    "prune": WRITE_FAULTS,
    "prune_executions": WRITE_FAULTS,
    "audited_tenants": READ_FAULTS,
    "seal_audit": WRITE_FAULTS,
    "prune_audit": WRITE_FAULTS,
}


AGENT_CALLS: Mapping[str, tuple[Fault, ...]] = {
    "register": WRITE_FAULTS,
    "agent": READ_FAULTS,
    "agents": READ_FAULTS,
    "move": WRITE_FAULTS,
}
ALL_AGENTS_CALLS: Mapping[str, tuple[Fault, ...]] = {
    "known": READ_FAULTS,
    "beat": WRITE_FAULTS,
    "silence": WRITE_FAULTS,
    "active_of": READ_FAULTS,
}


class DuplicateCommitted(AssertionError):
    """A turn was committed twice: the store's fence does not hold."""


class FaultyStore:
    """A store behind which another one works.

    Args:
        store: the real one.
        seed: decides, with the order of calls, which of them fail and how.
        rate: the share of calls that fail, from 0 to 1.
        sleep: makes the delays.
    """

    def __init__(self, store: Store, *, seed: int, rate: float = 0.05, sleep: Sleep = asyncio.sleep) -> None:
        if not 0 <= rate <= 1:
            raise ValueError(f"rate is {rate}, not between 0 and 1")
        self._store = store
        self._faults = _Faults(seed, rate, sleep)
        self.journal: Journal = FaultyJournal(store.journal, self._faults)
        self.system = cast(SystemStore, _Proxy(store.system, SYSTEM_CALLS, self._faults))
        self.all_agents = cast(AllAgents, _Proxy(store.all_agents, ALL_AGENTS_CALLS, self._faults))

    def tenant(self, tenant_id: str, by: Origin = SYSTEM) -> TenantStore:
        return cast(TenantStore, _Proxy(self._store.tenant(tenant_id, by), TENANT_CALLS, self._faults))

    def agents(self, tenant_id: str, by: Origin = SYSTEM) -> AgentStore:
        return cast(AgentStore, _Proxy(self._store.agents(tenant_id, by), AGENT_CALLS, self._faults))

    async def send(self, tenant_id: str, message: InboxMessage) -> None:
        await self._faults.run(WRITE_FAULTS, lambda: self._store.send(tenant_id, message))

    async def ping(self) -> None:
        await self._faults.run(READ_FAULTS, self._store.ping)

    async def close(self) -> None:
        await self._store.close()


class FaultyJournal:
    """A journal whose commits fail, before or after the fact."""

    def __init__(self, journal: Journal, faults: "_Faults") -> None:
        self._journal = journal
        self._faults = faults

    async def commit(self, turn: Turn) -> Outcome:
        fault = self._faults.draw(COMMIT_FAULTS)
        outcome: Outcome = await self._faults.apply(fault, lambda: self._journal.commit(turn))
        if fault is Fault.DUPLICATE and outcome is Outcome.COMMITTED:
            await self._repeat(turn)
        return outcome

    async def _repeat(self, turn: Turn) -> None:
        with suppress(Unavailable):
            if await self._journal.commit(turn) is Outcome.COMMITTED:
                raise DuplicateCommitted(f"the turn of {turn.execution_id!r} was committed twice: {turn}")

    async def close(self) -> None:
        await self._journal.close()


class _Faults:
    """Draws faults and carries them out."""

    def __init__(self, seed: int, rate: float, sleep: Sleep) -> None:
        self._random = random.Random(seed)
        self._rate = rate
        self._sleep = sleep

    def draw(self, faults: tuple[Fault, ...]) -> Fault | None:
        if self._random.random() >= self._rate:
            return None
        return self._random.choice(faults)

    async def run(self, faults: tuple[Fault, ...], call: Callable[[], Awaitable[Any]]) -> Any:
        return await self.apply(self.draw(faults), call)

    async def apply(self, fault: Fault | None, call: Callable[[], Awaitable[Any]]) -> Any:
        if fault is Fault.REFUSE:
            raise Unavailable("injected fault: the store refused")
        if fault is Fault.LOSE_CALL:
            raise OutcomeUnknown("injected fault: the connection was lost before the commit")
        if fault is Fault.DELAY:
            await self._sleep(self._random.random() * DELAY_MAX_S)
        answer = await call()
        if fault is Fault.LOSE_ANSWER:
            raise OutcomeUnknown("injected fault: the connection was lost after the commit")
        return answer


class _Proxy:
    """The named methods of another object, with faults; its other attributes as they are."""

    def __init__(self, target: object, calls: Mapping[str, tuple[Fault, ...]], faults: _Faults) -> None:
        self._target = target
        self._calls = calls
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._target, name)
        kinds = self._calls.get(name)
        if kinds is None:
            return attribute

        async def call(*arguments: Any, **options: Any) -> Any:
            return await self._faults.run(kinds, lambda: attribute(*arguments, **options))

        return call
