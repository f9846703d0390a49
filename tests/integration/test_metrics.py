"""What a scrape says about calls: the field's names, the codes that callers saw, nothing that a caller can inflate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from clozerec.v1 import recommender_pb2
from clozerec.v1.recommender_pb2_grpc import RecommenderServiceStub
from integration.conftest import TIMEOUT_S, Gateway

RECOMMENDER = "clozerec.v1.RecommenderService"


class Scrape:
    """One reading of /metrics; missing series read 0, as PromQL's `or vector(0)` would."""

    def __init__(self, text: str) -> None:
        self._values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        return self._values.get((name, frozenset(labels.items())), 0.0)

    def label_values(self, label: str) -> set[str]:
        return {dict(labels)[label] for _, labels in self._values if label in dict(labels)}


async def scrape(gateway: Gateway) -> Scrape:
    async with aiohttp.ClientSession() as session, session.get(gateway.url + "/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return Scrape(await response.text())


async def handled(gateway: Gateway, method: str, code: str, service: str = RECOMMENDER, kind: str = "unary") -> float:
    read = await scrape(gateway)
    return read.value(
        "grpc_server_handled_total", grpc_type=kind, grpc_service=service, grpc_method=method, grpc_code=code
    )


async def test_a_call_is_counted_under_the_code_that_its_caller_saw(gateway: Gateway) -> None:
    ok, refused = [await handled(gateway, "Recommend", code) for code in ("OK", "INVALID_ARGUMENT")]
    missing = await handled(gateway, "Recommend", "NOT_FOUND")
    await gateway.recommend(query_type="sequential", session_items=["a"])
    with pytest.raises(grpc.aio.AioRpcError):
        await gateway.recommend(query_type="sequential")
    for _ in range(2):
        with pytest.raises(grpc.aio.AioRpcError):
            await gateway.recommend(query_type="item_to_item", item_id="nobody knows it")
    assert await handled(gateway, "Recommend", "OK") == ok + 1
    assert await handled(gateway, "Recommend", "INVALID_ARGUMENT") == refused + 1
    assert await handled(gateway, "Recommend", "NOT_FOUND") == missing + 2


async def test_what_began_is_what_ended_and_each_has_a_duration(gateway: Gateway) -> None:
    for _ in range(3):
        await gateway.recommend(query_type="sequential", session_items=["a"])
    read = await scrape(gateway)
    method = {"grpc_type": "unary", "grpc_service": RECOMMENDER, "grpc_method": "Recommend"}
    started = read.value("grpc_server_started_total", **method)
    codes = read.label_values("grpc_code")
    assert started >= 3
    assert sum(read.value("grpc_server_handled_total", **method, grpc_code=code) for code in codes) == started
    assert read.value("grpc_server_handling_seconds_count", **method) == started
    assert read.value("clozerec_server_calls_in_flight", grpc_service=RECOMMENDER) == 0


async def test_methods_that_do_not_exist_share_one_label(gateway: Gateway) -> None:
    before = await handled(gateway, "other", "UNIMPLEMENTED", service="other")
    async with grpc.aio.insecure_channel(gateway.target) as channel:
        for name in ("/clozerec.v1.RecommenderService/Invented", "/made.up/Name", "/x"):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary(name)(b"", timeout=TIMEOUT_S)
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert await handled(gateway, "other", "UNIMPLEMENTED", service="other") == before + 3
    assert not {"Invented", "Name", "x"} & (await scrape(gateway)).label_values("grpc_method")


async def test_streams_and_health_are_counted_by_their_type(gateway: Gateway) -> None:
    async with grpc.aio.insecure_channel(gateway.target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        before = await handled(gateway, "Check", "OK", service="grpc.health.v1.Health")
        await health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        assert await handled(gateway, "Check", "OK", service="grpc.health.v1.Health") == before + 1

        watched = {"service": "grpc.health.v1.Health", "kind": "server_stream"}
        before = await handled(gateway, "Watch", "CANCELLED", **watched)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
        async with asyncio.timeout(TIMEOUT_S):
            while await handled(gateway, "Watch", "CANCELLED", **watched) == before:
                pass

        before = await handled(gateway, "RecommendStream", "OK", kind="bidi_stream")
        stream = RecommenderServiceStub(channel).RecommendStream(
            iter([recommender_pb2.RecommendRequest()]), timeout=TIMEOUT_S
        )
        assert [result.WhichOneof("result") async for result in stream] == ["status"]
        assert await handled(gateway, "RecommendStream", "OK", kind="bidi_stream") == before + 1


async def test_calls_over_json_are_counted_as_calls_of_the_same_methods(gateway: Gateway) -> None:
    codes = ("OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED")

    async def by_code() -> list[float]:
        return [await handled(gateway, "Recommend", code, kind="json") for code in codes]

    async def number(name: str) -> float:
        labels = {"grpc_type": "json", "grpc_service": RECOMMENDER, "grpc_method": "Recommend"}
        return (await scrape(gateway)).value(name, **labels)

    before, began = await by_code(), await number("grpc_server_started_total")
    took = await number("grpc_server_handling_seconds_count")
    await gateway.post("/v1/recommend", {"query_type": "sequential", "session_items": ["a"]})
    await gateway.post("/v1/recommend", {"query_type": "sequential"})
    await gateway.post("/v1/recommend", {"query_type": "item_to_item", "item_id": "nobody knows it"})
    await gateway.post("/v1/recommend", b" " * (4 * 1024 * 1024 + 1))
    assert [after - was for after, was in zip(await by_code(), before, strict=True)] == [1, 1, 1, 1]
    assert await number("grpc_server_started_total") == began + 4
    assert await number("grpc_server_handling_seconds_count") == took + 4
    assert (await scrape(gateway)).value("clozerec_server_calls_in_flight", grpc_service=RECOMMENDER) == 0


async def test_a_call_over_json_is_in_flight_until_it_ends(gateway: Gateway) -> None:
    async def in_flight() -> float:
        return (await scrape(gateway)).value("clozerec_server_calls_in_flight", grpc_service=RECOMMENDER)

    reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rsplit(":")[-1]))
    writer.write(b"POST /v1/recommend HTTP/1.1\r\nHost: g\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{")
    async with asyncio.timeout(TIMEOUT_S):
        while await in_flight() == 0:
            pass
    writer.write(b"}")
    assert b"INVALID_ARGUMENT" in await reader.read()
    writer.close()
    assert await in_flight() == 0


