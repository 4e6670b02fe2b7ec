"""The ownership protocol as a little model, small enough to be searched whole.

The world is one execution (one effectful node, then one approval), the store, two owner processes,
sweepers, a replica that starts the execution, and two callers who decide its one approval differently. A
*move* is one atomic step of one of them; a *state* is everything they know; `explore` visits every state
the moves can reach.

The protocol, rule by rule. Each rule is a field of `Rules`, so that it can be broken and missed:

- The store has one row, (owner, epoch, sequence), and a log of (sequence, epoch, event). A *turn* is
  decided on the owner's memory and committed as one transaction whose UPDATE matches only if epoch and
  sequence have not moved (`fence_epoch`, `fence_sequence`). An insert is a turn too: the primary key is its
  fence.
- An owner is an incarnation, never a name (`owner_is_incarnation`). Activation, which is also how an
  execution is taken over, is a turn that adds 1 to the epoch (`activation_adds_epoch`) and starts the
  attempt that was running anew, as recovered (`activation_restarts`). Only an owner writes itself into the
  row; a sweeper only asks (`sweeper_asks`). What has an owner that is not gone is left alone
  (`takes_from_gone_only`).
- An owner is gone when its lease, refreshed by heartbeats, has run out, and gone is final
  (`gone_is_final`): a heartbeat of a gone incarnation is refused; its process forgets what it held and goes
  on as a new incarnation.
- A turn that matched nothing, or whose COMMIT ended in an error, has an unknown outcome: the transaction
  may land at once, later, or never. The owner reads (owner, epoch, sequence). Mine and unmoved: commit
  again. Mine and moved: reload, answer callers from the log. Not mine: forget (`after_error`).
- Owners reconcile: a row of mine that is not in memory is loaded (`reconciles`), what is in memory and no
  longer mine is forgotten; a read older than the memory says nothing (`old_reads_ignored`). Sweepers find
  rows that are runnable and without a living owner (`sweeps`).
- A call to the outside is made after its start is committed (`start_before_call`). It is two moves, *check*
  and *call*, because a process can be stopped between them. The check passes if the last acknowledged
  heartbeat is young, its age counted from when it was sent (`age_from_send`); otherwise the fence is read
  first (`check_reads_fence`). Each result names the epoch it was started in; any other is dropped
  (`result_names_epoch`).
- A start is acknowledged once it is committed (`acknowledged_after_commit`), by the owner or, if that takes
  too long, by the replica, which inserts the row itself: unowned and runnable.
- A decision's caller is known by the id in its event, so a repeated one gets its own answer
  (`answer_by_id`). An owner refuses from memory only what it may check like a call (`refusal_checked`).

What the model leaves out, because something in it already covers it:

- Messages. A signal may arrive at either owner at any time, any number of times: lost, late and doubled
  messages are choices of the search. Each answer may be lost.
- Stalls. No process is ever obliged to move; its lease running out meanwhile is what the others see of a
  stall (SIGSTOP) and of lost heartbeats alike: both are the one fault *lose heartbeats*.
- The time between a crash and the end of its lease. In it the others can only do less: a crashed
  incarnation is gone at once. All gone incarnations are alike: `GONE`.
- Attempt numbers. A recovered start repeats the attempt's number, so only the epoch tells it from the
  first.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import Literal, NamedTuple

GONE = -1
NOBODY = -2
NO_CALLER = -1
OWNERS = (0, 1)
CALLERS = (0, 1)
FAIR_STEPS_MAX = 100
NAMES = {0: "A", 1: "B", GONE: "gone", NOBODY: "nobody"}


class Event(IntEnum):
    STARTED = 1
    NODE_STARTED = 2
    NODE_COMPLETED = 3
    APPROVAL_REQUESTED = 4
    APPROVAL_DECIDED = 5
    COMPLETED = 6


class Phase(IntEnum):
    """Where an execution stands; it follows from the log's last event."""

    ABSENT = 0
    READY = 1
    RUNNING = 2
    WAITING = 4
    DONE = 6


class Answer(IntEnum):
    NONE = 0
    ACCEPTED = 1
    CONFLICT = 2


class Entry(NamedTuple):
    """One row of the log. `about` is the result's epoch (NODE_COMPLETED) or the caller (APPROVAL_DECIDED)."""

    sequence: int
    epoch: int
    event: Event
    about: int


