"""What happens around every call of our services: context, identity, decoding, deadline, and one way to fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError, Message

from clozerec_core.aborting import abort
from clozerec_core.access import Gate, Identity, audit
from clozerec_core.begun import Begun
from clozerec_core.errors import BadRequest, ClozerecError, DeadlineExceeded
from clozerec_core.request_context import REQUEST_ID_KEY, current_request, handling
from clozerec_core.rpc_errors import status_trailers, to_status
from clozerec_core.telemetry import REQUEST_FAILED, UNEXPECTED_ERROR, get_logger
from clozerec_core.tracing import mark_failed

ANSWER_MARGIN_S = 0.005
"""Left of the deadline to say that it has passed, before grpc cancels the call without a word."""

STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}

log = get_logger("rpc")

T = TypeVar("T")


def handled(handler: Any, method: str, default_timeout_s: float, gate: Gate) -> Any:
    """The method's handler, inside of what opens the request's context, asks the gate, decodes the message, and ends
    every failure with one google.rpc.Status.

    Decoding happens here because grpc would answer a malformed message with UNKNOWN and inner text; the gate is asked
    here because nobody's bytes should be decoded before it is known who sent them.
    """
    if handler.unary_unary is not None:
        return grpc.unary_unary_rpc_method_handler(
            _unary(handler.unary_unary, handler.request_deserializer, method, default_timeout_s, gate),
            response_serializer=handler.response_serializer,
        )
    assert handler.stream_stream is not None, "our services have unary and bidirectional methods only"
    return grpc.stream_stream_rpc_method_handler(
        _stream(handler.stream_stream, handler.request_deserializer, method, gate),
        response_serializer=handler.response_serializer,
    )


Decode = Callable[[bytes], Message]


def _unary(
    inner: Callable[[Message, Any], Coroutine[Any, Any, Message]],
    decode: Decode,
    method: str,
    default_timeout_s: float,
    gate: Gate,
) -> Callable[[bytes, Any], Awaitable[Message]]:
    async def call(raw: bytes, context: Any) -> Message:
        remaining_s = context.time_remaining()
        timeout_s = default_timeout_s if remaining_s is None else remaining_s
        metadata = _text_metadata(context)
        with handling(metadata, timeout_s, method) as request:
            context.set_trailing_metadata(((REQUEST_ID_KEY, request.request_id),))
            caller: Identity | None = None
            try:
                caller = gate.admit(method, metadata, _peer_names(context, gate))
                response = await in_time(inner(_decoded(raw, decode), context), timeout_s - ANSWER_MARGIN_S)
            except Exception as error:  # noqa: BLE001  # mapped to a status, whole in the log
                return cast(Message, await _abort(context, error, method, caller))
            except asyncio.CancelledError:
                # What it changed until then stays changed.
                audit(method, caller, "CANCELLED")
                raise
            audit(method, caller, "OK")
            return response

    return call


def _stream(
    inner: Callable[[AsyncIterator[Message], Any], AsyncGenerator[Message, None]],
    decode: Decode,
    method: str,
    gate: Gate,
) -> Callable[[AsyncIterator[bytes], Any], AsyncGenerator[Message, None]]:
    async def call(raws: AsyncIterator[bytes], context: Any) -> AsyncGenerator[Message, None]:
        metadata = _text_metadata(context)
        with handling(metadata, context.time_remaining(), method):
            caller: Identity | None = None
            try:
                names = _peer_names(context, gate)
                caller = gate.admit(method, metadata, names)
                _fare.set(_Fare(lambda: gate.admit(method, metadata, names)))
                async with aclosing(inner(_all_decoded(raws, decode), context)) as responses:
                    async for response in responses:
                        yield response
            except Exception as error:  # noqa: BLE001  # mapped to a status, whole in the log
                await _abort(context, error, method, caller)
            except (asyncio.CancelledError, GeneratorExit):
                # The second where the caller went while an answer was on its way to it.
                audit(method, caller, "CANCELLED")
                raise
            else:
                audit(method, caller, "OK")

    return call


class _Fare:
    """What the messages of one stream cost its caller: each counts as a call."""

    def __init__(self, admit: Callable[[], object]) -> None:
        self._admit = admit
        self._is_first = True

    def __call__(self) -> None:
        """
        Raises:
            RateLimited: the caller has used up its rate.
            Unauthenticated, PermissionDenied: its token is good no more.
        """
        if self._is_first:
            # Paid when the stream was let in.
            self._is_first = False
        else:
            self._admit()


def _no_fare() -> None:
    """For streams that no server opened."""


_fare: ContextVar[Callable[[], None]] = ContextVar("fare", default=_no_fare)
"""Of the stream whose task this is; grpc gives every call a task of its own, so nothing has to be put back."""


def fare() -> Callable[[], None]:
    """What a streaming method calls for each message before it works on it; it raises where the caller would be refused
    by now, as at a call of its own. That is the message's error and not the stream's.
    """
    return _fare.get()


async def _all_decoded(raws: AsyncIterator[bytes], decode: Decode) -> AsyncIterator[Message]:
    async for raw in raws:
        yield _decoded(raw, decode)


def _decoded(raw: bytes, decode: Decode) -> Message:
    try:
        return decode(raw)
    except DecodeError:
        raise BadRequest.of("request", "the bytes are not this method's protobuf message") from None


async def _abort(context: Any, error: Exception, method: str, caller: Identity | None) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    request_id = current_request().request_id
    status = to_status(error, request_id)
    log_failure(error, status.code, method)
    audit(method, caller, STATUS_CODES[status.code].name)
    trailers: list[tuple[str, str | bytes]] = [*status_trailers(status), (REQUEST_ID_KEY, request_id)]
    await abort(context, STATUS_CODES[status.code], status.message, trailers)


async def in_time(work: Coroutine[Any, Any, T], timeout_s: float) -> T:
    """What the work returns, if that takes no longer.

    Raises:
        DeadlineExceeded: it was not done.
    """
    begun = Begun(work)
    if begun.is_done:
        return begun.result
    scope = asyncio.timeout(timeout_s)
    try:
        async with scope:
            return await begun
    except TimeoutError:
        if not scope.expired():
            raise
        raise DeadlineExceeded("the deadline passed before the answer was ready") from None


def log_failure(error: BaseException, code: int, method: str) -> None:
    """One line for a refused request, the whole traceback for what we did not expect."""
    mark_failed(code)
    if isinstance(error, ClozerecError) and error.status is not grpc.StatusCode.INTERNAL:
        log.info(REQUEST_FAILED, method=method, code=code, reason=error.reason, message=error.message[:512])
    else:
        log.error(UNEXPECTED_ERROR, method=method, exc_info=error)


def _peer_names(context: Any, gate: Gate) -> tuple[str, ...]:
    """Names in the caller's certificate, where the gate asks for any."""
    if not gate.asks_for_names:
        return ()
    return tuple(name.decode() for name in context.auth_context().get("x509_subject_alternative_name", ()))


def _text_metadata(context: Any) -> dict[str, str]:
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
