"""Threads for work that would stop the event loop: network runs, scans, SQLite."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from clozerec_core.errors import DeadlineExceeded
from clozerec_core.request_context import current_request

T = TypeVar("T")


class Workers:
    """A few named threads that work for requests."""

    def __init__(self, name: str, num_threads: int, on_start: Callable[[], object] | None = None) -> None:
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix=name, initializer=on_start)

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`, done on a thread.

        Raises:
            DeadlineExceeded: the request's time was up before a thread was free.
        """
        request = current_request()

        def unless_expired() -> T:
            # Work queued behind others may find that its caller has given up.
            if request.remaining_s() == 0:
                raise DeadlineExceeded("the deadline passed while the request was queued")
            return work()

        return await asyncio.get_running_loop().run_in_executor(self._threads, unless_expired)

    def close(self) -> None:
        """Let work under way finish, and end the threads."""
        self._threads.shutdown(wait=True)
