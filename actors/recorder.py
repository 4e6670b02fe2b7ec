"""Records a start in the store, without an owner: whoever has room takes it up from there."""

from actors.event_rows import event_rows
from actors.plans import PlanCache
from actors.port import KeyTaken, StartRequest
from runtime.audited import audited
from runtime.machine import Moment, decide
from runtime.signals import StartExecution
from runtime.state import new_state
from runtime.store.port import NewExecution, Outcome, Store, Turn, encode_resources


async def record_start(store: Store, plans: PlanCache, request: StartRequest) -> None:
    """Make a start durable and runnable; doing it again changes nothing.

    Raises:
        KeyTaken, Unavailable, OutcomeUnknown, NotFound
    """
    plan = await plans.get(request.tenant_id, request.workflow_id, request.workflow_version)
    now = await store.system.now()
    signal = StartExecution(input=request.input, isolation=request.isolation, only_record=True)
    decision = decide(plan, new_state(request.execution_id, plan), signal, Moment(now))
    rows = event_rows(decision)
    happened = zip(decision.events, rows, strict=True)
    turn = Turn(
        tenant_id=request.tenant_id,
        execution_id=request.execution_id,
        new=NewExecution(
            workflow_id=request.workflow_id,
            workflow_version=request.workflow_version,
            isolation=request.isolation,
            resources=encode_resources(request.resources),
            created_at=now,
        ),
        owner=None,
        owner_epoch=0,
        sequence=decision.state.sequence,
        status="running",
        runnable=True,
        wake_at=decision.state.timeout_at,
        updated_at=now,
        events=tuple(rows),
        idempotency=request.idempotency,
        audit=tuple(audited(request.execution_id, request.workflow_id, happened, request.origin)),
    )
    if await store.journal.commit(turn) is Outcome.KEY_TAKEN:
        raise KeyTaken("the Idempotency-Key is taken")
