"""The calling side: channels to other processes, and stubs that call a servicer of the same process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc.aio._call import Call as CoreCall

from clozerec_core.begun import Begun
from clozerec_core.request_context import current_request
from clozerec_core.rpc import MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES

LOCAL_PEER = "local"
"""The peer of calls within a process."""

_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    # No "timeout" here: grpc fails such calls at once, so every call brings its own.
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.02s",
                "maxBackoff": "0.2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}

_LIVENESS = (
    # While calls wait and the peer says nothing for a second, gRPC's own threads ask for a sign of life. One that is
    # frozen or cut off is left out two seconds later, and what hangs on it goes to the others.
    ("grpc.keepalive_time_ms", 1_000),
    ("grpc.http2.ping_timeout_ms", 2_000),
    # Then it is tried again, for five seconds and one apart at most; by default for twenty, and two minutes apart. A
    # replica that restarts is found again before the next of a roll-out goes.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


def open_channel(target: str, credentials: grpc.ChannelCredentials | None = None) -> grpc.aio.Channel:
    """A channel to `host:port` that spreads calls over all addresses, leaves out those that are dead, and retries calls
    that never arrived.

    Args:
        target: `dns:///name:port` resolves to every address of the name.
        credentials: None speaks in the clear.
    """
    options = (
        *_LIVENESS,
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
        ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
        ("grpc.max_send_message_length", MAX_REQUEST_BYTES),
    )
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, credentials, options=options)


async def whole(call: Any) -> Any:
    """The response of a grpc.aio call; cancelling it ends the call in gRPC's core and nowhere else.

    A coroutine of grpc.aio's own that is cancelled while it waits for the core loses track of what it gave to it: a
    kilobyte a call, for as long as the process lives (grpc issue 43360). Under overload those are hundreds of calls a
    second.
    """
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        CoreCall.cancel(call)  # the call's own `cancel` would cancel the coroutine, too
        raise


class LocalStub:
    """Calls a servicer of the same process as a gRPC stub would, without a socket.

    A passed deadline raises TimeoutError, and errors arrive as the domain's own, since there is no wire to cross.
    """

    def __init__(self, servicer: object) -> None:
        self._servicer = servicer

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        inner = getattr(self._servicer, method)

        async def call(request: Message, *, timeout: float | None = None, metadata: object = None) -> Any:  # noqa: ASYNC109
            begun = Begun(inner(request, _LOCAL))
            if begun.is_done:
                return begun.result
            async with asyncio.timeout(timeout):
                return await begun

        setattr(self, method, call)
        return call


class _LocalContext:
    """The little that our servicers ask of a context."""

    def time_remaining(self) -> float | None:
        return current_request().remaining_s()

    def peer(self) -> str:
        return LOCAL_PEER

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return current_request().outgoing_metadata()


_LOCAL = _LocalContext()