Log = tuple[Entry, ...]
Happening = tuple[Event, int]


class Row(NamedTuple):
    owner: int
    epoch: int
    sequence: int


NO_ROW = Row(owner=NOBODY, epoch=-1, sequence=0)


class Held(NamedTuple):
    """An owner's memory of the execution. `to_call`: a start is committed and its call not begun."""

    epoch: int
    sequence: int
    phase: Phase
    started_epoch: int
    to_call: bool


NOTHING = Held(epoch=-1, sequence=0, phase=Phase.ABSENT, started_epoch=0, to_call=False)


class Turn(NamedTuple):
    """A decided transaction: matches (fence_epoch, fence_sequence), then writes the row and the events."""

    fence_epoch: int
    fence_sequence: int
    epoch: int
    owner: int
    events: tuple[Happening, ...]
    caller: int
    unknown: bool = False
    failed: bool = False


NO_TURN = Turn(fence_epoch=-9, fence_sequence=-9, epoch=-9, owner=NOBODY, events=(), caller=NO_CALLER)


class Check(NamedTuple):
    """A call that passed its check and is about to be made. `blind`: the fence was lost before the check."""

    epoch: int
    blind: bool


NO_CHECK = Check(epoch=0, blind=False)


class Call(NamedTuple):
    """A call made in `epoch`. `late`: its fence was lost; `repeated`: it was held, but the visit was done."""

    epoch: int
    late: bool
    blind: bool
    repeated: bool


class Owner(NamedTuple):
    """A process and its incarnation. `young`: its view of its last heartbeat; `gone`: the table's view."""

    young: bool = True
    gone: bool = False
    held: Held = NOTHING
    turn: Turn = NO_TURN
    check: Check = NO_CHECK


class Faults(NamedTuple):
    """How many more faults of each kind the search may choose."""

    crashes: int
    lost_heartbeats: int
    commit_errors: int


class State(NamedTuple):
    row: Row
    log: Log
    owners: tuple[Owner, Owner]
    in_flight: tuple[Turn, ...]
    calls: tuple[Call, ...]
    start_for: int
    start_acknowledged: bool
    answers: tuple[Answer, Answer]
    faults: Faults


@dataclass(frozen=True)
class Rules:
    """The protocol's rules; the defaults are the protocol."""

    fence_epoch: bool = True
    fence_sequence: bool = True
    owner_is_incarnation: bool = True
    activation_adds_epoch: bool = True
    activation_restarts: bool = True
    sweeper_asks: bool = True
    takes_from_gone_only: bool = True
    gone_is_final: bool = True
    after_error: Literal["read", "assume_failed", "assume_committed"] = "read"
    reconciles: bool = True
    old_reads_ignored: bool = True
    sweeps: bool = True
    start_before_call: bool = True
    age_from_send: bool = True
    check_reads_fence: bool = True
    result_names_epoch: bool = True
    acknowledged_after_commit: bool = True
    answer_by_id: bool = True
    refusal_checked: bool = True


PROTOCOL = Rules()
Move = tuple[str, State]


def initial(faults: Faults) -> State:
    """The replica has sent the start to A; nothing is stored."""
    return State(
        row=NO_ROW,
        log=(),
        owners=(Owner(), Owner()),
        in_flight=(),
        calls=(),
        start_for=0,
        start_acknowledged=False,
        answers=(Answer.NONE, Answer.NONE),
        faults=faults,
    )


# The store


def phase_of(log: Log) -> Phase:
    return Phase(log[-1].event) if log else Phase.ABSENT


def started_epoch_of(log: Log) -> int:
    return max((entry.epoch for entry in log if entry.event is Event.NODE_STARTED), default=0)


def decided_by(log: Log) -> int:
    return next((entry.about for entry in log if entry.event is Event.APPROVAL_DECIDED), NO_CALLER)


def matches(row: Row, turn: Turn, rules: Rules) -> bool:
    epoch_matches = row.epoch == turn.fence_epoch or not rules.fence_epoch
    sequence_matches = row.sequence == turn.fence_sequence or not rules.fence_sequence
    return epoch_matches and sequence_matches


