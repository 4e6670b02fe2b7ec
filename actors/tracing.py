"""OpenTelemetry traces, where an endpoint is configured. Where none is, nothing of it is imported or made.

A process has one tracer, which is ours alone: libraries that look for a global one find none.

A request is a span that continues its ``traceparent``. The turn that takes its start or signal is a
child of it, and so are the turns that follow from it while the execution stays with its owner; an
attempt of a node is a child of the turn that asked for it. A turn of several requests is the first
one's child and has links to the others. An execution that was parked begins a trace of its own.
"""

import contextlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from actors.port import SignalRequest, StartRequest
from actors.settings import VERSION
from runtime.effects import RunNode
from runtime.graph import A2aTaskNode, HttpNode, ModelNode
from runtime.signals import NodeErrored, NodeSucceeded
from runtime.store.port import Turn

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

Request = TypeVar("Request", StartRequest, SignalRequest)

EXPORT_EVERY_MS = 1_000
"""Processes may be killed at any time: what waits to be sent is lost with them."""


class _Off:
    """A span that is none; one for all."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


OFF: AbstractContextManager[None] = _Off()

_tracer: "Tracer | None" = None
_provider: "TracerProvider | None" = None


def configure(endpoint: str | None, service: str) -> None:
    """Send this process's spans to an OTLP endpoint over HTTP, as in ``http://localhost:4318``; None: none.

    Headers and sampling are read by the SDK from its own variables, ``OTEL_EXPORTER_OTLP_HEADERS``,
    ``OTEL_TRACES_SAMPLER`` and so on.
    """
    if endpoint is None or _tracer is not None:
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(
        resource=Resource.create(
            {"service.name": "jamjet", "service.version": VERSION, "service.instance.id": service}
        )
    )
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=EXPORT_EVERY_MS))
    _use(provider)


def shut_down() -> None:
    """Send what waits, and trace no more."""
    if _provider is not None:
        _provider.shutdown()
        _use(None)


@contextlib.contextmanager
def traced_by(provider: "TracerProvider") -> Iterator[None]:
    """Give this process's spans to a provider for a while."""
    _use(provider)
    try:
        yield
    finally:
        _use(None)


def _use(provider: "TracerProvider | None") -> None:
    global _provider, _tracer
    _provider = provider
    _tracer = None if provider is None else provider.get_tracer("jamjet", VERSION)


def is_on() -> bool:
    """Whether spans are made."""
    return _tracer is not None


# --- what crosses between processes -------------------------------------------------------------


def traceparent() -> str | None:
    """The current span as W3C's header, or None without one."""
    return outgoing_headers().get("traceparent")


def outgoing_headers() -> dict[str, str]:
    """The headers that let another service continue this trace; {} without one."""
    if _tracer is None:
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier


def carried(request: Request) -> Request:
    """The request with the current span, for whoever handles it elsewhere to continue."""
    if _tracer is None or request.traceparent is not None:
        return request
    return msgspec.structs.replace(request, traceparent=traceparent())


def trace_id() -> str | None:
    """The current trace's id in hex."""
    header = traceparent()
    return None if header is None else header.split("-")[1]


