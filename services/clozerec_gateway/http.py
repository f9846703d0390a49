"""The JSON front: the public RPCs over HTTP, with the same servicer behind it, and health for people and probes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version

import aiohttp_cors
import grpc
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from google.protobuf.message import Message

from clozerec.v1 import recommender_pb2
from clozerec_core import metrics
from clozerec_core.access import Gate, Identity, audit
from clozerec_core.admission import Admission
from clozerec_core.errors import BadRequest, ClozerecError, Overloaded, UsageError
from clozerec_core.request_context import REQUEST_ID_KEY, current_request, handling
from clozerec_core.rpc import MAX_REQUEST_BYTES
from clozerec_core.rpc_call import STATUS_CODES, in_time, log_failure
from clozerec_core.rpc_errors import to_status
from clozerec_core.rpc_metrics import JSON, MethodMetrics
from clozerec_core.telemetry import SERVING, get_logger
from clozerec_core.tls import http_context
from clozerec_core.workers import Workers
from clozerec_gateway import openapi
from clozerec_gateway.http_errors import HTTP_STATUS, dumped, error_document, framework_errors_as_json
from clozerec_gateway.json_codec import parse_json, to_json
from clozerec_gateway.servicer import SERVICE_NAME, TEXT_TRUNCATED_KEY, RecommenderServicer
from clozerec_gateway.settings import GatewaySettings
from clozerec_gateway.watched import WatchedServicer

MAX_RECOMMEND_BYTES = 4 * 1024 * 1024
"""The largest valid request has 3 MB: 11,000 ids of 256 bytes, and a filter."""

TIMEOUT_KEY = "grpc-timeout"
"""The header in which gRPC itself sends a deadline, in its notation; other JSON fronts of gRPC take it, too."""

_SECONDS_OF = {"H": 3_600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}

PREFLIGHT_MAX_AGE_S = 600

COMPRESSED_BYTES = 1_024
"""Answers from this size on are compressed for callers who take it; below it, headers outweigh what is saved."""

LARGE_BYTES = 32 * 1024
"""From here on JSON is read and written on a thread: it would hold up health checks."""

SHORTEST_GRACE_S = 0.01
"""aiohttp takes 0 for no limit."""


@dataclass(frozen=True)
class Route:
    """A POST path."""

    method: str
    """The RPC behind it."""
    request_type: type[Message]
    max_bytes: int = MAX_REQUEST_BYTES


ROUTES = {
    "/v1/recommend": Route("Recommend", recommender_pb2.RecommendRequest, MAX_RECOMMEND_BYTES),
    "/v1/interactions": Route("RecordInteractions", recommender_pb2.RecordInteractionsRequest),
    "/v1/items:upsert": Route("UpsertItems", recommender_pb2.UpsertItemsRequest),
    "/v1/items:delete": Route("DeleteItems", recommender_pb2.DeleteItemsRequest),
    "/v1/items:get": Route("GetItems", recommender_pb2.GetItemsRequest),
    "/v1/users:delete": Route("DeleteUser", recommender_pb2.DeleteUserRequest),
}

log = get_logger("http")


class HttpFront:
    """Listens for JSON; ready when the gateway is."""

    def __init__(
        self,
        servicer: RecommenderServicer | WatchedServicer,
        settings: GatewaySettings,
        gate: Gate,
        admission: Admission,
    ) -> None:
        tls = settings.tls()
        self._ssl_context = http_context(tls) if tls is not None else None
        self._gate = gate
        self._admission = admission
        self._shed = dumped(error_document(admission.status))
        self._servicer = servicer
        self._settings = settings
        self._num_arriving = 0
        """Requests whose body is on its way."""
        self._is_ready = False
        self._json_worker = Workers("JSON reader", num_threads=1)
        methods = ("GetServiceInfo", *(route.method for route in ROUTES.values()))
        self._counted = {method: MethodMetrics(JSON, f"/{SERVICE_NAME}/{method}") for method in methods}
        application = web.Application(client_max_size=MAX_REQUEST_BYTES, middlewares=[framework_errors_as_json])
        for path, route in ROUTES.items():
            application.router.add_post(path, self._handler(route))
        application.router.add_get("/v1/info", self._info)
        application.router.add_get("/openapi.json", self._openapi)
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        if settings.metrics:
            application.router.add_get("/metrics", self._metrics)
        if settings.cors_origins:
            _allow_browsers(application, settings.cors_origins)
        # aiohttp waits twice: for calls to end, and once more after it has told those who still read a body to give up.
        grace_s = max(settings.grace_s / 2, SHORTEST_GRACE_S)
        self._runner = web.AppRunner(
            application,
            access_log=None,
            shutdown_timeout=grace_s,
            handler_cancellation=True,  # as over gRPC: who hangs up leaves its place to others
        )
        logging.getLogger("aiohttp.server").addFilter(_is_our_fault)

    async def start(self) -> int:
        """Listen, not ready yet; returns the port.

        Raises:
            UsageError: the port is taken or not allowed.
        """
        await self._runner.setup()
        site = web.TCPSite(
            self._runner,
            self._settings.host,
            self._settings.http_port,
            reuse_port=False,
            ssl_context=self._ssl_context,
        )
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

    async def stop(self) -> None:
        """Answer /readyz with 503, wait for balancers, let requests under way finish, then close; as the gRPC server
        does, so that both may stop at once. What was never ready closes without a wait.
        """
        if self._is_ready:
            self._is_ready = False
            await asyncio.sleep(self._settings.drain_delay_s)
        await self._runner.cleanup()
        self._json_worker.close()

    def _handler(self, route: Route) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(http_request: web.Request) -> web.Response:
            if not http_request.content.is_eof():
                return await self._answer_arriving(http_request, route)
            timeout_s = _timeout_s(http_request.headers.get(TIMEOUT_KEY), self._settings.default_timeout_s)
            if not self._admission.enter(timeout_s or self._settings.default_timeout_s):
                return self._refusal()
            try:
                return await self._answer(http_request, route.method, lambda: self._read(http_request, route))
            finally:
                self._admission.leave()

        return handle

    async def _answer_arriving(self, http_request: web.Request, route: Route) -> web.Response:
        """The answer where the body is on its way yet: until it is here it has no place of admission, or a few callers
        who send slowly would take all of them. So many may be on their way as there are places.
        """
        if self._admission.is_full or self._num_arriving >= self._settings.max_in_flight:
            self._admission.refused("full")
            return self._refusal()
        with ExitStack() as place:

            async def arrived() -> Message:
                self._num_arriving += 1
                try:
                    # Whatever deadline the caller sets: an hour of sending would keep others out for as long.
                    message = await in_time(self._read(http_request, route), self._settings.default_timeout_s)
                finally:
                    self._num_arriving -= 1
                if not self._admission.enter(current_request().remaining_s() or 0.0):
                    raise Overloaded(self._admission.message)
                place.callback(self._admission.leave)
                return message

            return await self._answer(http_request, route.method, arrived)

    def _refusal(self) -> web.Response:
        return web.Response(body=self._shed, status=429, content_type="application/json", charset="utf-8")

    async def _read(self, http_request: web.Request, route: Route) -> Message:
        try:
            body = await http_request.read()
        except (web.RequestPayloadError, HttpProcessingError):
            raise BadRequest.of("body", "its encoding is broken; send it plain, or as valid gzip or deflate") from None
        except OSError:
            raise _CallerGone("the caller went while its request was read") from None
        if len(body) > route.max_bytes:
            raise web.HTTPRequestEntityTooLarge(route.max_bytes, len(body))
        if len(body) < LARGE_BYTES:
            return parse_json(body, route.request_type)
        return await self._json_worker.run(lambda: parse_json(body, route.request_type))

    async def _write(self, response: Message) -> bytes:
        if response.ByteSize() < LARGE_BYTES:
            return dumped(to_json(response))
        return await self._json_worker.run(lambda: dumped(to_json(response)))

    async def _info(self, http_request: web.Request) -> web.Response:
        async def nothing() -> Message:
            return recommender_pb2.GetServiceInfoRequest()

        return await self._answer(http_request, "GetServiceInfo", nothing)

    async def _openapi(self, http_request: web.Request) -> web.Response:
        routes = {f"POST {path}": route.method for path, route in ROUTES.items()} | {"GET /v1/info": "GetServiceInfo"}
        answer = web.json_response(openapi.document(routes, version("clozerec")))
        answer.enable_compression()
        return answer

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def _readyz(self, _: web.Request) -> web.Response:
        return web.json_response(
            {"status": "ready" if self._is_ready else "not ready"}, status=200 if self._is_ready else 503
        )

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=metrics.exposition(), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def _answer(
        self, http_request: web.Request, method: str, read: Callable[[], Awaitable[Message]]
    ) -> web.Response:
        async def answered() -> bytes:
            return await self._write(await getattr(self._servicer, method)(await read(), context))

        counted, default_s = self._counted[method], self._settings.default_timeout_s
        headers = {key.lower(): value for key, value in http_request.headers.items()}
        timeout_s = _timeout_s(headers.get(TIMEOUT_KEY), default_s)
        with handling(headers, timeout_s or default_s, f"{SERVICE_NAME}/{method}") as request:
            context = _HttpContext(headers)
            caller: Identity | None = None
            # What is neither answered nor refused was broken off.
            code = grpc.StatusCode.CANCELLED
            began = counted.began()
            try:
                caller = self._gate.admit(method, headers, _peer_names(http_request))
                if timeout_s is None:
                    raise BadRequest.of(TIMEOUT_KEY, "expected 1 to 8 digits and one of H, M, S, m, u or n: 500m")
                body = await in_time(answered(), timeout_s)
                code = grpc.StatusCode.OK
            except web.HTTPRequestEntityTooLarge:
                code = grpc.StatusCode.RESOURCE_EXHAUSTED
                raise
            except Exception as error:  # noqa: BLE001  # mapped to a status, whole in the log
                refusal = to_status(error, request.request_id)
                code = STATUS_CODES[refusal.code]
                log_failure(error, refusal.code, method)
                body = dumped(error_document(refusal))
            finally:
                audit(method, caller, code.name)
                counted.ended(began, code.name)
            status = HTTP_STATUS[code]
            answer = web.Response(body=body, status=status, content_type="application/json", charset="utf-8")
            answer.headers[REQUEST_ID_KEY] = request.request_id
            answer.headers.update(context.headers)
            if len(body) >= COMPRESSED_BYTES and "gzip" in headers.get("accept-encoding", ""):
                answer.enable_compression(web.ContentCoding.gzip)
            metrics.GATEWAY_HTTP_REQUESTS.labels(method, status).inc()
            metrics.GATEWAY_HTTP_SECONDS.labels(method).observe(time.perf_counter() - began)
            return answer


def _timeout_s(given: str | None, default_s: float) -> float | None:
    """Seconds that a caller gives for the answer; None: that is no time."""
    if given is None:
        return default_s
    number, unit = given[:-1], given[-1:]
    if not (0 < len(number) <= 8 and number.isascii() and number.isdigit() and unit in _SECONDS_OF):
        return None
    return int(number) * _SECONDS_OF[unit]


def _peer_names(http_request: web.Request) -> tuple[str, ...]:
    """Names in the caller's certificate, where it showed one."""
    certificate = http_request.get_extra_info("peercert") or {}
    return tuple(name for kind, name in certificate.get("subjectAltName", ()) if kind == "DNS")


