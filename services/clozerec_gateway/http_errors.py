"""Errors over HTTP: gRPC's codes as HTTP's, one shape of document, and the same for what never reaches an RPC."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from aiohttp import web
from google.protobuf import json_format
from google.rpc import status_pb2

from clozerec_core.errors import BadRequest, ClozerecError
from clozerec_core.request_context import REQUEST_ID_KEY, handling
from clozerec_core.rpc_call import STATUS_CODES
from clozerec_core.rpc_errors import to_status

HTTP_STATUS = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.DATA_LOSS: 500,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
"""As `google.rpc.Code` maps its codes."""


class _NoSuchPath(ClozerecError):
    status = grpc.StatusCode.NOT_FOUND
    reason = "UNKNOWN_PATH"


class _WrongMethod(ClozerecError):
    status = grpc.StatusCode.UNIMPLEMENTED
    reason = "WRONG_METHOD"


class _TooLarge(ClozerecError):
    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "BODY_TOO_LARGE"


_REFUSED_BY_FRAMEWORK = {
    404: _NoSuchPath("no such path; the API's paths are listed in docs/api.md"),
    405: _WrongMethod("this path takes another method"),
    413: _TooLarge("the body is too large"),
}
"""What never reaches an RPC keeps HTTP's own status."""


def dumped(document: dict[str, Any]) -> bytes:
    """JSON as it leaves, in UTF-8."""
    return json.dumps(document, ensure_ascii=False).encode()


def error_document(status: status_pb2.Status) -> dict[str, Any]:
    """The body of every answer that is an error."""
    details = [json_format.MessageToDict(detail, preserving_proto_field_name=True) for detail in status.details]
    return {"error": {"code": STATUS_CODES[status.code].name, "message": status.message, "details": details}}


@web.middleware
async def framework_errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """What aiohttp refuses by itself, in our shape."""
    try:
        return await handler(request)
    except web.HTTPException as refusal:
        if refusal.status not in _REFUSED_BY_FRAMEWORK:
            raise
        allow = {"Allow": refusal.headers["Allow"]} if "Allow" in refusal.headers else {}
        return _refused(request, _REFUSED_BY_FRAMEWORK[refusal.status], refusal.status, allow)
    except UnicodeEncodeError:
        # The browser check repeats the origin that it refuses, in UTF-8.
        return _refused(request, BadRequest.of("header", "expected UTF-8"), 400, {})


def _refused(request: web.Request, error: ClozerecError, status: int, headers: dict[str, str]) -> web.Response:
    with handling({key.lower(): value for key, value in request.headers.items()}, None) as context:
        body = dumped(error_document(to_status(error, context.request_id)))
        answer = web.Response(body=body, status=status, content_type="application/json", charset="utf-8")
        answer.headers.update(headers | {REQUEST_ID_KEY: context.request_id})
        return answer
