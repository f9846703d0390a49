"""Errors on the wire: from the domain's tree to google.rpc.Status and back, in one place."""

from __future__ import annotations

from typing import cast

import grpc
from google.protobuf import any_pb2, message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from clozerec_core.errors import BadRequest, ClozerecError, Violation

DOMAIN = "clozerec"
STATUS_DETAILS_KEY = "grpc-status-details-bin"

MAX_MESSAGE_BYTES = 1_024
MAX_VIOLATION_BYTES = 4_096
"""Statuses travel in trailers, which peers cap at 8 KiB; what does not fit is left out and counted."""


class RelayedError(ClozerecError):
    """An error of an inner service that the caller may see as it is."""

    def __init__(self, status: grpc.StatusCode, reason: str, text: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(text)


_OURS_TO_FIX = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNKNOWN})
"""From an inner service these mean a fault between our own parts, not in the caller's request."""


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
    if isinstance(error, BadRequest):
        _add(status, _bad_request(error.violations))
    return status


def from_rpc_error(error: grpc.aio.AioRpcError, service: str) -> ClozerecError:
    """What an inner service's failure means to the gateway's caller."""
    code = error.code()
    if code in _OURS_TO_FIX:
        return ClozerecError(f"{service} answered {code.name}: {error.details()}")
    reason = code.name
    status = rpc_status.from_call(cast(grpc.Call, error))
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            reason = info.reason
    if code is grpc.StatusCode.UNAVAILABLE:
        return RelayedError(code, reason, f"{service} is not reachable; try again")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return RelayedError(code, reason, f"{service} did not answer in time")
    return RelayedError(code, reason, error.details() or code.name)


def status_trailers(status: status_pb2.Status) -> tuple[tuple[str, bytes], ...]:
    """Trailing metadata that carries the whole status."""
    return ((STATUS_DETAILS_KEY, status.SerializeToString()),)


def shorten(text: str, max_bytes: int) -> str:
    """At most `max_bytes` of UTF-8, cut between characters, with an ellipsis where something went."""
    raw = text.encode("utf-8", errors="replace")
    return text if len(raw) <= max_bytes else raw[: max_bytes - 3].decode("utf-8", errors="ignore") + "…"


def _bad_request(violations: tuple[Violation, ...]) -> error_details_pb2.BadRequest:
    detail = error_details_pb2.BadRequest()
    budget = MAX_VIOLATION_BYTES
    for i, violation in enumerate(violations):
        field, description = shorten(violation.field, 256), shorten(violation.description, 512)
        budget -= len(field.encode()) + len(description.encode())
        if budget < 0 and i > 0:
            rest = f"{len(violations) - i} more violations"
            detail.field_violations.add(field=shorten(violation.field, 64), description=f"… and {rest}")
            break
        detail.field_violations.add(field=field, description=description)
    return detail


def _add(status: status_pb2.Status, detail: message.Message) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)
