"""Calls within a process: an answer at once, a wait, a deadline, a caller that goes away."""

from __future__ import annotations

import asyncio
import ctypes
import gc

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from clozerec_core.rpc_client import LocalStub, open_channel, whole


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


class _Allocated(ctypes.Structure):
    """glibc's `mallinfo2`."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
    )]  # fmt: skip


def bytes_allocated() -> int:
    """Outside of Python's own heap."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Allocated
    gc.collect()
    return int(mallinfo2().uordblks)


async def give_up(channel: grpc.aio.Channel, arrived: asyncio.Event) -> None:
    """A call that its caller cancels while the server works on it."""
    arrived.clear()
    calling = asyncio.create_task(whole(channel.unary_unary("/test.Service/Method")(b"asked", timeout=30)))
    await arrived.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="only glibc tells what is allocated")
async def test_calls_that_are_given_up_leave_no_memory_behind() -> None:
    working, arrived, all_heard = set(), asyncio.Event(), asyncio.Event()

    async def never(request: bytes, context: object) -> bytes:
        working.add(context)
        all_heard.clear()
        arrived.set()
        try:
            await asyncio.Event().wait()
        finally:
            working.discard(context)
            if not working:
                all_heard.set()
        raise AssertionError

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(never)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", {"Method": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with open_channel(f"127.0.0.1:{port}") as channel:
        for _ in range(200):
            await give_up(channel, arrived)
        before = bytes_allocated()
        for _ in range(1_000):
            await give_up(channel, arrived)
        assert bytes_allocated() - before < 300 * 1_000  # grpc.aio's own way leaves a kilobyte of each
        async with asyncio.timeout(20):
            await all_heard.wait()  # the server works no longer for those who are gone
    await server.stop(None)


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
