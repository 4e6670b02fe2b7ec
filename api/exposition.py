"""Prometheus's text format, of this replica, of the actors, and of what the store says of them all."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from actors.metrics import BY_NAME, Figure, Histogram, Metrics, Process, le
from actors.port import Executions
from runtime.errors import JamjetError
from runtime.store.port import SystemStore

log = logging.getLogger("jamjet.metrics")

MEDIA_TYPE = CONTENT_TYPE_LATEST
KEPT_S = 2.0
"""Scrapers and people may ask as often as they like: actors and the store are asked as often as this."""


class Exposition:
    """What ``GET /metrics`` shows. A part that cannot be asked just now is left out."""

    def __init__(self, own: Metrics, system: SystemStore, executions: Executions) -> None:
        self._own = own
        self._system = system
        self._executions = executions
        self._name = f"api:{secrets.token_hex(3)}"
        """Replicas count by themselves, and any of them may answer."""
        self._installation = Metrics()
        self._others: list[Process] = []
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None
        self._registry = CollectorRegistry()
        self._registry.register(_Collected(self._processes))
        ProcessCollector(registry=self._registry)

    async def text(self) -> bytes:
        """All figures. Concurrent callers share one look at the others."""
        if time.monotonic() - self._asked_at > KEPT_S:
            if self._asking is None or self._asking.done():
                self._asking = asyncio.get_running_loop().create_task(self._ask())
            await asyncio.shield(self._asking)
        return generate_latest(self._registry)

    async def _ask(self) -> None:
        self._others = await self._executions.figures()
        installation = Metrics()
        try:
            installation.set_load(await self._system.load())
            installation.set_executors(await self._system.executors())
        except JamjetError as error:
            # What was true a while ago must not look like now.
            log.warning("the store did not say what waits: %s", error)
        self._installation = installation
        self._asked_at = time.monotonic()

    def _processes(self) -> list[Process]:
        return [
            Process(self._name, self._own.snapshot()),
            *self._others,
            Process(None, self._installation.snapshot()),
        ]


class _Collected(Collector):
    """Our figures as families of prometheus_client's."""

    def __init__(self, processes: Callable[[], list[Process]]) -> None:
        self._processes = processes

    def collect(self) -> Iterator[Family]:
        yield from families(self._processes())

    def describe(self) -> Iterable[Family]:
        return ()


def families(processes: Iterable[Process]) -> list[Family]:
    """The figures by metric, each series with the process that counted it."""
    made: dict[str, Family] = {}
    for process in processes:
        for figure in process.figures:
            # An actor of another release may count what is not known here.
            metric = BY_NAME.get(figure.name)
            if metric is None or len(metric.labels) != len(figure.labels):
                continue
            family = made.get(figure.name)
            if family is None:
                family = made[figure.name] = Family(figure.name, metric.help, metric.kind)
            labels = dict(zip(metric.labels, figure.labels, strict=True))
            if process.name is not None:
                labels["process"] = process.name
            _add(family, figure, labels)
    return list(made.values())


def _add(family: Family, figure: Figure, labels: dict[str, str]) -> None:
    metric = BY_NAME[figure.name]
    if metric.kind == "gauge":
        family.add_sample(figure.name, labels, figure.value)
    elif not isinstance(metric, Histogram):
        family.add_sample(f"{figure.name}_total", labels, figure.value)
    elif len(figure.counts) == len(metric.bounds) + 1:
        below = 0
        for bound, count in zip((*metric.bounds, None), figure.counts, strict=True):
            below += count
            family.add_sample(f"{figure.name}_bucket", {**labels, "le": le(bound)}, below)
        family.add_sample(f"{figure.name}_count", labels, below)
        family.add_sample(f"{figure.name}_sum", labels, figure.value)
