"""What travels with a request through all services: its id, its trace context, and the time it has left."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType

from clozerec_core.errors import DeadlineExceeded
from clozerec_core.tracing import is_tracing, request_span, traceparent_of

REQUEST_ID_KEY = "x-request-id"
TRACEPARENT_KEY = "traceparent"
_USABLE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class RequestContext:
    """One request, as this process sees it."""

    request_id: str
    traceparent: str | None
    """W3C trace context for calls that this request causes: its own span, or what came where nothing is traced here."""
    deadline: float | None
    """On the monotonic clock, in seconds; None: the caller set none."""

    def remaining_s(self) -> float | None:
        """Seconds until the deadline, 0 when it has passed; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def outgoing_metadata(self) -> tuple[tuple[str, str], ...]:
        """gRPC metadata for calls that this request causes."""
        own = ((REQUEST_ID_KEY, self.request_id),)
        return own if self.traceparent is None else (*own, (TRACEPARENT_KEY, self.traceparent))


_current: ContextVar[RequestContext | None] = ContextVar("request_context", default=None)


def current_request() -> RequestContext:
    """The request that this task works for; a fresh one outside of any."""
    return _current.get() or RequestContext(new_id(), None, None)


def check_time_left() -> None:
    """Stop work whose caller has given up; for long work, between its parts.

    Raises:
        DeadlineExceeded: the request's deadline has passed.
    """
    if current_request().remaining_s() == 0:
        raise DeadlineExceeded("the deadline passed before the work was done")


class handling:  # noqa: N801  # reads like `asyncio.timeout`
    """Work for one request: take over its id (or make one), its trace and its deadline.

    A class and no generator, since every call pays for it: a third of the time.
    """

    def __init__(self, metadata: Mapping[str, str], timeout_s: float | None, method: str = "request") -> None:
        self._metadata = metadata
        self._timeout_s = timeout_s
        self._span = request_span(method, metadata) if is_tracing() else None

    def __enter__(self) -> RequestContext:
        given, traceparent = self._metadata.get(REQUEST_ID_KEY, ""), self._metadata.get(TRACEPARENT_KEY, "")
        if self._span is not None:
            traceparent = traceparent_of(self._span.__enter__())
        request = RequestContext(
            request_id=given if given and _USABLE_ID.fullmatch(given) else new_id(),
            traceparent=traceparent if traceparent and _TRACEPARENT.fullmatch(traceparent) else None,
            deadline=None if self._timeout_s is None else time.monotonic() + self._timeout_s,
        )
        self._token = _current.set(request)
        return request

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:  # noqa: SIM105  # every call pays for what stands here
            _current.reset(self._token)
        except ValueError:
            # The caller of a stream went away: its generator is closed in another context, where nothing was set.
            pass
        if self._span is not None:
            self._span.__exit__(kind, error, trace)


def new_id() -> str:
    """32 random hexadecimal digits."""
    return os.urandom(16).hex()


def ids_for_logs() -> Mapping[str, str]:
    """What every log line of the request that this task works for has; nothing outside of any."""
    request = _current.get()
    if request is None:
        return {}
    ids = {"request_id": request.request_id}
    if request.traceparent is not None:
        ids["trace_id"] = request.traceparent.split("-")[1]
    return ids