def apply(state: State, turn: Turn, rules: Rules) -> State:
    """The turn's transaction, which matched. What is in flight and can no longer match is as good as lost."""
    first = turn.fence_sequence + 1
    entries = tuple(
        Entry(first + i, turn.epoch, event, about) for i, (event, about) in enumerate(turn.events)
    )
    row = Row(turn.owner, turn.epoch, turn.fence_sequence + len(entries))
    in_flight = tuple(other for other in state.in_flight if matches(row, other, rules))
    return state._replace(row=row, log=state.log + entries, in_flight=in_flight)


def is_gone(state: State, owner: int) -> bool:
    return owner == GONE or (owner in OWNERS and state.owners[owner].gone)


# An owner


def with_owner(state: State, me: int, owner: Owner) -> State:
    return state._replace(owners=(owner, state.owners[1]) if me == 0 else (state.owners[0], owner))


def load(state: State, before: Held) -> Held:
    """Read row and log. A call already begun in this epoch (`before`) is not begun again."""
    phase, started_epoch = phase_of(state.log), started_epoch_of(state.log)
    mine_to_call = phase is Phase.RUNNING and started_epoch == state.row.epoch
    begun = before.phase is Phase.RUNNING and before.started_epoch == started_epoch and not before.to_call
    return Held(state.row.epoch, state.row.sequence, phase, started_epoch, mine_to_call and not begun)


def fold(held: Held, turn: Turn) -> Held:
    """The memory after a committed turn; nothing is kept of an execution that was passivated or has ended."""
    if turn.owner == NOBODY:
        return NOTHING
    sequence = turn.fence_sequence + len(turn.events)
    if not turn.events:
        return held._replace(epoch=turn.epoch, sequence=sequence)
    last = turn.events[-1][0]
    starts = last is Event.NODE_STARTED
    return Held(turn.epoch, sequence, Phase(last), turn.epoch if starts else held.started_epoch, starts)


def begin(state: State, me: int, held: Held, turn: Turn) -> State:
    return with_owner(state, me, state.owners[me]._replace(held=held, turn=turn))


def activation(held: Held, me: int, caller: int, rules: Rules) -> Turn:
    """The first turn on what was just loaded: take the execution and do at once what it waits for."""
    epoch = held.epoch + 1 if rules.activation_adds_epoch else held.epoch
    owner = me
    events: tuple[Happening, ...] = ()
    if held.phase is Phase.READY or (held.phase is Phase.RUNNING and rules.activation_restarts):
        events = ((Event.NODE_STARTED, 0),)
    elif held.phase is Phase.WAITING and caller != NO_CALLER:
        owner, events = NOBODY, decision(caller)
    return Turn(held.epoch, held.sequence, epoch, owner, events, caller)


def decision(caller: int) -> tuple[Happening, ...]:
    return ((Event.APPROVAL_DECIDED, caller), (Event.COMPLETED, 0))


def answer_from_log(state: State, caller: int, rules: Rules) -> State:
    """Answer a caller if the log holds a decision; else the signal stays unanswered and will come again."""
    winner = decided_by(state.log)
    if caller == NO_CALLER or winner == NO_CALLER:
        return state
    return answer(
        state, caller, Answer.ACCEPTED if winner == caller and rules.answer_by_id else Answer.CONFLICT
    )


def answer(state: State, caller: int, given: Answer) -> State:
    first, second = state.answers
    return state._replace(answers=(given, second) if caller == 0 else (first, given))


def new_incarnation(state: State, me: int, check: Check, rules: Rules) -> State:
    """Begin again with an empty memory; what bears the old incarnation's name belongs to nobody living."""
    state = with_owner(state, me, Owner(check=check))
    if not rules.owner_is_incarnation:
        return state
    row = state.row._replace(owner=GONE) if state.row.owner == me else state.row
    in_flight = tuple(turn._replace(owner=GONE) if turn.owner == me else turn for turn in state.in_flight)
    return state._replace(row=row, in_flight=in_flight)


# Moves. Each yields (what happened, the state after) for every way it can go.


