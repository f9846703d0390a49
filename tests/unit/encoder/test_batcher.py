"""The queue before the network: every piece runs once, callers take turns, and what nobody waits for is not run."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clozerec_core.errors import DeadlineExceeded, Overloaded
from clozerec_core.request_context import handling
from clozerec_encoder.batcher import Batcher, Call, FairQueue

CALLS = st.lists(st.tuples(st.sampled_from("abc"), st.lists(st.integers(1, 9), min_size=1, max_size=12)), max_size=8)


def call(caller: str, costs: Sequence[int], name: str = "") -> Call[tuple[str, int], None]:
    pieces = [(name or caller, number) for number in range(len(costs))]
    return Call(pieces, costs, caller, answer=cast(Any, None), deadline=None)  # the queue answers nobody


def taken(queue: FairQueue[tuple[str, int], None], budget: int) -> list[tuple[str, int]]:
    return [piece for share in queue.take(budget) for piece in share.pieces]


@given(CALLS, st.integers(1, 40), st.sets(st.integers(0, 7)))
def test_every_piece_is_taken_once_in_order_unless_dropped(
    calls: list[tuple[str, list[int]]], budget: int, dropped: set[int]
) -> None:
    queue = FairQueue[tuple[str, int], None](max_cost=10**6)
    made = [call(caller, costs, f"call {number}") for number, (caller, costs) in enumerate(calls)]
    for each in made:
        assert queue.put(each)
    for number in dropped & set(range(len(made))):
        queue.drop(made[number])
    seen: list[tuple[str, int]] = []
    while queue:
        batch = taken(queue, budget)
        costs = [made[int(name.split()[1])].costs[number] for name, number in batch]
        assert sum(costs) < budget + max(costs, default=1)
        seen += batch
    assert queue.cost == 0
    kept = [each for number, each in enumerate(made) if number not in dropped]
    assert Counter(seen) == Counter(piece for each in kept for piece in each.pieces)
    for each in kept:
        assert [piece for piece in seen if piece[0] == each.pieces[0][0]] == list(each.pieces)


def test_a_thousand_pieces_of_one_call_do_not_hold_up_one_of_another() -> None:
    queue = FairQueue[tuple[str, int], None](max_cost=10**6)
    queue.put(call("bulk", [10] * 1000))
    queue.take(100)
    queue.put(call("single", [10]))
    assert ("single", 0) in taken(queue, 100)


def test_a_thousand_calls_of_one_caller_do_not_hold_up_one_of_another() -> None:
    queue = FairQueue[tuple[str, int], None](max_cost=10**6)
    for number in range(1000):
        queue.put(call("many", [10], f"call {number}"))
    queue.put(call("single", [10]))
    assert ("single", 0) in taken(queue, 100)


def test_a_full_queue_refuses_and_an_empty_one_takes_a_call_of_any_size() -> None:
    queue = FairQueue[tuple[str, int], None](max_cost=100)
    assert queue.put(call("large", [60, 60]))
    assert not queue.put(call("late", [1]))
    queue.take(1000)
    assert queue.put(call("late", [1]))


class Gate:
    """Work that a test holds up: each batch waits until it is let through."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.entered, self.open = threading.Semaphore(0), threading.Semaphore(0)

    def run(self, pieces: Sequence[str]) -> list[str]:
        self.batches.append(list(pieces))
        self.entered.release()
        assert self.open.acquire(timeout=30)
        if "bad" in pieces:
            raise ZeroDivisionError
        return [piece.upper() for piece in pieces]


@contextmanager
def batcher(gate: Gate, max_waiting_cost: int = 1000) -> Iterator[Batcher[str, str]]:
    made = Batcher[str, str]("test", gate.run, batch_cost=100, max_waiting_cost=max_waiting_cost)
    try:
        yield made
    finally:
        gate.open.release(100)
        made.close()


