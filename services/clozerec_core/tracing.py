"""OpenTelemetry spans, exported by OTLP: off until an endpoint is set, and an extra of the install (`.[tracing]`).

A span a request and service, joined over gRPC metadata and HTTP headers by W3C trace context, and a span a stage within
the gateway. Without an endpoint nothing here costs more than a comparison, and a caller's trace context is passed on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

from clozerec_core.errors import UsageError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

_tracer: Tracer | None = None
_lock = threading.Lock()


@contextmanager
def tracing(endpoint: str | None, service_name: str, sample_ratio: float) -> Iterator[None]:
    """Export spans while the block runs; without an endpoint, nothing.

    Args:
        endpoint: OTLP over gRPC, such as `http://collector:4317`.
        service_name: `service.name` of every span.
        sample_ratio: share of requests without a sampled parent that are traced, 0 to 1.

    Raises:
        UsageError: the extra is not installed.
    """
    if endpoint is None:
        yield
        return
    provider = _provider(endpoint, service_name, sample_ratio)
    _use(provider.get_tracer("clozerec", version("clozerec")))
    try:
        yield
    finally:
        _use(None)
        provider.shutdown()


def _provider(endpoint: str, service_name: str, sample_ratio: float) -> TracerProvider:
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
    except ImportError:
        raise UsageError('tracing needs OpenTelemetry: pip install "clozerec[tracing]"') from None
    provider = TracerProvider(
        resource=Resource.create({"service.name": service_name, "service.version": version("clozerec")}),
        sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint, insecure=endpoint.startswith("http://"))))
    return provider


def _use(tracer: Tracer | None) -> None:
    global _tracer
    with _lock:
        _tracer = tracer


def is_tracing() -> bool:
    """Whether spans are exported."""
    return _tracer is not None


@contextmanager
def request_span(method: str, metadata: Mapping[str, str]) -> Iterator[Span]:
    """A server span below the caller's, while the request is handled; only where `is_tracing`."""
    assert _tracer is not None
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    parent = TraceContextTextMapPropagator().extract(metadata)
    service, _, name = method.strip("/").rpartition("/")
    with _tracer.start_as_current_span(
        method.strip("/"),
        context=parent,
        kind=SpanKind.SERVER,
        attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
        record_exception=False,  # messages of exceptions may hold what callers sent
        set_status_on_exception=False,
    ) as span:
        yield span


def add_stage(name: str, took_s: float) -> None:
    """A span for a part of the work on a request, which has just ended; only where `is_tracing`.

    Added afterwards, since nothing is below it: to make each the current one takes as long as some of them last.
    """
    assert _tracer is not None
    ended_ns = time.time_ns()
    _tracer.start_span(name, start_time=ended_ns - round(took_s * 1e9)).end(ended_ns)


def traceparent_of(span: Span) -> str:
    """What the calls that a span causes carry."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def mark_failed(code: int) -> None:
    """The gRPC code that the current request fails with; server faults mark its span as an error."""
    if _tracer is None:
        return
    from opentelemetry.trace import Status, StatusCode, get_current_span

    span = get_current_span()
    span.set_attribute("rpc.grpc.status_code", code)
    if code in _SERVER_FAULTS:
        span.set_status(Status(StatusCode.ERROR))


_SERVER_FAULTS = frozenset({2, 4, 12, 13, 14, 15})
"""UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS, as OpenTelemetry's conventions say."""
