"""Threads for work that would stop the event loop: network runs, scans, SQLite."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from clozerec_core import metrics
from clozerec_core.errors import Overloaded
from clozerec_core.request_context import check_time_left

T = TypeVar("T")


MAX_WAITING = 256
"""Pieces of work that may wait for a thread; beyond it a caller hears at once that it is too much."""


class _CallerGone(Exception):
    """Nobody waits for the work any more, nor hears of this."""


class Workers:
    """A few named threads that work for requests, with a bounded queue before them."""

    def __init__(
        self,
        name: str,
        num_threads: int,
        on_start: Callable[[], object] | None = None,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._name = name
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix=name, initializer=on_start)
        self._max_pending = num_threads + max_waiting
        self._num_pending = 0
        self._count = threading.Lock()
        self._pending = metrics.PENDING_WORK.labels(name)

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`, done on a thread.

        Raises:
            Overloaded: too much is waiting.
            DeadlineExceeded: the request's time was up before a thread was free.
        """
        if self._num_pending >= self._max_pending:
            raise Overloaded(f"the {self._name} has {self._num_pending} requests waiting; try again")

        is_wanted = True

        def unless_in_vain() -> T:
            # Work queued behind others may find that its caller has given up.
            if not is_wanted:
                raise _CallerGone
            check_time_left()
            return work()

        with self._count:
            self._num_pending += 1
        self._pending.inc()
        done = self._threads.submit(contextvars.copy_context().run, unless_in_vain)
        # Not before a thread has come to it: as long as one hangs, what nobody wants any more still takes room.
        done.add_done_callback(self._done)
        try:
            return await asyncio.shield(asyncio.wrap_future(done))
        except asyncio.CancelledError:
            is_wanted = False
            raise

    def _done(self, _: Future[T]) -> None:
        with self._count:
            self._num_pending -= 1
        self._pending.dec()

    def close(self) -> None:
        """Let work under way finish, and end the threads."""
        self._threads.shutdown(wait=True)
