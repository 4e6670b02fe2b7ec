"""A seat: one execution in the memory of its owner, and its mailbox."""

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from runtime import signals as sg
from runtime.audit.entries import Origin
from runtime.machine import Decision
from runtime.plan import Plan
from runtime.state import ExecutionState
from runtime.store.port import IdempotencyRecord, NewExecution

if TYPE_CHECKING:
    from actors.tracing import TurnTrace

Reply = asyncio.Future[dict[str, Any]]


class Mail(msgspec.Struct, eq=False):
    """A signal in a mailbox. ``reply`` is None for an owner's own signals."""

    signal: sg.Signal
    reply: Reply | None = None
    idempotency: IdempotencyRecord | None = None
    deadline: int = 0
    """After this (ms, database's clock) it must not be taken any more; 0: whenever."""
    origin: Origin | None = None
    """Who sent it, for the audit log; None: the runtime itself."""
    alone: bool = False
    """It must have a turn of its own: others are not to fall with it, or a turn with others was refused."""
    traceparent: str | None = None
    """The trace of the request that brought it."""

    def answer(self, fields: dict[str, Any]) -> None:
        if self.reply is not None and not self.reply.done():
            self.reply.set_result(fields)

    def refuse(self, error: Exception) -> None:
        if self.reply is not None and not self.reply.done():
            self.reply.set_exception(error)
            # The sender may be gone: an unread refusal is no one's bug.
            self.reply.exception()


Decided = list[tuple[Mail, Decision]]
Refused = list[tuple[Mail, Exception]]


class Seat:
    """One owned execution: its folded state, its mailbox, and the tasks of its running nodes."""

    def __init__(self, tenant_id: str, plan: Plan, state: ExecutionState, epoch: int) -> None:
        self.tenant_id = tenant_id
        self.plan = plan
        self.state = state
        self.epoch = epoch
        """The epoch at which the row stands."""
        self.elsewhere = False
        """It runs in an actor of its own: here signals to it are only decided, while nobody has it."""
        self.taken = False
        """Whether the row has our name on it, under ``epoch``."""
        self.new: NewExecution | None = None
        """Given until the first turn is committed."""
        self.started: Reply | None = None
        """The reply to the start, while it is not yet durable."""
        self.mailbox: deque[Mail] = deque()
        self.pumping = False
        self.dropped = False
        self.tasks: dict[tuple[str, int], asyncio.Task[None]] = {}
        """By (node, visit)."""
        self.timer: asyncio.TimerHandle | None = None
        self.tail_bytes = 0
        self.snapshot_bytes = 0
        self.unmeasured_bytes = 0
        """Bytes that events added since the state was last measured."""
        self.committed_at = 0.0
        """When its last turn was committed, by the event loop's clock."""
        self.trace: TurnTrace | None = None
        """Made where turns are traced."""

    @property
    def execution_id(self) -> str:
        return self.state.execution_id


def next_batch(mailbox: deque[Mail]) -> list[Mail]:
    """Take what may share a turn: all that waits, but only one Idempotency-Key a turn."""
    batch = [mailbox.popleft()]
    keyed = batch[0].idempotency is not None
    while mailbox and not batch[0].alone and not mailbox[0].alone:
        if keyed and mailbox[0].idempotency is not None:
            break
        keyed = keyed or mailbox[0].idempotency is not None
        batch.append(mailbox.popleft())
    return batch


def refuse_all(mails: Iterable[Mail], error: Exception) -> None:
    for mail in mails:
        mail.refuse(error)


def answer_all(decided: Decided, refused: Refused) -> None:
    """Tell every sender of a batch, now that what was decided is durable."""
    for mail, decision in decided:
        mail.answer(decision.answer)
    for mail, error in refused:
        mail.refuse(error)
