"""The real servers on free ports, in both arrangements, and clients that have only the protos."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import grpc
import pytest
import pytest_asyncio

from clozerec.v1 import recommender_pb2
from clozerec.v1.recommender_pb2_grpc import RecommenderServiceStub
from clozerec_cli.serving import all_in_one, encoder_server, gateway_server, retriever_server
from clozerec_cli.settings import AllSettings
from clozerec_core.bundle import Bundle
from clozerec_encoder.settings import EncoderSettings
from clozerec_gateway.settings import GatewaySettings
from clozerec_retriever.settings import RetrieverSettings

TIMEOUT_S = 20


@dataclass(frozen=True)
class Gateway:
    """A running gateway as a caller sees it."""

    bundle: Bundle
    target: str
    url: str

    async def recommend(self, **fields: Any) -> recommender_pb2.RecommendResponse:
        """One call; `query_type` is the enum's name without prefix, `filters` a dict."""
        request = recommender_pb2.RecommendRequest()
        filters = fields.pop("filters", None)
        if filters is not None:
            request.filters.update(filters)
        fields["query_type"] = f"QUERY_TYPE_{fields['query_type'].upper()}"
        request.MergeFrom(recommender_pb2.RecommendRequest(**fields))
        async with grpc.aio.insecure_channel(self.target) as channel:
            return await RecommenderServiceStub(channel).Recommend(request, timeout=TIMEOUT_S)

    async def ids(self, **fields: Any) -> list[str]:
        """Item ids of the answer."""
        return [item.item_id for item in (await self.recommend(**fields)).items]

    async def post(self, path: str, body: object, **headers: str) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Status, document and headers of a JSON call; a str or bytes body is sent as it stands."""
        kind = "data" if isinstance(body, str | bytes) else "json"
        if isinstance(body, bytes):
            body = io.BytesIO(body)
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.url + path, headers=headers, **{kind: body}) as response,  # type: ignore[arg-type]
        ):
            headers = {name.lower(): value for name, value in response.headers.items()}
            return response.status, await response.json(), headers

    async def get(self, path: str) -> tuple[int, dict[str, Any]]:
        """Status and document of a GET."""
        async with aiohttp.ClientSession() as session, session.get(self.url + path) as response:
            return response.status, await response.json()


@asynccontextmanager
async def running(bundle: Bundle, arrangement: str, **changes: Any) -> AsyncIterator[Gateway]:
    """All services of a bundle, in one process or over real channels; `changes` are settings of the gateway.

    Each has a state of its own, unless `state_dir` says which.
    """
    async with AsyncExitStack() as stack:
        state_dir = Path(stack.enter_context(TemporaryDirectory()))
        changes = {"state_dir": state_dir, "grpc_port": 0, "http_port": 0, "grace_s": 1} | changes
        if arrangement == "all in one":
            settings = AllSettings(bundle=bundle.path, **changes)
            ports = await stack.enter_async_context(all_in_one(bundle, settings))
        else:
            encoder_port = await stack.enter_async_context(
                encoder_server(bundle, EncoderSettings(bundle=bundle.path, grpc_port=0, grace_s=1))
            )
            retriever_port = await stack.enter_async_context(
                retriever_server(
                    bundle,
                    RetrieverSettings(bundle=bundle.path, grpc_port=0, grace_s=1, state_dir=changes["state_dir"]),
                )
            )
            gateway_settings = GatewaySettings(
                bundle=bundle.path,
                **changes,
                encoder_target=f"127.0.0.1:{encoder_port}",
                retriever_target=f"127.0.0.1:{retriever_port}",
            )
            ports = await stack.enter_async_context(gateway_server(bundle, gateway_settings))
        yield Gateway(bundle, f"127.0.0.1:{ports.grpc}", f"http://127.0.0.1:{ports.http}")


@pytest_asyncio.fixture(params=["all in one", "one process each"])
async def gateway(request: pytest.FixtureRequest, toy_bundle: Bundle) -> AsyncIterator[Gateway]:
    """Cyclic shoppers behind a gateway, in both arrangements."""
    async with running(toy_bundle, request.param) as started:
        yield started


@pytest_asyncio.fixture
async def text_gateway(toy_text_bundle: Bundle) -> AsyncIterator[Gateway]:
    """The same with a text engine, over real channels."""
    async with running(toy_text_bundle, "one process each") as started:
        yield started
