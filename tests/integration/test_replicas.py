"""A gateway in front of two retrievers that share a log in Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from redis_server import RedisServer, redis_server

from clozerec_cli.serving import encoder_server, gateway_server, retriever_server
from clozerec_core.bundle import Bundle
from clozerec_encoder.settings import EncoderSettings
from clozerec_gateway.settings import GatewaySettings
from clozerec_retriever.settings import RetrieverSettings
from integration.conftest import Gateway

OFTEN = range(6)
"""Calls go to the retrievers in turn, so each is asked more than once."""


@dataclass(frozen=True)
class Replicated:
    """What runs."""

    gateway: Gateway
    redis: RedisServer


@pytest.fixture
async def replicated(toy_text_bundle: Bundle, tmp_path: Path) -> AsyncIterator[Replicated]:
    bundle = toy_text_bundle
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(redis_server(tmp_path / "redis"))
        shared = {"bundle": bundle.path, "grpc_port": 0, "grace_s": 1}
        encoder = await stack.enter_async_context(encoder_server(bundle, EncoderSettings(**shared)))
        ports = [
            await stack.enter_async_context(
                retriever_server(bundle, RetrieverSettings(**shared, state_dir=tmp_path / name, redis_url=redis.url))
            )
            for name in ("a", "b")
        ]
        settings = GatewaySettings(
            **shared,
            http_port=0,
            redis_url=redis.url,
            encoder_target=f"127.0.0.1:{encoder}",
            retriever_target="ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports),
        )
        gateway = await stack.enter_async_context(gateway_server(bundle, settings))
        yield Replicated(Gateway(bundle, f"127.0.0.1:{gateway.grpc}", f"http://127.0.0.1:{gateway.http}"), redis)


async def test_what_a_caller_changed_it_reads_whichever_retriever_answers(replicated: Replicated) -> None:
    gateway = replicated.gateway
    for number in OFTEN:
        item = {"item_id": "lamp", "metadata": {"title": "a lamp", "year": 2000 + number}}
        _, document, _ = await gateway.post("/v1/items:upsert", {"items": [item]})
        assert document["results"][0]["status"]["code"] == 0
        mask = {"items": [{"item_id": "lamp", "metadata": {"brand": f"brand {number}"}}], "update_mask": "brand"}
        await gateway.post("/v1/items:upsert", mask)
        for _ in range(2):
            _, document, _ = await gateway.post("/v1/items:get", {"item_ids": ["lamp"]})
            metadata = document["items"][0]["metadata"]
            assert (metadata["year"], metadata["brand"]) == (2000 + number, f"brand {number}")
    await gateway.post("/v1/items:delete", {"item_ids": ["lamp", "d"]})
    for _ in OFTEN:
        _, document, _ = await gateway.post("/v1/items:get", {"item_ids": ["lamp", "d"]})
        assert document["items"] == []
    for _ in OFTEN:
        ids = await gateway.ids(query_type="sequential", session_items=["a", "b", "c"], top_k=100)
        assert not {"lamp", "d"} & set(ids)


async def test_without_redis_changes_are_unavailable_and_answers_are_whole(replicated: Replicated) -> None:
    gateway = replicated.gateway
    before = await gateway.recommend(query_type="sequential", session_items=["a", "b", "c"])
    replicated.redis.kill()
    for _ in OFTEN:
        item = {"item_id": "lamp", "metadata": {"title": "a lamp"}}
        _, document, _ = await gateway.post("/v1/items:upsert", {"items": [item]})
        status = document["results"][0]["status"]
        assert status["code"] == grpc.StatusCode.UNAVAILABLE.value[0]
        assert {"retry_delay": "1s"}.items() <= {
            k: v for detail in status["details"] for k, v in detail.items()
        }.items()
        answer = await gateway.recommend(query_type="sequential", session_items=["a", "b", "c"])
        assert (list(answer.items), answer.fallback) == (list(before.items), before.fallback)
