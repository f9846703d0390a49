"""A/B: a fixed share of the users is answered by another gateway, whose stack serves another bundle.

Who goes where is a hash of the user id and a salt: the same on every gateway and after every restart, and growing a
share moves nobody back. The file is followed, so shares change without a restart. Requests without a user, and those
that pin a bundle, stay; and when the other gateway does not answer, this one does. Both share one store of live events,
so it makes no difference where events are recorded and people forgotten.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import grpc
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clozerec.v1 import recommender_pb2
from clozerec.v1.recommender_pb2_grpc import RecommenderServiceStub
from clozerec_core import metrics
from clozerec_core.access import AUTHORIZATION_KEY
from clozerec_core.errors import UsageError
from clozerec_core.live_file import LiveFiles
from clozerec_core.remote_stub import InnerAccess, RemoteStub
from clozerec_core.request_context import current_request
from clozerec_gateway.settings import GatewaySettings

SHARE_OF_DEADLINE = 0.6
"""What the other gateway may use of the time that is left, so that this one can still answer."""

_CALLERS_FAULT = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
"""This gateway says so in its own words."""


class SplitFile(BaseModel):
    """`{"target": "dns:///gateway-canary:50050", "share": 0.05, "salt": "1"}`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: str = Field(min_length=1, description="host:port of the other gateway.")
    share: float = Field(ge=0, le=1, description="Of the users, 0 to 1.")
    salt: str = Field("", description="Another salt draws other users.")


class Split:
    """Sends some users' requests elsewhere."""

    def __init__(self, path: Path, access: InnerAccess) -> None:
        """
        Args:
            path: of the split file.
            access: CA and certificate for TLS.

        Raises:
            UsageError: a file is missing or wrong.
        """
        self._file = LiveFiles([path], parse_split)
        self._access = access
        self._target = ""
        self._stub: RemoteStub | None = None

    async def ask(
        self, request: recommender_pb2.RecommendRequest, token: str | None
    ) -> recommender_pb2.RecommendResponse | None:
        """The other gateway's answer; None where this one has to answer.

        Args:
            request: as it came.
            token: the caller's authorization, which goes along.
        """
        split = self._file.current()
        if not request.user_id or request.bundle_id or not is_drawn(request.user_id, split):
            return None
        if self._stub is None or split.target != self._target:
            await self.close()
            self._target, self._stub = split.target, RemoteStub(RecommenderServiceStub, split.target, self._access)
        current = current_request()
        remaining_s = current.remaining_s()
        authorization = ((AUTHORIZATION_KEY, token),) if token else ()
        metadata = (*current.outgoing_metadata(), *authorization)
        try:
            timeout = None if remaining_s is None else remaining_s * SHARE_OF_DEADLINE
            answer: recommender_pb2.RecommendResponse = await self._stub.Recommend(
                request, timeout=timeout, metadata=metadata
            )
        except grpc.aio.AioRpcError as error:
            if error.code() not in _CALLERS_FAULT:
                metrics.GATEWAY_SPLIT_REQUESTS.labels("fell_back").inc()
            return None
        metrics.GATEWAY_SPLIT_REQUESTS.labels("answered").inc()
        return answer

    async def close(self) -> None:
        """Close the channel."""
        if self._stub is not None:
            await self._stub.__aexit__()


def open_split(settings: GatewaySettings) -> Split | None:
    """The split that the settings name, if they name one.

    Raises:
        UsageError: a file is missing or wrong, or the gateways share no store.
    """
    if settings.split_path is None:
        return None
    if settings.redis_url is None:
        raise UsageError(
            "CLOZEREC_SPLIT_PATH needs CLOZEREC_REDIS_URL, the same on both sides: else the gateway that answers "
            "a person knows neither the events that were recorded here nor who was forgotten"
        )
    return Split(
        settings.split_path, InnerAccess(settings.inner_ca_path, settings.tls_cert_path, settings.tls_key_path)
    )


def is_drawn(user_id: str, split: SplitFile) -> bool:
    """Whether this user belongs to the other side."""
    digest = hashlib.blake2b(f"{split.salt}\0{user_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < split.share


def parse_split(raw: bytes) -> SplitFile:
    """
    Raises:
        ValueError: what is wrong.
    """
    try:
        return SplitFile.model_validate(json.loads(raw))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise ValueError(faults) from None
