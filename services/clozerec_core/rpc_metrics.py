"""Counts every gRPC call that a server answers, under the names that the field's dashboards know.

Own code, because no published package fits grpc.aio. A wrapped handler and its metrics are made once a method, so that
a call costs four bound increments and one observation.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from prometheus_client import Counter

from clozerec_core import metrics

OTHER = "other"
"""Stands for every method that the server does not have: callers choose those names."""

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
            measured = _Method(grpc_type, method)
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


class _Method:
    """One method's metrics, bound."""

    def __init__(self, grpc_type: str, method: str) -> None:
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

    def ended(self, began: float, context: Any, error: BaseException | None) -> None:
        """Count a call that ends; its code is read from the context, or from how it broke off."""
        self._handling.observe(time.perf_counter() - began)
        if self._in_flight is not None:
            self._in_flight.dec()
        if error is None or isinstance(error, grpc.aio.AbortError):
            self._count(_CODE_NAMES[context.code()])
        else:
            self._count("CANCELLED" if isinstance(error, asyncio.CancelledError) else "UNKNOWN")

    def _count(self, code: str) -> None:
        handled = self._handled.get(code)
        if handled is None:
            handled = self._handled[code] = metrics.GRPC_SERVER_HANDLED.labels(*self._labels, code)
        handled.inc()


def _coroutine(inner: Callable[[Any, Any], Awaitable[Any]], method: _Method) -> Callable[[Any, Any], Awaitable[Any]]:
    async def call(request: Any, context: Any) -> Any:
        began = method.began()
        try:
            response = await inner(request, context)
        except BaseException as error:
            method.ended(began, context, error)
            raise
        method.ended(began, context, None)
        return response

    return call


def _generator(
    inner: Callable[[Any, Any], AsyncIterator[Any]], method: _Method
) -> Callable[[Any, Any], AsyncIterator[Any]]:
    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        began = method.began()
        try:
            async for response in inner(request, context):
                yield response
        except BaseException as error:
            method.ended(began, context, error)
            raise
        method.ended(began, context, None)

    return call
