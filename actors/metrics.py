"""What a process counts: named figures with few labels, never one of an execution or a tenant.

Recording is a dict's update, some tenths of a microsecond, so that it may be done in every turn.
What was recorded leaves as a snapshot: to ``GET /metrics`` of any replica, and to Ray's agents
(``actors.ray_metrics``). Seconds are seconds, sizes are counts. A series that would be one too
many is counted under ``other`` in each of its labels.
"""

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, Literal, NamedTuple

import msgspec

from runtime.store.port import ExecutorRow, Load

SERIES_MAX = 300
"""Of one metric. Models are named by workflows, so their number is the users' to choose."""
OTHER = "other"

FAST_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SLOW_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

Labels = tuple[str, ...]


class Figure(msgspec.Struct, frozen=True, array_like=True):
    """One series as it stands. ``counts`` is a histogram's: for each bound, and for what is over them all."""

    name: str
    labels: Labels
    value: float
    """Of a histogram: the sum of all that was observed."""
    counts: tuple[int, ...] = ()


Snapshot = list[Figure]

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Snapshot).decode


class Metric(ABC):
    """A name, what it means, and the names of its labels. One thread at a time may record in it."""

    kind: ClassVar[Literal["counter", "gauge", "histogram"]]

    def __init__(self, name: str, help: str, labels: Labels = ()) -> None:
        self.name = name
        self.help = help
        self.labels = labels

    @property
    def exposed(self) -> tuple[str, ...]:
        """The names of its samples in Prometheus's text format."""
        return (self.name,)

    @abstractmethod
    def figures(self) -> Iterator[Figure]:
        """Every series as it stands."""

    def _admitted(self, labels: Labels, present: int) -> Labels:
        if len(labels) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, not {labels}")
        return labels if present < SERIES_MAX else (OTHER,) * len(labels)


class Counter(Metric):
    """Only grows."""

    kind = "counter"

    def __init__(self, name: str, help: str, labels: Labels = ()) -> None:
        super().__init__(name, help, labels)
        self._values: dict[Labels, float] = {}

    @property
    def exposed(self) -> tuple[str, ...]:
        return (f"{self.name}_total",)

    def add(self, *labels: str, by: float = 1) -> None:
        values = self._values
        if labels not in values:
            labels = self._admitted(labels, len(values))
        values[labels] = values.get(labels, 0) + by

    def figures(self) -> Iterator[Figure]:
        for labels, value in list(self._values.items()):
            yield Figure(self.name, labels, value)


class Gauge(Metric):
    """Stands where it was last set."""

    kind = "gauge"

    def __init__(self, name: str, help: str, labels: Labels = ()) -> None:
        super().__init__(name, help, labels)
        self._values: dict[Labels, float] = {}

    def set(self, value: float, *labels: str) -> None:
        if labels not in self._values:
            labels = self._admitted(labels, len(self._values))
        self._values[labels] = value

    def clear(self) -> None:
        """Forget every series: what is not set again is gone."""
        self._values = {}

    def figures(self) -> Iterator[Figure]:
        for labels, value in list(self._values.items()):
            yield Figure(self.name, labels, value)


def le(bound: float | None) -> str:
    """A bucket's bound as Prometheus writes it; None is above every bound."""
    return "+Inf" if bound is None else repr(float(bound))


class _Distribution:
    __slots__ = ("counts", "sum")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.sum = 0.0


class Histogram(Metric):
    """How often values fell under each of some bounds."""

    kind = "histogram"

    def __init__(self, name: str, help: str, labels: Labels = (), *, bounds: Sequence[float]) -> None:
        super().__init__(name, help, labels)
        self.bounds = tuple(bounds)
        self._series: dict[Labels, _Distribution] = {}

    @property
    def exposed(self) -> tuple[str, ...]:
        return (f"{self.name}_bucket", f"{self.name}_sum", f"{self.name}_count")

    def observe(self, value: float, *labels: str) -> None:
        series = self._series.get(labels)
        if series is None:
            labels = self._admitted(labels, len(self._series))
            series = self._series.setdefault(labels, _Distribution(len(self.bounds) + 1))
        series.counts[bisect_left(self.bounds, value)] += 1
        series.sum += value

    def figures(self) -> Iterator[Figure]:
        for labels, series in list(self._series.items()):
            yield Figure(self.name, labels, series.sum, tuple(series.counts))


