"""Hands a process's figures to Ray's agents, every few seconds, under the names of ``actors.metrics``.

Ray's own histogram takes one value at a time; ours are summed up already, so their buckets
go out as gauges named as Prometheus names them, which queries cannot tell from a histogram.
Ray's agents put ``ray_`` before every name.
"""

import time
from typing import Any

from ray.util import metrics as ray

from actors.metrics import BY_NAME, Figure, Histogram, Labels, Metrics, le

PUSH_S = 5.0


class RayMetrics:
    """The way from one process's ``Metrics`` to Ray."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._made: dict[str, Any] = {}
        self._told: dict[tuple[str, Labels], float] = {}
        self._pushed_at = 0.0

    def push(self) -> None:
        """Tell what has changed, at most every ``PUSH_S``."""
        now = time.monotonic()
        if now - self._pushed_at < PUSH_S:
            return
        self._pushed_at = now
        for figure in self._metrics.snapshot():
            self._tell(figure)

    def _tell(self, figure: Figure) -> None:
        metric = BY_NAME[figure.name]
        tags = dict(zip(metric.labels, figure.labels, strict=True))
        if isinstance(metric, Histogram):
            self._tell_histogram(metric, figure, tags)
        elif metric.kind == "gauge":
            self._gauge(figure.name, metric.labels).set(figure.value, tags)
        else:
            grown = figure.value - self._told.get((figure.name, figure.labels), 0)
            if grown > 0:
                self._told[figure.name, figure.labels] = figure.value
                self._counter(figure.name, metric.labels).inc(grown, tags)

    def _tell_histogram(self, metric: Histogram, figure: Figure, tags: dict[str, str]) -> None:
        total = sum(figure.counts)
        key = (figure.name, figure.labels)
        if self._told.get(key) == total:
            return
        self._told[key] = total
        buckets = self._gauge(f"{figure.name}_bucket", (*metric.labels, "le"))
        below = 0
        for bound, count in zip((*metric.bounds, None), figure.counts, strict=True):
            below += count
            buckets.set(below, {**tags, "le": le(bound)})
        self._gauge(f"{figure.name}_count", metric.labels).set(total, tags)
        self._gauge(f"{figure.name}_sum", metric.labels).set(figure.value, tags)

    def _gauge(self, name: str, labels: Labels) -> Any:
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = ray.Gauge(name, tag_keys=labels)
        return made

    def _counter(self, name: str, labels: Labels) -> Any:
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = ray.Counter(name, tag_keys=labels)
        return made