def commit(state: State, me: int, rules: Rules) -> Iterator[Move]:
    name, owner = NAMES[me], state.owners[me]
    turn = owner.turn
    if matches(state.row, turn, rules):
        done = apply(state, turn, rules)
        done = with_owner(done, me, owner._replace(held=fold(owner.held, turn), turn=NO_TURN))
        if turn.caller != NO_CALLER and decided_by(done.log) == turn.caller:
            yield f"{name} commits, caller {turn.caller} is told", answer(done, turn.caller, Answer.ACCEPTED)
            yield f"{name} commits, the answer is lost", done
        elif turn.fence_epoch == NO_ROW.epoch and not state.start_acknowledged:
            yield f"{name} commits, the start is acknowledged", done._replace(start_acknowledged=True)
            yield f"{name} commits, the acknowledgement is lost", done
        else:
            yield f"{name} commits", done
        if state.faults.commit_errors:
            faults = state.faults._replace(commit_errors=state.faults.commit_errors - 1)
            unknown = with_owner(state, me, owner._replace(turn=turn._replace(unknown=True, failed=True)))
            in_flight = tuple(sorted((*state.in_flight, turn._replace(caller=NO_CALLER))))
            yield f"{name} commits, an error comes back", unknown._replace(in_flight=in_flight, faults=faults)
    else:
        unknown = with_owner(state, me, owner._replace(turn=turn._replace(unknown=True)))
        yield f"{name} commits, nothing matches", unknown


def resolve(state: State, me: int, rules: Rules) -> Move:
    """Find out what became of a turn whose outcome is unknown."""
    name, owner, row = NAMES[me], state.owners[me], state.row
    turn = owner.turn._replace(unknown=False, failed=False)
    if owner.turn.failed and rules.after_error == "assume_committed":
        return f"{name} assumes it committed", begin(state, me, fold(owner.held, turn), NO_TURN)
    if owner.turn.failed and rules.after_error == "assume_failed" and row.owner == me:
        again = turn._replace(fence_epoch=row.epoch, fence_sequence=row.sequence)
        return f"{name} assumes it failed and appends again", begin(state, me, owner.held, again)
    unmoved = (row.epoch, row.sequence) == (turn.fence_epoch, turn.fence_sequence)
    if row == NO_ROW or (row.owner == me and unmoved):
        return f"{name} reads: mine and unmoved", begin(state, me, owner.held, turn)
    if row.owner == me:
        reloaded = begin(state, me, load(state, owner.held), NO_TURN)
        return f"{name} reads: mine and moved, reloads", answer_from_log(reloaded, turn.caller, rules)
    return f"{name} reads: not mine, forgets", begin(state, me, NOTHING, NO_TURN)


def land(state: State, rules: Rules) -> Iterator[Move]:
    """A transaction whose owner was told of an error is committed after all."""
    for i, turn in enumerate(state.in_flight):
        rest = state._replace(in_flight=state.in_flight[:i] + state.in_flight[i + 1 :])
        if matches(state.row, turn, rules):
            yield "the transaction in flight lands", apply(rest, turn, rules)


def receive_start(state: State, me: int, rules: Rules) -> Iterator[Move]:
    if state.start_for != me or state.owners[me].held != NOTHING:
        return
    events = ((Event.STARTED, 0), (Event.NODE_STARTED, 0))
    turn = Turn(NO_ROW.epoch, NO_ROW.sequence, 1, me, events, NO_CALLER)
    received = state._replace(start_for=NOBODY)
    if not rules.acknowledged_after_commit:
        received = received._replace(start_acknowledged=True)
    yield f"{NAMES[me]} receives the start", begin(received, me, NOTHING, turn)


def start_fallback(state: State) -> Iterator[Move]:
    """The replica has waited long enough: it inserts the row itself, or finds it there."""
    if state.start_acknowledged:
        return
    stored = state
    if state.row == NO_ROW:
        stored = state._replace(row=Row(NOBODY, 0, 1), log=(Entry(1, 0, Event.STARTED, 0),), in_flight=())
    yield "the replica inserts the start itself", stored._replace(start_acknowledged=True)


def may_take(state: State, me: int, rules: Rules) -> bool:
    owner = state.row.owner
    return owner == NOBODY or is_gone(state, owner) or (owner != me and not rules.takes_from_gone_only)


