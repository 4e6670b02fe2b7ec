"""What crosses between a client and an ExecutionActor: batches, as MessagePack bytes.

Bytes rather than pickled objects: they are smaller, faster, and nothing in them can
run. Errors travel as their code and come back as the same class.
"""

from typing import Any

import msgspec

from actors.host import Redirect
from actors.listener import Token
from actors.port import KeyTaken, SignalRequest, StartRequest
from runtime import errors
from runtime.errors import JamjetError

PENDING = "pending"
"""The code of an answer that is not there yet: ask for it by its number."""


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """Requests with the numbers under which their sender knows them."""

    sender: str
    starts: list[tuple[int, StartRequest]] = []
    signals: list[tuple[int, SignalRequest]] = []


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """``code`` is None for success."""

    number: int
    fields: dict[str, Any] = {}
    code: str | None = None
    detail: str = ""


class Moves(msgspec.Struct, frozen=True, kw_only=True):
    """Executions that moved since a cursor: (id, sequence, settled). ``reset``: some were forgotten."""

    cursor: int
    moves: list[tuple[str, int, bool]] = []
    reset: bool = False
    live: int = 0
    tokens: list[Token] = []


_encoder = msgspec.msgpack.Encoder()
_deliveries = msgspec.msgpack.Decoder(Delivery)
_answers = msgspec.msgpack.Decoder(list[Answer])
_moves = msgspec.msgpack.Decoder(Moves)

encode = _encoder.encode
decode_delivery = _deliveries.decode
decode_answers = _answers.decode
decode_moves = _moves.decode


def success(number: int, fields: dict[str, Any]) -> Answer:
    return Answer(number=number, fields=fields)


def failure(number: int, error: BaseException) -> Answer:
    """An answer that is an error. What is no ``JamjetError`` is an outcome that nobody knows."""
    if isinstance(error, JamjetError):
        return Answer(number=number, fields=error.fields, code=error.code, detail=error.detail)
    unknown = errors.OutcomeUnknown(f"internal error: {type(error).__name__}")
    return Answer(number=number, code=unknown.code, detail=unknown.detail)


def raised(answer: Answer) -> JamjetError:
    """The error that an answer carries."""
    return error_of(answer.code or "", answer.detail, answer.fields)


def error_of(code: str, detail: str, fields: dict[str, Any]) -> JamjetError:
    """The error that a code stands for; an unknown one is an outcome that nobody knows."""
    return _CLASSES.get(code, errors.OutcomeUnknown)(detail, **fields)


def _subclasses(kind: type[JamjetError]) -> list[type[JamjetError]]:
    return [kind, *(found for sub in kind.__subclasses__() for found in _subclasses(sub))]


_CLASSES = {kind.code: kind for kind in _subclasses(JamjetError) if "code" in vars(kind)}
"""A class without a code of its own travels as the one that it inherits from."""
assert {Redirect.code, KeyTaken.code} <= _CLASSES.keys()
