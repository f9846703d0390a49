"""The circuit breaker, by a clock of the test's own."""

from __future__ import annotations

from clozerec_gateway.circuit import FAILURES_TO_OPEN, FIRST_PAUSE_S, LONGEST_PAUSE_S, Circuit


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def opened() -> tuple[Circuit, Clock]:
    clock = Clock()
    circuit = Circuit(clock)
    for _ in range(FAILURES_TO_OPEN):
        assert circuit.lets_pass()
        circuit.failed()
    return circuit, clock


def test_it_opens_after_failures_in_a_row_only() -> None:
    circuit = Circuit(Clock())
    for _ in range(10):
        for _ in range(FAILURES_TO_OPEN - 1):
            circuit.failed()
        circuit.succeeded()
    assert circuit.lets_pass()
    assert opened()[0].is_open


def test_after_each_pause_one_call_tries_and_no_other() -> None:
    circuit, clock = opened()
    assert not circuit.lets_pass()
    clock.now += FIRST_PAUSE_S
    assert [circuit.lets_pass() for _ in range(5)] == [True, False, False, False, False]


def test_a_try_that_succeeds_closes_it_and_one_that_fails_makes_the_next_pause_longer() -> None:
    circuit, clock = opened()
    pauses = []
    for _ in range(6):
        before = clock.now
        while not circuit.lets_pass():
            clock.now += 0.01
        pauses.append(clock.now - before)
        circuit.failed()
    assert pauses == sorted(pauses)
    assert pauses[-1] <= LONGEST_PAUSE_S + 0.011
    clock.now += LONGEST_PAUSE_S
    assert circuit.lets_pass()
    circuit.succeeded()
    assert not circuit.is_open
    assert all(circuit.lets_pass() for _ in range(5))


def test_a_try_that_never_ends_does_not_keep_it_open_for_good() -> None:
    circuit, clock = opened()
    clock.now += FIRST_PAUSE_S
    assert circuit.lets_pass()  # its caller went away
    clock.now += LONGEST_PAUSE_S
    assert circuit.lets_pass()


def test_failures_of_calls_from_before_it_opened_put_off_no_try() -> None:
    circuit, clock = opened()
    for _ in range(50):
        circuit.failed()
    clock.now += FIRST_PAUSE_S
    assert circuit.lets_pass()


def test_it_opens_at_once_when_told_and_closes_as_ever() -> None:
    clock = Clock()
    circuit = Circuit(clock)
    circuit.open()
    assert not circuit.lets_pass()
    clock.now += FIRST_PAUSE_S
    assert circuit.lets_pass()
    circuit.succeeded()
    assert not circuit.is_open