async def test_a_stream_whose_caller_goes_is_counted_as_cancelled_wherever_it_stood(gateway: Gateway) -> None:
    async def requests() -> AsyncIterator[recommender_pb2.RecommendRequest]:
        while True:
            yield recommender_pb2.RecommendRequest(query_type="QUERY_TYPE_ITEM_TO_ITEM", item_id="a", top_k=15)

    async def number(code: str) -> float:
        return await handled(gateway, "RecommendStream", code, kind="bidi_stream")

    cancelled, unknown = await number("CANCELLED"), await number("UNKNOWN")
    for _ in range(3):
        async with grpc.aio.insecure_channel(gateway.target, options=(("grpc.http2.bdp_probe", 0),)) as channel:
            call = RecommenderServiceStub(channel).RecommendStream(requests(), timeout=TIMEOUT_S)
            for _ in range(3):
                await call.read()
            call.cancel()
    async with asyncio.timeout(TIMEOUT_S):
        while await number("CANCELLED") + await number("UNKNOWN") < cancelled + unknown + 3:
            pass
    assert await number("CANCELLED") == cancelled + 3


async def test_json_requests_are_counted_by_method_and_status(gateway: Gateway) -> None:
    def requests(read: Scrape, status: str) -> float:
        return read.value("clozerec_gateway_http_requests_total", method="Recommend", status=status)

    before = await scrape(gateway)
    await gateway.post("/v1/recommend", {"query_type": "sequential", "session_items": ["a"]})
    await gateway.post("/v1/recommend", {"query_type": "sequential"})
    after = await scrape(gateway)
    assert [requests(after, status) - requests(before, status) for status in ("200", "400")] == [1, 1]
