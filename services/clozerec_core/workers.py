"""Threads for work that would stop the event loop: network runs, scans, SQLite."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from clozerec_core import metrics
from clozerec_core.errors import Overloaded
from clozerec_core.request_context import check_time_left

T = TypeVar("T")


MAX_WAITING = 256
"""Pieces of work that may wait for a thread; beyond it a caller hears at once that it is too much."""


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
        self._pending = metrics.PENDING_WORK.labels(name)

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`, done on a thread.

        Raises:
            Overloaded: too much is waiting.
            DeadlineExceeded: the request's time was up before a thread was free.
        """
        if self._num_pending >= self._max_pending:
            raise Overloaded(f"the {self._name} has {self._num_pending} requests waiting; try again")

        def unless_expired() -> T:
            # Work queued behind others may find that its caller has given up.
            check_time_left()
            return work()

        self._num_pending += 1
        self._pending.inc()
        future = asyncio.get_running_loop().run_in_executor(
            self._threads, contextvars.copy_context().run, unless_expired
        )
        # Also when the caller is gone: what was still queued is then dropped.
        future.add_done_callback(self._done)
        return await future

    def _done(self, _: asyncio.Future[T]) -> None:
        self._num_pending -= 1
        self._pending.dec()

    def close(self) -> None:
        """Let work under way finish, and end the threads."""
        self._threads.shutdown(wait=True)
