"""What is counted, what a snapshot says of it, and how it leaves: to Prometheus and to Ray's agents."""

import asyncio
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from actors import metrics as figures
from actors import ray_metrics
from actors.metrics import BY_NAME, OTHER, SERIES_MAX, Figure, Histogram, Metrics, Process
from api.exposition import families
from runtime.errors import Unavailable
from runtime.store.port import ExecutorRow, Load
from tests.unit.test_host import World


def values(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    return {figure.labels: figure.value for figure in metrics.snapshot() if figure.name == name}


def test_a_histogram_counts_each_value_under_the_first_bound_that_holds_it() -> None:
    histogram = Histogram("h", "of a test", bounds=(1, 2))
    for value in (0.5, 1, 1.5, 9):
        histogram.observe(value)
    assert list(histogram.figures()) == [Figure("h", (), 12.0, (2, 1, 1))]


def test_a_snapshot_survives_its_way_to_another_process() -> None:
    metrics = Metrics()
    metrics.turns.add("committed")
    metrics.on_commit(3, 0.002)
    assert figures.decode(figures.encode(metrics.snapshot())) == metrics.snapshot()


def test_series_that_would_be_too_many_count_as_other() -> None:
    metrics = Metrics()
    for number in range(SERIES_MAX + 5):
        metrics.model_cost_usd.add("anyone", f"model-{number}", by=1)
    seen = values(metrics, "jamjet_model_cost_usd")
    assert len(seen) == SERIES_MAX + 1
    assert seen[OTHER, OTHER] == 5


def test_labels_are_as_many_as_the_metric_has() -> None:
    with pytest.raises(ValueError, match="jamjet_turns"):
        Metrics().turns.add("committed", "more")


def test_no_metric_has_a_label_that_could_name_an_execution_a_workflow_or_a_tenant() -> None:
    named = {label for metric in BY_NAME.values() for label in metric.labels}
    assert named == {
        "isolation", "status", "outcome", "kind", "system", "model", "direction", "reason", "route",
        "method", "state", "executor",
    }  # fmt: skip


def row(name: str, **fields: Any) -> ExecutorRow:
    values: dict[str, Any] = {
        "incarnation": f"{name}#1", "name": name, "node": "n", "pid": 1, "isolation": "shared",
        "capacity": 10, "live": 2, "state": "active", "started_at": 0, "heartbeat_at": 0,
    }  # fmt: skip
    return ExecutorRow(**(values | fields))


def test_dedicated_actors_are_summed_up_because_their_names_are_executions() -> None:
    metrics = Metrics()
    dedicated = [row(f"execution:exec_{n}", isolation="dedicated", live=1) for n in range(3)]
    metrics.set_executors([row("a"), row("b", state="spare", live=0), row("c", gone=True), *dedicated])
    assert values(metrics, "jamjet_executor_live") == {("a",): 2, ("b",): 0, ("dedicated",): 3}
    assert values(metrics, "jamjet_executors") == {
        ("shared", "active"): 1,
        ("shared", "spare"): 1,
        ("dedicated", "active"): 3,
    }
    metrics.set_executors([])
    assert values(metrics, "jamjet_executor_live") == {("dedicated",): 0}


def test_the_load_is_in_seconds() -> None:
    metrics = Metrics()
    metrics.set_load(Load(backlog=3, waited_ms=1_500, overdue_ms=0, open={"running": 4, "paused": 5}))
    assert values(metrics, "jamjet_sweep_lag_seconds") == {(): 1.5}
    assert values(metrics, "jamjet_open_executions") == {("running",): 4, ("paused",): 5}


# --- the host -----------------------------------------------------------------------------------


async def test_a_host_counts_its_executions_turns_and_attempts() -> None:
    world = World()
    await world.open()
    await world.paused()
    await world.approve("ann")
    while world.database.executions["exec_1"].status != "completed":  # noqa: ASYNC110
        await asyncio.sleep(0)
    metrics = world.host._observer.metrics
    assert values(metrics, "jamjet_executions_started") == {("shared",): 1}
    assert values(metrics, "jamjet_executions_ended") == {("completed",): 1}
    assert values(metrics, "jamjet_execution_seconds") == {("completed",): 0.0}
    assert values(metrics, "jamjet_node_attempts")["python_fn", "succeeded"] >= 1
    committed = values(metrics, "jamjet_turns")["committed",]
    (turns,) = [figure for figure in metrics.snapshot() if figure.name == "jamjet_turn_seconds"]
    assert sum(turns.counts) == committed >= 3
    await world.host.close()


async def test_a_refused_commit_is_counted_as_that() -> None:
    world = World()
    await world.open()
    await world.paused()
    world.journal.refusals = 1
    with pytest.raises(Unavailable):
        await world.approve("ann")
    assert values(world.host._observer.metrics, "jamjet_turns")["refused",] == 1
    await world.host.close()


# --- the ways out -------------------------------------------------------------------------------


class Shown(Collector):
    def __init__(self, processes: list[Process]) -> None:
        self._processes = processes

    def collect(self) -> Any:
        return families(self._processes)


def parsed(processes: list[Process]) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    registry = CollectorRegistry()
    registry.register(Shown(processes))
    text = generate_latest(registry).decode()
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def test_figures_of_several_processes_are_told_apart() -> None:
    one, two, all_of_it = Metrics(), Metrics(), Metrics()
    one.turns.add("committed", by=2)
    two.turns.add("committed", by=3)
    two.on_commit(3, 0.01)
    all_of_it.backlog.set(7)
    shown = parsed(
        [Process("a", one.snapshot()), Process("b", two.snapshot()), Process(None, all_of_it.snapshot())]
    )
    assert shown["jamjet_turns_total"] == {
        (("outcome", "committed"), ("process", "a")): 2,
        (("outcome", "committed"), ("process", "b")): 3,
    }
    assert shown["jamjet_backlog"] == {(): 7}
    assert shown["jamjet_commit_group_size_bucket"][("le", "2.0"), ("process", "b")] == 0
    assert shown["jamjet_commit_group_size_bucket"][("le", "4.0"), ("process", "b")] == 1
    assert shown["jamjet_commit_group_size_bucket"][("le", "+Inf"), ("process", "b")] == 1
    assert shown["jamjet_commit_group_size_count"] == {(("process", "b"),): 1}


def test_every_sample_has_a_name_that_its_metric_foresees() -> None:
    metrics = Metrics()
    for metric in metrics.all:
        record(metric)
    shown = set(parsed([Process(None, metrics.snapshot())]))
    assert shown == {name for metric in BY_NAME.values() for name in metric.exposed}


def record(metric: Any) -> None:
    labels = ["x"] * len(metric.labels)
    match metric.kind:
        case "counter":
            metric.add(*labels)
        case "gauge":
            metric.set(1, *labels)
        case _:
            metric.observe(1, *labels)


def test_figures_of_another_release_are_left_out() -> None:
    strange = [Figure("jamjet_unheard_of", (), 1), Figure("jamjet_turns", (), 1)]
    assert families([Process("old", strange)]) == []
    short = Figure("jamjet_turn_seconds", (), 1, (1, 2))
    assert parsed([Process("old", [short])]) == {}


class FakeRay:
    """Ray's metrics, which are told to a list."""

    def __init__(self) -> None:
        self.told: list[tuple[str, float, dict[str, str]]] = []

    def make(self, name: str, tag_keys: tuple[str, ...] = ()) -> Any:
        told = self.told

        class Metric:
            def set(self, value: float, tags: dict[str, str]) -> None:
                assert set(tags) == set(tag_keys)
                told.append((name, value, tags))

            inc = set

        return Metric()

    Gauge = Counter = make


def test_ray_is_told_what_has_grown_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, now = FakeRay(), [100.0]
    monkeypatch.setattr(ray_metrics, "ray", fake)
    monkeypatch.setattr(ray_metrics.time, "monotonic", lambda: now[0])
    metrics = Metrics()
    way = ray_metrics.RayMetrics(metrics)
    metrics.turns.add("committed", by=5)
    metrics.commit_group_size.observe(3)
    way.push()
    assert ("jamjet_turns", 5, {"outcome": "committed"}) in fake.told
    assert ("jamjet_commit_group_size_bucket", 1, {"le": "4.0"}) in fake.told
    assert ("jamjet_commit_group_size_bucket", 0, {"le": "2.0"}) in fake.told
    assert ("jamjet_commit_group_size_count", 1, {}) in fake.told
    fake.told.clear()
    metrics.turns.add("committed", by=2)
    way.push()
    assert fake.told == []
    now[0] += ray_metrics.PUSH_S
    way.push()
    assert fake.told == [("jamjet_turns", 2, {"outcome": "committed"})]
