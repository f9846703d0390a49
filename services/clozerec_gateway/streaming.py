"""Answer a stream of requests in their order, several at a time, and no faster than the caller reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")

IN_FLIGHT = 16
"""Requests of one stream that are worked on at once; the next is read when the oldest answer has been taken."""


async def answered_in_order(
    requests: AsyncIterator[Request], answer: Callable[[Request], Awaitable[Answer]], in_flight: int = IN_FLIGHT
) -> AsyncGenerator[Answer, None]:
    """The answer to each request, in their order.

    Nothing is read ahead of the caller by more than `in_flight`: gRPC's flow control then holds the sender.
    """
    begun: asyncio.Queue[asyncio.Future[Answer] | None] = asyncio.Queue()
    tasks: set[asyncio.Future[Answer]] = set()
    room = asyncio.Semaphore(in_flight - 1)  # apart from the queue, whose end must find a place whatever it holds

    async def read() -> None:
        try:
            async for request in requests:
                task = asyncio.ensure_future(answer(request))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                begun.put_nowait(task)
                await room.acquire()
        finally:
            begun.put_nowait(None)

    reader = asyncio.create_task(read())
    try:
        while (task := await begun.get()) is not None:
            yield await task
            room.release()
        await reader  # whatever ended the stream of requests ends this one
    finally:
        reader.cancel()
        for each in tasks:
            each.cancel()
        # What it raised holds this frame, which would hold it: a circle for the garbage collector to find.
        del reader
