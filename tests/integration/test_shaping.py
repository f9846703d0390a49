"""Pages, diversity and reasons, over real servers."""

from __future__ import annotations

import time
from typing import Any

import grpc
import numpy as np
import pytest
import toy_world

from clozerec.v1 import recommender_pb2
from clozerec_core.bundle import Bundle
from clozerec_gateway.paging import PageTokens
from clozerec_gateway.wire import fingerprint
from integration.conftest import Gateway, running
from integration.test_recommend import refused

IDS = toy_world.ITEM_IDS
QUERIES: list[dict[str, Any]] = [
    {"query_type": "item_to_item", "item_id": "e"},
    {"query_type": "user_to_item", "user_id": "user-3", "exclude_seen": False},
    {"query_type": "user_to_item", "user_id": "nobody"},
    {"query_type": "contextual", "user_id": "user-3", "item_id": "d", "filters": {"meta.in_stock": True}},
    {"query_type": "sequential", "session_items": ["a", "b"], "filters": {"meta.year": {"$gte": 2003}}},
]


async def pages(gateway: Gateway, **query: Any) -> list[recommender_pb2.RecommendResponse]:
    """Every page of a query, until there is none."""
    answers = [await gateway.recommend(**query)]
    while answers[-1].next_page_token:
        answers.append(await gateway.recommend(**query, page_token=answers[-1].next_page_token))
    return answers


def flat(answers: list[recommender_pb2.RecommendResponse]) -> list[tuple[str, float]]:
    return [(item.item_id, item.score) for answer in answers for item in answer.items]


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("page_len", [1, 4])
async def test_pages_one_after_the_other_are_the_whole_answer(
    gateway: Gateway, query: dict[str, Any], page_len: int
) -> None:
    whole = await gateway.recommend(**query, top_k=1000)
    answers = await pages(gateway, **query, top_k=page_len)
    assert flat(answers) == flat([whole])
    assert {answer.fallback for answer in answers} == {whole.fallback}
    assert len({answer.recommendation_id for answer in answers}) == len(answers)
    assert answers[-1].exhausted
    assert not whole.next_page_token


async def test_a_page_goes_on_where_it_was_whatever_the_person_does_meanwhile(gateway: Gateway) -> None:
    query = {"query_type": "user_to_item", "user_id": "walker", "top_k": 4, "exclude_seen": False}
    await gateway.post("/v1/interactions", {"interactions": [{"user_id": "walker", "item_id": each} for each in "abc"]})
    first = await gateway.recommend(**query)
    whole = await gateway.recommend(**query | {"top_k": 16})
    await gateway.post("/v1/interactions", {"interactions": [{"user_id": "walker", "item_id": "m"}]})
    second = await gateway.recommend(**query, page_token=first.next_page_token)
    # The request's fingerprint holds top_k, the order does not.
    assert flat([first, second]) == flat([whole])[:8]


async def test_tokens_that_are_not_ours_or_of_another_request_are_refused(gateway: Gateway) -> None:
    query = {"query_type": "sequential", "session_items": ["a", "b"], "top_k": 2}
    token = (await gateway.recommend(**query)).next_page_token
    swapped = token[:40] + ("A" if token[40] != "A" else "B") + token[41:]
    for changed, bad in (
        ({}, "x"), ({}, "ü"), ({}, swapped), ({}, token[:-4]), ({"session_items": ["a"]}, token), ({"top_k": 3}, token),
        ({"explain": True}, token),
    ):  # fmt: skip
        code, _, violations = await refused(gateway, **query | changed, page_token=bad)
        assert (code, list(violations)) == (grpc.StatusCode.INVALID_ARGUMENT, ["page_token"])


