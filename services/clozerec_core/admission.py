"""How many calls a server works on at once: more are refused before anything else is done for them.

A refusal has to cost far less than an answer, or refusing is itself the overload. So it comes first: no bytes are read,
nobody is asked who they are, no context is opened and no line is logged for it but one a second with their number.

A call is refused where as many are under way as the server takes, and where its caller's time would be up before its
turn: by Little's law a call takes as long as the calls under way divided by the rate at which they end.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import grpc
from google.protobuf.message import Message

from clozerec_core import metrics
from clozerec_core.aborting import abort
from clozerec_core.errors import Overloaded
from clozerec_core.rpc_errors import status_trailers, to_status
from clozerec_core.telemetry import CALLS_SHED, get_logger

FEW = 8
"""So many calls under way are no queue: below, the estimate is not asked."""

CALLS_MEASURED = 32
"""After so many ends the rate is taken anew."""

LOG_EVERY_S = 1.0

log = get_logger("admission")


class Admission:
    """Counts the calls that a server works on. For one event loop; asks no lock."""

    def __init__(self, max_in_flight: int, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            max_in_flight: calls at once.
            clock: seconds, monotonic.
        """
        self._max_in_flight = max_in_flight
        self._clock = clock
        self.in_flight = 0
        self._busy_since = 0.0
        self._busy_s = 0.0
        self._num_ended = 0
        self._s_between_ends = 0.0
        self._num_shed = 0
        self._log_after = clock()
        self._shed = {reason: metrics.CALLS_SHED.labels(reason) for reason in ("full", "late")}
        error = Overloaded("the server has as many calls as it can answer in time; try again")
        self.message = error.message
        self.status = to_status(error, "")
        self.trailers = status_trailers(self.status)

    @property
    def is_full(self) -> bool:
        """Whether the next call is refused whatever its deadline."""
        return self.in_flight >= self._max_in_flight

    def enter(self, remaining_s: float) -> bool:
        """Begin a call, unless it is to be refused; each that began must `leave`.

        Args:
            remaining_s: until its deadline.
        """
        if self.is_full:
            self.refused("full")
            return False
        if self.in_flight >= FEW and self.in_flight * self._s_between_ends > remaining_s:
            self.refused("late")
            return False
        if not self.in_flight:
            self._busy_since = self._clock()
        self.in_flight += 1
        return True

    def leave(self) -> None:
        """A call that had begun is over, whatever became of it."""
        now = self._clock()
        self._busy_s += now - self._busy_since
        self._busy_since = now
        self.in_flight -= 1
        self._num_ended += 1
        if self._num_ended == CALLS_MEASURED:
            self._s_between_ends = self._busy_s / CALLS_MEASURED
            self._busy_s, self._num_ended = 0.0, 0

    def refused(self, reason: str) -> None:
        """Count a refusal."""
        self._shed[reason].inc()
        self._num_shed += 1
        now = self._clock()
        if now >= self._log_after:
            log.warning(CALLS_SHED, calls=self._num_shed, in_flight=self.in_flight)
            self._num_shed, self._log_after = 0, now + LOG_EVERY_S

    async def refuse(self, context: Any) -> NoReturn:
        """End a call."""
        await abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, self.message, self.trailers)

    def refusal(self) -> Any:
        """A handler that refuses: a streaming one, which may end a call of any kind without reading its message."""

        async def call(_: object, context: Any) -> None:
            self.refused("full")
            await self.refuse(context)

        return grpc.stream_stream_rpc_method_handler(call)


def admitted(handler: Any, admission: Admission, default_timeout_s: float) -> Any:
    """The handler of a unary method, for the calls that are let in; outside of everything else.

    A stream has its own limit of requests at once, so it is refused or not when it opens, and not counted.
    """
    inner: Callable[[Any, Any], Awaitable[Message]] | None = handler.unary_unary
    if inner is None:
        return handler

    async def call(request: Any, context: Any) -> Message:
        remaining_s = context.time_remaining()
        if not admission.enter(default_timeout_s if remaining_s is None else remaining_s):
            return await admission.refuse(context)
        try:
            return await inner(request, context)
        finally:
            admission.leave()

    return grpc.unary_unary_rpc_method_handler(
        call, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
    )
