"""Server bootstrap that the three services share: errors, health, reflection, drain."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from pydantic import Field

from clozerec_core.errors import BadRequest, ClozerecError, DeadlineExceeded, UsageError
from clozerec_core.request_context import REQUEST_ID_KEY, current_request, handling
from clozerec_core.rpc_errors import status_trailers, to_status
from clozerec_core.rpc_metrics import MetricsInterceptor
from clozerec_core.settings import Settings
from clozerec_core.telemetry import DRAINING, REQUEST_FAILED, SERVING, UNEXPECTED_ERROR, LogFormat, LogLevel, get_logger

OUR_METHODS = "/clozerec.v1."
LIVENESS = "liveness"
"""Health name that is SERVING as long as the process can answer at all; readiness has each service's own name."""

MAX_REQUEST_BYTES = 16 * 1024 * 1024
MAX_RESPONSE_BYTES = 128 * 1024 * 1024
"""A thousand items with all of their metadata may be large."""

ANSWER_MARGIN_S = 0.005
"""Left of the deadline to say that it has passed, before grpc cancels the call without a word."""

STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}

log = get_logger("rpc")


class ServerSettings(Settings):
    """What every serving process reads."""

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 in a container.")
    grpc_port: int = Field(0, ge=0, le=65535, description="0 takes any free port.")
    drain_delay_s: float = Field(
        0.0, ge=0, description="Seconds between NOT_SERVING and refusing calls, for balancers to notice."
    )
    grace_s: float = Field(5.0, ge=0, description="Seconds that calls under way may take after that.")
    default_timeout_s: float = Field(
        10.0, gt=0, description="Seconds for an answer when the caller sets no deadline; a call without one may hang."
    )
    metrics: bool = Field(True, description="Count calls, and serve Prometheus metrics on metrics_port.")
    metrics_port: int = Field(0, ge=0, le=65535, description="GET /metrics; 0 takes any free port.")
    log_level: LogLevel = Field("info", description="Least severe line that is written.")
    log_format: LogFormat = Field("json", description="json for machines, console for people.")


@dataclass(frozen=True)
class Service:
    """One service to put on a server."""

    name: str
    """Full name, such as `clozerec.v1.EncoderService`; also its health name."""
    register: Callable[[grpc.aio.Server], None]


