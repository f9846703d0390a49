"""Lines of the contract (what each query means) that no other test over servers holds on its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import grpc
import pytest
import toy_world

from clozerec.v1 import recommender_pb2
from clozerec.v1.recommender_pb2_grpc import RecommenderServiceStub
from clozerec_core.bundle import Bundle
from clozerec_core.interactions import window_around
from integration.conftest import TIMEOUT_S, Gateway, running
from integration.test_recommend import refused

IDS = toy_world.ITEM_IDS
EVERYTHING: dict[str, Any] = {"top_k": 1000, "exclude_seen": False}


async def scored(gateway: Gateway, **query: Any) -> list[tuple[str, float]]:
    """Items and scores of an answer."""
    return [(item.item_id, item.score) for item in (await gateway.recommend(**query)).items]


async def upsert(gateway: Gateway, item_id: str, **metadata: object) -> None:
    request = recommender_pb2.UpsertItemsRequest()
    request.items.add(item_id=item_id).metadata.update(metadata)
    async with grpc.aio.insecure_channel(gateway.target) as channel:
        (result,) = (await RecommenderServiceStub(channel).UpsertItems(request, timeout=TIMEOUT_S)).results
    assert result.status.code == 0


@pytest.mark.parametrize(
    "query",
    [
        {"query_type": "item_to_item", "item_id": "e"},
        {"query_type": "sequential", "session_items": ["a", "b", "c"]},
        {"query_type": "sequential", "session_items": ["a", "b", "d"], "mask_index": 2},
    ],
)
async def test_a_user_id_that_is_optional_never_changes_what_is_encoded(
    gateway: Gateway, query: dict[str, Any]
) -> None:
    anonymous = await scored(gateway, **query, **EVERYTHING)
    assert await scored(gateway, **query, **EVERYTHING, user_id="user-40") == anonymous
    assert await scored(gateway, **query, **EVERYTHING, user_id="nobody") == anonymous


async def test_of_a_long_session_the_newest_items_count(gateway: Gateway) -> None:
    window_len = gateway.bundle.manifest.model.max_sequence_length
    newest = [IDS[place % len(IDS)] for place in range(window_len)]
    session = {"query_type": "sequential", **EVERYTHING}
    answer = await scored(gateway, **session, session_items=newest)
    assert await scored(gateway, **session, session_items=["p", "p", "unknown", "k", *newest]) == answer


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
async def test_a_gap_in_a_long_session_reads_the_items_nearest_to_it(gateway: Gateway, share: float) -> None:
    window_len = gateway.bundle.manifest.model.max_sequence_length
    session = [IDS[(7 * place) % len(IDS)] for place in range(3 * window_len)]
    mask_index = int(share * len(session))
    window = window_around(len(session), mask_index, window_len)
    query = {"query_type": "sequential", **EVERYTHING}
    whole = await scored(gateway, **query, session_items=session, mask_index=mask_index)
    near = session[window.start : window.stop]
    assert await scored(gateway, **query, session_items=near, mask_index=window.mask_position) == whole


async def test_without_exclude_seen_the_bundle_decides(toy_bundle: Bundle) -> None:
    manifest = toy_bundle.manifest
    lenient = manifest.model_copy(update={"serving": manifest.serving.model_copy(update={"exclude_seen": False})})
    session = {"query_type": "sequential", "session_items": ["a", "b"], "top_k": 1000}
    async with running(replace(toy_bundle, manifest=lenient), "all in one") as gateway:
        assert set(await gateway.ids(**session)) == set(IDS)
        assert set(await gateway.ids(**session, exclude_seen=True)) == set(IDS) - {"a", "b"}
    async with running(toy_bundle, "all in one") as gateway:
        assert set(await gateway.ids(**session)) == set(IDS) - {"a", "b"}


async def test_ids_are_text_of_any_script(gateway: Gateway) -> None:
    ids = ["7", "007", "7.0", " 7", "Ünïcødé/✓", "é" * 128]
    for number, item_id in enumerate(ids):
        await upsert(gateway, item_id, year=2000 + number)
    popular = {"query_type": "user_to_item", "user_id": "nobody", "top_k": 1000}
    for number, item_id in enumerate(ids):
        assert await gateway.ids(**popular, filters={"meta.year": 2000 + number}, exclude_item_ids=IDS) == [item_id]
    assert set(await gateway.ids(**popular)) == {*IDS, *ids}


async def test_an_item_with_neither_text_nor_behaviour_appears_by_popularity_only(gateway: Gateway) -> None:
    await upsert(gateway, "blank", brand="Acme")
    for query in (
        {"query_type": "item_to_item", "item_id": "e"},
        {"query_type": "user_to_item", "user_id": "user-3"},
        {"query_type": "contextual", "user_id": "user-3", "item_id": "d"},
        {"query_type": "sequential", "session_items": ["a", "b"]},
    ):
        assert "blank" not in await gateway.ids(**query, **EVERYTHING)
    assert (await scored(gateway, query_type="user_to_item", user_id="nobody", **EVERYTHING))[-1] == ("blank", 0.0)
    similar = await gateway.recommend(query_type="item_to_item", item_id="blank", top_k=3)
    assert similar.fallback == recommender_pb2.FALLBACK_POPULARITY


async def test_a_page_of_a_bundle_that_is_gone_is_stale(toy_bundle: Bundle, toy_text_bundle: Bundle) -> None:
    query = {"query_type": "sequential", "session_items": ["a", "b"], "top_k": 2}
    async with running(toy_bundle, "all in one", page_key="secret") as before:
        token = (await before.recommend(**query)).next_page_token
    async with running(toy_text_bundle, "all in one", page_key="secret") as after:
        code, _, _ = await refused(after, **query, page_token=token)
    assert code is grpc.StatusCode.FAILED_PRECONDITION
