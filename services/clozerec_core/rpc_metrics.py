"""Counts every call that a server answers, under the names that the field's dashboards know.

A call of the JSON front counts as a call of the same gRPC method, of a type of its own: what reads these names then
sees it, whichever way it came.

Own code, because no published package fits grpc.aio. A wrapped handler and its metrics are made once a method, so that
a call costs four bound increments and one observation.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
from prometheus_client import Counter

from clozerec_core import metrics

OTHER = "other"
"""Stands for every method that the server does not have: callers choose those names."""

JSON = "json"
"""The `grpc_type` of what came over HTTP."""

_CODE_NAMES: dict[grpc.StatusCode | int | None, str] = {None: "OK"}
for _code in grpc.StatusCode:
    _CODE_NAMES[_code] = _CODE_NAMES[_code.value[0]] = _code.name
"""`context.code()` is what the handler set, an enum or a number, and None where it set nothing."""


def counted(handler: Any, method: str) -> Any:
    """The method's handler, counted from outside: it sees the code that the caller sees."""
    for kind, grpc_type, factory in (
        ("unary_unary", "unary", grpc.unary_unary_rpc_method_handler),
        ("unary_stream", "server_stream", grpc.unary_stream_rpc_method_handler),
        ("stream_unary", "client_stream", grpc.stream_unary_rpc_method_handler),
        ("stream_stream", "bidi_stream", grpc.stream_stream_rpc_method_handler),
    ):
        inner = getattr(handler, kind)
        if inner is not None:
            measured = MethodMetrics(grpc_type, method)
            # A streaming handler is a generator, or a coroutine that writes to the context, as health's Watch is.
            wrapper = _generator if inspect.isasyncgenfunction(inner) else _coroutine
            return factory(
                wrapper(inner, measured),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
    raise AssertionError(f"{method} has no behaviour")


def count_unknown() -> None:
    """Count a call of a method that the server does not have."""
    metrics.GRPC_SERVER_STARTED.labels("unary", OTHER, OTHER).inc()
    metrics.GRPC_SERVER_HANDLED.labels("unary", OTHER, OTHER, "UNIMPLEMENTED").inc()


class MethodMetrics:
    """One method's metrics, bound."""

    def __init__(self, grpc_type: str, method: str) -> None:
        """
        Args:
            grpc_type: unary, bidi_stream, …, or `JSON`.
            method: `/package.Service/Method`.
        """
        service, name = method.strip("/").split("/", maxsplit=1)
        labels = (grpc_type, service, name)
        self._labels = labels
        self._started = metrics.GRPC_SERVER_STARTED.labels(*labels)
        self._handling = metrics.GRPC_SERVER_HANDLING.labels(*labels)
        self._in_flight = metrics.CALLS_IN_FLIGHT.labels(service) if service.startswith("clozerec.") else None
        self._handled: dict[str, Counter] = {}

    def began(self) -> float:
        """Count a call that begins; returns when that was."""
        self._started.inc()
        if self._in_flight is not None:
            self._in_flight.inc()
        return time.perf_counter()

    def ended(self, began: float, code: str) -> None:
        """Count a call that ends.

        Args:
            began: what `began` returned.
            code: name of the gRPC code that it ended with.
        """
        self._handling.observe(time.perf_counter() - began)
        if self._in_flight is not None:
            self._in_flight.dec()
        handled = self._handled.get(code)
        if handled is None:
            handled = self._handled[code] = metrics.GRPC_SERVER_HANDLED.labels(*self._labels, code)
        handled.inc()


def _code_of(context: Any, error: BaseException | None) -> str:
    """Read from the context, or from how the call broke off."""
    if error is None or isinstance(error, grpc.aio.AbortError):
        return _CODE_NAMES[context.code()]
    # The generator of a stream is closed, and a status cannot be sent, where the caller went meanwhile.
    gone = (asyncio.CancelledError, GeneratorExit, grpc.aio.InternalError)
    return "CANCELLED" if isinstance(error, gone) else "UNKNOWN"


def _coroutine(
    inner: Callable[[Any, Any], Awaitable[Any]], method: MethodMetrics
) -> Callable[[Any, Any], Awaitable[Any]]:
    async def call(request: Any, context: Any) -> Any:
        began = method.began()
        try:
            response = await inner(request, context)
        except BaseException as error:
            method.ended(began, _code_of(context, error))
            raise
        method.ended(began, _code_of(context, None))
        return response

    return call


def _generator(
    inner: Callable[[Any, Any], AsyncGenerator[Any, None]], method: MethodMetrics
) -> Callable[[Any, Any], AsyncIterator[Any]]:
    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        began = method.began()
        try:
            async with aclosing(inner(request, context)) as responses:
                async for response in responses:
                    yield response
        except BaseException as error:
            method.ended(began, _code_of(context, error))
            raise
        method.ended(began, _code_of(context, None))

    return call
