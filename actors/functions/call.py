"""A call of a Python function, and what came of it."""

from typing import Any, Literal

import msgspec


class FunctionCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call. The function gets ``args`` and ``kwargs`` where given, else the state alone.

    ``merge`` calls (nodes without ``output_key``) must return a dict or None; their result is the
    difference from ``state``. ``set`` calls may return anything that JSON can hold.
    """

    module: str
    function: str
    key: str
    """The idempotency key, passed to a function that has a parameter ``idempotency_key``."""
    tenant_id: str = "default"
    mode: Literal["merge", "set"] = "merge"
    state: dict[str, Any] | msgspec.Raw | None = None
    """The state, decoded or as JSON bytes. With ``kwargs`` or ``args`` it is only what is compared with."""
    args: list[Any] | None = None
    kwargs: dict[str, Any] | None = None


class FunctionResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a call came to.

    ``error_class`` is the exception's own ``error_class`` or its class name, or one of: ``timeout``,
    ``cancelled``, ``connection_reset``, ``io_error``, ``import_error``, ``not_allowed``,
    ``value_rejected``, ``worker_crashed``.
    """

    ok: bool
    result: Any = None
    """What a ``set`` call returned."""
    patch: dict[str, Any] | None = None
    """RFC 7396 merge patch of a ``merge`` call: what it changed, and nothing else."""
    duration_ms: int = 0
    error_class: str | None = None
    error: str | None = None
    traceback: str | None = None
    """The end of the traceback, at most 4 KiB, without frames of the worker itself."""


def failure(error_class: str, error: str) -> FunctionResult:
    """A call that failed outside its function."""
    return FunctionResult(ok=False, error_class=error_class, error=error)