def sweep(state: State, me: int, rules: Rules) -> Iterator[Move]:
    """A sweeper asks `me` to activate; any number of sweepers may ask both owners at once."""
    phase = phase_of(state.log)
    runnable = phase in (Phase.READY, Phase.RUNNING) or state.row.owner != NOBODY
    if (
        not rules.sweeps
        or phase in (Phase.ABSENT, Phase.DONE)
        or not runnable
        or not may_take(state, me, rules)
    ):
        return
    if not rules.sweeper_asks:
        yield f"a sweeper writes {NAMES[me]} into the row", state._replace(row=state.row._replace(owner=me))
    elif state.owners[me].held == NOTHING and state.row.owner != me:
        held = load(state, NOTHING)
        yield (
            f"{NAMES[me]} is asked to activate",
            begin(state, me, held, activation(held, me, NO_CALLER, rules)),
        )


def reconcile(state: State, me: int, rules: Rules) -> Iterator[Move]:
    held = state.owners[me].held
    mine = state.row.owner == me
    if mine and held == NOTHING and rules.reconciles:
        yield f"{NAMES[me]} reconciles, loads", begin(state, me, load(state, NOTHING), NO_TURN)
    if held != NOTHING and not rules.old_reads_ignored:
        yield f"{NAMES[me]} reconciles on an old read, forgets", begin(state, me, NOTHING, NO_TURN)
    if held != NOTHING and not mine:
        yield f"{NAMES[me]} reconciles, forgets", begin(state, me, NOTHING, NO_TURN)


def receive_result(state: State, me: int, rules: Rules) -> Iterator[Move]:
    """The result of any call made may come at any time, to whoever holds the execution."""
    held = state.owners[me].held
    if held.phase is not Phase.RUNNING:
        return
    for epoch in sorted({call.epoch for call in state.calls}):
        if epoch != held.started_epoch and rules.result_names_epoch:
            continue
        events = ((Event.NODE_COMPLETED, epoch), (Event.APPROVAL_REQUESTED, 0))
        turn = Turn(held.epoch, held.sequence, held.epoch, me, events, NO_CALLER)
        label = f"{NAMES[me]} receives the result of epoch {epoch}, will "
        yield label + "stay live", begin(state, me, held, turn)
        yield label + "passivate", begin(state, me, held, turn._replace(owner=NOBODY))


def receive_decision(state: State, me: int, caller: int, rules: Rules) -> Iterator[Move]:
    """A caller who saw the approval requested decides it; the signal, or a copy of it, arrives at `me`."""
    if phase_of(state.log) < Phase.WAITING:
        return
    label, held = f"{NAMES[me]} receives the decision of caller {caller}", state.owners[me].held
    if held.phase is Phase.WAITING:
        turn = Turn(held.epoch, held.sequence, held.epoch, NOBODY, decision(caller), caller)
        yield label, begin(state, me, held, turn)
    elif held != NOTHING:
        if passes_check(state, me, rules) or not rules.refusal_checked:
            yield f"{label}, refuses from memory", answer(state, caller, Answer.CONFLICT)
    elif phase_of(state.log) is Phase.DONE:
        if state.answers[caller] is Answer.NONE:
            yield f"{label}, answers from the log", answer_from_log(state, caller, rules)
    elif state.row.owner != me and may_take(state, me, rules):
        loaded = load(state, NOTHING)
        yield f"{label}, activates", begin(state, me, loaded, activation(loaded, me, caller, rules))


def passes_check(state: State, me: int, rules: Rules) -> bool:
    owner = state.owners[me]
    if owner.young or not rules.check_reads_fence:
        return True
    return state.row.owner == me and state.row.epoch == owner.held.epoch


def check(state: State, me: int, rules: Rules) -> Iterator[Move]:
    owner = state.owners[me]
    writes_late = not rules.start_before_call and owner.turn.events[-1:] == ((Event.NODE_STARTED, 0),)
    if writes_late and owner.check == NO_CHECK:
        begun = Check(owner.turn.epoch, blind=False)
        yield f"{NAMES[me]} does not wait for its commit", with_owner(state, me, owner._replace(check=begun))
    if not owner.held.to_call or owner.turn != NO_TURN:
        return
    if not passes_check(state, me, rules):
        yield f"{NAMES[me]} checks: not mine, forgets", begin(state, me, NOTHING, NO_TURN)
        return
    passed = Check(owner.held.epoch, blind=state.row.epoch != owner.held.epoch)
    held = owner.held._replace(to_call=False)
    yield f"{NAMES[me]} checks: may call", with_owner(state, me, owner._replace(held=held, check=passed))


