"""The execution host: what an ExecutionActor is, without Ray.

A host owns executions. Each one it owns has a *seat*: the folded state, a mailbox,
and the tasks of its running nodes. A seat handles one batch of signals at a time:

    signals -> decide -> journal.commit (fenced) -> state -> perform effects

Nothing is performed, answered or shown before its turn is committed. A seat whose
turn is fenced is dropped: somebody else owns the execution, and his log is the truth.

The host is a plain class on one event loop, made of a store, a clock and a runner, so
that tests and the simulation drive it without processes.
"""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple, Protocol

import msgspec

from actors import logs
from actors.admission import NOT_ADMITTED, refused_start
from actors.event_rows import event_rows
from actors.observer import HostObserver
from actors.plans import PlanCache
from actors.port import KeyTaken, SignalRequest, StartRequest
from actors.seat import Decided, Mail, Refused, Seat, answer_all, next_batch, refuse_all
from actors.tenants import Tenants
from runtime import jsonvalue
from runtime import signals as sg
from runtime.audit.entries import AuditEntry
from runtime.audit.executions import audited
from runtime.effects import STOPPED, RunNode, StopNode
from runtime.errors import BadRequest, JamjetError, NotFound, OutcomeUnknown, Unavailable, ValueRejected
from runtime.events import NodeCompleted
from runtime.machine import Moment, decide
from runtime.plan import Plan
from runtime.state import (
    ExecutionState,
    encode_state,
    has_work,
    is_terminal,
    new_state,
    payload_size,
    stored_status,
    wake_at,
)
from runtime.store.history import fold_stored
from runtime.store.port import (
    OWNER_GONE_MS,
    TERMINAL_STATUSES,
    Admission,
    EventRow,
    Fence,
    IdempotencyRecord,
    NewExecution,
    Outcome,
    Store,
    StoredExecution,
    Turn,
    Usage,
    encode_resources,
    month_of,
    shown_status,
)

log = logging.getLogger("jamjet.host")

PASSIVATE_AFTER_MS = 10_000
"""An execution that only waits, and for longer than this, gives up its owner."""
LEASE_DOUBTFUL_S = 3.0
"""After so long without an acknowledged heartbeat, the fence is read before an effect."""
PARKED_STATES_MAX = 2_000
"""States of just passivated executions that are kept, to wake them without reading the log."""
SNAPSHOT_TAIL_BYTES_MIN = 16 * 1024
DEQUEUED_MAX = 100
"""Executions that an owner lets begin at once when slots become free."""
STORE_RETRY_S = (0.05, 0.1, 0.2, 0.5, 1.0)


class _Parked(NamedTuple):
    """What is remembered of an execution that has just passivated."""

    tenant_id: str
    epoch: int
    state: ExecutionState
    snapshot_bytes: int
    elsewhere: bool


class Redirect(JamjetError):
    """Not ours: ``fields['owner']`` is who has it, or None."""

    code = "redirect"


class Clock(Protocol):
    def now(self) -> int: ...


class NodeRunner(Protocol):
    """Makes one attempt of a node. Cancelling the call stops the attempt."""

    async def run(self, effect: RunNode, *, tenant_id: str) -> sg.NodeSucceeded | sg.NodeErrored: ...


