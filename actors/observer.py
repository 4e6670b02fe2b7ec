"""What a host's turns and attempts leave behind: figures, and spans where they are traced."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from actors import logs, tracing
from actors.metrics import Metrics
from actors.seat import Mail, Seat
from runtime.effects import RunNode
from runtime.signals import NodeErrored, NodeSucceeded
from runtime.store.port import TERMINAL_STATUSES, Turn


class HostObserver:
    """Watches one host. It only looks: nothing here may fail or wait."""

    def __init__(self, metrics: Metrics | None = None) -> None:
        self.metrics = metrics or Metrics()

    def turn(self, seat: Seat, batch: Sequence[Mail]) -> AbstractContextManager[Any]:
        """Around one turn; lines that are logged within are about its execution."""
        if not tracing.is_on():
            return tracing.OFF
        if seat.trace is None:
            seat.trace = tracing.TurnTrace()
        attributes = {
            "jamjet.tenant.id": seat.tenant_id,
            "jamjet.execution.id": seat.execution_id,
            "jamjet.workflow.id": seat.plan.graph.workflow_id,
            "jamjet.workflow.version": seat.plan.graph.version,
            "jamjet.turn.signals": [type(mail.signal).__name__ for mail in batch],
        }
        headers = [mail.traceparent for mail in batch if mail.traceparent is not None]
        return seat.trace.span(f"turn {seat.plan.graph.workflow_id}", headers, attributes)

    def committed(self, seat: Seat, turn: Turn, began: float) -> None:
        """A turn is durable, and is the seat's state; ``began``: when it was, by the loop's clock."""
        metrics = self.metrics
        metrics.turns.add("committed")
        metrics.turn_seconds.observe(asyncio.get_running_loop().time() - began)
        if turn.new is not None:
            metrics.executions_started.add(turn.new.isolation)
        if turn.completed_at is not None and turn.events and turn.status in TERMINAL_STATUSES:
            metrics.executions_ended.add(turn.status)
            lasted_ms = turn.completed_at - (seat.state.started_at or turn.completed_at)
            metrics.execution_seconds.observe(max(0, lasted_ms) / 1_000, turn.status)
        if tracing.is_on():
            tracing.turn_committed(turn)

    def not_committed(self, outcome: str) -> None:
        """A turn came to nothing: it was fenced, its key was taken, or the store refused it."""
        self.metrics.turns.add(outcome)

    def ticked(self, late_ms: int) -> None:
        """A timer took effect so late."""
        self.metrics.timer_lag_seconds.observe(late_ms / 1_000)

    def attempt(self, seat: Seat, effect: RunNode) -> "Attempt":
        """Around one attempt of a node; lines that are logged within are about that node."""
        logs.about(execution_id=seat.state.execution_id, tenant_id=seat.tenant_id, node_id=effect.node.id)
        return Attempt(self.metrics, effect)


class Attempt:
    """One attempt, as a context. Unless ``ended`` is called it counts as cancelled."""

    __slots__ = ("_began", "_effect", "_metrics", "_outcome", "_span", "_tracing")

    def __init__(self, metrics: Metrics, effect: RunNode) -> None:
        self._metrics = metrics
        self._effect = effect
        self._outcome = "cancelled"
        self._tracing: AbstractContextManager[Any] = tracing.OFF
        self._span: Any = None

    def __enter__(self) -> "Attempt":
        # Not the loop's clock: an attempt that is abandoned ends without a loop.
        self._began = time.monotonic()
        if tracing.is_on():
            self._tracing = tracing.attempt_span(self._effect, logs.subject())
            self._span = self._tracing.__enter__()
        return self

    def ended(self, result: NodeSucceeded | NodeErrored) -> None:
        """The attempt came to this."""
        self._outcome = "errored" if isinstance(result, NodeErrored) else "succeeded"
        if isinstance(result, NodeSucceeded) and result.gen_ai_system is not None:
            self._count_model(result)
        if self._span is not None:
            tracing.attempt_ended(self._span, result)

    def __exit__(self, *error: Any) -> None:
        kind = tracing.kind_of(self._effect)
        lasted = time.monotonic() - self._began
        self._metrics.node_attempts.add(kind, self._outcome)
        self._metrics.node_attempt_seconds.observe(lasted, kind)
        self._tracing.__exit__(*error)

    def _count_model(self, result: NodeSucceeded) -> None:
        system, model = result.gen_ai_system or "", result.gen_ai_model or ""
        if result.input_tokens:
            self._metrics.model_tokens.add(system, model, "input", by=result.input_tokens)
        if result.output_tokens:
            self._metrics.model_tokens.add(system, model, "output", by=result.output_tokens)
        if result.cost_usd:
            self._metrics.model_cost_usd.add(system, model, by=result.cost_usd)
