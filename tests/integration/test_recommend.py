"""The four query types over real servers, in a world whose answers are known."""

from __future__ import annotations

import grpc
import pytest
import toy_world
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from clozerec.v1 import recommender_pb2
from clozerec_core.filters import parse_filter
from clozerec_core.predicate import matches
from integration.conftest import Gateway

IDS = toy_world.ITEM_IDS
SHOPPER = "user-3"


def shopper_history(user_id: str) -> list[str]:
    events = toy_world.interactions_frame()
    return events.filter(user_id=user_id).sort("timestamp", maintain_order=True)["item_id"].to_list()


def item_cells() -> dict[str, dict[str, object]]:
    frame = toy_world.items_frame().with_columns(released=toy_world.items_frame()["released"].to_physical())
    return {
        row["item_id"]: {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
        for row in frame.to_dicts()
    }


async def refused(gateway: Gateway, **fields: object) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    """Code, ErrorInfo reason, and violations by field."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gateway.recommend(**fields)
    status = rpc_status.from_call(caught.value)
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(info) or detail.Unpack(bad_request)
    assert info.domain == "clozerec"
    assert info.metadata["request_id"]
    violations = {violation.field: violation.description for violation in bad_request.field_violations}
    return caught.value.code(), info.reason, violations


async def test_a_cyclic_session_is_offered_the_next_item_in_the_cycle(gateway: Gateway) -> None:
    assert await gateway.ids(query_type="sequential", session_items=["a", "b", "c"], top_k=1) == ["d"]
    assert await gateway.ids(query_type="sequential", session_items=["g", "h", "i", "j"], top_k=1) == ["k"]


async def test_a_cyclic_shopper_is_offered_the_next_item_in_the_cycle(gateway: Gateway) -> None:
    expected = toy_world.next_item(shopper_history(SHOPPER)[-1])
    answer = await gateway.recommend(query_type="user_to_item", user_id=SHOPPER, top_k=1)
    assert [item.item_id for item in answer.items] == [expected]
    assert answer.items[0].source == recommender_pb2.SOURCE_MODEL
    assert answer.fallback == recommender_pb2.FALLBACK_NONE
    assert answer.bundle_id == gateway.bundle.bundle_id
    assert answer.query_type == recommender_pb2.QUERY_TYPE_USER_TO_ITEM


async def test_the_item_at_hand_outweighs_where_the_history_stopped(gateway: Gateway) -> None:
    ids = await gateway.ids(query_type="contextual", user_id=SHOPPER, item_id="n", exclude_seen=False, top_k=3)
    assert "o" in ids


async def test_a_gap_is_filled_from_both_sides(gateway: Gateway) -> None:
    ids = await gateway.ids(query_type="sequential", session_items=["c", "d", "f", "g"], mask_index=2, top_k=1)
    assert ids == ["e"]


async def test_a_mask_at_the_end_is_the_default(gateway: Gateway) -> None:
    session = ["c", "d", "e"]
    spelled_out = await gateway.recommend(query_type="sequential", session_items=session, mask_index=3)
    assert list(spelled_out.items) == list(
        (await gateway.recommend(query_type="sequential", session_items=session)).items
    )


async def test_an_unknown_person_is_offered_what_is_popular(gateway: Gateway) -> None:
    counts = toy_world.interactions_frame()["item_id"].value_counts()
    largest = counts["count"].max()
    expected = sorted(counts.iter_rows(), key=lambda pair: (-pair[1], IDS.index(pair[0])))
    answer = await gateway.recommend(query_type="user_to_item", user_id="nobody", top_k=16)
    assert answer.fallback == recommender_pb2.FALLBACK_POPULARITY
    assert [item.item_id for item in answer.items] == [item_id for item_id, _ in expected]
    assert [item.score for item in answer.items] == pytest.approx([count / largest for _, count in expected], abs=1e-4)
    assert {item.source for item in answer.items} == {recommender_pb2.SOURCE_POPULARITY}


async def test_an_unknown_person_at_an_item_is_answered_by_the_item_alone(gateway: Gateway) -> None:
    answer = await gateway.recommend(query_type="contextual", user_id="nobody", item_id="d", top_k=5)
    alone = await gateway.recommend(query_type="sequential", session_items=["d"], top_k=5)
    assert answer.fallback == recommender_pb2.FALLBACK_SESSION_ONLY
    assert list(answer.items) == list(alone.items)


async def test_unknown_items_of_a_session_are_left_out_and_listed(gateway: Gateway) -> None:
    mixed = ["zz", "a", "b", "yy", "c", "zz"]
    answer = await gateway.recommend(query_type="sequential", session_items=mixed, top_k=3)
    known = await gateway.recommend(query_type="sequential", session_items=["a", "b", "c"], top_k=3)
    assert list(answer.unknown_item_ids) == ["zz", "yy"]
    assert list(answer.items) == list(known.items)


async def test_a_session_of_unknown_items_is_answered_by_popularity(gateway: Gateway) -> None:
    answer = await gateway.recommend(query_type="sequential", session_items=["yy", "zz"], top_k=3)
    assert answer.fallback == recommender_pb2.FALLBACK_POPULARITY
    assert list(answer.unknown_item_ids) == ["yy", "zz"]
    assert len(answer.items) == 3


async def test_similar_items_are_the_nearest_stored_vectors(gateway: Gateway) -> None:
    vectors = gateway.bundle.vectors
    row = IDS.index("e")
    cosines = vectors @ vectors[row]
    expected = sorted((r for r in range(len(IDS)) if r != row), key=lambda r: (-round(float(cosines[r]), 4), r))
    answer = await gateway.recommend(query_type="item_to_item", item_id="e", top_k=15)
    assert [item.item_id for item in answer.items] == [IDS[r] for r in expected]
    assert [item.score for item in answer.items] == pytest.approx([float(cosines[r]) for r in expected], abs=1e-4)


async def test_what_must_not_be_returned_is_not(gateway: Gateway) -> None:
    seen = set(shopper_history(SHOPPER))
    everything = {"top_k": 1000}
    assert "e" not in await gateway.ids(query_type="item_to_item", item_id="e", **everything)
    assert set(await gateway.ids(query_type="item_to_item", item_id="e", user_id=SHOPPER, **everything)) == (
        set(IDS) - seen - {"e"}
    )
    assert set(await gateway.ids(query_type="user_to_item", user_id=SHOPPER, **everything)) == set(IDS) - seen
    session = {"query_type": "sequential", "session_items": ["a", "b"], **everything}
    assert set(await gateway.ids(**session)) == set(IDS) - {"a", "b"}
    assert set(await gateway.ids(**session, exclude_seen=False)) == set(IDS)
    assert set(await gateway.ids(**session, user_id=SHOPPER)) == set(IDS) - seen - {"a", "b"}
    assert set(await gateway.ids(**session, exclude_item_ids=["c", "not-there"])) == set(IDS) - {"a", "b", "c"}


async def test_too_few_items_are_an_answer_that_says_so(gateway: Gateway) -> None:
    answer = await gateway.recommend(query_type="item_to_item", item_id="e", top_k=1000)
    assert answer.exhausted
    assert len(answer.items) == len(IDS) - 1
    exact = await gateway.recommend(query_type="item_to_item", item_id="e", top_k=len(IDS) - 1)
    assert not exact.exhausted


@pytest.mark.parametrize(
    "filters",
    [
        {"meta.brand": "Acme"},
        {"meta.brand": {"$ne": "Acme"}},
        {"meta.genres": "sport", "meta.in_stock": True},
        {"meta.year": {"$gte": 2004, "$lt": 2010}},
        {"meta.released": {"$gt": "2026-01-05T00:00:00Z"}},
        {"$or": [{"meta.price": {"$exists": False}}, {"$not": {"meta.genres": ["home", "shoes"]}}]},
        {"meta.brand": []},
        {"$and": []},
    ],
)
async def test_a_filter_passes_exactly_what_its_meaning_says(gateway: Gateway, filters: dict[str, object]) -> None:
    predicate = parse_filter(filters, gateway.bundle.manifest.schema_)
    expected = {item_id for item_id, cells in item_cells().items() if matches(predicate, cells)}
    by_model = await gateway.recommend(
        query_type="sequential", session_items=["a", "b"], filters=filters, exclude_seen=False, top_k=100
    )
    by_popularity = await gateway.recommend(query_type="user_to_item", user_id="nobody", filters=filters, top_k=100)
    assert {item.item_id for item in by_model.items} == expected
    assert {item.item_id for item in by_popularity.items} == expected


async def test_metadata_come_typed_with_nulls_and_only_as_asked(gateway: Gateway) -> None:
    everything = await gateway.recommend(query_type="item_to_item", item_id="a", top_k=15)
    by_id = {item.item_id: item for item in everything.items}
    assert by_id["b"].display_name == "blue denim jeans"
    assert dict(by_id["b"].metadata.items())["released"] == "2026-01-02T00:00:00Z"
    assert list(by_id["i"].metadata["genres"]) == ["sport", "shoes"]
    for item_id, column in (("d", "brand"), ("h", "in_stock"), ("g", "price"), ("d", "released"), ("f", "year")):
        assert by_id[item_id].metadata.fields[column].WhichOneof("kind") == "null_value"
    some = await gateway.recommend(query_type="item_to_item", item_id="a", metadata_fields=["year", "brand"])
    assert set(some.items[0].metadata.fields) == {"year", "brand"}


async def test_top_k_zero_means_the_bundles_default(gateway: Gateway) -> None:
    answer = await gateway.recommend(query_type="item_to_item", item_id="a")
    assert len(answer.items) == gateway.bundle.manifest.serving.top_k_results


async def test_equal_requests_have_equal_answers_under_different_ids(gateway: Gateway) -> None:
    first = await gateway.recommend(query_type="sequential", session_items=["a", "b"])
    second = await gateway.recommend(query_type="sequential", session_items=["a", "b"])
    assert list(first.items) == list(second.items)
    assert first.recommendation_id != second.recommendation_id


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"query_type": "unspecified"}, "query_type"),
        ({"query_type": "item_to_item"}, "item_id"),
        ({"query_type": "user_to_item", "user_id": "u", "item_id": "a"}, "item_id"),
        ({"query_type": "user_to_item", "user_id": SHOPPER, "mask_index": 11}, "mask_index"),
        ({"query_type": "sequential", "session_items": ["a"], "mask_index": 2}, "mask_index"),
        ({"query_type": "sequential", "session_items": ["a"], "top_k": 1001}, "top_k"),
        ({"query_type": "sequential", "session_items": ["a"], "diversity": 1.5}, "diversity"),
        ({"query_type": "sequential", "session_items": ["a"], "diversity": float("nan")}, "diversity"),
        ({"query_type": "sequential", "session_items": ["a"], "metadata_fields": ["x"]}, "metadata_fields[0]"),
        ({"query_type": "user_to_item", "user_id": "u", "filters": {"brand": "A"}}, "filters.brand"),
        ({"query_type": "user_to_item", "user_id": "u", "filters": {"meta.colour": "A"}}, "filters.meta.colour"),
        ({"query_type": "user_to_item", "user_id": "u", "filters": {"meta.brand": None}}, "filters.meta.brand"),
        ({"query_type": "user_to_item", "user_id": "u", "filters": {"meta.year": 1.5}}, "filters.meta.year"),
        (
            {"query_type": "user_to_item", "user_id": "u", "filters": {"meta.price": float("nan")}},
            "filters.meta.price",
        ),
    ],
)
async def test_a_wrong_request_is_refused_by_the_name_of_its_field(
    gateway: Gateway, fields: dict[str, object], field: str
) -> None:
    code, reason, violations = await refused(gateway, **fields)
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "BAD_REQUEST")
    assert list(violations) == [field]
    assert violations[field]


async def test_all_faults_of_a_request_are_named_at_once(gateway: Gateway) -> None:
    _, _, violations = await refused(
        gateway,
        query_type="sequential",
        session_items=["a"],
        item_id="b",
        top_k=2000,
        diversity=2.0,
        metadata_fields=["title"] * 257,
        filters={"meta.colour": "red", "meta.year": "old"},
    )
    assert set(violations) == {
        "item_id", "top_k", "diversity", "metadata_fields", "filters.meta.colour", "filters.meta.year",
    }  # fmt: skip


async def test_a_filter_larger_than_any_valid_one_is_not_read_to_its_end(gateway: Gateway) -> None:
    _, _, violations = await refused(
        gateway, query_type="user_to_item", user_id="u", filters={"meta.brand": ["x"] * 100_000}
    )
    assert list(violations) == ["filters"]


async def test_an_unknown_item_without_text_is_not_found(gateway: Gateway) -> None:
    for fields in ({"query_type": "item_to_item"}, {"query_type": "contextual", "user_id": SHOPPER}):
        code, reason, _ = await refused(gateway, **fields, item_id="zz")
        assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_ITEM")


async def test_text_needs_a_bundle_with_a_text_engine(gateway: Gateway) -> None:
    for fields in ({"query_type": "item_to_item"}, {"query_type": "contextual", "user_id": SHOPPER}):
        code, reason, _ = await refused(gateway, **fields, item_id="zz", item_text="a lamp")
        assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_TEXT_ENGINE")


async def test_a_known_item_ignores_the_text(gateway: Gateway) -> None:
    plain = await gateway.recommend(query_type="item_to_item", item_id="e")
    with_text = await gateway.recommend(query_type="item_to_item", item_id="e", item_text="a lamp")
    assert list(plain.items) == list(with_text.items)


async def test_another_bundle_is_not_loaded(gateway: Gateway) -> None:
    # Also where the filter means a column of that other bundle.
    for filters in ({}, {"meta.colour": "red"}):
        code, reason, _ = await refused(
            gateway, query_type="user_to_item", user_id="u", bundle_id="other", filters=filters
        )
        assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "BUNDLE_NOT_LOADED")
    pinned = await gateway.recommend(query_type="user_to_item", user_id="u", bundle_id=gateway.bundle.bundle_id)
    assert pinned.bundle_id == gateway.bundle.bundle_id


async def test_a_new_item_is_placed_by_its_text(text_gateway: Gateway) -> None:
    answer = await text_gateway.recommend(
        query_type="item_to_item", item_id="zz", item_text=toy_world.TITLES[4], top_k=16
    )
    assert {item.source for item in answer.items} == {recommender_pb2.SOURCE_TEXT}
    assert list(answer.unknown_item_ids) == ["zz"]
    assert len(answer.items) == len(IDS)
    by_text_alone = await text_gateway.recommend(query_type="item_to_item", item_text=toy_world.TITLES[4], top_k=16)
    assert list(by_text_alone.items) == list(answer.items)


async def test_a_new_item_counts_in_a_context_by_its_text(text_gateway: Gateway) -> None:
    fields = {"query_type": "contextual", "user_id": "nobody", "top_k": 16}
    answer = await text_gateway.recommend(**fields, item_id="zz", item_text="espresso machine")
    assert answer.fallback == recommender_pb2.FALLBACK_SESSION_ONLY
    assert list(answer.unknown_item_ids) == ["zz"]
    other = await text_gateway.recommend(**fields, item_text="mountain hiking tent")
    assert [item.item_id for item in answer.items] != [item.item_id for item in other.items]


async def test_a_text_that_is_too_long_for_the_model_is_announced(text_gateway: Gateway) -> None:
    status, _, headers = await text_gateway.post(
        "/v1/recommend", {"query_type": "item_to_item", "item_text": "lamp " * 1000}
    )
    assert status == 200
    assert headers["clozerec-text-truncated"] == "true"
    _, _, short = await text_gateway.post("/v1/recommend", {"query_type": "item_to_item", "item_text": "lamp"})
    assert "clozerec-text-truncated" not in short
