"""Calls within a process: an answer at once, a wait, a deadline, a caller that goes away."""

from __future__ import annotations

import asyncio

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from clozerec_core.rpc_client import LocalStub


class Servicer:
    """Answers at once, or after it was let go."""

    def __init__(self) -> None:
        self.may_go = asyncio.Event()
        self.was_cancelled = False

    async def AtOnce(self, request: StringValue, context: object) -> StringValue:
        return request

    async def Later(self, request: StringValue, context: object) -> StringValue:
        for _ in range(2):
            try:
                await self.may_go.wait()
            except asyncio.CancelledError:
                self.was_cancelled = True
                raise
            await asyncio.to_thread(lambda: None)
        return request

    async def Refuses(self, request: StringValue, context: object) -> StringValue:
        if request.value:
            await asyncio.to_thread(lambda: None)
        raise KeyError(request.value)


ASKED = StringValue(value="asked")


async def test_an_answer_at_once_needs_no_turn_of_the_loop() -> None:
    call = LocalStub(Servicer()).AtOnce(ASKED, timeout=0)
    with pytest.raises(StopIteration) as done:
        call.send(None)  # type: ignore[attr-defined]  # by hand, as the loop would
    assert done.value.value == ASKED


async def test_what_waits_goes_on_when_it_may() -> None:
    servicer = Servicer()
    call = asyncio.create_task(LocalStub(servicer).Later(ASKED, timeout=5))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    servicer.may_go.set()
    assert await call == ASKED


async def test_what_waits_past_its_time_is_cancelled() -> None:
    servicer = Servicer()
    with pytest.raises(TimeoutError):
        await LocalStub(servicer).Later(ASKED, timeout=0.001)
    assert servicer.was_cancelled


async def test_what_waits_is_cancelled_with_its_caller() -> None:
    servicer = Servicer()
    call = asyncio.create_task(LocalStub(servicer).Later(ASKED, timeout=5))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert servicer.was_cancelled


@pytest.mark.parametrize("when", ["", "later"])
async def test_an_error_arrives_as_it_was_raised(when: str) -> None:
    with pytest.raises(KeyError):
        await LocalStub(Servicer()).Refuses(StringValue(value=when), timeout=5)