class ExecutionHost:
    """Owns executions, decides and commits their turns, and performs what follows.

    ``start`` and ``signal`` return only what is durable. After any error they may be
    repeated with the same ids: a repeat is answered from the log.

    Args:
        incarnation: this life's name, ``{actor name}#{random}``, as the store has it.
        seats_max: how many executions it holds; further starts are only recorded.
        runs_dedicated: whether dedicated executions run here too. Where not, signals to them are decided and
            committed here when nobody has them, and what is to run is left to the actor of their own.
    """

    def __init__(
        self,
        *,
        incarnation: str,
        store: Store,
        plans: PlanCache,
        runner: NodeRunner,
        clock: Clock,
        chance: Callable[[], float],
        env: dict[str, str] | None = None,
        seats_max: int = 5_000,
        runs_dedicated: bool = True,
        on_moved: Callable[[str, int, bool], None] = lambda execution_id, sequence, settled: None,
        observer: HostObserver | None = None,
    ) -> None:
        self.incarnation = incarnation
        self.seats_max = seats_max
        self._runs_dedicated = runs_dedicated
        self._store = store
        self._plans = plans
        self._runner = runner
        self._clock = clock
        self._chance = chance
        self._env = env or {}
        self._on_moved = on_moved
        self._observer = observer or HostObserver()
        self._seats: dict[str, Seat] = {}
        self._activating: dict[str, asyncio.Future[Seat]] = {}
        self._parked: OrderedDict[str, _Parked] = OrderedDict()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._tenants = Tenants()
        self._queueing: set[str] = set()
        """Tenants of which executions wait for a slot, as far as this host has seen."""
        self._beat_at = 0.0
        self._trusts_silence_at = 0.0
        """Until then others may only look silent: they too could not beat. By the event loop's clock."""
        self.draining = False

    # --- what others ask ------------------------------------------------------------------------

    @property
    def live(self) -> int:
        """How many executions have a seat."""
        return len(self._seats)

    @property
    def full(self) -> bool:
        return self.draining or len(self._seats) >= self.seats_max

    async def start(self, request: StartRequest) -> None:
        """Make the start durable. When it is full, the start is recorded for whoever has room.

        Raises:
            KeyTaken, Unavailable, OutcomeUnknown, NotFound
            LimitReached, Forbidden: the tenant may not start it.
        """
        plan = await self._plans.get(request.tenant_id, request.workflow_id, request.workflow_version)
        seat = self._seats.get(request.execution_id)
        if seat is None:
            seat = self._seat_for_start(request, plan)
        if seat.started is not None:
            # A repeat of a start that is under way waits for the same turn.
            await asyncio.shield(seat.started)

    def _seat_for_start(self, request: StartRequest, plan: Plan) -> Seat:
        record_only = self.full or request.isolation == "dedicated"
        seat = Seat(request.tenant_id, plan, new_state(request.execution_id, plan), epoch=0)
        seat.new = NewExecution(
            workflow_id=request.workflow_id,
            workflow_version=request.workflow_version,
            isolation=request.isolation,
            resources=encode_resources(request.resources),
            created_at=self._clock.now(),
        )
        seat.started = asyncio.get_running_loop().create_future()
        self._seats[request.execution_id] = seat
        signal = sg.StartExecution(
            input=request.input,
            isolation=request.isolation,
            only_record=record_only,
            queue=request.queue,
        )
        # Alone: what else has come would otherwise be an execution without a beginning, if this is refused.
        mail = Mail(signal, seat.started, request.idempotency, request.deadline, alone=True)
        mail.origin, mail.traceparent = request.origin, request.traceparent
        self._put(seat, mail)
        return seat

    async def signal(self, request: SignalRequest) -> dict[str, Any]:
        """Decide and commit one signal; the answer is what the sender is told.

        Raises:
            NotFound, Conflict, BadRequest, KeyTaken, Redirect, Unavailable, OutcomeUnknown
        """
        seat = self._seats.get(request.execution_id)
        if seat is None:
            seat = await self._activate(request.execution_id)
        if seat.tenant_id != request.tenant_id:
            raise NotFound(f"execution {request.execution_id}")
        answer = await self._post(seat, request)
        return {"execution_id": request.execution_id, **answer}

    async def activate(self, execution_ids: list[str]) -> list[str]:
        """Take over executions that nobody drives; returns those for which there was no room.

        Those that wait for a slot begin, if there is one.
        """
        refused = [execution_id for execution_id in execution_ids if self.full]
        wanted = [e for e in execution_ids if e not in refused and e not in self._seats]
        await asyncio.gather(*(self._try_activate(execution_id, begin=True) for execution_id in wanted))
        return refused

    # --- upkeep ---------------------------------------------------------------------------------

    def beat(self, sent_at: float) -> None:
        """A heartbeat that was sent at ``sent_at`` (the event loop's clock) is acknowledged."""
        if self._beat_at and sent_at - self._beat_at > LEASE_DOUBTFUL_S:
            self._trusts_silence_at = sent_at + OWNER_GONE_MS / 1_000
        self._beat_at = max(self._beat_at, sent_at)

    async def reconcile(self) -> None:
        """Load what the store says is ours, and drop what it says is not."""
        asked_at = asyncio.get_running_loop().time()
        owned = await self._store.system.owned_by(self.incarnation)
        for execution_id in owned.keys() - self._seats.keys():
            await self._try_activate(execution_id, only_ours=True)
        for seat in list(self._seats.values()):
            settled_before = seat.taken and not seat.pumping and seat.committed_at < asked_at
            if settled_before and seat.execution_id not in owned:
                log.warning("dropped %s: the store says that it is not ours", seat.execution_id)
                self._drop(seat)

    async def heed_tenants(self) -> None:
        """Learn how tenants stand: executions of suspended ones are held, of active ones go on."""
        await self._tenants.refresh(self._store.system)
        for seat in list(self._seats.values()):
            self._heed(seat)

    def _heed(self, seat: Seat) -> None:
        active, held = self._tenants.is_active(seat.tenant_id), seat.state.held
        if any(isinstance(mail.signal, sg.Hold | sg.Release) for mail in seat.mailbox):
            return
        if not active and held is None:
            self._put(seat, Mail(sg.Hold()))
        elif active and held == "tenant":
            self._put(seat, Mail(sg.Release(reason="tenant")))

    async def close(self) -> None:
        """Stop everything in memory, for good. What is committed stays for the next owner."""
        self.draining = True
        for seat in list(self._seats.values()):
            self._drop(seat)
        pending = [task for task in self._tasks if not task.done()]
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    # --- activation -----------------------------------------------------------------------------

    async def _try_activate(self, execution_id: str, *, only_ours: bool = False, begin: bool = False) -> None:
        try:
            await self._activate(execution_id, only_ours=only_ours, begin=begin)
        except JamjetError as error:
            log.info("not activated %s: %s", execution_id, error)

    async def _activate(self, execution_id: str, *, only_ours: bool = False, begin: bool = False) -> Seat:
        """Seat an execution, and post what recovery is due. Concurrent callers share one load.

        ``begin``: let it begin if it waits for a slot.
        """
        loading = self._activating.get(execution_id)
        if loading is None:
            loading = asyncio.get_running_loop().create_future()
            self._activating[execution_id] = loading
            try:
                seat = self._seated(await self._load(execution_id, only_ours=only_ours), begin=begin)
            except BaseException as error:
                loading.set_exception(error if isinstance(error, JamjetError) else Unavailable(str(error)))
                loading.exception()
                raise
            else:
                loading.set_result(seat)
            finally:
                del self._activating[execution_id]
            return seat
        return await asyncio.shield(loading)

    async def _load(self, execution_id: str, *, only_ours: bool) -> Seat:
        parked = self._parked.pop(execution_id, None)
        if parked is not None and not only_ours:
            plan = await self._plans.get(
                parked.tenant_id, parked.state.workflow_id, parked.state.workflow_version
            )
            seat = Seat(parked.tenant_id, plan, parked.state, parked.epoch)
            seat.elsewhere = parked.elsewhere
            seat.snapshot_bytes = seat.unmeasured_bytes = parked.snapshot_bytes
            return seat
        stored = await self._store.system.stored_execution(execution_id)
        if stored is None:
            raise NotFound(f"execution {execution_id}")
        row = stored.row
        if only_ours and row.owner != self.incarnation:
            raise Redirect("not ours any more", owner=row.owner)
        others = row.owner is not None and row.owner != self.incarnation
        if others and not await self._is_gone(row.owner or ""):
            raise Redirect(f"execution {execution_id} is owned by {row.owner}", owner=row.owner)
        plan = await self._plans.get(row.tenant_id, row.workflow_id, row.workflow_version)
        seat = Seat(row.tenant_id, plan, fold_stored(stored, plan), row.owner_epoch)
        seat.elsewhere = row.isolation == "dedicated" and not self._runs_dedicated
        seat.tail_bytes = sum(len(event.data) for event in stored.tail)
        seat.snapshot_bytes = len(stored.snapshot or "")
        seat.unmeasured_bytes = seat.tail_bytes + seat.snapshot_bytes
        return seat

    def _seated(self, seat: Seat, *, begin: bool) -> Seat:
        if is_terminal(seat.state):
            # It answers by its state, but nobody needs to own it.
            return seat
        present = self._seats.get(seat.execution_id)
        if present is not None:
            return present
        self._seats[seat.execution_id] = seat
        for signal in self._first_signals(seat, begin):
            self._put(seat, Mail(signal, alone=begin and seat.state.held == "slot"))
        return seat

    def _first_signals(self, seat: Seat, begin: bool) -> list[sg.Signal]:
        """What a loaded execution is told. A suspended one must not go on before it is held."""
        if seat.elsewhere:
            return []
        if begin and seat.state.held == "slot":
            return [sg.Release(reason="slot")]
        if not self._tenants.is_active(seat.tenant_id):
            return [sg.Hold(), sg.Recover()]
        if seat.state.held == "tenant":
            return [sg.Recover(), sg.Release(reason="tenant")]
        return [sg.Recover()]

    async def _is_gone(self, incarnation: str) -> bool:
        """Whether an owner need no longer be respected. Being gone is made final first.

        Otherwise a silent owner could beat again while it is being taken over, and
        trust its lease. After an outage of the store all owners look silent.
        """
        for executor in await self._store.system.executors():
            if executor.incarnation == incarnation:
                if not executor.gone or (executor.state != "dead" and not self._trusts_silence()):
                    return False
                await self._store.system.mark_dead((incarnation,))
        return True

    def _trusts_silence(self) -> bool:
        now = asyncio.get_running_loop().time()
        return now >= self._trusts_silence_at and not self._lease_is_doubtful()

    # --- the mailbox ----------------------------------------------------------------------------

    async def _post(self, seat: Seat, request: SignalRequest) -> dict[str, Any]:
        reply: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        mail = Mail(request.signal, reply, request.idempotency, request.deadline)
        mail.origin, mail.traceparent = request.origin, request.traceparent
        self._put(seat, mail)
        return await reply

    def _put(self, seat: Seat, mail: Mail) -> None:
        seat.mailbox.append(mail)
        if not seat.pumping:
            seat.pumping = True
            self._spawn(self._pump(seat))

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _pump(self, seat: Seat) -> None:
        """Handle what is in the mailbox, one batch and so one turn at a time, until it is empty."""
        batch: list[Mail] = []
        logs.about(execution_id=seat.execution_id, tenant_id=seat.tenant_id)
        try:
            while seat.mailbox and not seat.dropped:
                batch = next_batch(seat.mailbox)
                with self._observer.turn(seat, batch):
                    await self._take_turn(seat, batch)
        except Exception as error:
            log.exception("a turn of %s broke; it will be loaded again", seat.execution_id)
            refuse_all(batch, OutcomeUnknown(f"internal error: {type(error).__name__}"))
            self._drop(seat)
        finally:
            seat.pumping = False
            if seat.elsewhere and not seat.mailbox and not seat.dropped:
                self._drop(seat)
            if seat.dropped:
                refuse_all(seat.mailbox, Redirect("the execution moved away", owner=None))

    async def _take_turn(self, seat: Seat, batch: list[Mail]) -> None:
        began = asyncio.get_running_loop().time()
        if seat.taken and self._lease_is_doubtful() and not await self._still_ours(seat):
            # What it remembers may be old: not even a refusal may be said from it.
            await self._fenced(seat, batch)
            return
        decisions, refusals = self._decide(seat, batch)
        state = decisions[-1][1].state if decisions else seat.state
        events = [event for _, decision in decisions for event in decision.events]
        is_first_of_ours = not seat.taken and not seat.elsewhere and not is_terminal(seat.state)
        if not events and not (is_first_of_ours and decisions):
            answer_all(decisions, refusals)
            if seat.new is not None:
                self._drop(seat)
            return
        turn = self._turn(seat, state, decisions)
        try:
            outcome = await self._commit(turn, batch[0].deadline if seat.new is not None else 0)
        except ValueRejected as error:
            self._observer.not_committed("rejected")
            self._reject_value(seat, batch, error)
            return
        except Unavailable as error:
            self._observer.not_committed("refused")
            await self._put_back(seat, batch, error)
            return
        if outcome is Outcome.COMMITTED:
            self._committed(seat, turn, decisions)
            answer_all(decisions, refusals)
            self._observer.committed(seat, turn, began)
            return
        self._observer.not_committed(outcome.value)
        if outcome is Outcome.KEY_TAKEN:
            self._key_taken(seat, batch)
        elif outcome in NOT_ADMITTED:
            await self._not_admitted(seat, batch, outcome)
        else:
            await self._fenced(seat, batch)

    def _decide(self, seat: Seat, batch: list[Mail]) -> tuple[Decided, Refused]:
        """Decide the batch in order, each on the state that the one before leaves.

        That state is not committed yet, so refusals wait for the commit as answers do.
        """
        state = seat.state
        decisions: Decided = []
        refusals: Refused = []
        for mail in batch:
            now = self._clock.now()
            if mail.deadline and now > mail.deadline:
                refusals.append((mail, OutcomeUnknown("it came too late to be taken")))
                continue
            measure = self._may_outgrow(seat, mail.signal)
            policy = self._tenants.policy(seat.tenant_id)
            moment = Moment(now, self._chance(), self._env, measure, policy)
            try:
                decision = decide(seat.plan, state, mail.signal, moment)
            except JamjetError as error:
                if mail.reply is None:
                    log.error("%s refused %s: %s", seat.execution_id, type(mail.signal).__name__, error)
                refusals.append((mail, error))
                continue
            state = decision.state
            decisions.append((mail, decision))
        return decisions, refusals

    def _may_outgrow(self, seat: Seat, signal: sg.Signal) -> bool:
        """Whether what was added since the state was measured could, with this, be too much."""
        added = seat.unmeasured_bytes + payload_size(_brought_by(signal))
        if added <= jsonvalue.STATE_BYTES_MAX:
            return False
        seat.unmeasured_bytes = payload_size(seat.state.data)
        return True

    # --- the turn -------------------------------------------------------------------------------

    def _turn(self, seat: Seat, state: ExecutionState, decisions: Decided) -> Turn:
        rows: list[EventRow] = []
        entries: list[AuditEntry] = []
        for mail, decision in decisions:
            own = event_rows(decision)
            rows += own
            happened = zip(decision.events, own, strict=True)
            entries += audited(seat.execution_id, seat.plan.graph.workflow_id, happened, mail.origin)
        keyed = next((mail for mail, _ in decisions if mail.idempotency is not None), None)
        now = self._clock.now()
        next_wake = wake_at(state)
        runnable = has_work(state)
        passive = not runnable and (next_wake is None or next_wake > now + PASSIVATE_AFTER_MS)
        unplaced = seat.elsewhere or (seat.new is not None and _only_recorded(decisions))
        tail_bytes = seat.tail_bytes + sum(len(row.data) for row in rows)
        wants_snapshot = (passive and not unplaced) or tail_bytes > max(
            seat.snapshot_bytes, SNAPSHOT_TAIL_BYTES_MIN
        )
        return Turn(
            tenant_id=seat.tenant_id,
            execution_id=seat.execution_id,
            expected_epoch=seat.epoch,
            expected_sequence=seat.state.sequence,
            new=seat.new,
            owner=None if passive or unplaced else self.incarnation,
            owner_epoch=seat.epoch if seat.taken or unplaced else seat.epoch + 1,
            sequence=state.sequence,
            status=stored_status(state),
            runnable=runnable,
            wake_at=next_wake,
            steps=state.steps,
            error=state.failure.error if state.failure is not None else None,
            updated_at=state.updated_at or now,
            completed_at=state.completed_at,
            events=tuple(rows),
            snapshot=encode_state(state) if wants_snapshot else None,
            idempotency=None if keyed is None else self._filled(seat, keyed, decisions),
            audit=tuple(entries),
            admission=_admission(seat, state, decisions),
            usage=_usage(decisions, now),
        )

    def _filled(self, seat: Seat, keyed: Mail, decisions: Decided) -> IdempotencyRecord | None:
        """The record with the answer that a repeat will get."""
        record = keyed.idempotency
        if record is None or record.body:
            return record
        answer = next(decision.answer for mail, decision in decisions if mail is keyed)
        body = jsonvalue.encode({"execution_id": seat.execution_id, **answer}).decode()
        return msgspec.structs.replace(record, body=body)

    async def _commit(self, turn: Turn, start_until: int) -> Outcome:
        """Commit, and find out what became of it if the answer was lost (DESIGN: unknown outcomes).

        ``start_until``: it is a start, and is not tried again after this; 0: it is none, or has no deadline.
        """
        while True:
            try:
                return await self._store.journal.commit(turn)
            except OutcomeUnknown:
                fence = await self._read_fence(turn.execution_id)
                if fence is None and 0 < start_until < self._clock.now():
                    raise
            if fence == Fence(turn.owner, turn.owner_epoch, turn.sequence) and await self._is_logged(turn):
                return Outcome.COMMITTED
            if (fence is None and turn.new is None) or (fence is not None and not _stands_at(fence, turn)):
                return Outcome.FENCED

    async def _is_logged(self, turn: Turn) -> bool:
        """Whether the log has this very turn.

        Two owners that take an execution over only to let go of it leave the same
        fence behind, so the fence alone does not tell whose turn it was.
        """
        tenant = self._store.tenant(turn.tenant_id)
        after = turn.events[0].sequence - 1 if turn.events else turn.sequence
        rows: list[EventRow] = await self._persist(lambda: tenant.events(turn.execution_id, after=after))
        return tuple(rows[: len(turn.events)]) == turn.events

    async def _read_fence(self, execution_id: str) -> Fence | None:
        fence: Fence | None = await self._persist(lambda: self._store.system.fence(execution_id))
        return fence

    async def _persist(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Ask the store until it answers."""
        for attempt in range(1_000_000):
            try:
                return await ask()
            except Unavailable:
                await asyncio.sleep(STORE_RETRY_S[min(attempt, len(STORE_RETRY_S) - 1)])
        raise AssertionError("unreachable")

    def _committed(self, seat: Seat, turn: Turn, decisions: Decided) -> None:
        """The turn is durable: make it the state, perform what it asks for, tell those who watch."""
        seat.state = decisions[-1][1].state
        seat.epoch = turn.owner_epoch
        seat.taken = turn.owner == self.incarnation
        seat.new = seat.started = None
        seat.committed_at = asyncio.get_running_loop().time()
        grown = sum(len(row.data) for row in turn.events)
        seat.unmeasured_bytes += grown
        if turn.snapshot is None:
            seat.tail_bytes += grown
        else:
            seat.tail_bytes, seat.snapshot_bytes = 0, len(turn.snapshot)
        for _, decision in decisions if not seat.elsewhere else ():
            for effect in decision.effects:
                if isinstance(effect, RunNode):
                    self._perform(seat, effect)
                else:
                    self._stop(seat, effect)
        if turn.owner is None:
            self._park(seat, turn)
        else:
            self._arm(seat, turn.wake_at)
        if turn.events:
            settled = shown_status(turn.status) != "running"
            self._on_moved(turn.execution_id, turn.sequence, settled)
        self._pass_on_slot(turn)

    def _pass_on_slot(self, turn: Turn) -> None:
        """Where executions wait for a slot: let the next one begin at once, not at the next sweep."""
        if turn.status == "queued":
            self._queueing.add(turn.tenant_id)
        elif turn.status in TERMINAL_STATUSES and turn.tenant_id in self._queueing:
            self._queueing.discard(turn.tenant_id)
            self._spawn(self._dequeue(turn.tenant_id))

    async def _dequeue(self, tenant_id: str) -> None:
        """Begin executions that wait, as many as there are slots. Dedicated ones are left to the sweep."""
        self._queueing.add(tenant_id)
        try:
            rows = await self._store.system.dequeue(tenant_id, limit=DEQUEUED_MAX)
        except Unavailable as error:
            log.info("not dequeued for %s: %s", tenant_id, error)
            return
        await self.activate([row.execution_id for row in rows if row.isolation == "shared"])

    async def _not_admitted(self, seat: Seat, batch: list[Mail], outcome: Outcome) -> None:
        """The tenant may not have another execution begin just now, and nothing was written."""
        first = batch[0]
        start = first.signal
        if isinstance(start, sg.StartExecution):
            if outcome is Outcome.NO_SLOT and start.queue:
                first.signal = msgspec.structs.replace(start, held=True, queue=False)
                seat.mailbox.extendleft(reversed(batch))
                return
            refuse_all(batch, await self._why_refused(seat, outcome))
            self._drop(seat)
            return
        # It stays as it is: what else has come for it is decided without going on.
        others = [mail for mail in batch if not isinstance(mail.signal, sg.Release)]
        seat.mailbox.extendleft(reversed(others))
        if seat.taken:
            return
        if seat.mailbox:
            seat.mailbox.append(Mail(sg.Recover()))
        else:
            self._drop(seat)

    async def _why_refused(self, seat: Seat, outcome: Outcome) -> JamjetError:
        try:
            return await refused_start(self._store.system, seat.tenant_id, outcome)
        except Unavailable as error:
            return error

    def _park(self, seat: Seat, turn: Turn) -> None:
        """Nobody owns it now. Mail that came meanwhile is taken by a new seat."""
        self._drop(seat, keep_mail=True)
        if not is_terminal(seat.state) and not turn.runnable:
            self._parked[seat.execution_id] = _Parked(
                seat.tenant_id, seat.epoch, seat.state, seat.snapshot_bytes, seat.elsewhere
            )
            while len(self._parked) > PARKED_STATES_MAX:
                self._parked.popitem(last=False)
        waiting, seat.mailbox = seat.mailbox, deque()
        if waiting:
            self._spawn(self._hand_on(seat, waiting))

    async def _hand_on(self, old: Seat, mails: deque[Mail]) -> None:
        try:
            seat = await self._activate(old.execution_id)
        except JamjetError as error:
            refuse_all(mails, error)
            return
        for mail in mails:
            self._put(seat, mail)

    async def _fenced(self, seat: Seat, batch: list[Mail]) -> None:
        """The log moved on without us: drop the seat, and answer from the log what it knows."""
        self._drop(seat)
        stored: StoredExecution | None = await self._persist(
            lambda: self._store.system.stored_execution(seat.execution_id)
        )
        if stored is None:
            refuse_all(batch, NotFound(f"execution {seat.execution_id}"))
            return
        answered = fold_stored(stored, seat.plan).answered
        for mail in batch:
            if isinstance(mail.signal, sg.StartExecution):
                mail.answer({})
            elif getattr(mail.signal, "signal_id", None) in answered:
                done = {"status": "cancelled"} if isinstance(mail.signal, sg.Cancel) else {"accepted": True}
                mail.answer(done)
            else:
                mail.refuse(Redirect("the execution moved away", owner=stored.row.owner))

    def _key_taken(self, seat: Seat, batch: list[Mail]) -> None:
        """Nothing was written: the keyed request is answered from its record, the others go on."""
        refuse_all((mail for mail in batch if mail.idempotency), KeyTaken("the Idempotency-Key is taken"))
        if seat.new is not None:
            self._drop(seat)
        else:
            seat.mailbox.extendleft(mail for mail in reversed(batch) if not mail.idempotency)

    async def _put_back(self, seat: Seat, batch: list[Mail], error: Unavailable) -> None:
        """The store refused, and nothing was written: senders are told, our own signals wait."""
        own = [mail for mail in batch if mail.reply is None]
        refuse_all([mail for mail in batch if mail.reply is not None], error)
        if seat.new is not None:
            self._drop(seat)
            return
        seat.mailbox.extendleft(reversed(own))
        await asyncio.sleep(STORE_RETRY_S[2])

    def _reject_value(self, seat: Seat, batch: list[Mail], error: ValueRejected) -> None:
        """The store cannot hold something in this turn: find whose it is, and fail that alone."""
        if len(batch) > 1:
            for mail in batch:
                mail.alone = True
            seat.mailbox.extendleft(reversed(batch))
            return
        mail = batch[0]
        signal = mail.signal
        if isinstance(signal, sg.NodeSucceeded):
            failed = sg.NodeErrored(
                node_id=signal.node_id,
                visit=signal.visit,
                attempt=signal.attempt,
                error=error.detail,
                error_class="value_rejected",
                retryable=False,
            )
            seat.mailbox.appendleft(Mail(failed))
        elif mail.reply is not None:
            mail.refuse(BadRequest(error.detail))
            if seat.new is not None:
                self._drop(seat)
        else:
            # It would wait for ever, with an owner that beats.
            log.error("the store refused %s of %s: %s", type(signal).__name__, seat.execution_id, error)
            self._drop(seat)

    # --- effects --------------------------------------------------------------------------------

    def _perform(self, seat: Seat, effect: RunNode) -> None:
        key = (effect.node.id, effect.visit)
        stale = seat.tasks.pop(key, None)
        if stale is not None:
            stale.cancel()
        seat.tasks[key] = self._spawn(self._attempt(seat, effect))

    async def _attempt(self, seat: Seat, effect: RunNode) -> None:
        try:
            await self._attempt_once(seat, effect)
        except Exception:
            # Without its attempt the execution would wait for ever, with an owner that beats.
            log.exception("an attempt of %s broke; it will be loaded again", seat.execution_id)
            self._drop(seat)

    async def _attempt_once(self, seat: Seat, effect: RunNode) -> None:
        if self._lease_is_doubtful() and not await self._still_ours(seat):
            self._drop(seat)
            return
        with self._observer.attempt(seat, effect) as attempt:
            result = await self._run(seat, effect)
            attempt.ended(result)
        key = (effect.node.id, effect.visit)
        if seat.tasks.get(key) is asyncio.current_task():
            del seat.tasks[key]
        if not seat.dropped:
            self._put(seat, Mail(result))

    async def _run(self, seat: Seat, effect: RunNode) -> sg.NodeSucceeded | sg.NodeErrored:
        try:
            return await self._runner.run(effect, tenant_id=seat.tenant_id)
        except Exception as error:
            log.exception("the runner broke on node %s of %s", effect.node.id, seat.execution_id)
            return sg.NodeErrored(
                node_id=effect.node.id,
                visit=effect.visit,
                attempt=effect.attempt,
                error=f"internal error: {type(error).__name__}",
                error_class="internal",
            )

    def _stop(self, seat: Seat, effect: StopNode) -> None:
        task = seat.tasks.pop((effect.node_id, effect.visit), None)
        if task is not None:
            # What the attempt has others do is to end with it, unlike where a new owner makes it again.
            task.cancel(STOPPED)

    def _lease_is_doubtful(self) -> bool:
        return asyncio.get_running_loop().time() - self._beat_at > LEASE_DOUBTFUL_S

    async def _still_ours(self, seat: Seat) -> bool:
        fence = await self._read_fence(seat.execution_id)
        return fence is not None and (fence.owner, fence.owner_epoch) == (self.incarnation, seat.epoch)

    # --- timers ---------------------------------------------------------------------------------

    def _arm(self, seat: Seat, due_at: int | None) -> None:
        if seat.timer is not None:
            seat.timer.cancel()
            seat.timer = None
        if due_at is not None:
            delay_s = max(0, due_at - self._clock.now()) / 1_000
            seat.timer = asyncio.get_running_loop().call_later(delay_s, self._due, seat, due_at)

    def _due(self, seat: Seat, due_at: int) -> None:
        seat.timer = None
        if seat.dropped:
            return
        late_ms = self._clock.now() - due_at
        if late_ms < 0:
            self._arm(seat, due_at)
        else:
            self._observer.ticked(late_ms)
            self._put(seat, Mail(sg.Tick()))

    def _drop(self, seat: Seat, *, keep_mail: bool = False) -> None:
        """Forget an execution: it is another's, or nobody's."""
        seat.dropped = True
        if self._seats.get(seat.execution_id) is seat:
            del self._seats[seat.execution_id]
        if seat.timer is not None:
            seat.timer.cancel()
        for task in seat.tasks.values():
            if task is not asyncio.current_task():
                task.cancel()
        seat.tasks.clear()
        if not keep_mail and not seat.pumping:
            refuse_all(seat.mailbox, Redirect("the execution moved away", owner=None))


def _admission(seat: Seat, state: ExecutionState, decisions: Decided) -> Admission | None:
    """What the turn must be let in for."""
    if seat.new is not None:
        return Admission.QUEUE if state.held == "slot" else Admission.START
    if not any(isinstance(mail.signal, sg.Release) and decision.events for mail, decision in decisions):
        return None
    return Admission.DEQUEUE if seat.state.held == "slot" else Admission.RESUME


def _usage(decisions: Decided, now: int) -> Usage | None:
    """What models used in this turn."""
    calls = [
        event
        for _, decision in decisions
        for event in decision.events
        if isinstance(event, NodeCompleted) and event.gen_ai_model is not None
    ]
    if not calls:
        return None
    return Usage(
        month=month_of(now),
        tokens=sum((call.input_tokens or 0) + (call.output_tokens or 0) for call in calls),
        cost_usd=sum(call.cost_usd or 0.0 for call in calls),
    )


def _stands_at(fence: Fence, turn: Turn) -> bool:
    """Whether nobody has written since the turn was decided."""
    expected = (turn.expected_epoch, turn.expected_sequence)
    return turn.new is None and (fence.owner_epoch, fence.sequence) == expected


def _brought_by(signal: sg.Signal) -> jsonvalue.JsonValue:
    """What a signal may add to the state."""
    match signal:
        case sg.NodeSucceeded():
            return (signal.output, signal.state_patch)
        case sg.Approve():
            return signal.state_patch
        case sg.SendEvent():
            return signal.payload
        case _:
            return None


def _only_recorded(decided: Decided) -> bool:
    first = decided[0][0].signal if decided else None
    return isinstance(first, sg.StartExecution) and first.only_record
