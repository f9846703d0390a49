"""Who is let in: by the number of calls under way, and by the time that a turn would take."""

from __future__ import annotations

import pytest

from clozerec_core import metrics
from clozerec_core.admission import CALLS_MEASURED, FEW, Admission


class Clock:
    """Stands still between `pass_s`."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def pass_s(self, seconds: float) -> None:
        self.now += seconds


def shed(reason: str) -> float:
    return metrics.REGISTRY.get_sample_value("clozerec_server_calls_shed_total", {"reason": reason}) or 0


def measured(clock: Clock, s_between_ends: float, max_in_flight: int = 100) -> Admission:
    """A server with no call under way, whose calls ended one each so many seconds."""
    admission = Admission(max_in_flight, clock)
    for _ in range(CALLS_MEASURED):
        assert admission.enter(10)
        clock.pass_s(s_between_ends)
        admission.leave()
    return admission


def test_calls_beyond_the_most_are_refused_until_one_ends() -> None:
    admission = Admission(3, Clock())
    before = shed("full")
    assert [admission.enter(10) for _ in range(5)] == [True, True, True, False, False]
    assert shed("full") == before + 2
    admission.leave()
    assert not admission.is_full
    assert admission.enter(10)


@pytest.mark.parametrize(("remaining_s", "lets_in"), [(0.05, False), (0.09, False), (0.11, True), (10, True)])
def test_a_call_whose_turn_would_come_too_late_is_refused(remaining_s: float, lets_in: bool) -> None:
    """Ten calls under way, one ends each 10 ms: a newcomer takes about 0.1 s."""
    admission = measured(Clock(), 0.01)
    for _ in range(10):
        assert admission.enter(10)
    before = shed("late")
    assert admission.enter(remaining_s) is lets_in
    assert shed("late") == before + (not lets_in)


def test_a_few_calls_are_no_queue_however_long_the_last_ones_took() -> None:
    admission = measured(Clock(), 5.0)
    assert [admission.enter(0.1) for _ in range(FEW + 1)] == [True] * FEW + [False]


def test_time_without_calls_does_not_count() -> None:
    clock = Clock()
    admission = measured(clock, 0.01)
    clock.pass_s(3600)
    for _ in range(CALLS_MEASURED):
        assert admission.enter(10)
    for _ in range(CALLS_MEASURED):
        clock.pass_s(0.01)
        admission.leave()
    assert all(admission.enter(0.5) for _ in range(20))


def test_refusals_leave_one_line_a_second_with_their_number(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    admission = Admission(1, clock)
    assert admission.enter(10)
    for _ in range(3):
        for _ in range(100):
            assert not admission.enter(10)
        clock.pass_s(1)
    lines = [line for line in "".join(capsys.readouterr()).splitlines() if "calls_shed" in line]
    assert len(lines) == 3
    assert "100" in lines[1]
