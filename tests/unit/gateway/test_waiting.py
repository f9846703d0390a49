"""Who waits for a service that answers nobody, and who for one that is only slow."""

from __future__ import annotations

import asyncio
import time

import pytest

from clozerec_gateway.waiting import ENOUGH, Waiting, waits

QUIET_S = 0.1


class Service:
    """Answers when it is told to, in any order."""

    def __init__(self) -> None:
        self.times_quiet = 0
        self.waiting = Waiting(QUIET_S, self._on_quiet)

    def _on_quiet(self) -> None:
        self.times_quiet += 1

    async def call(self, takes_s: float) -> str:
        try:
            async with waits(self.waiting):
                await asyncio.sleep(takes_s)
        except TimeoutError:
            return "given up"
        self.waiting.answered()
        return "answered"

    async def calls(self, *take_s: float) -> list[str]:
        return await asyncio.gather(*(self.call(each) for each in take_s))


async def test_calls_that_nobody_answers_are_given_up_together() -> None:
    service = Service()
    began = time.monotonic()
    assert await service.calls(*[30.0] * 20) == ["given up"] * 20
    assert QUIET_S * 0.7 < time.monotonic() - began < 10
    assert service.times_quiet == 1
    assert len(service.waiting) == 0


async def test_a_few_may_all_be_slow() -> None:
    service = Service()
    assert await service.calls(*[3 * QUIET_S] * (ENOUGH - 1)) == ["answered"] * (ENOUGH - 1)


async def test_one_answer_after_the_other_is_patience_enough_however_long_each_takes() -> None:
    service = Service()
    take_s = [QUIET_S * 0.4 * (1 + number) for number in range(3 * ENOUGH)]
    assert set(await service.calls(*take_s)) == {"answered"}
    assert service.times_quiet == 0


async def test_those_who_come_later_are_given_up_as_well_when_it_stops_again() -> None:
    service = Service()
    for _ in range(3):
        assert set(await service.calls(*[30.0] * ENOUGH)) == {"given up"}
        assert set(await service.calls(*[0.0] * ENOUGH)) == {"answered"}
    assert service.times_quiet == 3


async def test_a_loop_that_was_held_up_itself_blames_nobody() -> None:
    service = Service()
    calls = asyncio.ensure_future(service.calls(*[QUIET_S * 0.3] * ENOUGH))
    await asyncio.sleep(0)
    time.sleep(5 * QUIET_S)  # noqa: ASYNC251  # what the test is about
    assert set(await calls) == {"answered"}


async def test_a_caller_who_goes_away_is_waited_for_no_more() -> None:
    service = Service()
    calls = [asyncio.ensure_future(service.call(30.0)) for _ in range(ENOUGH)]
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    for call in calls:
        with pytest.raises(asyncio.CancelledError):
            await call
    assert len(service.waiting) == 0
    await asyncio.sleep(1.5 * QUIET_S)
    assert service.times_quiet == 0
