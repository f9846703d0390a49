"""How calls travel: what is sent again, how long they may take, and what a refusal becomes."""

from __future__ import annotations

import json
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

TIMEOUT_S = 2.0
"""For a query; its fallbacks are decided inside of it."""

WRITE_TIMEOUT_S = 30.0
"""For a call that changes something: a batch of items may have a thousand texts to embed."""

IDLE_TIMEOUT_S = 30.0
"""For a stream, without an answer while one is due: a gateway gives each query 10 seconds by default. The stream itself
may take as long as it likes."""

# Calls that end with UNAVAILABLE are sent again within half a second, a few times and not at all when most fail: with
# several gateways the next one may be better off. Whoever wants to wait as long as a gateway asks for finds `retry_s`.
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.05s",
                "maxBackoff": "0.5s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 20, "tokenRatio": 0.2},
}
OPTIONS = (
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.max_receive_message_length", 128 * 1024 * 1024),
    # A gateway that was cut off without a word is noticed while calls wait for it, and is tried again soon after; by
    # default gRPC waits for TCP to give up, and then two minutes between two tries.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


class ClozerecRefused(Exception):
    """A call that brought no answer."""

    def __init__(self, error: Any) -> None:
        code: grpc.StatusCode = error.code()
        self.code = code
        self.reason = ""
        """Upper snake case, stable; empty where no gateway answered."""
        self.violations: dict[str, str] = {}
        """What is wrong with each field of a bad request."""
        self.retry_s: float | None = None
        """When to try again; None: there is no telling."""
        status = rpc_status.from_call(error)
        for detail in status.details if status is not None else ():
            info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            retry = error_details_pb2.RetryInfo()
            if detail.Unpack(info):
                self.reason = info.reason
            elif detail.Unpack(bad_request):
                self.violations = {each.field: each.description for each in bad_request.field_violations}
            elif detail.Unpack(retry):
                self.retry_s = retry.retry_delay.ToTimedelta().total_seconds()
        super().__init__(f"{code.name}: {error.details()}")


def nothing_came(timeout_s: float) -> ClozerecRefused:
    """The refusal of a stream that has gone silent."""
    nothing = grpc.aio.Metadata()
    details = f"no answer came for {timeout_s:g} s"
    return ClozerecRefused(grpc.aio.AioRpcError(grpc.StatusCode.DEADLINE_EXCEEDED, nothing, nothing, details))


def metadata(token: str | None) -> tuple[tuple[str, str], ...]:
    """What goes with every call."""
    return () if token is None else (("authorization", f"Bearer {token}"),)
