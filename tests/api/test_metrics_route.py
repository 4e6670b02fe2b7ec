"""``GET /metrics``, and what a request leaves behind: figures, an id, a line, a span."""

import asyncio
import logging
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from actors import tracing
from api import exposition
from runtime.errors import Unavailable
from tests.fixtures.api import Api, assert_refused, eventually
from tests.unit.test_tracing import PARENT, TRACE

Samples = dict[str, list[tuple[dict[str, str], float]]]


@pytest.fixture(autouse=True)
def unkept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look is a new one."""
    monkeypatch.setattr(exposition, "KEPT_S", -1.0)


async def shown(api: Api, **more: Any) -> Samples:
    answer = await api.get("/metrics", role="viewer", **more)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain")
    found: Samples = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def value(samples: Samples, name: str, **labels: str) -> float:
    """The sum of all samples of this name that have these labels."""
    return sum(value for found, value in samples.get(name, ()) if labels.items() <= found.items())


async def test_a_run_is_seen(api: Api) -> None:
    for _ in range(2):
        await api.settled(await api.start("count", n=1))
    await api.paused("approve")
    seen = await shown(api)
    assert value(seen, "jamjet_executions_started_total") == 3
    assert value(seen, "jamjet_executions_ended_total", status="completed", process="local") == 2
    assert value(seen, "jamjet_node_attempts_total", kind="python_fn", outcome="succeeded") == 2
    assert value(seen, "jamjet_turn_seconds_count") >= 5
    assert value(seen, "jamjet_open_executions", status="paused") == 1
    assert value(seen, "jamjet_open_executions", status="running") == 0
    assert value(seen, "process_resident_memory_bytes") > 1_000_000


async def test_an_actor_that_beats_is_seen(api: Api) -> None:
    async def look() -> bool:
        # The database was copied with its last beat, which may be old.
        seen = await shown(api)
        beats = value(seen, "jamjet_executors", isolation="shared", state="active") == 1
        return beats and value(seen, "jamjet_executor_capacity", executor="local") == 5_000

    await eventually(look)


async def test_requests_are_counted_by_their_routes(api: Api) -> None:
    execution_id = await api.paused("approve")
    await api.get(f"/executions/{execution_id}")
    await api.get("/executions/exec_of-nobody")
    await api.get(f"/compat/executions/{execution_id}")
    await api.get("/of/nobody")
    await api.http.request("PURGE", "/executions")
    seen = await shown(api)
    one = {"route": "/executions/{execution_id}", "method": "GET"}
    assert value(seen, "jamjet_http_requests_total", **one, status="200") == 3
    assert value(seen, "jamjet_http_requests_total", **one, status="404") == 1
    assert value(seen, "jamjet_http_requests_total", route="unmatched", status="404") == 1
    assert value(seen, "jamjet_http_requests_total", method="other", status="405") == 1
    assert value(seen, "jamjet_http_request_seconds_count", **one) == 4
    assert execution_id not in str(seen)


async def test_a_token_is_needed_and_a_viewers_is_enough(api: Api) -> None:
    assert_refused(await api.get("/metrics", role=None), 401, "invalid or expired token")
    await shown(api)


async def test_without_the_store_it_shows_what_it_counts_itself(api: Api, caplog: Any) -> None:
    await api.settled(await api.start("count"))

    async def down(*_: object, **__: object) -> Any:
        raise Unavailable("no database")

    api.store.system.load = down  # type: ignore[method-assign]
    seen = await shown(api)
    assert value(seen, "jamjet_executions_ended_total", status="completed") == 1
    assert "jamjet_backlog" not in seen


async def test_many_that_ask_at_once_share_one_look(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "KEPT_S", 60.0)
    looks = 0
    load = api.store.system.load

    async def counted() -> Any:
        nonlocal looks
        looks += 1
        return await load()

    api.store.system.load = counted  # type: ignore[method-assign]
    await asyncio.gather(*(shown(api) for _ in range(5)))
    await shown(api)
    assert looks == 1


# --- what else a request leaves -----------------------------------------------------------------


async def test_the_request_id_is_given_back(api: Api) -> None:
    answer = await api.get("/executions/exec_of-nobody", headers={"X-Request-Id": "mine-1"})
    assert (answer.headers["x-request-id"], answer.json()["request_id"]) == ("mine-1", "mine-1")
    made = await api.get("/executions/exec_of-nobody", headers={"X-Request-Id": "x" * 200})
    assert made.headers["x-request-id"] == made.json()["request_id"] != "x" * 200


async def test_a_request_is_a_line_with_its_route_and_who_asked(api: Api, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG, "jamjet.http")
    await api.start("count")
    await api.get("/health", role=None)
    await api.get("/executions", role=None)
    lines = [record for record in caplog.records if record.name == "jamjet.http"]
    seen = [(line.levelname, line.method, line.route, line.status) for line in lines]
    assert seen == [("DEBUG", "POST", "/executions", 201), ("INFO", "GET", "/executions", 401)]
    assert lines[0].token_id.startswith("tok_")
    assert lines[1].token_id is None
    assert lines[0].duration_ms > 0


async def test_a_request_is_a_span_that_continues_its_callers(api: Api) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    body = {"workflow_id": "count", "input": {"n": 1}}
    with tracing.traced_by(provider):
        answer = await api.post("/executions?wait=10", body, headers={"traceparent": PARENT})
        assert answer.json()["status"] == "completed"
    spans = exporter.get_finished_spans()
    request = next(span for span in spans if span.name == "POST /executions")
    assert {f"{span.context.trace_id:032x}" for span in spans} == {TRACE}
    turns = [span for span in spans if span.name == "turn count"]
    assert {span.parent.span_id for span in turns if span.parent} == {request.context.span_id}
    assert any(span.name.startswith("python_fn") for span in spans)
    said = dict(request.attributes or {})
    assert (said["http.route"], said["http.response.status_code"]) == ("/executions", 201)
    assert said["jamjet.execution.id"] == answer.json()["execution_id"]
    assert said["jamjet.tenant.id"] == "default"


async def test_a_bug_is_counted_as_500_and_told_as_a_warning(api: Api, caplog: Any) -> None:
    def broken(*_: object, **__: object) -> Any:
        raise RuntimeError("a bug")

    api.rebuild()
    api.app.state.resources.store.tenant = broken
    caplog.set_level(logging.INFO, "jamjet")
    assert (await api.get("/executions")).status_code == 500
    line = next(record for record in caplog.records if record.name == "jamjet.http")
    assert (line.levelname, line.status) == ("WARNING", 500)
