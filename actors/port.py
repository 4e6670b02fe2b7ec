"""What executions are to the API: started, signalled, and watched, wherever they live.

``actors.client`` serves it over Ray, ``actors.local`` within one process.
"""

from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

import msgspec

from actors.listener import Listener
from actors.metrics import Process
from actors.nodes import ClusterNode
from runtime.audit.entries import Origin
from runtime.errors import Conflict
from runtime.jsonvalue import JsonValue
from runtime.signals import Approve, Cancel, SendEvent
from runtime.store.port import IdempotencyRecord


class KeyTaken(Conflict):
    """The request's Idempotency-Key is recorded already: answer from the record."""

    code = "idempotency_key_taken"


class StartRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Start ``execution_id``, which the caller minted, so that a repeat is the same start.

    An owner makes it durable before ``deadline`` or not at all.
    """

    tenant_id: str
    execution_id: str
    workflow_id: str
    workflow_version: str
    input: dict[str, JsonValue]
    isolation: Literal["shared", "dedicated"] = "shared"
    resources: dict[str, Any] | None = None
    queue: bool = False
    """Where the tenant runs as many executions as it may: wait for a slot rather than be refused."""
    deadline: int = 0
    """In ms since the epoch by the database's clock; 0: none."""
    idempotency: IdempotencyRecord | None = None
    origin: Origin | None = None
    """Who asks, for the audit log; None: the runtime itself."""
    traceparent: str | None = None
    """Of the request's span, where it is traced."""


class SignalRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Tell one execution something. It must take effect before ``deadline`` or not at all.

    ``idempotency.body`` is left empty: whoever commits the effect fills in the answer.
    """

    tenant_id: str
    execution_id: str
    signal: Approve | SendEvent | Cancel
    deadline: int = 0
    """In ms since the epoch by the database's clock; 0: none."""
    idempotency: IdempotencyRecord | None = None
    origin: Origin | None = None
    """Who asks, for the audit log; None: the runtime itself."""
    traceparent: str | None = None
    """Of the request's span, where it is traced."""


class Installation(msgspec.Struct, frozen=True, kw_only=True):
    """What stands below the executions."""

    nodes: tuple[ClusterNode, ...] = ()
    supervisor: dict[str, Any] | None = None
    """``{"pid", "node", "idle_ms", ...}``; None: it does not answer."""
    ray: str | None = None
    """Ray's release."""


class Executions(Protocol):
    """The executions of an installation."""

    async def start(self, request: StartRequest) -> None:
        """Returns when the start is durable.

        Raises:
            KeyTaken, Overloaded, Unavailable, OutcomeUnknown
            LimitReached: the tenant has reached a limit of its own.
            Forbidden: it is suspended.
        """

    async def signal(self, request: SignalRequest) -> dict[str, Any]:
        """Returns the answer, ``{"execution_id", "accepted": true, ...}``, once the effect is durable.

        Raises:
            NotFound, Conflict, BadRequest, KeyTaken, Unavailable, OutcomeUnknown
        """

    async def changed(
        self, execution_id: str, *, after: int, timeout_s: float, settled: bool = False
    ) -> None:
        """Returns when the execution may have moved past sequence ``after``, or after ``timeout_s``.

        With ``settled`` only an end or a pause counts as a move. It may return early
        without a change: read the store again.
        """

    @property
    def draining(self) -> bool:
        """Whether requests are to be answered without any waiting: this process is about to end."""

    def drain(self) -> None:
        """Let nobody wait or listen from now on, so that their requests end before this process does."""

    def listening(self, execution_id: str) -> AbstractContextManager[Listener]:
        """Follow an execution live: each move of it, and what models say in it, wakes the listener.

        A move may be missed when actors come and go, so look at the store every few seconds too.
        """

    async def unmet(self, asked: dict[str, Any], *, in_use: bool = True) -> str | None:
        """Why no machine can take what a demand asks for now; None: one can. See ``runtime.demand.unmet``.

        Raises:
            Unavailable: nobody knows what there is.
        """

    async def installation(self) -> Installation:
        """What Ray says of it; what nobody knows just now is left out."""

    async def figures(self) -> list[Process]:
        """What the processes that run executions have counted; one that does not answer is left out."""

    async def close(self) -> None: ...