def _context(header: str | None) -> "Context":
    """The context that a ``traceparent`` stands for; without one, or with a bad one, the empty one."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    if header is None:
        return Context()
    return TraceContextTextMapPropagator().extract({"traceparent": header}, context=Context())


# --- spans --------------------------------------------------------------------------------------


def request_span(method: str, path: str, header: str | None) -> "AbstractContextManager[Span | None]":
    """One HTTP request, which continues its ``traceparent``. Its route is not known yet."""
    if _tracer is None:
        return OFF
    from opentelemetry.trace import SpanKind

    return _tracer.start_as_current_span(
        method,
        context=_context(header),
        kind=SpanKind.SERVER,
        attributes={"http.request.method": method, "url.path": path},
    )


def request_ended(span: "Span", method: str, route: str, status: int, ids: dict[str, str]) -> None:
    """Say what a request was, now that its route has been found and its answer begun."""
    span.update_name(f"{method} {route}")
    span.set_attributes({"http.route": route, "http.response.status_code": status, **_ids(ids)})
    if status >= 500:
        _failed(span, str(status))


class TurnTrace:
    """What the turns of one seat have in common: the trace that they are part of."""

    __slots__ = ("_context",)

    def __init__(self) -> None:
        self._context: Context | None = None

    def span(
        self, name: str, headers: Iterable[str], attributes: dict[str, Any]
    ) -> "AbstractContextManager[Span | None]":
        """One turn; ``headers`` are the ``traceparent`` of the requests whose signals it takes."""
        if _tracer is None:
            return OFF
        return self._span(name, list(dict.fromkeys(headers)), attributes)

    @contextlib.contextmanager
    def _span(self, name: str, headers: list[str], attributes: dict[str, Any]) -> "Iterator[Span]":
        from opentelemetry import trace

        assert _tracer is not None
        contexts = [_context(header) for header in headers]
        before = self._context
        parent = contexts[0] if contexts else before
        linked = [*contexts[1:], *([before] if contexts and before is not None else [])]
        links = [trace.Link(trace.get_current_span(context).get_span_context()) for context in linked]
        with _tracer.start_as_current_span(
            name, context=parent or _context(None), links=links, attributes=attributes
        ) as span:
            if contexts:
                self._context = contexts[0]
            elif before is None:
                remembered = trace.NonRecordingSpan(span.get_span_context())
                self._context = trace.set_span_in_context(remembered, _context(None))
            yield span


def turn_committed(turn: Turn) -> None:
    """Say of the current span what its turn has written."""
    from opentelemetry import trace

    trace.get_current_span().set_attributes(
        {
            "jamjet.execution.status": turn.status,
            "jamjet.turn.sequence": turn.sequence,
            "jamjet.turn.events": [row.type for row in turn.events],
        }
    )


def attempt_span(effect: RunNode, ids: dict[str, str]) -> "AbstractContextManager[Span | None]":
    """One attempt of a node, as a child of the turn that asked for it."""
    if _tracer is None:
        return OFF
    from opentelemetry.trace import SpanKind

    node = effect.node
    attributes: dict[str, Any] = {
        **_ids(ids),
        "jamjet.node.id": node.id,
        "jamjet.node.kind": kind_of(effect),
        "jamjet.node.visit": effect.visit,
        "jamjet.node.attempt": effect.attempt,
    }
    if isinstance(node, ModelNode):
        attributes |= {
            "gen_ai.operation.name": "chat",
            "gen_ai.system": node.provider,
            "gen_ai.provider.name": node.provider,
            "gen_ai.request.model": node.model,
        }
        return _tracer.start_as_current_span(
            f"chat {node.model}", kind=SpanKind.CLIENT, attributes=attributes
        )
    if isinstance(node, HttpNode):
        attributes["http.request.method"] = node.method
        return _tracer.start_as_current_span(
            f"{node.method} {node.id}", kind=SpanKind.CLIENT, attributes=attributes
        )
    if isinstance(node, A2aTaskNode):
        return _tracer.start_as_current_span(f"a2a {node.agent}", kind=SpanKind.CLIENT, attributes=attributes)
    return _tracer.start_as_current_span(f"{kind_of(effect)} {node.id}", attributes=attributes)


def attempt_ended(span: "Span", result: NodeSucceeded | NodeErrored) -> None:
    """Say what became of an attempt, and of a model's what it used."""
    if isinstance(result, NodeErrored):
        # Not its text, which may quote what the node was given.
        _failed(span, result.error_class)
        return
    used = {
        "gen_ai.response.model": result.gen_ai_model,
        "gen_ai.usage.input_tokens": result.input_tokens,
        "gen_ai.usage.output_tokens": result.output_tokens,
        "jamjet.gen_ai.cost_usd": result.cost_usd,
    }
    span.set_attributes({name: value for name, value in used.items() if value is not None})
    if result.finish_reason is not None:
        span.set_attribute("gen_ai.response.finish_reasons", [result.finish_reason])


def _failed(span: "Span", error_type: str) -> None:
    from opentelemetry.trace import StatusCode

    span.set_attribute("error.type", error_type)
    span.set_status(StatusCode.ERROR)


def _ids(ids: dict[str, str]) -> dict[str, str]:
    return {f"jamjet.{name.replace('_', '.')}": value for name, value in ids.items()}


def kind_of(effect: RunNode) -> str:
    """The kind of an attempt's node, as workflows name it."""
    return str(effect.node.__struct_config__.tag)
