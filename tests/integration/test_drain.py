"""How a gateway stops: both of its fronts at once, within one grace, with what is under way answered."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from clozerec.v1 import recommender_pb2
from clozerec.v1.recommender_pb2_grpc import RecommenderServiceStub
from clozerec_core import metrics
from clozerec_core.bundle import Bundle
from clozerec_gateway.servicer import SERVICE_NAME
from clozerec_gateway.sqlite_events import HISTORIES_FILE
from integration.conftest import TIMEOUT_S, Gateway, running

QUESTION = {"query_type": "sequential", "session_items": ["a", "b", "c"], "top_k": 1}
REQUEST = recommender_pb2.RecommendRequest(query_type="QUERY_TYPE_SEQUENTIAL", session_items=["a", "b", "c"], top_k=1)


@asynccontextmanager
async def stream_under_way(channel: grpc.aio.Channel) -> AsyncIterator[Any]:
    """A stream that was answered once, and ends when its caller says so."""
    stream: Any = RecommenderServiceStub(channel).RecommendStream(timeout=10 * TIMEOUT_S)
    await stream.write(REQUEST)
    assert (await stream.read()).response.items[0].item_id == "d"
    try:
        yield stream
    finally:
        stream.cancel()


async def takes_connections(gateway: Gateway) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rsplit(":")[-1]))
    except OSError:
        return False
    writer.close()
    return True


async def until_doors_are_closed(gateway: Gateway, channel: grpc.aio.Channel) -> None:
    """HTTP takes no new connection, and gRPC has told the one that there is to bring no new calls."""
    async with asyncio.timeout(TIMEOUT_S):
        while await takes_connections(gateway):
            pass
        while (state := channel.get_state()) is grpc.ChannelConnectivity.READY:
            await channel.wait_for_state_change(state)


def num_begun_over_json() -> float:
    labels = {"grpc_type": "json", "grpc_service": SERVICE_NAME, "grpc_method": "DeleteUser"}
    return metrics.REGISTRY.get_sample_value("grpc_server_started_total", labels) or 0


async def test_both_fronts_close_at_once_and_answer_what_is_under_way_on_both(
    toy_bundle: Bundle, tmp_path: Path
) -> None:
    running_gateway = running(toy_bundle, "all in one", grace_s=10 * TIMEOUT_S, state_dir=tmp_path)
    gateway = await running_gateway.__aenter__()
    before = num_begun_over_json()
    stopping: asyncio.Task[bool | None] | None = None
    store = sqlite3.connect(tmp_path / HISTORIES_FILE)
    try:
        async with grpc.aio.insecure_channel(gateway.target) as channel, stream_under_way(channel) as stream:
            store.execute("BEGIN IMMEDIATE")
            posted = asyncio.create_task(gateway.post("/v1/users:delete", {"user_id": "u"}))
            async with asyncio.timeout(TIMEOUT_S):
                while num_begun_over_json() == before:  # noqa: ASYNC110  # nothing tells
                    await asyncio.sleep(0)
            stopping = asyncio.create_task(running_gateway.__aexit__(None, None, None))
            await until_doors_are_closed(gateway, channel)
            store.close()
            assert (await posted)[0] == 200
            assert not stopping.done()
            await stream.write(REQUEST)
            await stream.done_writing()
            assert (await stream.read()).response.items[0].item_id == "d"
            assert await stream.read() is grpc.aio.EOF
    finally:
        store.close()
        async with asyncio.timeout(TIMEOUT_S):
            await (stopping or running_gateway.__aexit__(None, None, None))


async def test_neither_front_is_ready_while_balancers_are_waited_for_and_both_still_answer(toy_bundle: Bundle) -> None:
    running_gateway = running(toy_bundle, "all in one", drain_delay_s=2)
    gateway = await running_gateway.__aenter__()
    async with grpc.aio.insecure_channel(gateway.target) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE_NAME))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.create_task(running_gateway.__aexit__(None, None, None))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await gateway.get("/readyz") == (503, {"status": "not ready"})
        assert await gateway.ids(query_type="sequential", session_items=["a", "b", "c"], top_k=1) == ["d"]
        assert (await gateway.post("/v1/recommend", QUESTION))[0] == 200
        watch.cancel()
        await stopping


async def test_calls_that_never_end_hold_up_the_stop_for_one_grace_and_not_for_two(toy_bundle: Bundle) -> None:
    grace_s = 2.0
    running_gateway = running(toy_bundle, "all in one", grace_s=grace_s)
    gateway = await running_gateway.__aenter__()
    _, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rsplit(":")[-1]))
    writer.write(b"POST /v1/recommend HTTP/1.1\r\nHost: g\r\nContent-Length: 40\r\n\r\n{")
    async with grpc.aio.insecure_channel(gateway.target) as channel, stream_under_way(channel) as stream:
        try:
            async with asyncio.timeout(2 * grace_s):
                await running_gateway.__aexit__(None, None, None)
        finally:
            writer.close()
        assert await stream.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
