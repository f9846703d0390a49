"""A circuit breaker for one dependency: what fails again and again is left alone, and tried by one call at a time.

Own code: the published ones let every waiting call through when it is time to try again, and with a dependency that
accepts and never answers each of them would wait out its share of the deadline.
"""

from __future__ import annotations

import time
from collections.abc import Callable

FAILURES_TO_OPEN = 5
"""In a row: one slow answer among good ones is no outage."""

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 2.0
"""Between tries; doubled after each that fails, so that a recovery is noticed within seconds."""


class Circuit:
    """Closed: calls pass. Open: none does, but for one try after each pause; the first that succeeds closes it.

    For one event loop; asks no lock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._num_failures = 0
        self._pause_s = FIRST_PAUSE_S
        self._next_try: float | None = None
        """None: closed."""
        self._is_trying = False

    @property
    def is_open(self) -> bool:
        """Whether calls are refused for now, the next try aside."""
        return self._next_try is not None

    def lets_pass(self) -> bool:
        """Whether a call may be made; where it is the one try, no other is let through until the next pause is over."""
        if self._next_try is None:
            return True
        now = self._clock()
        if now < self._next_try:
            return False
        self._next_try = now + self._pause_s
        self._is_trying = True
        return True

    def succeeded(self) -> None:
        """An answer came, be it an error of the caller's own making."""
        if self._num_failures:
            self._num_failures, self._next_try, self._pause_s = 0, None, FIRST_PAUSE_S

    def failed(self) -> None:
        """No answer came, or not in time. While it is open only the try says something new: others began before."""
        self._num_failures += 1
        if self._next_try is None:
            if self._num_failures >= FAILURES_TO_OPEN:
                self.open()
        elif self._is_trying:
            self._is_trying = False
            self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s)
            self._next_try = self._clock() + self._pause_s

    def open(self) -> None:
        """Leave it alone from now on: it has stopped answering."""
        self._num_failures = max(self._num_failures, FAILURES_TO_OPEN)
        self._next_try = self._clock() + self._pause_s
        self._is_trying = False
