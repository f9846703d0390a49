"""Answer a stream of requests in their order, several at a time, and no faster than the caller reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")

IN_FLIGHT = 16
"""Requests of one stream that are worked on at once; the next is read when the oldest answer has been taken."""


async def answered_in_order(
    requests: AsyncIterator[Request], answer: Callable[[Request], Awaitable[Answer]], in_flight: int = IN_FLIGHT
) -> AsyncIterator[Answer]:
    """The answer to each request, in their order.

    Nothing is read ahead of the caller by more than `in_flight`: gRPC's flow control then holds the sender.
    """
    begun: asyncio.Queue[asyncio.Future[Answer] | None] = asyncio.Queue(in_flight)
    tasks: set[asyncio.Future[Answer]] = set()

    async def read() -> None:
        try:
            async for request in requests:
                task = asyncio.ensure_future(answer(request))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                await begun.put(task)
        finally:
            await begun.put(None)

    reader = asyncio.create_task(read())
    try:
        while (task := await begun.get()) is not None:
            yield await task
        await reader  # whatever ended the stream of requests ends this one
    finally:
        reader.cancel()
        for task in tasks:
            task.cancel()
