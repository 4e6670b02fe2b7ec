"""What a store can hold, checked before a turn joins a group.

SQLite would keep a U+0000 and PostgreSQL would not; neither keeps a lone
surrogate or an integer over 64 bits. All stores refuse the same values, so a
workflow does not change its meaning with the database.
"""

from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import astuple

from runtime.errors import ValueRejected
from runtime.jsonvalue import INTEGER_MAX
from runtime.store.port import Turn


def check_turn(turn: Turn) -> int:
    """Check every value of a turn; returns its size in characters.

    Raises:
        ValueRejected: naming the value and the execution.
    """
    where = turn.execution_id
    size = 0
    for event in turn.events:
        check_text(event.data, "event data", where)
        check_text(event.type, "event type", where)
        if event.node_id is not None:
            check_text(event.node_id, "node id", where)
        size += len(event.data)
    if turn.snapshot is not None:
        check_text(turn.snapshot, "snapshot", where)
        size += len(turn.snapshot)
    if turn.error is not None:
        check_text(turn.error, "error", where)
    if turn.wake_at is not None:
        check_integer(turn.wake_at, "wake_at", where)
    check_texts(_identifiers(turn), "identifier", where)
    if turn.idempotency is not None:
        record = turn.idempotency
        check_texts((record.key, record.route, record.fingerprint, record.body), "idempotency", where)
        check_integer(record.expires_at, "expires_at", where)
    for message in turn.inbox_sent:
        check_texts((message.execution_id, message.message_id, message.body), "inbox message", where)
        size += len(message.body)
    check_texts(turn.inbox_consumed, "inbox message id", where)
    for entry in turn.audit:
        check_texts((entry.actor_id, entry.request_id, entry.http_path, entry.details), "audit entry", where)
    return size


def check_text(text: str, what: str, where: str) -> None:
    """Refuse U+0000 and lone surrogates."""
    if "\x00" in text:
        raise ValueRejected(f"{what} of {where!r} contains the character U+0000")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueRejected(f"{what} of {where!r} contains a lone surrogate: {error.reason}") from error


def check_texts(texts: Iterable[str | None], what: str, where: str) -> None:
    for text in texts:
        if text is not None:
            check_text(text, what, where)


def check_integer(value: int, what: str, where: str) -> None:
    """Refuse what does not fit 64 bits with a sign."""
    if not -INTEGER_MAX <= value <= INTEGER_MAX:
        raise ValueRejected(f"{what} of {where!r} is {value}, over 64 bits")


def _identifiers(turn: Turn) -> tuple[str | None, ...]:
    new = turn.new
    if new is None:
        return (turn.execution_id, turn.tenant_id, turn.owner)
    return (
        turn.execution_id, turn.tenant_id, turn.owner, new.workflow_id, new.workflow_version, new.resources
    )  # fmt: skip


def check_row(row: Struct, where: str) -> None:
    """Check every value of a flat row."""
    for name, value in zip(row.__struct_fields__, astuple(row), strict=True):
        if isinstance(value, str):
            check_text(value, name, where)
        elif isinstance(value, int):
            check_integer(value, name, where)