class Metrics:
    """All metrics of an installation. A process records in those that are its business."""

    def __init__(self) -> None:
        self.executions_started = Counter(
            "jamjet_executions_started", "Executions whose start was made durable.", ("isolation",)
        )
        self.executions_ended = Counter("jamjet_executions_ended", "Executions that ended.", ("status",))
        self.execution_seconds = Histogram(
            "jamjet_execution_seconds", "From an execution's start to its end.", ("status",), bounds=SLOW_S
        )
        self.turns = Counter(
            "jamjet_turns",
            "Turns: committed, refused, rejected, or an outcome of the store such as fenced or no_slot.",
            ("outcome",),
        )
        self.turn_seconds = Histogram(
            "jamjet_turn_seconds", "From taking signals to their turn's being durable.", bounds=FAST_S
        )
        self.commit_group_size = Histogram(
            "jamjet_commit_group_size", "Turns that shared one transaction.", bounds=SIZES
        )
        self.commit_seconds = Histogram("jamjet_commit_seconds", "One such transaction.", bounds=FAST_S)
        self.seats = Gauge("jamjet_seats", "Executions in the memory of an ExecutionActor.")
        self.timer_lag_seconds = Histogram(
            "jamjet_timer_lag_seconds", "How late timers of live executions took effect.", bounds=FAST_S
        )
        self.node_attempts = Counter(
            "jamjet_node_attempts",
            "Attempts of nodes: succeeded, errored or cancelled.",
            ("kind", "outcome"),
        )
        self.node_attempt_seconds = Histogram(
            "jamjet_node_attempt_seconds", "One attempt of a node.", ("kind",), bounds=SLOW_S
        )
        self.model_tokens = Counter(
            "jamjet_model_tokens", "Tokens that models read and wrote.", ("system", "model", "direction")
        )
        self.model_cost_usd = Counter(
            "jamjet_model_cost_usd", "What models cost, in US dollars.", ("system", "model")
        )
        self.function_calls = Counter(
            "jamjet_function_calls", "Calls of Python functions, by what became of them.", ("outcome",)
        )
        self.function_call_seconds = Histogram(
            "jamjet_function_call_seconds", "One call, the wait for a process included.", bounds=FAST_S
        )
        self.sweep_offers = Counter(
            "jamjet_sweep_offers", "Executions that the Supervisor offered to actors.", ("reason",)
        )
        self.supervisor_round_seconds = Histogram(
            "jamjet_supervisor_round_seconds", "One round of the Supervisor.", bounds=FAST_S
        )
        self.agent_heartbeats = Counter("jamjet_agent_heartbeats", "Heartbeats of agents that were taken.")
        self.agent_flush_seconds = Histogram(
            "jamjet_agent_flush_seconds", "Writing the heartbeats of a second.", bounds=FAST_S
        )
        self.agent_discoveries = Counter(
            "jamjet_agent_discoveries", "Discoveries: registered, or the code of the error.", ("outcome",)
        )
        self.http_requests = Counter("jamjet_http_requests", "Requests.", ("route", "method", "status"))
        self.http_request_seconds = Histogram(
            "jamjet_http_request_seconds",
            "From a request to the head of its answer, what its client chose to wait included.",
            ("route", "method"),
            bounds=SLOW_S,
        )
        # Of the whole installation, as the store has it.
        self.backlog = Gauge("jamjet_backlog", "Executions that could run, and that nobody has taken up.")
        self.sweep_lag_seconds = Gauge(
            "jamjet_sweep_lag_seconds", "How long the oldest of the backlog has waited."
        )
        self.timer_overdue_seconds = Gauge(
            "jamjet_timer_overdue_seconds", "How late the first timer of an execution without an actor is."
        )
        self.open_executions = Gauge("jamjet_open_executions", "Executions that have not ended.", ("status",))
        self.executors = Gauge(
            "jamjet_executors", "Lives of ExecutionActors that beat.", ("isolation", "state")
        )
        self.executor_live = Gauge(
            "jamjet_executor_live", "Executions that an actor holds; dedicated ones together.", ("executor",)
        )
        self.executor_capacity = Gauge(
            "jamjet_executor_capacity", "Executions that a shared actor has seats for.", ("executor",)
        )
        self.all: tuple[Metric, ...] = tuple(
            value for value in vars(self).values() if isinstance(value, Metric)
        )

    def snapshot(self) -> Snapshot:
        """Every series as it stands."""
        return [figure for metric in self.all for figure in metric.figures()]

    def set_load(self, load: Load) -> None:
        """Note what waits in the whole installation."""
        self.backlog.set(load.backlog)
        self.sweep_lag_seconds.set(load.waited_ms / 1_000)
        self.timer_overdue_seconds.set(load.overdue_ms / 1_000)
        for status, count in load.open.items():
            self.open_executions.set(count, status)

    def set_executors(self, rows: Iterable[ExecutorRow]) -> None:
        """Note which ExecutionActors beat. Dedicated ones, named after executions, are summed up."""
        for gauge in (self.executors, self.executor_live, self.executor_capacity):
            gauge.clear()
        states: Counts[Labels] = Counts()
        dedicated = 0
        for row in rows:
            if row.gone:
                continue
            states[row.isolation, row.state] += 1
            if row.isolation == "shared":
                self.executor_live.set(row.live, row.name)
                self.executor_capacity.set(row.capacity, row.name)
            else:
                dedicated += row.live
        self.executor_live.set(dedicated, "dedicated")
        for labels, count in states.items():
            self.executors.set(count, *labels)

    def on_commit(self, size: int, seconds: float) -> None:
        """The journal's observer; called on its thread."""
        self.commit_group_size.observe(size)
        self.commit_seconds.observe(seconds)


class Process(NamedTuple):
    """The figures of one process; ``name`` is None for those of the whole installation."""

    name: str | None
    figures: Snapshot


BY_NAME: dict[str, Metric] = {metric.name: metric for metric in Metrics().all}
"""What a name means, for who reads snapshots."""
