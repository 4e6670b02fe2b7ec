"""One execution, addressed by its id wherever it lives, or whether it lives at all just now."""

from typing import Any

from actors.plans import PlanCache
from actors.port import Executions, SignalRequest
from runtime.audit.entries import Origin
from runtime.errors import NotFound
from runtime.signals import Approve, Cancel, SendEvent
from runtime.state import ExecutionState
from runtime.store.history import fold_stored
from runtime.store.port import IdempotencyRecord, Store

SIGNAL_TTL_MS = 5_000
"""A signal that its owner has not taken by then is not taken any more."""


class ExecutionHandle:
    """What an actor's handle is to the actor: it finds, activates and follows the owner."""

    def __init__(
        self, execution_id: str, *, tenant_id: str, store: Store, executions: Executions, plans: PlanCache
    ) -> None:
        self.execution_id = execution_id
        self.tenant_id = tenant_id
        self._store = store
        self._executions = executions
        self._plans = plans

    async def signal(
        self,
        signal: Approve | SendEvent | Cancel,
        *,
        idempotency: IdempotencyRecord | None = None,
        origin: Origin | None = None,
    ) -> dict[str, Any]:
        """Have a signal take effect; returns the answer, ``{"execution_id", "accepted": true, ...}``.

        ``origin`` is who asks, for the audit log.

        Raises:
            NotFound, Conflict, BadRequest, KeyTaken, Unavailable
            OutcomeUnknown: repeat it with the same ``signal_id``.
        """
        return await self._executions.signal(
            SignalRequest(
                tenant_id=self.tenant_id,
                execution_id=self.execution_id,
                signal=signal,
                deadline=await self._store.system.now() + SIGNAL_TTL_MS,
                idempotency=idempotency,
                origin=origin,
            )
        )

    async def state(self) -> ExecutionState:
        """The state as the log has it; no actor is asked.

        Raises:
            NotFound: the tenant has no such execution.
        """
        stored = await self._store.tenant(self.tenant_id).stored_execution(self.execution_id)
        if stored is None:
            raise NotFound(f"execution {self.execution_id}")
        row = stored.row
        return fold_stored(
            stored, await self._plans.get(row.tenant_id, row.workflow_id, row.workflow_version)
        )
