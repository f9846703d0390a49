"""Spans of a request through the three services, as a real OTLP collector receives them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
import structlog
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

from clozerec.v1 import recommender_pb2
from clozerec.v1.recommender_pb2_grpc import RecommenderServiceStub
from clozerec_cli.serving import gateway_server
from clozerec_core.bundle import Bundle
from clozerec_core.telemetry import configure_logging
from clozerec_core.tracing import tracing
from clozerec_gateway.settings import GatewaySettings
from integration.conftest import TIMEOUT_S, running

SECRET = "nobody-should-read-this-item"
CALLER_TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER_SPAN = "b7ad6b7169203331"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: list[trace_pb2.Span] = []
        self.services: set[str] = set()

    async def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: object
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        for resource in request.resource_spans:
            self.services |= {each.value.string_value for each in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()


@asynccontextmanager
async def collecting() -> AsyncIterator[tuple[Collector, str]]:
    collector = Collector()
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield collector, f"http://127.0.0.1:{port}"
    finally:
        await server.stop(0)


@asynccontextmanager
async def traced(endpoint: str) -> AsyncIterator[None]:
    """Tracing whose last spans are sent from a thread: the collector answers on this loop."""
    scope: Iterator[None] = tracing(endpoint, "clozerec-test", 1.0)  # type: ignore[assignment]
    scope.__enter__()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        await asyncio.to_thread(scope.__exit__, None, None, None)  # type: ignore[attr-defined]


def attributes(span: trace_pb2.Span) -> dict[str, object]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


async def test_a_request_is_one_trace_through_all_three_services(toy_bundle: Bundle) -> None:
    async with collecting() as (collector, endpoint):
        async with (
            traced(endpoint),
            running(toy_bundle, "one process each") as gateway,
            grpc.aio.insecure_channel(gateway.target) as channel,
        ):
            request = recommender_pb2.RecommendRequest(query_type="QUERY_TYPE_SEQUENTIAL", session_items=["a", SECRET])
            metadata = (("traceparent", f"00-{CALLER_TRACE}-{CALLER_SPAN}-01"),)
            await RecommenderServiceStub(channel).Recommend(request, timeout=TIMEOUT_S, metadata=metadata)
        spans = {span.name: span for span in collector.spans if span.trace_id.hex() == CALLER_TRACE}
    gateway_span = spans["clozerec.v1.RecommenderService/Recommend"]
    assert gateway_span.parent_span_id.hex() == CALLER_SPAN
    for inner in ("clozerec.v1.EncoderService/EncodeSequences", "clozerec.v1.RetrieverService/Search"):
        assert spans[inner].parent_span_id == gateway_span.span_id
        assert spans[inner].kind == trace_pb2.Span.SPAN_KIND_SERVER
    for stage in ("history", "sequence", "encode", "retrieve"):
        assert spans[stage].parent_span_id == gateway_span.span_id
    assert "clozerec-test" in collector.services
    assert SECRET not in str(collector.spans)


async def test_a_refusal_has_its_code_and_only_a_server_fault_marks_the_span(
    toy_bundle: Bundle, tmp_path: Path
) -> None:
    alone = GatewaySettings(
        bundle=toy_bundle.path,
        grpc_port=0,
        http_port=0,
        grace_s=0,
        state_dir=tmp_path,
        encoder_target="127.0.0.1:1",
        retriever_target="127.0.0.1:1",
    )
    async with collecting() as (collector, endpoint):
        async with (
            traced(endpoint),
            gateway_server(toy_bundle, alone) as ports,
            grpc.aio.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel,
        ):
            stub = RecommenderServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.Recommend(recommender_pb2.RecommendRequest(), timeout=TIMEOUT_S)
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.GetItems(recommender_pb2.GetItemsRequest(item_ids=["a"]), timeout=TIMEOUT_S)
        spans = {span.name.rpartition("/")[2]: span for span in collector.spans}
    assert attributes(spans["Recommend"])["rpc.grpc.status_code"] == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert spans["Recommend"].status.code == trace_pb2.Status.STATUS_CODE_UNSET
    assert spans["GetItems"].status.code == trace_pb2.Status.STATUS_CODE_ERROR


async def test_without_an_endpoint_the_callers_trace_is_passed_on_and_named_in_the_log(
    toy_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging()
    try:
        async with running(toy_bundle, "one process each") as gateway:
            headers = {"traceparent": f"00-{CALLER_TRACE}-{CALLER_SPAN}-01"}
            await gateway.post("/v1/recommend", {"query_type": "sequential"}, **headers)
    finally:
        structlog.reset_defaults()
    said = "".join(capsys.readouterr())
    assert CALLER_TRACE in said