class GrpcServer:
    """A grpc.aio server with error mapping, health for each service name, and reflection."""

    def __init__(self, services: Sequence[Service], settings: ServerSettings) -> None:
        self._settings = settings
        self._names = [service.name for service in services]
        self._health = health.aio.HealthServicer()
        # Without so_reuseport=0 two servers share a port silently, and each sees half of the calls.
        options = (
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
            ("grpc.max_send_message_length", MAX_RESPONSE_BYTES),
        )
        # Outermost first.
        interceptors = (
            *((MetricsInterceptor(),) if settings.metrics else ()),
            ErrorInterceptor(settings.default_timeout_s),
        )
        self._server = grpc.aio.server(interceptors=interceptors, options=options)
        for service in services:
            service.register(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    async def start(self) -> int:
        """Listen, not ready yet; returns the port.

        Raises:
            UsageError: the port is taken or not allowed.
        """
        address = f"{self._settings.host}:{self._settings.grpc_port}"
        await self._set_ready(False)
        await self._health.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise UsageError(f"cannot listen on {address}: is the port in use? choose another --grpc-port") from error
        await self._server.start()
        return port

    async def ready(self, port: int) -> None:
        """Tell balancers that calls are welcome."""
        await self._set_ready(True)
        log.info(SERVING, services=self._names, host=self._settings.host, grpc_port=port)

    async def stop(self) -> None:
        """Say NOT_SERVING, wait for balancers, then let calls under way finish."""
        log.info(DRAINING, services=self._names)
        await self._set_ready(False)
        await asyncio.sleep(self._settings.drain_delay_s)
        await self._server.stop(self._settings.grace_s)

    async def _set_ready(self, ready: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self._names):
            await self._health.set(name, status)


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Opens the request's context, decodes the message, and ends every failure with one google.rpc.Status.

    Decoding happens here because grpc would answer a malformed message with UNKNOWN and inner text.
    """

    def __init__(self, default_timeout_s: float) -> None:
        self._default_timeout_s = default_timeout_s

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(OUR_METHODS):
            return handler
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(
                _unary(handler.unary_unary, handler.request_deserializer, method, self._default_timeout_s),
                response_serializer=handler.response_serializer,
            )
        assert handler.stream_stream is not None, "our services have unary and bidirectional methods only"
        return grpc.stream_stream_rpc_method_handler(
            _stream(handler.stream_stream, handler.request_deserializer, method),
            response_serializer=handler.response_serializer,
        )


Decode = Callable[[bytes], Message]


def _unary(
    inner: Callable[[Message, Any], Awaitable[Message]], decode: Decode, method: str, default_timeout_s: float
) -> Callable[[bytes, Any], Awaitable[Message]]:
    async def call(raw: bytes, context: Any) -> Message:
        remaining_s = context.time_remaining()
        timeout_s = default_timeout_s if remaining_s is None else remaining_s
        with handling(_text_metadata(context), timeout_s) as request:
            context.set_trailing_metadata(((REQUEST_ID_KEY, request.request_id),))
            try:
                async with in_time(timeout_s - ANSWER_MARGIN_S):
                    return await inner(_decoded(raw, decode), context)
            except Exception as error:  # noqa: BLE001  # mapped to a status, whole in the log
                return cast(Message, await _abort(context, error, method))

    return call


def _stream(
    inner: Callable[[AsyncIterator[Message], Any], AsyncIterator[Message]], decode: Decode, method: str
) -> Callable[[AsyncIterator[bytes], Any], AsyncIterator[Message]]:
    async def call(raws: AsyncIterator[bytes], context: Any) -> AsyncIterator[Message]:
        with handling(_text_metadata(context), context.time_remaining()):
            try:
                async for response in inner(_all_decoded(raws, decode), context):
                    yield response
            except Exception as error:  # noqa: BLE001  # mapped to a status, whole in the log
                await _abort(context, error, method)

    return call


async def _all_decoded(raws: AsyncIterator[bytes], decode: Decode) -> AsyncIterator[Message]:
    async for raw in raws:
        yield _decoded(raw, decode)


def _decoded(raw: bytes, decode: Decode) -> Message:
    try:
        return decode(raw)
    except DecodeError:
        raise BadRequest.of("request", "the bytes are not this method's protobuf message") from None


async def _abort(context: Any, error: Exception, method: str) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    request_id = current_request().request_id
    status = to_status(error, request_id)
    log_failure(error, status.code, method)
    trailers = (*status_trailers(status), (REQUEST_ID_KEY, request_id))
    await context.abort(STATUS_CODES[status.code], status.message, trailing_metadata=trailers)


@asynccontextmanager
async def in_time(timeout_s: float) -> AsyncIterator[None]:
    """Let the block run for so long and no longer.

    Raises:
        DeadlineExceeded: it was not done.
    """
    try:
        async with asyncio.timeout(timeout_s) as scope:
            yield
    except TimeoutError:
        if not scope.expired():
            raise
        raise DeadlineExceeded("the deadline passed before the answer was ready") from None


def log_failure(error: BaseException, code: int, method: str) -> None:
    """One line for a refused request, the whole traceback for what we did not expect."""
    if isinstance(error, ClozerecError) and error.status is not grpc.StatusCode.INTERNAL:
        log.info(REQUEST_FAILED, method=method, code=code, reason=error.reason, message=error.message[:512])
    else:
        log.error(UNEXPECTED_ERROR, method=method, exc_info=error)


def _text_metadata(context: Any) -> dict[str, str]:
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}


async def until_signalled() -> None:
    """Wait for SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
