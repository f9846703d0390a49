"""How long the work of a call may take."""

from __future__ import annotations

import asyncio

import pytest

from clozerec_core.errors import DeadlineExceeded
from clozerec_core.rpc_call import in_time


async def test_what_waits_for_nothing_is_answered_even_without_time() -> None:
    async def at_once() -> str:
        return "done"

    assert await in_time(at_once(), 0) == "done"


async def test_what_waits_is_answered_within_its_time_and_stopped_after_it() -> None:
    stopped = []

    async def later(seconds: float) -> str:
        try:
            await asyncio.sleep(0)
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            stopped.append(seconds)
            raise
        return "done"

    assert await in_time(later(0.001), 5) == "done"
    with pytest.raises(DeadlineExceeded):
        await in_time(later(60), 0.001)
    assert stopped == [60]


async def test_a_timeout_within_the_work_is_the_works_own() -> None:
    async def gives_up() -> None:
        async with asyncio.timeout(0.001):
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        await in_time(gives_up(), 5)
