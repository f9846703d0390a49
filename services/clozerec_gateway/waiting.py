"""The calls that wait for one service, given up together once it has stopped answering.

A busy service answers one call after the other, however long each takes. One that is frozen or cut off answers none of
them: then nobody gains by waiting out a time of their own, and each who waits holds a place in the gateway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

ENOUGH = 5
"""Waiting calls that say something of the service: fewer may all be slow ones."""

LOOKS = 5
"""In a row that find no answer since the one before. Looks are counted and no time is taken, so that a gateway that
was itself held up finds the answers that came meanwhile before it blames the service."""


class Waiting:
    """Calls under way to one service. For one event loop; asks no lock."""

    def __init__(self, quiet_s: float, on_quiet: Callable[[], None]) -> None:
        """
        Args:
            quiet_s: seconds without any answer, while enough calls wait, after which none is waited for any more.
            on_quiet: told so, before the calls are given up.
        """
        self._look_every_s = quiet_s / LOOKS
        self._on_quiet = on_quiet
        self._scopes: set[asyncio.Timeout] = set()
        self._num_vain = 0
        self._is_looking = False

    def __len__(self) -> int:
        return len(self._scopes)

    def answered(self) -> None:
        """The service gave a sign of life."""
        self._num_vain = 0

    def begin(self, scope: asyncio.Timeout) -> None:
        """A call waits from now on; its scope ends when it is given up."""
        self._scopes.add(scope)
        if len(self._scopes) >= ENOUGH and not self._is_looking:
            self._is_looking, self._num_vain = True, 0
            self._look_later()

    def end(self, scope: asyncio.Timeout) -> None:
        """It waits no more, whatever became of it."""
        self._scopes.discard(scope)

    def _look_later(self) -> None:
        asyncio.get_running_loop().call_later(self._look_every_s, self._look)

    def _look(self) -> None:
        self._num_vain += 1
        if len(self._scopes) < ENOUGH:
            self._is_looking = False
        elif self._num_vain < LOOKS:
            self._look_later()
        else:
            self._is_looking = False
            self._on_quiet()
            scopes, self._scopes = self._scopes, set()
            for scope in scopes:
                scope.reschedule(asyncio.get_running_loop().time())


class waits:  # noqa: N801  # reads like `asyncio.timeout`
    """Wait for an answer in the block, with the others.

    Raises:
        TimeoutError: all of them were given up.
    """

    def __init__(self, waiting: Waiting) -> None:
        self._waiting = waiting
        self._scope = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        await self._scope.__aenter__()
        self._waiting.begin(self._scope)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.end(self._scope)
        await self._scope.__aexit__(kind, error, trace)