def call(state: State, me: int) -> Iterator[Move]:
    epoch, blind = state.owners[me].check
    if not epoch:
        return
    late = state.row.epoch != epoch
    repeated = not late and phase_of(state.log) > Phase.RUNNING
    calls = tuple(sorted((*state.calls, Call(epoch, late, blind, repeated))))
    called = with_owner(state, me, state.owners[me]._replace(check=NO_CHECK))
    yield f"{NAMES[me]} calls the outside in epoch {epoch}", called._replace(calls=calls)


def heartbeat(state: State, me: int, rules: Rules) -> Iterator[Move]:
    name, owner = NAMES[me], state.owners[me]
    if owner.young:
        return
    if not owner.gone or not rules.gone_is_final:
        yield f"{name} heartbeats again", with_owner(state, me, owner._replace(young=True, gone=False))
    else:
        yield f"{name} is told it is gone, begins anew", new_incarnation(state, me, owner.check, rules)
    if not rules.age_from_send:
        yield f"{name} takes a late answer for a heartbeat", with_owner(state, me, owner._replace(young=True))


def lose_lease(state: State, me: int) -> Iterator[Move]:
    name, owner, faults = NAMES[me], state.owners[me], state.faults
    if owner.young and not owner.gone and faults.lost_heartbeats:
        fewer = faults._replace(lost_heartbeats=faults.lost_heartbeats - 1)
        yield (
            f"{name} loses heartbeats",
            with_owner(state._replace(faults=fewer), me, owner._replace(young=False)),
        )
    if not owner.young and not owner.gone:
        yield f"the lease of {name} runs out", with_owner(state, me, owner._replace(gone=True))


def crash(state: State, me: int, rules: Rules) -> Iterator[Move]:
    if state.faults.crashes:
        faults = state.faults._replace(crashes=state.faults.crashes - 1)
        yield f"{NAMES[me]} crashes", new_incarnation(state._replace(faults=faults), me, NO_CHECK, rules)


def work(state: State, me: int, rules: Rules) -> Iterator[Move]:
    """What an owner does by itself or is asked to do, decisions aside; none of it is a fault."""
    turn = state.owners[me].turn
    yield from heartbeat(state, me, rules)
    yield from call(state, me)
    yield from check(state, me, rules)
    if turn == NO_TURN:
        yield from reconcile(state, me, rules)
        yield from receive_result(state, me, rules)
        yield from sweep(state, me, rules)
    elif turn.unknown:
        yield resolve(state, me, rules)
    else:
        yield from commit(state, me, rules)


def moves(state: State, rules: Rules) -> Iterator[Move]:
    """Everything that can happen next."""
    yield from start_fallback(state)
    yield from land(state, rules)
    for me in OWNERS:
        yield from work(state, me, rules)
        if state.owners[me].turn == NO_TURN:
            yield from receive_start(state, me, rules)
            for caller in CALLERS:
                yield from receive_decision(state, me, caller, rules)
        yield from lose_lease(state, me)
        yield from crash(state, me, rules)


# Invariants


def no_fork(before: State, after: State) -> bool:
    """Sequences are 1, 2, 3 without gap or double, epochs never fall, a writer holds the row's epoch."""
    log, row = after.log, after.row
    in_order = all(entry.sequence == i for i, entry in enumerate(log, 1)) and row.sequence == len(log)
    rising = all(earlier.epoch <= later.epoch for earlier, later in pairwise(log))
    written = log[len(before.log) :]
    return (
        in_order and rising and row.epoch >= before.row.epoch and all(e.epoch == row.epoch for e in written)
    )


def started_once(_: State, after: State) -> bool:
    """The execution starts once, and its node at most once in an epoch."""
    epochs = [entry.epoch for entry in after.log if entry.event is Event.NODE_STARTED]
    starts = [entry.sequence for entry in after.log if entry.event is Event.STARTED]
    return starts in ([], [1]) and len(epochs) == len(set(epochs))


def acknowledged_start_exists(_: State, after: State) -> bool:
    """A start that was acknowledged is stored."""
    return after.row != NO_ROW or not after.start_acknowledged


