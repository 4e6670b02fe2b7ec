"""Spans of turns and attempts: whose children they are, and what they say."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from actors import tracing, wire
from actors.port import SignalRequest, StartRequest
from actors.settings import load_settings
from runtime import signals as sg
from runtime.effects import RunNode
from runtime.graph import HttpNode, ModelNode
from runtime.net.egress import Answer
from runtime.net.secrets import Secrets
from runtime.nodes.http import HttpExecutor
from tests.unit.test_host import World

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
OTHER_TRACE = "0af7651916cd43dd8448eb211c80319c"
OTHER = f"00-{OTHER_TRACE}-b7ad6b7169203331-01"


class Spans:
    """What was traced."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    @property
    def all(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def named(self, prefix: str) -> list[ReadableSpan]:
        return [span for span in self.all if span.name.startswith(prefix)]


@pytest.fixture
def spans() -> Iterator[Spans]:
    made = Spans()
    with tracing.traced_by(made.provider):
        yield made


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.open()
    yield made
    await made.host.close()


def start(traceparent: str | None = PARENT) -> StartRequest:
    return StartRequest(
        tenant_id="t",
        execution_id="exec_1",
        workflow_id="approve",
        workflow_version="1.0.0",
        input={"n": 1},
        traceparent=traceparent,
    )


async def status_is(world: World, status: str) -> None:
    async with asyncio.timeout(5):
        while world.database.executions["exec_1"].status != status:  # noqa: ASYNC110
            await asyncio.sleep(0)
    # The turn that wrote it ends in this round of the loop.
    await asyncio.sleep(0.01)


def trace_of(span: ReadableSpan) -> str:
    return f"{span.context.trace_id:032x}"


def approve(traceparent: str | None) -> SignalRequest:
    signal = sg.Approve(signal_id="s", decision="approved", user_id="ann", node_id="gate")
    return SignalRequest(tenant_id="t", execution_id="exec_1", signal=signal, traceparent=traceparent)


async def test_turns_are_children_of_the_request_and_attempts_of_their_turn(
    world: World, spans: Spans
) -> None:
    await world.host.start(start())
    await status_is(world, "paused")
    turns, attempts = spans.named("turn approve"), spans.named("python_fn ")
    assert len(turns) >= 2
    assert {trace_of(span) for span in spans.all} == {TRACE}
    assert {f"{span.parent.span_id:016x}" for span in turns if span.parent} == {"00f067aa0ba902b7"}
    by_id = {span.context.span_id: span for span in turns}
    for attempt in attempts:
        assert attempt.parent is not None
        assert attempt.parent.span_id in by_id
    said = dict(turns[0].attributes or {})
    assert (said["jamjet.execution.id"], said["jamjet.tenant.id"]) == ("exec_1", "t")
    assert said["jamjet.turn.signals"] == ("StartExecution",)
    assert said["jamjet.turn.events"]


async def test_an_approval_continues_its_own_request_in_an_execution_that_was_parked(
    world: World, spans: Spans
) -> None:
    await world.host.start(start())
    await status_is(world, "paused")
    spans.exporter.clear()
    await world.host.signal(approve(OTHER))
    await status_is(world, "completed")
    of_approval = [s for s in spans.named("turn") if "Approve" in (s.attributes or {})["jamjet.turn.signals"]]  # type: ignore[operator]
    assert [trace_of(span) for span in of_approval] == [OTHER_TRACE]
    assert {trace_of(span) for span in spans.named("python_fn")} == {OTHER_TRACE}


async def test_without_a_request_the_turns_of_a_seat_are_one_trace(world: World, spans: Spans) -> None:
    await world.host.start(start(None))
    await status_is(world, "paused")
    turns = spans.named("turn")
    assert turns[0].parent is None
    assert len({trace_of(span) for span in turns}) == 1


async def test_a_turn_of_two_requests_is_the_firsts_child_and_linked_to_the_second(spans: Spans) -> None:
    with tracing.TurnTrace().span("turn x", [PARENT, OTHER, PARENT], {}):
        pass
    (turn,) = spans.all
    assert trace_of(turn) == TRACE
    assert [f"{link.context.trace_id:032x}" for link in turn.links] == [OTHER_TRACE]


async def test_a_header_that_is_none_is_no_parent(spans: Spans) -> None:
    with tracing.request_span("GET", "/x", "00-nonsense"):
        assert tracing.trace_id() is not None
    assert spans.all[0].parent is None


# --- attempts -----------------------------------------------------------------------------------


def attempt(node: Any) -> RunNode:
    return RunNode(node=node, visit=1, attempt=2, input={}, state={}, key="k")


MODEL = ModelNode(id="draft", provider="scripted", model="echo", prompt="Say it")


def test_a_models_attempt_has_what_is_agreed_for_generative_ai(spans: Spans) -> None:
    result = sg.NodeSucceeded(
        node_id="draft", visit=1, attempt=2, gen_ai_system="scripted", gen_ai_model="echo-2",
        input_tokens=3, output_tokens=5, finish_reason="stop", cost_usd=0.5,
    )  # fmt: skip
    with tracing.attempt_span(attempt(MODEL), {"execution_id": "exec_1"}) as span:
        assert span is not None
        tracing.attempt_ended(span, result)
    (seen,) = spans.all
    said = dict(seen.attributes or {})
    assert seen.name == "chat echo"
    assert {name: said[name] for name in said if name.startswith(("gen_ai", "jamjet"))} == {
        "gen_ai.operation.name": "chat",
        "gen_ai.system": "scripted",
        "gen_ai.provider.name": "scripted",
        "gen_ai.request.model": "echo",
        "gen_ai.response.model": "echo-2",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 5,
        "jamjet.gen_ai.cost_usd": 0.5,
        "jamjet.execution.id": "exec_1",
        "jamjet.node.id": "draft",
        "jamjet.node.kind": "model",
        "jamjet.node.visit": 1,
        "jamjet.node.attempt": 2,
    }


def test_a_failed_attempt_says_its_class_and_nothing_of_its_text(spans: Spans) -> None:
    result = sg.NodeErrored(
        node_id="draft", visit=1, attempt=2, error="the password is 7", error_class="rate_limit"
    )
    with tracing.attempt_span(attempt(MODEL), {}) as span:
        assert span is not None
        tracing.attempt_ended(span, result)
    (seen,) = spans.all
    assert (seen.status.status_code, (seen.attributes or {})["error.type"]) == (
        StatusCode.ERROR,
        "rate_limit",
    )
    assert "password" not in seen.to_json()


class Asked:
    """An egress that keeps the headers it is given."""

    def __init__(self) -> None:
        self.headers: list[dict[str, str]] = []

    async def request(self, method: str, url: str, *, headers: dict[str, str], **_: Any) -> Answer:
        self.headers.append(headers)
        return Answer(status=200, headers={}, body=b"")


async def test_a_request_of_a_node_lets_its_receiver_continue_the_trace(spans: Spans) -> None:
    egress = Asked()
    executor = HttpExecutor(egress, Secrets.parse((), {}), tracing.outgoing_headers)  # type: ignore[arg-type]
    node = HttpNode(id="fetch", method="GET", url="http://x/")
    with tracing.attempt_span(attempt(node), {}) as span:
        assert span is not None
        await executor.run(node, {"url": "http://x/"}, key="k")
        await executor.run(node, {"url": "http://x/", "headers": {"Traceparent": PARENT}}, key="k")
    own, given = egress.headers
    assert own["traceparent"].split("-")[1:3] == [
        f"{span.get_span_context().trace_id:032x}",
        f"{span.get_span_context().span_id:016x}",
    ]
    assert {name: value for name, value in given.items() if name.lower() == "traceparent"} == {
        "Traceparent": PARENT
    }


# --- between processes, and when it is off ------------------------------------------------------


def test_a_request_carries_the_current_span_over_the_wire(spans: Spans) -> None:
    with tracing.request_span("POST", "/executions", PARENT):
        carried = tracing.carried(start(None))
    delivery = wire.decode_delivery(wire.encode(wire.Delivery(sender="s", starts=[(1, carried)])))
    assert delivery.starts[0][1].traceparent == carried.traceparent
    assert carried.traceparent is not None
    assert carried.traceparent.split("-")[1] == TRACE
    assert tracing.carried(start(OTHER)).traceparent == OTHER


async def test_where_it_is_off_nothing_is_made(world: World) -> None:
    assert not tracing.is_on()
    assert tracing.request_span("GET", "/x", PARENT) is tracing.OFF
    assert tracing.outgoing_headers() == {}
    assert (tracing.traceparent(), tracing.trace_id()) == (None, None)
    request = start(None)
    assert tracing.carried(request) is request
    await world.host.start(start())
    await status_is(world, "paused")
    assert all(seat.trace is None for seat in world.host._seats.values())


def test_configuring_without_an_endpoint_leaves_it_off() -> None:
    tracing.configure(None, "a-test")
    assert not tracing.is_on()


@pytest.mark.parametrize("variable", ["JAMJET_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"])
def test_the_endpoint_is_a_setting(variable: str) -> None:
    assert load_settings({variable: "http://localhost:4318"}).otlp_endpoint == "http://localhost:4318"


def test_an_endpoint_turns_it_on_and_shutting_down_turns_it_off() -> None:
    tracing.configure("http://127.0.0.1:9", "a-test")
    assert tracing.is_on()
    tracing.shut_down()
    assert not tracing.is_on()
