"""RecommendStream: in order, a status for each that fails, and no faster than the caller reads."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import suppress

import grpc
import pytest

from clozerec.v1 import recommender_pb2
from clozerec.v1.recommender_pb2_grpc import RecommenderServiceStub
from clozerec_core.bundle import Bundle
from clozerec_gateway.streaming import answered_in_order
from integration.conftest import TIMEOUT_S, Gateway, running

SESSIONS = ["a", "b", "zz", "c", "", "d"]


def request(item_id: str) -> recommender_pb2.RecommendRequest:
    return recommender_pb2.RecommendRequest(
        query_type=recommender_pb2.QUERY_TYPE_ITEM_TO_ITEM, item_id=item_id, top_k=2
    )


async def test_a_stream_answers_each_request_in_order_as_single_calls_would(gateway: Gateway) -> None:
    async with grpc.aio.insecure_channel(gateway.target) as channel:
        stub = RecommenderServiceStub(channel)
        call = stub.RecommendStream(iter([request(each) for each in SESSIONS * 20]), timeout=TIMEOUT_S)
        results = [result async for result in call]
        assert len(results) == len(SESSIONS) * 20
        for item_id, result in zip(SESSIONS * 20, results, strict=True):
            if item_id == "zz":
                assert result.status.code == grpc.StatusCode.NOT_FOUND.value[0]
                assert result.status.details
            elif not item_id:
                assert result.status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
            else:
                single = await stub.Recommend(request(item_id), timeout=TIMEOUT_S) if item_id == "a" else None
                assert single is None or list(single.items) == list(result.response.items)


async def test_a_caller_who_reads_nothing_holds_back_what_is_read_of_the_stream(toy_bundle: Bundle) -> None:
    """Other callers are answered meanwhile; once the caller reads, every answer is there."""
    num_requests, num_sent = 400, 0
    ignored = [f"nobody-knows-{number}-{'x' * 40}" for number in range(1_000)]

    async def requests() -> AsyncIterator[recommender_pb2.RecommendRequest]:
        nonlocal num_sent
        for number in range(num_requests):
            num_sent += 1
            query = request("a")
            if number % 2:
                query = recommender_pb2.RecommendRequest(
                    query_type=recommender_pb2.QUERY_TYPE_SEQUENTIAL, session_items=["a"]
                )
            query.exclude_item_ids.extend(ignored)
            query.top_k = 15
            yield query

    # Without the probe the caller's window stays at 64 KiB, some twenty answers.
    options = (("grpc.http2.bdp_probe", 0),)
    async with (
        running(toy_bundle, "all in one") as gateway,
        grpc.aio.insecure_channel(gateway.target, options=options) as channel,
    ):
        call = RecommenderServiceStub(channel).RecommendStream(requests(), timeout=10 * TIMEOUT_S)
        first = await call.read()
        seen, num_still = 0, 0
        while num_still < 20:
            assert (await gateway.ids(query_type="item_to_item", item_id="a", top_k=1)) != []
            num_still = num_still + 1 if num_sent == seen else 0
            seen = num_sent
        assert num_sent < num_requests / 2
        results = [first, *[await call.read() for _ in range(num_requests - 1)]]
        assert await call.read() is grpc.aio.EOF
    kinds = [result.response.query_type for result in results]
    assert kinds == [recommender_pb2.QUERY_TYPE_ITEM_TO_ITEM, recommender_pb2.QUERY_TYPE_SEQUENTIAL] * (
        num_requests // 2
    )


async def test_a_caller_who_goes_away_amid_answers_leaves_no_fault_behind(
    toy_bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    async def requests() -> AsyncIterator[recommender_pb2.RecommendRequest]:
        while True:
            query = request("a")
            query.top_k = 15
            yield query

    async with running(toy_bundle, "all in one") as gateway:
        for _ in range(3):
            async with grpc.aio.insecure_channel(gateway.target, options=(("grpc.http2.bdp_probe", 0),)) as channel:
                call = RecommenderServiceStub(channel).RecommendStream(requests(), timeout=TIMEOUT_S)
                for _ in range(3):
                    await call.read()
                call.cancel()
        gc.collect()
        assert await gateway.ids(query_type="item_to_item", item_id="a", top_k=1)
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


async def test_a_stream_without_requests_has_no_answers(gateway: Gateway) -> None:
    async with grpc.aio.insecure_channel(gateway.target) as channel:
        call = RecommenderServiceStub(channel).RecommendStream(iter([]), timeout=TIMEOUT_S)
        assert [result async for result in call] == []


async def test_bytes_that_are_no_request_end_the_stream_after_what_came_before(gateway: Gateway) -> None:
    async with grpc.aio.insecure_channel(gateway.target) as channel:
        call = channel.stream_stream("/clozerec.v1.RecommenderService/RecommendStream")(
            iter([request("a").SerializeToString(), b"\xff\xff"]), timeout=TIMEOUT_S
        )
        assert await call.read()
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await call.read()
    assert ended.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_streams_that_end_with_a_refusal_leave_little_to_the_garbage_collector(toy_bundle: Bundle) -> None:
    """The error that ends a call holds, through its traceback, the call, which holds the error."""
    async with running(toy_bundle, "all in one") as gateway, grpc.aio.insecure_channel(gateway.target) as channel:
        stream = channel.stream_stream("/clozerec.v1.RecommenderService/RecommendStream")
        left = []
        for number in (5, 20):
            gc.collect()
            gc.disable()
            try:
                for _ in range(number):
                    call = stream(iter([request("a").SerializeToString(), b"\xff\xff"]), timeout=TIMEOUT_S)
                    with suppress(grpc.aio.AioRpcError):
                        assert [answer async for answer in call] == []
                    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
                left.append(gc.collect() / number)
            finally:
                gc.enable()
    assert left[-1] < 10  # gRPC's own circles


async def test_no_more_is_read_than_is_worked_on() -> None:
    num_read = 0
    gate = asyncio.Event()

    async def requests() -> AsyncIterator[int]:
        nonlocal num_read
        for number in range(100):
            num_read += 1
            yield number

    async def answer(number: int) -> int:
        await gate.wait()
        return number

    answers = answered_in_order(requests(), answer, in_flight=4)
    first = asyncio.ensure_future(anext(answers))
    for _ in range(50):
        await asyncio.sleep(0)
    assert num_read <= 6  # four queued, one at the front, one waiting for a place
    gate.set()
    assert [await first, *[each async for each in answers]] == list(range(100))


async def test_answers_come_in_order_whatever_takes_longer() -> None:
    done: list[int] = []

    async def requests() -> AsyncIterator[int]:
        for number in range(8):
            yield number

    async def answer(number: int) -> int:
        for _ in range(20 - 2 * number):
            await asyncio.sleep(0)
        done.append(number)
        return number

    assert [each async for each in answered_in_order(requests(), answer)] == list(range(8))
    assert done != sorted(done)


async def test_work_is_dropped_when_the_caller_goes() -> None:
    cancelled = 0

    async def requests() -> AsyncIterator[int]:
        for number in range(8):
            yield number

    async def answer(number: int) -> int:
        nonlocal cancelled
        if number == 0:
            return number
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled += 1
            raise
        return number

    answers = answered_in_order(requests(), answer)
    assert await anext(answers) == 0
    for _ in range(20):
        await asyncio.sleep(0)
    await answers.aclose()  # type: ignore[attr-defined]
    for _ in range(5):
        await asyncio.sleep(0)
    assert cancelled == 7
