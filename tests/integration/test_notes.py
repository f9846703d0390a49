"""What one gateway hears of catalogue changes that failed, or that went through another gateway; over real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from redis_server import redis_server

from clozerec_cli.serving import encoder_server, gateway_server, retriever_server
from clozerec_core.bundle import Bundle
from clozerec_encoder.settings import EncoderSettings
from clozerec_gateway.settings import GatewaySettings
from clozerec_retriever.settings import RetrieverSettings
from integration.conftest import Gateway
from integration.test_gateway_faults import refusal, world

SOON_S = 20
"""For what happens within seconds on a machine that is idle."""
CONTEXT = {"query_type": "contextual", "user_id": "user-3", "item_id": "d"}


@pytest.fixture
async def two_gateways(toy_text_bundle: Bundle, tmp_path: Path) -> AsyncIterator[tuple[Gateway, Gateway]]:
    """Two gateways that share one Redis, in front of one encoder and one retriever."""
    bundle = toy_text_bundle
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(redis_server(tmp_path / "redis"))
        shared: dict[str, Any] = {"bundle": bundle.path, "grpc_port": 0, "grace_s": 1}
        encoder = await stack.enter_async_context(encoder_server(bundle, EncoderSettings(**shared)))
        retriever = await stack.enter_async_context(
            retriever_server(bundle, RetrieverSettings(**shared, state_dir=tmp_path / "retriever"))
        )
        gateways = []
        for _ in range(2):
            settings = GatewaySettings(
                **shared | {"redis_url": redis.url},
                http_port=0,
                encoder_target=f"127.0.0.1:{encoder}",
                retriever_target=f"127.0.0.1:{retriever}",
            )
            ports = await stack.enter_async_context(gateway_server(bundle, settings))
            gateways.append(Gateway(bundle, f"127.0.0.1:{ports.grpc}", f"http://127.0.0.1:{ports.http}"))
        yield gateways[0], gateways[1]


async def until_status(gateway: Gateway, status: int, query: dict[str, Any]) -> dict[str, Any]:
    """The first answer that has the status."""
    async with asyncio.timeout(SOON_S):
        while True:
            got, document, _ = await gateway.post("/v1/recommend", query)
            if got == status:
                return document


async def test_a_gateway_soon_hears_of_what_was_deleted_and_added_again_through_another(
    two_gateways: tuple[Gateway, Gateway],
) -> None:
    one, other = two_gateways
    await until_status(other, 200, CONTEXT)
    await one.post("/v1/items:delete", {"item_ids": ["d"]})
    await until_status(other, 404, CONTEXT)
    by_text = {"query_type": "item_to_item", "item_id": "d", "item_text": "a warm drink"}
    answer = await until_status(other, 200, by_text)
    assert {item["source"] for item in answer["items"]} == {"text"}
    assert answer["unknown_item_ids"] == ["d"]
    await one.post("/v1/items:upsert", {"items": [{"item_id": "d", "metadata": {"title": "a warm drink"}}]})
    await until_status(other, 200, CONTEXT)


async def test_a_deletion_that_failed_leaves_the_item_known(toy_bundle: Bundle, tmp_path: Path) -> None:
    async with world(toy_bundle, tmp_path) as parts:
        await parts.retriever.vanish()
        status, _, _ = await parts.gateway.post("/v1/items:delete", {"item_ids": ["d"]})
        assert status == 503
        await parts.retriever.listen(parts.retriever.target)
        await parts.until(lambda answer: bool(answer.items) and not answer.fallback > 1, **CONTEXT | {"item_id": "e"})
        assert (await parts.ask(**CONTEXT)).items
        # Said again, it holds, with the retriever and without.
        status, _, _ = await parts.gateway.post("/v1/items:delete", {"item_ids": ["d"]})
        assert status == 200
        for _ in range(2):
            code, _ = await refusal(parts.ask(**CONTEXT))
            assert code is grpc.StatusCode.NOT_FOUND
            popular = await parts.ask(query_type="user_to_item", user_id="nobody", top_k=100)
            assert "d" not in [item.item_id for item in popular.items]
            await parts.retriever.vanish()


async def test_pages_go_on_over_a_restart_and_without_the_retriever(toy_bundle: Bundle, tmp_path: Path) -> None:
    """Items that callers added stand in the order in which they first came, whoever answers."""
    added = ["zebra", "ant", "monkey", "bee", "lion"]
    num_bundled = len(toy_bundle.catalogue.item_ids)
    popular = {"query_type": "user_to_item", "user_id": "nobody", "top_k": num_bundled + 2}
    async with world(toy_bundle, tmp_path, page_key="secret") as parts:
        await parts.gateway.post("/v1/items:delete", {"item_ids": ["nobody-knows-it"]})
        for item_id in [*added, "zebra"]:
            item = {"item_id": item_id, "metadata": {"year": 2026}}
            await parts.gateway.post("/v1/items:upsert", {"items": [item]})
        first = await parts.ask(**popular)
        assert [item.item_id for item in first.items][num_bundled:] == added[:2]
    async with world(toy_bundle, tmp_path, page_key="secret") as parts:
        await parts.retriever.vanish()
        second = await parts.ask(**popular, page_token=first.next_page_token)
        assert [item.item_id for item in second.items] == added[2:]
