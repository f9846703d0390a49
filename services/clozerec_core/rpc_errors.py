"""Errors on the wire: from the domain's tree to google.rpc.Status and back, in one place."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import cast
from urllib.parse import quote

import grpc
from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from clozerec_core.errors import BadRequest, ClozerecError, DeadlineExceeded, NotReady, Violation

DOMAIN = "clozerec"
STATUS_DETAILS_KEY = "grpc-status-details-bin"

MAX_MESSAGE_BYTES = 512
MAX_TRAILER_BYTES = 6_000
"""Peers cap a response's metadata at 8 KiB and drop what is over it, status included; the rest is for other trailers.
The status itself, in base64, and its message, percent-encoded, both count."""


class RelayedError(ClozerecError):
    """An error of an inner service that the caller may see as it is."""

    def __init__(self, status: grpc.StatusCode, reason: str, text: str, retry_s: float | None = None) -> None:
        self.status = status
        self.reason = reason
        self.retry_s = retry_s
        super().__init__(text)


def to_status(error: BaseException, request_id: str) -> status_pb2.Status:
    """The status that an exception leaves with; anything unexpected is INTERNAL with the request id only."""
    if isinstance(error, ClozerecError) and error.status is not grpc.StatusCode.INTERNAL:
        code: grpc.StatusCode = error.status
        reason, text = error.reason, shorten(error.message, MAX_MESSAGE_BYTES)
    else:
        code, reason = grpc.StatusCode.INTERNAL, "INTERNAL"
        text = f"internal error; name request {request_id} when you report it"
    status = status_pb2.Status(code=code.value[0], message=text)
    _add(status, error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata={"request_id": request_id}))
    if isinstance(error, ClozerecError) and error.retry_s is not None:
        delay = duration_pb2.Duration()
        delay.FromTimedelta(timedelta(seconds=error.retry_s))
        _add(status, error_details_pb2.RetryInfo(retry_delay=delay))
    if isinstance(error, BadRequest):
        _add_violations(status, error.violations)
    return status


def from_rpc_error(error: grpc.aio.AioRpcError, service: str) -> ClozerecError:
    """What an inner service's failure means to the gateway's caller."""
    code, reason, is_ours = error.code(), error.code().name, False
    retry_s: float | None = None
    status = rpc_status.from_call(cast(grpc.Call, error))
    for detail in status.details if status is not None else ():
        info, again = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            reason, is_ours = info.reason, True
        elif detail.Unpack(again):
            retry_s = again.retry_delay.ToTimedelta().total_seconds()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(f"{service} did not answer in time")
    if (code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED) and not is_ours) or code in _SHUTS_US_OUT:
        return NotReady(f"{service} is not reachable; try again")
    if not is_ours:
        # The words are gRPC's own, or another server's: not for our caller.
        return ClozerecError(f"{service} answered {code.name}: {error.details()}")
    return relayed(RelayedError(code, reason, error.details() or code.name, retry_s), service)


def relayed(error: ClozerecError, service: str) -> ClozerecError:
    """An inner service's own error as the gateway's caller may see it, from a channel or within a process alike."""
    if error.status in _OURS_TO_FIX:
        return ClozerecError(f"{service} answered {error.status.name}: {error.message}")
    return error


_SHUTS_US_OUT = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
"""From an inner service these are about the gateway's token or certificate, never about its caller's."""

_OURS_TO_FIX = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL)
"""From an inner service these mean a fault between our own parts: the gateway has checked the caller's request."""


def status_trailers(status: status_pb2.Status) -> tuple[tuple[str, bytes], ...]:
    """Trailing metadata that carries the whole status."""
    return ((STATUS_DETAILS_KEY, status.SerializeToString()),)


def shorten(text: str, max_bytes: int) -> str:
    """At most `max_bytes` of valid UTF-8, cut between characters, with an ellipsis where something went."""
    raw = text[: max_bytes + 1].encode("utf-8", errors="replace")
    if len(raw) <= max_bytes:
        return raw.decode()
    return raw[: max_bytes - len("…".encode())].decode("utf-8", errors="ignore") + "…"


def _add_violations(status: status_pb2.Status, violations: tuple[Violation, ...]) -> None:
    """As many as fit, the first one always; the last says how many were left out."""
    bad_request = error_details_pb2.BadRequest()
    room = MAX_TRAILER_BYTES - len(quote(status.message)) - _base64_len(status.ByteSize()) - 200
    for i, violation in enumerate(violations):
        bad_request.field_violations.add(
            field=shorten(violation.field, 256), description=shorten(violation.description, 512)
        )
        if i > 0 and _base64_len(bad_request.ByteSize()) > room:
            del bad_request.field_violations[-1]
            bad_request.field_violations.add(field="", description=f"and {len(violations) - i} more")
            break
    _add(status, bad_request)


def _base64_len(num_bytes: int) -> int:
    return 4 * math.ceil(num_bytes / 3)


def _add(status: status_pb2.Status, detail: message.Message) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)
