"""What a stream leaves behind when it ends early: nothing."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator

from clozerec_gateway.streaming import answered_in_order

IN_FLIGHT = 4


class Query:
    """A request that can be watched."""


async def answer(query: Query) -> Query:
    return query


async def test_no_task_is_left_when_the_caller_goes_while_every_place_is_taken() -> None:
    async def requests() -> AsyncIterator[Query]:
        while True:
            yield Query()

    answers = answered_in_order(requests(), answer, IN_FLIGHT)
    await anext(answers)
    for _ in range(10 * IN_FLIGHT):
        await asyncio.sleep(0)
    await answers.aclose()
    for _ in range(10):
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_stream_that_broke_is_freed_without_the_garbage_collector() -> None:
    seen: list[weakref.ref[Query]] = []

    async def requests() -> AsyncIterator[Query]:
        query = Query()
        seen.append(weakref.ref(query))
        yield query
        raise ValueError("no request")

    async def use() -> int:
        try:
            return len([None async for _ in answered_in_order(requests(), answer, IN_FLIGHT)])
        except ValueError:  # pytest would keep it, and all frames that it passed
            return -1

    gc.disable()
    try:
        assert await use() == -1
        await asyncio.sleep(0)
        assert [each() for each in seen] == [None]
    finally:
        gc.enable()