def completed_once(_: State, after: State) -> bool:
    """A visit completes once, with the result of the start it had, and is not started or called again."""
    log = after.log
    at = [i for i, entry in enumerate(log) if entry.event is Event.NODE_COMPLETED]
    if not at:
        return True
    own_result = log[at[0]].about == started_epoch_of(log[: at[0]])
    started_again = any(entry.event is Event.NODE_STARTED for entry in log[at[0] :])
    return (
        len(at) == 1 and own_result and not started_again and not any(made.repeated for made in after.calls)
    )


def calls_are_committed(_: State, after: State) -> bool:
    """A call is made only after its start is committed, and once for each start."""
    started = {entry.epoch for entry in after.log if entry.event is Event.NODE_STARTED}
    epochs = [made.epoch for made in after.calls]
    return started.issuperset(epochs) and len(epochs) == len(set(epochs))


def one_late_call(_: State, after: State) -> bool:
    """A lost lease costs at most one late call, and only by a process stopped between check and call."""
    late = [made.epoch for made in after.calls if made.late]
    return len(late) == len(set(late)) and not any(made.blind for made in after.calls)


def one_decision(_: State, after: State) -> bool:
    """One decision is recorded; its caller alone is told so, and none is refused before there is one."""
    decisions = [entry.about for entry in after.log if entry.event is Event.APPROVAL_DECIDED]
    for caller, given in enumerate(after.answers):
        if given is Answer.ACCEPTED and caller not in decisions:
            return False
        if given is Answer.CONFLICT and (caller in decisions or not decisions):
            return False
    return len(decisions) <= 1


def terminal_is_terminal(_: State, after: State) -> bool:
    """Nothing follows the end."""
    return all(entry.event is not Event.COMPLETED for entry in after.log[:-1])


Invariant = Callable[[State, State], bool]
INVARIANTS: tuple[Invariant, ...] = (
    no_fork,
    started_once,
    acknowledged_start_exists,
    completed_once,
    calls_are_committed,
    one_late_call,
    one_decision,
    terminal_is_terminal,
)


def broken(before: State, after: State, invariants: tuple[Invariant, ...]) -> str | None:
    """The name of an invariant that this step breaks."""
    return next((invariant.__name__ for invariant in invariants if not invariant(before, after)), None)


# No strand


def ended(state: State) -> bool:
    told = {Answer.ACCEPTED, Answer.CONFLICT}
    return phase_of(state.log) is Phase.DONE and set(state.answers) == told and state.start_acknowledged


def at_rest(state: State) -> bool:
    return phase_of(state.log) in (Phase.WAITING, Phase.DONE)


def silence(state: State, me: int) -> State:
    """`me` stops for good, and its lease runs out."""
    return with_owner(state, me, state.owners[me]._replace(young=False, gone=True))


def next_fair(state: State, running: tuple[int, ...], rules: Rules) -> State | None:
    """One step of the schedule without faults: owners work, then the replica falls back; callers repeat last.

    The start's message and what is in flight count as lost. Callers come only to an execution at rest: sweeps
    and time must bring it there by themselves.
    """
    faultless = state._replace(faults=Faults(0, 0, 0))
    for me in running:
        for _, after in work(faultless, me, rules):
            return after
    for _, after in start_fallback(faultless):
        return after
    if not at_rest(state):
        return None
    for me in running:
        for caller in CALLERS:
            if state.answers[caller] is Answer.NONE:
                for _, after in receive_decision(faultless, me, caller, rules):
                    return after
    return None


