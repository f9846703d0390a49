"""A gateway that takes two calls at once, and is sent forty."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from clozerec.v1 import recommender_pb2
from clozerec.v1.recommender_pb2_grpc import RecommenderServiceStub
from clozerec_core.bundle import Bundle
from clozerec_gateway.servicer import SERVICE_NAME
from integration.conftest import TIMEOUT_S, Gateway, running

SESSION = {"query_type": "sequential", "session_items": ["a"]}
REQUEST = recommender_pb2.RecommendRequest(query_type="QUERY_TYPE_SEQUENTIAL", session_items=["a"])
STRANGERS = [f"stranger {number}" for number in range(40)]
"""Nobody's history is at hand, so each waits for the store; a session is answered before the next call is looked at."""


@pytest_asyncio.fixture(params=["all in one", "one process each"])
async def narrow(request: pytest.FixtureRequest, toy_bundle: Bundle) -> AsyncIterator[Gateway]:
    async with running(toy_bundle, request.param, max_in_flight=2) as started:
        yield started


async def test_what_is_too_much_is_refused_and_the_rest_answered_over_grpc(narrow: Gateway) -> None:
    async with grpc.aio.insecure_channel(narrow.target) as channel:
        stub = RecommenderServiceStub(channel)
        requests = [
            recommender_pb2.RecommendRequest(query_type="QUERY_TYPE_USER_TO_ITEM", user_id=each) for each in STRANGERS
        ]
        calls = [stub.Recommend(request, timeout=TIMEOUT_S) for request in requests]
        healthy = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=SERVICE_NAME), timeout=TIMEOUT_S
        )
        ended = await asyncio.gather(*calls, return_exceptions=True)
        refused = [each for each in ended if isinstance(each, grpc.aio.AioRpcError)]
        assert 0 < len(refused) < 40
        assert healthy.status == health_pb2.HealthCheckResponse.SERVING
        for error in refused:
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        details = rpc_status.from_call(refused[0]).details  # type: ignore[union-attr, arg-type]
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        assert details[0].Unpack(info)
        assert details[1].Unpack(retry)
        assert info.reason == "OVERLOADED"
        # Every slot is free again.
        assert all([(await stub.Recommend(REQUEST, timeout=TIMEOUT_S)).items for _ in range(3)])


async def test_what_is_too_much_is_refused_and_the_rest_answered_over_json(narrow: Gateway) -> None:
    queries = [{"query_type": "user_to_item", "user_id": each} for each in STRANGERS]
    answers = await asyncio.gather(*(narrow.post("/v1/recommend", query) for query in queries))
    assert {status for status, _, _ in answers} == {200, 429}
    refusal = next(document for status, document, _ in answers if status == 429)
    assert refusal["error"]["code"] == "RESOURCE_EXHAUSTED"
    assert (await narrow.post("/v1/recommend", SESSION))[0] == 200


async def test_a_body_on_its_way_takes_no_place_from_others(narrow: Gateway) -> None:
    body = json.dumps(SESSION).encode()
    head = f"POST /v1/recommend HTTP/1.1\r\nHost: g\r\nContent-Length: {len(body)}\r\n\r\n"
    port = int(narrow.url.rsplit(":")[-1])
    slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
    for _, writer in slow:
        writer.write(head.encode() + body[:5])
    heads = [asyncio.create_task(reader.readline()) for reader, _ in slow]
    async with asyncio.timeout(TIMEOUT_S):
        while sum(each.done() for each in heads) < 3:  # as many as there are places may be on their way
            assert (await narrow.post("/v1/recommend", json.dumps(SESSION)))[0] == 200
        for _, writer in slow:
            writer.write(body[5:])
        assert sorted([(await each).split()[1] for each in heads]) == [b"200", b"200", b"429", b"429", b"429"]
    for _, writer in slow:
        writer.close()


async def test_callers_who_give_up_leave_their_slots(narrow: Gateway) -> None:
    async with grpc.aio.insecure_channel(narrow.target) as channel:
        stub = RecommenderServiceStub(channel)
        for _ in range(5):
            calls = [stub.Recommend(REQUEST, timeout=TIMEOUT_S) for _ in range(4)]
            await asyncio.sleep(0)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        async with asyncio.timeout(TIMEOUT_S):
            while True:  # a cancelled call may be under way for a moment yet
                if (code := await code_of(stub)) != "RESOURCE_EXHAUSTED":
                    break
        assert code == "OK"


async def code_of(stub: RecommenderServiceStub) -> str:
    try:
        await stub.Recommend(REQUEST, timeout=TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"
