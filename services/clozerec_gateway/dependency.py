"""Calls to another service, each within its share of the request's deadline and through a circuit.

A share, so that time is left to do without the service and still answer. Once the service answers none of the calls
that wait for it, they are given up together, long before that time is over: see `waiting.py`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from clozerec_core import metrics
from clozerec_core.errors import BadJournal, BundleMismatch, ClozerecError, NotReady, SharedLogGone
from clozerec_core.request_context import check_time_left, current_request
from clozerec_core.rpc_errors import from_rpc_error, relayed
from clozerec_core.telemetry import get_logger
from clozerec_gateway.circuit import Circuit
from clozerec_gateway.waiting import Waiting, waits

QUIET_SHARE = 0.25
"""Of the time for an answer, without any answer to anybody, after which a service has stopped answering."""

REPLICAS_ASKED = 3
"""For a bundle that the first of them does not have: while pods are replaced, some have one and some the other."""

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
Metadata = Sequence[tuple[str, str]]

log = get_logger("dependency")


class DependencyGone(NotReady):
    """A service that an answer needs did not reply: gone, frozen, too slow, too busy, or without the bundle."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the {name} does not answer; try again")
        self.name = name


class Dependency:
    """One service as the gateway calls it."""

    def __init__(self, name: str, timeout_s: float) -> None:
        """
        Args:
            name: as people call it, such as `encoder`.
            timeout_s: seconds that it has for an answer where the request has more.
        """
        self.name = name
        self._timeout_s = timeout_s
        self._circuit = Circuit()
        self._waiting = Waiting(QUIET_SHARE * timeout_s, self._has_stopped)
        self._failures = {
            reason: metrics.GATEWAY_DEPENDENCY_FAILURES.labels(name, reason) for reason in ("refused", "gone", "slow")
        }

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        share: float,
        timeout_s: float | None = None,
    ) -> Response:
        """One call.

        Args:
            method: of a stub.
            request: its message.
            share: of the time that the request has left, 0 to 1.
            timeout_s: at most so long, for a large call that others' answers say nothing of; None: as every call.

        Raises:
            DependencyGone: no answer came in its time.
            DeadlineExceeded: the request's own time is up.
            ClozerecError: the service's answer, as the gateway's caller may see it.
        """
        context = current_request()
        if not self._circuit.lets_pass():
            self._failures["refused"].inc()
            raise DependencyGone(self.name)
        remaining_s, longest_s = context.remaining_s(), timeout_s or self._timeout_s
        stage_s = longest_s if remaining_s is None else min(longest_s, remaining_s * share)
        try:
            async with nullcontext() if timeout_s else waits(self._waiting):
                response = await _from_a_replica(method, request, stage_s, context.outgoing_metadata())
        except grpc.aio.AioRpcError as error:
            log.debug("call_failed", dependency=self.name, code=error.code().name, details=error.details())
            raise self._meaning(from_rpc_error(error, f"the {self.name}"), stage_s) from error
        except TimeoutError as error:
            raise self._too_slow(stage_s) from error
        except ClozerecError as error:
            raise self._meaning(relayed(error, f"the {self.name}"), stage_s) from error
        self._answered()
        return response

    def _too_slow(self, stage_s: float) -> ClozerecError:
        """The error after a call that had so many seconds: few say more of its caller's haste than of the service."""
        if stage_s >= QUIET_SHARE * self._timeout_s:
            self._fail("slow")
        else:
            self._failures["slow"].inc()
        check_time_left()
        return DependencyGone(self.name)

    def _meaning(self, error: ClozerecError, stage_s: float) -> ClozerecError:
        """The error for whoever asked, after counting it."""
        if error.status is grpc.StatusCode.DEADLINE_EXCEEDED:
            return self._too_slow(stage_s)
        cannot_write = error.reason in (SharedLogGone.reason, BadJournal.reason)
        if error.status is grpc.StatusCode.UNAVAILABLE and not cannot_write:
            self._fail("gone")
            return DependencyGone(self.name)
        self._answered()
        if error.reason in (BundleMismatch.reason, BadJournal.reason):  # in the words of our own parts
            self._failures["refused"].inc()
            return DependencyGone(self.name)
        if error.status is grpc.StatusCode.RESOURCE_EXHAUSTED or error.reason == SharedLogGone.reason:
            # It lives, but not for this request: its queue is full, or it cannot write.
            self._failures["refused"].inc()
            return Busy(self.name, error)
        return error

    def _answered(self) -> None:
        self._circuit.succeeded()
        self._waiting.answered()

    def _fail(self, reason: str) -> None:
        self._failures[reason].inc()
        was_open = self._circuit.is_open
        self._circuit.failed()
        if self._circuit.is_open and not was_open:
            self._say_opened()

    def _has_stopped(self) -> None:
        if not self._circuit.is_open:
            self._circuit.open()
            self._say_opened()

    def _say_opened(self) -> None:
        log.warning("circuit_opened", dependency=self.name, waiting=len(self._waiting))


async def _from_a_replica(
    method: grpc.aio.UnaryUnaryMultiCallable[Request, Response], request: Request, timeout_s: float, metadata: Metadata
) -> Response:
    """The answer of one that has the bundle; calls go to each in turn, so the next one is another."""
    until = time.monotonic() + timeout_s
    for others in reversed(range(REPLICAS_ASKED)):
        try:
            return await method(request, timeout=max(0.0, until - time.monotonic()), metadata=metadata)
        except grpc.aio.AioRpcError as error:
            if not others or from_rpc_error(error, "").reason != BundleMismatch.reason:
                raise
    raise AssertionError("the last one answers or raises")


class Busy(DependencyGone):
    """It refused, with a reason of its own that the caller hears where nothing else can answer."""

    retry_s: float | None

    def __init__(self, name: str, refusal: ClozerecError) -> None:
        super().__init__(name)
        self.args = refusal.args
        self.status, self.reason, self.retry_s = refusal.status, refusal.reason, refusal.retry_s