async def test_a_request_full_of_unknown_ids_has_pages_too(gateway: Gateway) -> None:
    strangers = [f"{number:0256}" for number in range(999)]
    query = {"query_type": "sequential", "session_items": [*strangers, "a"], "top_k": 4}
    first = await gateway.recommend(**query)
    assert list(first.unknown_item_ids) == strangers
    second = await gateway.recommend(**query, page_token=first.next_page_token)
    assert flat([first, second]) == flat([await gateway.recommend(**query | {"top_k": 8})])
    assert list(second.unknown_item_ids) == strangers


async def test_gateways_with_one_key_share_pages_and_others_do_not(toy_bundle: Bundle) -> None:
    query = {"query_type": "sequential", "session_items": ["a", "b"], "top_k": 2}
    async with (
        running(toy_bundle, "all in one", page_key="secret") as one,
        running(toy_bundle, "all in one", page_key="secret") as two,
        running(toy_bundle, "all in one") as other,
    ):
        token = (await one.recommend(**query)).next_page_token
        assert flat([await two.recommend(**query, page_token=token)]) == flat(
            [await one.recommend(**query, page_token=token)]
        )
        assert (await refused(other, **query, page_token=token))[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_page_token_is_good_for_thirty_minutes(toy_bundle: Bundle) -> None:
    """Signed with the gateway's key by a clock that is behind: as old a token as the gateway would read then."""
    query = {"query_type": "sequential", "session_items": ["a", "b"], "top_k": 2}
    request = recommender_pb2.RecommendRequest(**query | {"query_type": "QUERY_TYPE_SEQUENTIAL"})
    key = "secret"
    async with running(toy_bundle, "all in one", page_key=key) as gateway:
        token = (await gateway.recommend(**query)).next_page_token
        page = PageTokens(key.encode()).read(token, fingerprint(request))

        def aged(minutes: float) -> str:
            return PageTokens(key.encode(), lambda: time.time() - 60 * minutes).write(page, fingerprint(request))

        expected = await gateway.recommend(**query, page_token=token)
        assert flat([await gateway.recommend(**query, page_token=aged(29))]) == flat([expected])
        code, reason, _ = await refused(gateway, **query, page_token=aged(31))
        assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "STALE_PAGE")


@pytest.mark.parametrize("query", QUERIES)
async def test_diversity_is_what_mmr_picks_one_by_one(gateway: Gateway, query: dict[str, Any]) -> None:
    plain = await gateway.recommend(**query, top_k=50)
    diversity = 0.6
    answer = await gateway.recommend(**query, top_k=5, diversity=diversity)
    vectors = {item_id: gateway.bundle.vectors[row].astype(float) for row, item_id in enumerate(IDS)}
    left, picked = [(item.item_id, item.score) for item in plain.items], []
    while left and len(picked) < 5:

        def gain(candidate: tuple[str, float]) -> float:
            penalty = max((float(vectors[candidate[0]] @ vectors[taken]) for taken, _ in picked), default=0.0)
            return (1 - diversity) * candidate[1] - (diversity * penalty if picked else 0.0)

        best = max(left, key=gain)
        picked.append(best)
        left.remove(best)
    assert flat([answer]) == picked


async def test_more_diversity_makes_answers_less_alike(gateway: Gateway) -> None:
    async def likeness(diversity: float) -> float:
        ids = await gateway.ids(query_type="item_to_item", item_id="e", top_k=4, diversity=diversity)
        vectors = np.stack([gateway.bundle.vectors[IDS.index(item_id)] for item_id in ids])
        return float((vectors @ vectors.T).mean())

    assert await likeness(0.9) < await likeness(0.0)


@pytest.mark.parametrize("query", QUERIES)
async def test_diverse_pages_never_repeat(gateway: Gateway, query: dict[str, Any]) -> None:
    whole = await gateway.recommend(**query, top_k=1000)
    answers = await pages(gateway, **query, top_k=3, diversity=0.5)
    assert sorted(flat(answers)) == sorted(flat([whole]))