class Strands:
    """Looks for states from which, without any further fault, the execution does not end."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._ends: dict[tuple[int, ...], set[State]] = {(0, 1): set(), (0,): set(), (1,): set()}

    def at(self, state: State) -> bool:
        """Whether `state` is stranded, with both owners running or with either one stopped for good."""
        return any(self._stranded(state, running) for running in self._ends)

    def _stranded(self, state: State, running: tuple[int, ...]) -> bool:
        current: State | None = state._replace(faults=Faults(0, 0, 0), in_flight=(), start_for=NOBODY)
        for me in OWNERS:
            if me not in running and current is not None:
                current = silence(current, me)
        known, path = self._ends[running], set[State]()
        while current is not None and current not in known and not ended(current):
            if current in path or len(path) > FAIR_STEPS_MAX:
                return True
            path.add(current)
            current = next_fair(current, running, self._rules)
        if current is None:
            return True
        known |= path
        return False


# The search


def swap_owners(state: State) -> State:
    def other(owner: int) -> int:
        return 1 - owner if owner in OWNERS else owner

    first, second = (
        owner._replace(turn=owner.turn._replace(owner=other(owner.turn.owner))) for owner in state.owners
    )
    return state._replace(
        row=state.row._replace(owner=other(state.row.owner)),
        owners=(second, first),
        in_flight=tuple(sorted(turn._replace(owner=other(turn.owner)) for turn in state.in_flight)),
        start_for=other(state.start_for),
    )


def swap_callers(state: State) -> State:
    def event(happening: Happening) -> Happening:
        return (happening[0], 1 - happening[1]) if happening[0] is Event.APPROVAL_DECIDED else happening

    def turn(old: Turn) -> Turn:
        caller = old.caller if old.caller == NO_CALLER else 1 - old.caller
        return old._replace(events=tuple(map(event, old.events)), caller=caller)

    def entry(old: Entry) -> Entry:
        return old._replace(about=1 - old.about) if old.event is Event.APPROVAL_DECIDED else old

    first, second = (owner._replace(turn=turn(owner.turn)) for owner in state.owners)
    return state._replace(
        log=tuple(map(entry, state.log)),
        owners=(first, second),
        in_flight=tuple(sorted(map(turn, state.in_flight))),
        answers=(state.answers[1], state.answers[0]),
    )


def canonical(state: State) -> State:
    """One state for all that differ only in who is called A or B, and which caller is 0 or 1."""
    if phase_of(state.log) >= Phase.WAITING and marks(state, 1) > marks(state, 0):
        state = swap_callers(state)
    first, second = state.owners
    if first > second or (first == second and 1 in (state.row.owner, state.start_for)):
        return swap_owners(state)
    return state


def marks(state: State, caller: int) -> tuple[Answer, bool, bool, bool]:
    """What tells this caller from the other."""
    first, second = state.owners
    decided = decided_by(state.log) == caller
    return state.answers[caller], decided, first.turn.caller == caller, second.turn.caller == caller


class Verdict(NamedTuple):
    """What a search found: `broken` names the invariant, or "no_strand"; `trace` is a shortest way there."""

    states: int
    depth: int
    complete: bool
    broken: str | None
    trace: tuple[str, ...]

    def story(self) -> str:
        head = f"{self.broken or 'nothing'} broken, {self.states} states, depth {self.depth}"
        return "\n".join([head, *(f"{i:3} {step}" for i, step in enumerate(self.trace, 1))])


def explore(
    rules: Rules = PROTOCOL,
    *,
    faults: Faults,
    depth_max: int = 99,
    invariants: tuple[Invariant, ...] = INVARIANTS,
    symmetric: bool = True,
    strands: bool = True,
) -> Verdict:
    """Search breadth first and stop at the first state that breaks an invariant.

    Args:
        depth_max: moves from the beginning.
        symmetric: merge states that differ in names only. Traces then change names on the way.
        strands: look for strands too.

    Returns:
        The verdict; `complete` says that no reachable state was left out.
    """
    start = initial(faults)
    came_from: dict[State, tuple[State, str] | None] = {start: None}
    stranded = Strands(rules)
    frontier, depth = [start], 0

    def verdict(found: str | None, last: tuple[State, str] | None, complete: bool) -> Verdict:
        trace: list[str] = []
        while last is not None:
            state, label = last
            trace.append(label)
            last = came_from[state]
        return Verdict(len(came_from), depth, complete, found, tuple(reversed(trace)))

    while frontier and depth < depth_max:
        depth += 1
        reached: list[State] = []
        for state in frontier:
            for label, moved in moves(state, rules):
                after = canonical(moved) if symmetric else moved
                known = after in came_from
                if known and moved.row == state.row:
                    continue
                if (found := broken(state, moved, invariants)) is not None:
                    return verdict(found, (state, label), complete=False)
                if known:
                    continue
                came_from[after] = (state, label)
                reached.append(after)
                if strands and stranded.at(after):
                    return verdict("no_strand", (state, label), complete=False)
        frontier = reached
    return verdict(None, None, complete=not frontier)
