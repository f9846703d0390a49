"""What is refused once is sent again, and where most calls fail, little is: real servers behind one that refuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from clozerec.v1.encoder_pb2 import GetEncoderInfoRequest
from clozerec.v1.encoder_pb2_grpc import EncoderServiceStub
from clozerec_cli.serving import encoder_server, gateway_server, retriever_server
from clozerec_client import AsyncClient, Client, ClozerecRefused, NewItem
from clozerec_core.bundle import Bundle
from clozerec_core.remote_stub import InnerAccess, RemoteStub
from clozerec_encoder.settings import EncoderSettings
from clozerec_gateway.settings import GatewaySettings
from clozerec_retriever.settings import RetrieverSettings
from integration.conftest import TIMEOUT_S, Gateway, running


class Door(grpc.GenericRpcHandler):
    """Passes calls on to a server, but refuses some as UNAVAILABLE."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self.target = ""
        self.num_to_refuse: dict[str, int] = {}
        """By method: so many calls, the next ones."""
        self.calls: list[str] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        path: str = handler_call_details.method
        method = path.rsplit("/")[-1]

        async def pass_on(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            self.calls.append(method)
            if self.num_to_refuse.get(method, 0) > 0:
                self.num_to_refuse[method] -= 1
                await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
            try:
                answer: bytes = await self._channel.unary_unary(path)(request, timeout=context.time_remaining())
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "", error.trailing_metadata())
            return answer

        return grpc.unary_unary_rpc_method_handler(pass_on)


@asynccontextmanager
async def door(target: str) -> AsyncIterator[Door]:
    async with grpc.aio.insecure_channel(target) as channel:
        opened = Door(channel)
        server = grpc.aio.server(handlers=[opened])
        opened.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        yield opened
        await server.stop(None)


@asynccontextmanager
async def stack(bundle: Bundle, state_dir: Path) -> AsyncIterator[tuple[Gateway, Door, Door]]:
    """A gateway, and the doors of its encoder and retriever."""
    common: dict[str, Any] = {"bundle": bundle.path, "grpc_port": 0, "grace_s": 0}
    async with (
        encoder_server(bundle, EncoderSettings(**common)) as encoder_port,
        retriever_server(bundle, RetrieverSettings(**common, state_dir=state_dir)) as retriever_port,
        door(f"127.0.0.1:{encoder_port}") as encoder,
        door(f"127.0.0.1:{retriever_port}") as retriever,
    ):
        settings = GatewaySettings(
            **common,
            http_port=0,
            state_dir=state_dir,
            encoder_target=encoder.target,
            retriever_target=retriever.target,
            encoder_timeout_s=TIMEOUT_S,
            retriever_timeout_s=TIMEOUT_S,
        )
        async with gateway_server(bundle, settings) as ports:
            yield Gateway(bundle, f"127.0.0.1:{ports.grpc}", f"http://127.0.0.1:{ports.http}"), encoder, retriever


async def test_a_call_that_encoder_or_retriever_refuses_once_costs_no_answer(
    toy_bundle: Bundle, tmp_path: Path
) -> None:
    async with stack(toy_bundle, tmp_path) as (gateway, encoder, retriever):
        query: dict[str, Any] = {"query_type": "sequential", "session_items": ["a", "b"], "top_k": 3}
        expected = await gateway.recommend(**query)
        for part, method in ((encoder, "EncodeSequences"), (retriever, "Search")):
            part.calls.clear()
            part.num_to_refuse[method] = 1
            answer = await gateway.recommend(**query)
            assert (answer.fallback, list(answer.items)) == (expected.fallback, list(expected.items))
            assert part.calls.count(method) == 2
        # A change may have been made before it was refused: made twice it leaves the same.
        retriever.num_to_refuse = {"UpsertItems": 1, "DeleteItems": 1}
        item = {"item_id": "new", "metadata": {"year": 2026}}
        _, document, _ = await gateway.post("/v1/items:upsert", {"items": [item]})
        assert document["results"][0]["status"]["code"] == 0
        _, document, _ = await gateway.post("/v1/items:delete", {"item_ids": ["new"]})
        assert document["results"][0]["status"]["code"] == 0


async def test_where_every_call_is_refused_little_is_sent_again(toy_bundle: Bundle, tmp_path: Path) -> None:
    num_calls = 40
    async with (
        stack(toy_bundle, tmp_path) as (_, encoder, _),
        RemoteStub(EncoderServiceStub, encoder.target, InnerAccess()) as stub,
    ):
        encoder.calls.clear()
        encoder.num_to_refuse["GetEncoderInfo"] = 10 * num_calls
        for _ in range(num_calls):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.GetEncoderInfo(GetEncoderInfoRequest(), timeout=TIMEOUT_S)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert num_calls < encoder.calls.count("GetEncoderInfo") <= num_calls * 5 / 4


async def test_both_clients_send_a_refused_call_again_and_say_so_when_it_stays_refused(toy_bundle: Bundle) -> None:
    query: dict[str, Any] = {"session_items": ["a", "b"], "top_k": 3}
    async with running(toy_bundle, "all in one") as gateway, door(gateway.target) as opened:

        def with_threads() -> list[str]:
            with Client(opened.target, timeout_s=TIMEOUT_S) as client:
                client.upsert_items([NewItem("new", {"year": 2026})])
                return [item.item_id for item in client.recommend("sequential", **query).items]

        expected = await gateway.ids(query_type="sequential", **query)
        opened.num_to_refuse = {"Recommend": 1, "UpsertItems": 2}
        assert await asyncio.to_thread(with_threads) == expected
        assert opened.calls == ["UpsertItems"] * 3 + ["Recommend"] * 2
        async with AsyncClient(opened.target, timeout_s=TIMEOUT_S) as client:
            opened.num_to_refuse = {"Recommend": 1}
            assert [item.item_id for item in (await client.recommend("sequential", **query)).items] == expected
            opened.num_to_refuse = {"Recommend": 1_000}
            opened.calls.clear()
            with pytest.raises(ClozerecRefused) as refused:
                await client.recommend("sequential", **query)
            assert refused.value.code is grpc.StatusCode.UNAVAILABLE
            assert len(opened.calls) == 4