async def test_a_session_is_explained_by_the_items_that_drove_the_score(gateway: Gateway) -> None:
    query = {"query_type": "sequential", "session_items": ["a", "b", "c"], "top_k": 3}
    answer = await gateway.recommend(**query, explain=True)
    plain = await gateway.recommend(**query)
    assert flat([answer]) == flat([plain])
    assert not any(item.reasons for item in plain.items)
    best = answer.items[0]
    assert best.item_id == "d"
    assert best.reasons[0].kind == "history"
    strongest = best.reasons[0]
    assert strongest.item_id == "c"
    assert strongest.text == f"Because of {toy_world.TITLES[2]}"
    without = await gateway.recommend(
        **query | {"session_items": ["a", "b"], "top_k": 16, "exclude_item_ids": ["c"], "exclude_seen": True}
    )
    score_without = next(item.score for item in without.items if item.item_id == "d")
    assert strongest.weight == pytest.approx(best.score - score_without, abs=2e-4)


async def test_every_type_and_fallback_has_reasons(gateway: Gateway) -> None:
    for query in QUERIES:
        # Of one item no part of the past may be worth a reason.
        answer = await gateway.recommend(**query, top_k=16, explain=True)
        kinds = {reason.kind for item in answer.items for reason in item.reasons}
        expected = {"item_to_item": {"behaviour", "content"}}.get(query["query_type"], {"history"})
        assert kinds == ({"popularity"} if query.get("user_id") == "nobody" else expected)


async def test_what_similar_items_share_adds_up_to_the_score(text_gateway: Gateway) -> None:
    for query in ({"item_id": "e"}, {"item_text": "a warm drink"}):
        answer = await text_gateway.recommend(query_type="item_to_item", **query, top_k=10, explain=True)
        for item in answer.items:
            assert {reason.kind for reason in item.reasons} == {"behaviour", "content"}
            assert sum(reason.weight for reason in item.reasons) == pytest.approx(item.score, abs=3e-4)
            assert all(reason.text for reason in item.reasons)


async def test_a_similarity_is_split_by_what_an_item_says_now(text_gateway: Gateway) -> None:
    item = {"item_id": "twin", "metadata": {"title": toy_world.TITLES[4]}}
    await text_gateway.post("/v1/items:upsert", {"items": [item]})
    query = {"query_type": "item_to_item", "item_id": "twin", "top_k": 100, "explain": True}

    async def share_of_content() -> float:
        answer = await text_gateway.recommend(**query)
        (item,) = [item for item in answer.items if item.item_id == "e"]
        (content,) = [reason.weight for reason in item.reasons if reason.kind == "content"]
        return content / item.score

    before = await share_of_content()
    changed = {"item_id": "e", "metadata": {"title": toy_world.TITLES[9]}}
    await text_gateway.post("/v1/items:upsert", {"items": [changed]})
    assert abs(await share_of_content() - before) > 0.05
    same = {"item_id": "e", "metadata": {"title": toy_world.TITLES[4]}}
    await text_gateway.post("/v1/items:upsert", {"items": [same]})
    assert await share_of_content() == pytest.approx(before, abs=0.01)


async def test_a_single_item_is_the_whole_reason(gateway: Gateway) -> None:
    answer = await gateway.recommend(query_type="sequential", session_items=["a"], top_k=1, explain=True)
    assert [(reason.item_id, reason.weight) for reason in answer.items[0].reasons] == [("a", answer.items[0].score)]


async def test_pages_are_explained_like_the_first(gateway: Gateway) -> None:
    query = {"query_type": "sequential", "session_items": ["a", "b", "c"], "explain": True}
    whole = await gateway.recommend(**query, top_k=4)
    first = await gateway.recommend(**query, top_k=2)
    second = await gateway.recommend(**query, top_k=2, page_token=first.next_page_token)
    assert [list(item.reasons) for item in (*first.items, *second.items)] == [list(i.reasons) for i in whole.items]
