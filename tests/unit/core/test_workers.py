"""Threads with a bounded queue: full means refused, late means dropped."""

from __future__ import annotations

import asyncio
import threading

import pytest

from clozerec_core import metrics
from clozerec_core.errors import DeadlineExceeded, Overloaded
from clozerec_core.request_context import current_request, handling
from clozerec_core.workers import Workers


async def test_a_full_queue_refuses_and_an_empty_one_takes_again() -> None:
    workers, gate = Workers("test", num_threads=1, max_waiting=2), threading.Event()
    taken = [asyncio.create_task(workers.run(gate.wait)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="3 requests waiting"):
        await workers.run(lambda: None)
    gate.set()
    assert await asyncio.gather(*taken) == [True] * 3
    assert await workers.run(lambda: 7) == 7
    workers.close()


async def test_queued_work_whose_caller_is_gone_is_dropped() -> None:
    workers, gate, done = Workers("test", num_threads=1, max_waiting=1), threading.Event(), []
    running = asyncio.create_task(workers.run(gate.wait))
    queued = asyncio.create_task(workers.run(lambda: done.append("queued")))
    await asyncio.sleep(0)
    queued.cancel()
    await asyncio.gather(queued, return_exceptions=True)
    gate.set()
    await running
    await workers.run(lambda: done.append("last"))
    assert done == ["last"]
    workers.close()


async def test_what_nobody_wants_any_more_takes_room_until_a_thread_comes_to_it() -> None:
    """A thread that hangs in the disk would else collect the work of every caller that gave up."""
    workers, gate = Workers("test", num_threads=1, max_waiting=2), threading.Event()
    running = asyncio.create_task(workers.run(gate.wait))
    given_up = [asyncio.create_task(workers.run(lambda: None)) for _ in range(2)]
    await asyncio.sleep(0)
    for each in given_up:
        each.cancel()
    await asyncio.gather(*given_up, return_exceptions=True)
    with pytest.raises(Overloaded):
        await workers.run(lambda: None)
    gate.set()
    await running
    workers.close()
    assert metrics.PENDING_WORK.labels("test")._value.get() == 0


async def test_work_past_its_deadline_is_not_begun() -> None:
    workers = Workers("test", num_threads=1)
    with handling({}, timeout_s=0), pytest.raises(DeadlineExceeded):
        await workers.run(lambda: pytest.fail("was begun"))
    workers.close()


async def test_work_knows_the_request_that_it_is_done_for() -> None:
    workers = Workers("test", num_threads=1)
    with handling({"x-request-id": "my-id"}, timeout_s=5):
        assert await workers.run(lambda: current_request().request_id) == "my-id"
    workers.close()


@pytest.mark.parametrize("traceparent", ["", "é", "a\tb", "00-" + "0" * 32 + "-" + "0" * 16, "x" * 8000])
def test_a_malformed_trace_context_is_not_passed_on(traceparent: str) -> None:
    with handling({"traceparent": traceparent}, None) as request:
        assert dict(request.outgoing_metadata()).keys() == {"x-request-id"}


def test_a_well_formed_trace_context_is_passed_on() -> None:
    traceparent = f"00-{'a' * 32}-{'b' * 16}-01"
    with handling({"traceparent": traceparent}, None) as request:
        assert dict(request.outgoing_metadata())["traceparent"] == traceparent
