"""Ending a call with a status, and nothing left of it.

grpc.aio keeps the error that `abort` raises beside the call's context, and the error's traceback has the frames that
hold this context: a circle, with all that these frames hold in it, until the garbage collector comes by.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NoReturn

import grpc


async def abort(
    context: Any, code: grpc.StatusCode, details: str, trailers: Sequence[tuple[str, str | bytes]]
) -> NoReturn:
    """End the call.

    Args:
        context: of the call.
        code: that it ends with.
        details: the message of the status.
        trailers: trailing metadata.

    Raises:
        grpc.aio.AbortError: for grpc, which ends the handler with it.
    """
    try:
        await context.abort(code, details, trailing_metadata=tuple(trailers))
    except grpc.aio.AbortError as end:
        asyncio.get_running_loop().call_soon(_forget, end)  # once it has left the last frame
        raise
    raise AssertionError("abort raises")


def _forget(end: grpc.aio.AbortError) -> None:
    end.__traceback__ = end.__context__ = None
