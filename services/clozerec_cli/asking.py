"""`clozerec query`: one request to a running gateway, JSON in and JSON out."""

from __future__ import annotations

from typing import Any

import grpc

from clozerec.v1 import recommender_pb2
from clozerec.v1.recommender_pb2_grpc import RecommenderServiceStub
from clozerec_core.errors import ClozerecError
from clozerec_gateway.json_codec import parse_json, to_json

TIMEOUT_S = 10.0


class GatewayRefused(ClozerecError):
    """The gateway answered with an error, or not at all."""


def ask(document: str, target: str) -> dict[str, Any]:
    """The answer to a JSON request.

    Args:
        document: the body as docs/api.md describes it.
        target: `host:port` of the gateway.

    Raises:
        BadRequest: the document is no valid request.
        GatewayRefused: what the gateway said, or that nobody listens there.
    """
    request = parse_json(document, recommender_pb2.RecommendRequest)
    with grpc.insecure_channel(target) as channel:
        try:
            return to_json(RecommenderServiceStub(channel).Recommend(request, timeout=TIMEOUT_S))
        except grpc.RpcError as error:
            code, details = error.code(), error.details()
            hint = f" (is a gateway listening at {target}?)" if code is grpc.StatusCode.UNAVAILABLE else ""
            raise GatewayRefused(f"{code.name}: {details}{hint}") from None
