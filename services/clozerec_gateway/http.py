"""The JSON front: the public RPCs over HTTP, with the same servicer behind it, and health for people and probes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from aiohttp import web
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import status_pb2

from clozerec.v1 import recommender_pb2
from clozerec_core.errors import UsageError
from clozerec_core.request_context import REQUEST_ID_KEY, handling
from clozerec_core.rpc import MAX_MESSAGE_BYTES, log_failure
from clozerec_core.rpc_errors import to_status
from clozerec_core.telemetry import SERVING, get_logger
from clozerec_gateway.json_codec import parse_json, to_json
from clozerec_gateway.servicer import RecommenderServicer
from clozerec_gateway.settings import GatewaySettings

HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
"""As `google.rpc.Code` maps its codes."""

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_REFUSED_BY_FRAMEWORK = {
    404: ("NOT_FOUND", "no such path; the API's paths are listed in docs/api.md"),
    405: ("UNIMPLEMENTED", "this path takes another method"),
    413: ("RESOURCE_EXHAUSTED", f"the body is larger than {MAX_MESSAGE_BYTES} bytes"),
}

ROUTES: dict[str, tuple[str, type[Message]]] = {
    "/v1/recommend": ("Recommend", recommender_pb2.RecommendRequest),
    "/v1/interactions": ("RecordInteractions", recommender_pb2.RecordInteractionsRequest),
    "/v1/items:upsert": ("UpsertItems", recommender_pb2.UpsertItemsRequest),
    "/v1/items:delete": ("DeleteItems", recommender_pb2.DeleteItemsRequest),
    "/v1/items:get": ("GetItems", recommender_pb2.GetItemsRequest),
    "/v1/users:delete": ("DeleteUser", recommender_pb2.DeleteUserRequest),
}
"""POST paths, the RPC behind each, and its request."""

log = get_logger("http")


class HttpFront:
    """Listens for JSON; ready when the gateway is."""

    def __init__(self, servicer: RecommenderServicer, settings: GatewaySettings) -> None:
        self._servicer = servicer
        self._settings = settings
        self._is_ready = False
        application = web.Application(client_max_size=MAX_MESSAGE_BYTES, middlewares=[_framework_errors_as_json])
        for path, (method, request_type) in ROUTES.items():
            application.router.add_post(path, self._handler(method, request_type))
        application.router.add_get("/v1/info", self._info)
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=settings.grace_s)

    async def start(self) -> int:
        """Listen, not ready yet; returns the port.

        Raises:
            UsageError: the port is taken or not allowed.
        """
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._settings.host, self._settings.http_port, reuse_port=False)
        try:
            await site.start()
        except OSError as error:
            address = f"{self._settings.host}:{self._settings.http_port}"
            await self._runner.cleanup()
            raise UsageError(
                f"cannot listen on {address} ({error.strerror or 'refused'}); choose another --http-port"
            ) from error
        port: int = self._runner.addresses[0][1]
        return port

    def ready(self, port: int) -> None:
        """Answer /readyz with 200 from now on."""
        self._is_ready = True
        log.info(SERVING, host=self._settings.host, http_port=port)

    def draining(self) -> None:
        """Answer /readyz with 503 from now on."""
        self._is_ready = False

    async def stop(self) -> None:
        """Let requests under way finish, then close."""
        await self._runner.cleanup()

    def _handler(self, method: str, request_type: type[Message]) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(http_request: web.Request) -> web.Response:
            body = await http_request.read()
            return await self._answer(http_request, method, lambda: parse_json(body, request_type))

        return handle

    async def _info(self, http_request: web.Request) -> web.Response:
        return await self._answer(http_request, "GetServiceInfo", recommender_pb2.GetServiceInfoRequest)

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def _readyz(self, _: web.Request) -> web.Response:
        return web.json_response(
            {"status": "ready" if self._is_ready else "not ready"}, status=200 if self._is_ready else 503
        )

    async def _answer(self, http_request: web.Request, method: str, read: Callable[[], Message]) -> web.Response:
        headers = {key.lower(): value for key, value in http_request.headers.items()}
        with handling(headers, self._settings.default_timeout_s) as request:
            context = _HttpContext()
            try:
                response = await getattr(self._servicer, method)(read(), context)
                status, document = 200, to_json(response)
            except Exception as error:  # noqa: BLE001  # mapped to a status, whole in the log
                refusal = to_status(error, request.request_id)
                log_failure(error, refusal.code, method)
                status, document = HTTP_STATUS[_CODES[refusal.code]], _error_document(refusal)
            answer = web.json_response(document, status=status, headers={REQUEST_ID_KEY: request.request_id})
            answer.headers.update(context.headers)
            return answer


class _HttpContext:
    """What servicers ask of a gRPC context, answered with HTTP headers."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}

    async def send_initial_metadata(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self.headers.update(metadata)


def _error_document(status: status_pb2.Status) -> dict[str, Any]:
    details = [json_format.MessageToDict(detail, preserving_proto_field_name=True) for detail in status.details]
    return {"error": {"code": _CODES[status.code].name, "message": status.message, "details": details}}


@web.middleware
async def _framework_errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as refusal:
        if refusal.status not in _REFUSED_BY_FRAMEWORK:
            raise
        code, message = _REFUSED_BY_FRAMEWORK[refusal.status]
        return web.json_response({"error": {"code": code, "message": message, "details": []}}, status=refusal.status)
