"""The errors that cross module borders, each with a stable code.

``code`` is what clients may branch on; the message is for people: lower case,
naming the value and the place. Nothing here knows HTTP: ``api.errors`` maps
each class to a status. All of them survive pickling, because they travel
between Ray actors.
"""

from typing import Any, ClassVar


class JamjetError(Exception):
    """Base of every expected failure.

    Args:
        detail: the sentence for people, without the class prefix.
        fields: typed extras that an answer may show (``node_id``, ``retry_after_s`` ...).
    """

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str, **fields: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fields = fields

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.detail, self.fields))


def _rebuild(kind: type[JamjetError], detail: str, fields: dict[str, Any]) -> JamjetError:
    return kind(detail, **fields)


class BadRequest(JamjetError):
    """The caller sent something that can never be right."""

    code = "bad_request"


class InvalidWorkflow(BadRequest):
    """A workflow definition was refused; ``fields['problems']`` lists every reason."""

    code = "invalid_workflow"


class ValueRejected(BadRequest):
    """A value that JSON or the store cannot hold (NaN, U+0000, over 64 bits, too large)."""

    code = "value_rejected"


class Unauthorized(JamjetError):
    """No token, or one that is malformed, unknown, revoked or expired."""

    code = "unauthorized"


class Forbidden(JamjetError):
    """A good token whose role or tenant does not reach this far."""

    code = "forbidden"


class TooManyAttempts(JamjetError):
    """Too many failed attempts to authenticate; ``fields['retry_after_s']`` says when to come again."""

    code = "too_many_attempts"
    retryable = True


class NotFound(JamjetError):
    """No such thing in the caller's tenant."""

    code = "not_found"


class Conflict(JamjetError):
    """The request is well formed, but not in the present state of its target."""

    code = "conflict"


class IdempotencyMismatch(JamjetError):
    """An Idempotency-Key came again with another request."""

    code = "idempotency_mismatch"


class PayloadTooLarge(JamjetError):
    """The body or a value is over its limit."""

    code = "payload_too_large"


class UnsupportedMediaType(JamjetError):
    """The body has a media type that the route does not read."""

    code = "unsupported_media_type"


class Overloaded(JamjetError):
    """A bound is reached; ``fields['retry_after_s']`` says when to come again."""

    code = "overloaded"
    retryable = True


class LimitReached(JamjetError):
    """A limit of the tenant is reached; ``fields['limit']`` is its name.

    ``fields['retry_after_s']`` says when to come again.
    """

    code = "limit_reached"


class Unavailable(JamjetError):
    """The store or an owner cannot be reached. Nothing was written."""

    code = "unavailable"
    retryable = True


class Unreachable(JamjetError):
    """Another server that was to be asked does not answer, or not as it should."""

    code = "unreachable"


class OutcomeUnknown(Unavailable):
    """The write may or may not have happened: repeat it with the same Idempotency-Key."""

    code = "outcome_unknown"