def _allow_browsers(application: web.Application, origins: tuple[str, ...]) -> None:
    """Let pages of these origins call every path, with any header, and read the headers that answers have."""
    options = aiohttp_cors.ResourceOptions(  # type: ignore[no-untyped-call]
        allow_credentials=False,
        allow_headers="*",
        expose_headers=(REQUEST_ID_KEY, TEXT_TRUNCATED_KEY),
        max_age=PREFLIGHT_MAX_AGE_S,
    )
    cors = aiohttp_cors.setup(application, defaults=dict.fromkeys(origins, options))
    for route in list(application.router.routes()):
        if route.method != "HEAD":
            cors.add(route)


class _CallerGone(ClozerecError):
    """Nobody waits for the answer any more."""

    status = grpc.StatusCode.CANCELLED
    reason = "CANCELLED"


class _HttpContext:
    """What servicers ask of a gRPC context, answered with HTTP headers."""

    def __init__(self, came_with: dict[str, str]) -> None:
        self._came_with = came_with
        self.headers: dict[str, str] = {}

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return tuple(self._came_with.items())

    async def send_initial_metadata(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self.headers.update(metadata)


def _is_our_fault(record: logging.LogRecord) -> bool:
    """Leave out tracebacks that any client can cause with a malformed request."""
    error = record.exc_info[1] if record.exc_info else None
    # The second is aiohttp's own, where it repeats a header that is no UTF-8: ours leave as answers.
    return not isinstance(error, HttpProcessingError | UnicodeEncodeError)
