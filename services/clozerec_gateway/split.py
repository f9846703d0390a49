"""A/B: a fixed share of the users is answered by another gateway, whose stack serves another bundle.

Who goes where is a hash of the user id and a salt: the same on every gateway and after every restart, and growing a
share moves nobody back. The file is followed, so shares change without a restart. Requests without a user, and those
that pin a bundle, stay; and when the other gateway does not answer, this one does, and leaves it alone for a while
after several failures. Both share one store of live events, so it makes no difference where events are recorded and
people forgotten.
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
from clozerec_core.telemetry import get_logger
from clozerec_gateway.circuit import Circuit
from clozerec_gateway.settings import GatewaySettings

SHARE_OF_DEADLINE = 0.6
"""What the other gateway may use of the time that is left, so that this one can still answer."""

_CALLERS_FAULT = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
"""This gateway says so in its own words."""

_NO_ANSWER = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
"""It is gone, frozen or too slow; with any other code it lives."""

log = get_logger("split")


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
        self._side = _OtherSide(self._file.current().target, access)
        self._refused = ""
        """The target that cannot be spoken to."""

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
        if self._side.target != split.target and not await self._turn_to(split.target):
            metrics.GATEWAY_SPLIT_REQUESTS.labels("fell_back").inc()
            return None
        answer, fell_back = await self._side.ask(request, token)
        if answer is not None:
            metrics.GATEWAY_SPLIT_REQUESTS.labels("answered").inc()
        elif fell_back:
            metrics.GATEWAY_SPLIT_REQUESTS.labels("fell_back").inc()
        return answer

    async def close(self) -> None:
        """Close the channel."""
        await self._side.close()

    async def _turn_to(self, target: str) -> bool:
        """Ask another gateway from now on; whether there is a way to it."""
        try:
            side = _OtherSide(target, self._access)
        except UsageError as error:
            if target != self._refused:
                log.warning("split_refused", target=target, message=error.message)
            self._refused = target
            return False
        # Put in its place before anything is awaited: requests beside this one see it.
        self._side, replaced, self._refused = side, self._side, ""
        await replaced.retire()
        return True


class _OtherSide:
    """The other gateway at one address, with a circuit of its own: what it does says nothing of other parts."""

    def __init__(self, target: str, access: InnerAccess) -> None:
        self.target = target
        self._stub = RemoteStub(RecommenderServiceStub, target, access)
        self._circuit = Circuit()
        self._num_under_way = 0
        self._is_retired = False

    async def ask(
        self, request: recommender_pb2.RecommendRequest, token: str | None
    ) -> tuple[recommender_pb2.RecommendResponse | None, bool]:
        """Its answer, and where there is none whether it should have had one."""
        if not self._circuit.lets_pass():
            return None, True
        current = current_request()
        remaining_s = current.remaining_s()
        authorization = ((AUTHORIZATION_KEY, token),) if token else ()
        self._num_under_way += 1
        try:
            answer: recommender_pb2.RecommendResponse = await self._stub.Recommend(
                request,
                timeout=None if remaining_s is None else remaining_s * SHARE_OF_DEADLINE,
                metadata=(*current.outgoing_metadata(), *authorization),
            )
        except grpc.aio.AioRpcError as error:
            if error.code() in _NO_ANSWER:
                self._failed()
            else:
                self._circuit.succeeded()
            return None, error.code() not in _CALLERS_FAULT
        finally:
            self._num_under_way -= 1
            if self._is_retired:
                await self.retire()
        self._circuit.succeeded()
        return answer, False

    async def retire(self) -> None:
        """Close once no call is under way any more: closing cancels calls."""
        self._is_retired = True
        if not self._num_under_way:
            await self.close()

    async def close(self) -> None:
        """Close the channel."""
        await self._stub.__aexit__()

    def _failed(self) -> None:
        was_open = self._circuit.is_open
        self._circuit.failed()
        if self._circuit.is_open and not was_open:
            log.warning("circuit_opened", dependency="other gateway", target=self.target)


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
