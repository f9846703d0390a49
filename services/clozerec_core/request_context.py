"""What travels with a request through all services: its id, its trace context, and the time it has left."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import structlog

from clozerec_core.errors import DeadlineExceeded
from clozerec_core.tracing import request_span, traceparent_of

REQUEST_ID_KEY = "x-request-id"
TRACEPARENT_KEY = "traceparent"
_USABLE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True)
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
    return _current.get() or RequestContext(uuid.uuid4().hex, None, None)


def check_time_left() -> None:
    """Stop work whose caller has given up; for long work, between its parts.

    Raises:
        DeadlineExceeded: the request's deadline has passed.
    """
    if current_request().remaining_s() == 0:
        raise DeadlineExceeded("the deadline passed before the work was done")


@contextmanager
def handling(metadata: Mapping[str, str], timeout_s: float | None, method: str = "request") -> Iterator[RequestContext]:
    """Work for one request: take over its id (or make one), its trace and its deadline, and put both ids into every log
    line."""
    given, came_with = metadata.get(REQUEST_ID_KEY, ""), metadata.get(TRACEPARENT_KEY, "")
    with request_span(method, metadata) as span:
        traceparent = traceparent_of(span) if span is not None else came_with
        request = RequestContext(
            request_id=given if _USABLE_ID.fullmatch(given) else uuid.uuid4().hex,
            traceparent=traceparent if _TRACEPARENT.fullmatch(traceparent) else None,
            deadline=None if timeout_s is None else time.monotonic() + timeout_s,
        )
        ids = {"request_id": request.request_id}
        if request.traceparent is not None:
            ids["trace_id"] = request.traceparent.split("-")[1]
        token = _current.set(request)
        try:
            with structlog.contextvars.bound_contextvars(**ids):
                yield request
        finally:
            _current.reset(token)
