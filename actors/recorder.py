"""Records a start in the store, without an owner: whoever has room takes it up from there."""

from actors.admission import NOT_ADMITTED, refused_start
from actors.event_rows import event_rows
from actors.plans import PlanCache
from actors.port import KeyTaken, StartRequest
from runtime.audit.executions import audited
from runtime.machine import Moment, decide
from runtime.plan import Plan
from runtime.signals import StartExecution
from runtime.state import has_work, new_state, stored_status, wake_at
from runtime.store.port import Admission, NewExecution, Outcome, Store, Turn, encode_resources


async def record_start(store: Store, plans: PlanCache, request: StartRequest) -> bool:
    """Make a start durable and runnable; doing it again changes nothing.

    Returns False if it waits for a slot.

    Raises:
        KeyTaken, Unavailable, OutcomeUnknown, NotFound
        LimitReached, Forbidden: the tenant may not start it.
    """
    plan = await plans.get(request.tenant_id, request.workflow_id, request.workflow_version)
    now = await store.system.now()
    outcome = await store.journal.commit(_turn(plan, request, now, held=False))
    held = outcome is Outcome.NO_SLOT and request.queue
    if held:
        outcome = await store.journal.commit(_turn(plan, request, now, held=True))
    if outcome is Outcome.KEY_TAKEN:
        raise KeyTaken("the Idempotency-Key is taken")
    if outcome in NOT_ADMITTED:
        raise await refused_start(store.system, request.tenant_id, outcome)
    return not held


def _turn(plan: Plan, request: StartRequest, now: int, *, held: bool) -> Turn:
    """The first turn, without an owner; ``held``: the execution waits for a slot."""
    signal = StartExecution(input=request.input, isolation=request.isolation, only_record=True, held=held)
    decision = decide(plan, new_state(request.execution_id, plan), signal, Moment(now))
    state = decision.state
    rows = event_rows(decision)
    happened = zip(decision.events, rows, strict=True)
    return Turn(
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
        sequence=state.sequence,
        status=stored_status(state),
        runnable=has_work(state),
        wake_at=wake_at(state),
        updated_at=now,
        events=tuple(rows),
        idempotency=request.idempotency,
        audit=tuple(audited(request.execution_id, request.workflow_id, happened, request.origin)),
        admission=Admission.QUEUE if held else Admission.START,
    )