async def started(made: Batcher[str, str], *pieces: str, caller: str = "") -> asyncio.Task[list[str]]:
    """A call that waits in the queue when this returns."""
    task = asyncio.create_task(made.submit(pieces, [10] * len(pieces), caller))
    await asyncio.sleep(0)
    return task


async def working(gate: Gate) -> None:
    assert await asyncio.to_thread(gate.entered.acquire, timeout=30)


async def test_batches_are_what_waited_while_the_thread_worked() -> None:
    gate = Gate()
    with batcher(gate) as made:
        first = await started(made, "a")
        await working(gate)
        later = [await started(made, "b", "c", caller="x"), await started(made, "d", caller="y")]
        gate.open.release(2)
        assert await first == ["A"]
        assert await asyncio.gather(*later) == [["B", "C"], ["D"]]
    assert gate.batches == [["a"], ["b", "d", "c"]]


async def test_work_of_a_caller_that_is_gone_is_not_run() -> None:
    gate = Gate()
    with batcher(gate) as made:
        first = await started(made, "a")
        await working(gate)
        gone, stays = await started(made, "b"), await started(made, "c")
        gone.cancel()
        await asyncio.wait([gone])
        gate.open.release(2)
        assert (await first, await stays) == (["A"], ["C"])
    assert gate.batches == [["a"], ["c"]]


async def test_work_that_is_too_late_is_not_run() -> None:
    gate = Gate()
    with batcher(gate) as made:
        first = await started(made, "a")
        await working(gate)
        with handling({}, timeout_s=0):
            late = await started(made, "b")
        gate.open.release(2)
        assert await first == ["A"]
        with pytest.raises(DeadlineExceeded):
            await late
    assert gate.batches == [["a"]]


async def test_a_full_queue_says_when_to_try_again() -> None:
    gate = Gate()
    with batcher(gate, max_waiting_cost=20) as made:
        calls = [await started(made, "a")]
        await working(gate)
        calls.append(await started(made, "b", "c"))
        with pytest.raises(Overloaded) as refused:
            await made.submit(["d"], [10], "")
        assert 0 < refused.value.retry_s < 1
        gate.open.release(2)
        assert await asyncio.gather(*calls) == [["A"], ["B", "C"]]


async def test_a_failure_reaches_every_call_of_the_batch_and_no_other() -> None:
    gate = Gate()
    with batcher(gate) as made:
        first = await started(made, "a")
        await working(gate)
        failing = [await started(made, "bad"), await started(made, "b")]
        gate.open.release(2)
        assert await first == ["A"]
        assert [type(each) for each in await asyncio.gather(*failing, return_exceptions=True)] == [
            ZeroDivisionError
        ] * 2
        gate.open.release()
        assert await made.submit(["c"], [10], "") == ["C"]


async def test_a_lone_small_call_runs_at_once_and_a_crowd_does_not() -> None:
    ran_on: list[str] = []

    def run(pieces: Sequence[str]) -> Sequence[str]:
        ran_on.append(threading.current_thread().name)
        return pieces

    made = Batcher[str, str]("test", run, batch_cost=100, max_waiting_cost=1000, lone_cost=10)
    await made.submit(["a"], [10], "")
    await asyncio.gather(*(made.submit(["b"], [10], "") for _ in range(3)))
    made.close()
    assert ran_on[0] == threading.main_thread().name
    assert set(ran_on[1:]) == {"test-0"}


async def test_a_run_that_took_long_does_not_make_its_caller_a_crowd() -> None:
    ran_on: list[str] = []

    def run(pieces: Sequence[str]) -> Sequence[str]:
        ran_on.append(threading.current_thread().name)
        time.sleep(0.05)
        return pieces

    made = Batcher[str, str]("test", run, batch_cost=100, max_waiting_cost=1000, lone_cost=10)
    for _ in range(3):
        await made.submit(["a"], [10], "")
        await asyncio.sleep(0.002)
    made.close()
    assert set(ran_on) == {threading.main_thread().name}
