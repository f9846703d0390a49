"""RetrieverService over a real server and channel: what comes back, and every status that it can answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np
import pytest
from bundle_factory import make_catalogue, write_bundle
from google.protobuf import json_format
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from clozerec.v1 import filter_pb2, recommender_pb2, retriever_pb2, retriever_pb2_grpc
from clozerec_core.bundle import Bundle
from clozerec_core.catalogue import ColumnType
from clozerec_core.errors import DeadlineExceeded
from clozerec_core.filters import MAX_CONDITIONS
from clozerec_core.predicate import EVERYTHING
from clozerec_core.request_context import handling
from clozerec_core.rpc import GrpcServer
from clozerec_core.rpc_client import LocalStub
from clozerec_retriever.assembly import build
from clozerec_retriever.settings import RetrieverSettings

SCHEMA = {"title": ColumnType.STRING, "year": ColumnType.INTEGER, "genres": ColumnType.STRING_LIST}
COLUMNS = {
    "title": ["Alien", "Brazil", "Cube", None],
    "year": [1979, 1985, 1997, None],
    "genres": [["Horror", "Sci-Fi"], [], ["Horror"], None],
}
VECTORS = np.array([[1, 0], [0.8, 0.6], [0, 1], [0, 0]], np.float32)
CONTENT = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9], [0, 0, 0]], np.float32)
HORROR = filter_pb2.Filter(
    condition=filter_pb2.Condition(
        column="genres", operator=filter_pb2.OPERATOR_EQ, values=[filter_pb2.Value(string_value="Horror")]
    )
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out: Path = tmp_path_factory.mktemp("films")
    return write_bundle(out, make_catalogue(COLUMNS, SCHEMA), VECTORS, [1, 4, 2, 0], CONTENT)


@pytest.fixture
async def stub(bundle: Bundle, tmp_path: Path) -> AsyncIterator[Any]:
    settings = RetrieverSettings(bundle=bundle.path, state_dir=tmp_path, grpc_port=0, grace_s=0)
    servicer = build(bundle, settings)
    server = GrpcServer([servicer.service()], settings)
    port = await server.start()
    await server.ready(port)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield retriever_pb2_grpc.RetrieverServiceStub(channel)
    await server.stop()
    servicer.close()


async def refusal(call: Any) -> tuple[grpc.StatusCode, list[str]]:
    """The status of a call, and the fields that it blames."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    status = rpc_status.from_call(cast(grpc.Call, failed.value))
    assert status is not None
    fields = []
    for detail in status.details:
        bad_request = error_details_pb2.BadRequest()
        if detail.Unpack(bad_request):
            fields = [violation.field for violation in bad_request.field_violations]
    return failed.value.code(), fields


async def test_search_by_a_vector(stub: Any) -> None:
    request = retriever_pb2.SearchRequest(bundle_id="tiny", intent=[1.0, 0.0], top_k=2)
    response = await stub.Search(request, timeout=5)
    assert response.bundle_id == "tiny"
    assert [(found.item_id, found.row, found.display_name) for found in response.candidates] == [
        ("i0", 0, "Item 0"),
        ("i1", 1, "Item 1"),
    ]
    assert [round(found.score, 4) for found in response.candidates] == [1.0, 0.8]
    assert json_format.MessageToDict(response.candidates[0].metadata) == {
        "title": "Alien",
        "year": 1979,
        "genres": ["Horror", "Sci-Fi"],
    }
    assert not response.exhausted


async def test_search_by_a_stored_item_with_filter_exclusions_and_fields(stub: Any) -> None:
    request = retriever_pb2.SearchRequest(
        item_id="i1", filter=HORROR, exclude_item_ids=["i0", "nobody"], metadata_fields=["year"], top_k=2
    )
    response = await stub.Search(request, timeout=5)
    assert [found.item_id for found in response.candidates] == ["i2"]
    assert json_format.MessageToDict(response.candidates[0].metadata) == {"year": 1997}
    assert response.exhausted


async def test_a_stored_item_without_a_vector_is_flagged(stub: Any) -> None:
    response = await stub.Search(retriever_pb2.SearchRequest(item_id="i3"), timeout=5)
    assert response.vectorless_item
    assert not response.candidates


@pytest.mark.parametrize("top_k", [1, 2, 4])
async def test_rows_exclude_as_ids_do_and_a_card_holds_what_a_candidate_shows(stub: Any, top_k: int) -> None:
    by_id = retriever_pb2.SearchRequest(bundle_id="tiny", intent=[1.0, 0.5], top_k=top_k, exclude_item_ids=["i1"])
    by_row = retriever_pb2.SearchRequest(
        bundle_id="tiny", intent=[1.0, 0.5], top_k=top_k, exclude_rows=[1, 1, 4, 99], as_cards=True
    )
    plain, carded = await stub.Search(by_id, timeout=5), await stub.Search(by_row, timeout=5)
    assert not carded.candidates
    cards = carded.cards
    columns = zip(cards.item_ids, cards.scores, cards.rows, cards.cards, strict=True)
    for candidate, (item_id, score, row, rendered) in zip(plain.candidates, columns, strict=True):
        card = recommender_pb2.RecommendedItem.FromString(rendered)
        assert (item_id, score, row) == (candidate.item_id, candidate.score, candidate.row)
        assert (card.item_id, card.display_name) == (candidate.item_id, candidate.display_name)
        assert card.metadata == candidate.metadata


async def test_what_is_found_at_once_is_what_the_rpc_finds(bundle: Bundle, tmp_path: Path) -> None:
    servicer = build(bundle, RetrieverSettings(bundle=bundle.path, state_dir=tmp_path, search_threads=1))
    vector = [0.6, 0.8]
    request = retriever_pb2.SearchRequest(bundle_id="tiny", intent=vector, top_k=2, exclude_rows=[1], as_cards=True)
    cards = (await LocalStub(servicer).Search(request, timeout=5)).cards
    found = servicer.find_at_once("tiny", vector, (), 2, EVERYTHING, (), (1,))
    assert found is not None
    (item_ids, scores, rows, rendered), exhausted, vectorless = found
    again = servicer.find_at_once("tiny", vector, (), 2, EVERYTHING, (), (1,))
    assert again is not None
    assert all(card is card_again for card, card_again in zip(rendered, again[0][3], strict=True)), "rendered anew"
    assert (item_ids, rows, rendered) == (list(cards.item_ids), list(cards.rows), list(cards.cards))
    assert scores == pytest.approx(list(cards.scores))
    assert not exhausted
    assert not vectorless
    for question, bundle_id in (("nobody", "tiny"), ("i0", "gone")):  # the RPC knows how to refuse
        assert servicer.find_at_once(bundle_id, question, (), 2, EVERYTHING, (), ()) is None
    servicer.close()


async def test_rows_need_the_name_of_their_bundle(stub: Any) -> None:
    search = retriever_pb2.SearchRequest(item_id="i0", exclude_rows=[1])
    assert await refusal(stub.Search(search, timeout=5)) == (grpc.StatusCode.INVALID_ARGUMENT, ["bundle_id"])
    popular = retriever_pb2.ListPopularRequest(bundle_id="tiny", exclude_rows=[1], as_cards=True)
    found = (await stub.ListPopular(popular, timeout=5)).cards
    assert list(found.item_ids) == ["i2", "i0", "i3"]


async def test_list_popular(stub: Any) -> None:
    response = await stub.ListPopular(retriever_pb2.ListPopularRequest(top_k=4), timeout=5)
    assert [(found.item_id, round(found.score, 4)) for found in response.candidates] == [
        ("i1", 1.0),
        ("i2", 0.5),
        ("i0", 0.25),
        ("i3", 0.0),
    ]
    assert json_format.MessageToDict(response.candidates[3].metadata) == {"title": None, "year": None, "genres": None}
    response = await stub.ListPopular(retriever_pb2.ListPopularRequest(filter=HORROR), timeout=5)
    assert [found.item_id for found in response.candidates] == ["i2", "i0"]
    assert response.exhausted


async def test_get_items_answers_in_order_and_flags_the_unknown(stub: Any) -> None:
    request = retriever_pb2.RetrieverServiceGetItemsRequest(
        item_ids=["i3", "nobody", "i1"], metadata_fields=["title"], include_content=True
    )
    response = await stub.GetItems(request, timeout=5)
    assert [(item.item_id, item.known) for item in response.items] == [("i3", True), ("nobody", False), ("i1", True)]
    assert list(response.items[2].content) == [4, 5, 6]
    assert list(response.items[0].content) == []
    assert json_format.MessageToDict(response.items[2].metadata) == {"title": "Brazil"}
    assert not response.items[1].HasField("metadata")
    request.include_content = False
    response = await stub.GetItems(request, timeout=5)
    assert list(response.items[2].content) == []


async def test_get_index_info(stub: Any) -> None:
    info = await stub.GetIndexInfo(retriever_pb2.GetIndexInfoRequest(), timeout=5)
    assert (info.bundle_id, info.num_items, info.dim, info.default_top_k) == ("tiny", 4, 2, 3)
    assert [(column.name, column.type) for column in info.columns] == [
        ("title", filter_pb2.COLUMN_TYPE_STRING),
        ("year", filter_pb2.COLUMN_TYPE_INTEGER),
        ("genres", filter_pb2.COLUMN_TYPE_STRING_LIST),
    ]


TOO_LARGE = filter_pb2.Filter(all_of=filter_pb2.FilterList(parts=[filter_pb2.Filter()] * (MAX_CONDITIONS + 1)))
UNKNOWN_COLUMN = filter_pb2.Filter(condition=filter_pb2.Condition(column="colour", operator=filter_pb2.OPERATOR_EQ))


@pytest.mark.parametrize(
    ("request_fields", "fields"),
    [
        ({}, ["intent"]),
        ({"intent": [1.0, 0.0], "item_id": "i0", "bundle_id": "tiny"}, ["intent"]),
        ({"intent": [1.0, 0.0]}, ["bundle_id"]),
        ({"intent": [1.0], "bundle_id": "tiny"}, ["intent"]),
        ({"intent": [float("nan"), 0.0], "bundle_id": "tiny"}, ["intent"]),
        ({"intent": [0.0, float("inf")], "bundle_id": "tiny"}, ["intent"]),
        ({"intent": [0.0, 0.0], "bundle_id": "tiny"}, ["intent"]),
        ({"item_id": "i0", "top_k": 1_001}, ["top_k"]),
        ({"item_id": "i0", "top_k": 2**32 - 1}, ["top_k"]),
        ({"item_id": "i0", "filter": UNKNOWN_COLUMN}, ["filter.condition.column"]),
        ({"item_id": "i0", "filter": TOO_LARGE}, ["filter"]),
        ({"item_id": "i0", "metadata_fields": ["title", "colour"]}, ["metadata_fields[1]"]),
    ],
)
async def test_a_bad_search_is_refused_by_field(stub: Any, request_fields: dict[str, Any], fields: list[str]) -> None:
    call = stub.Search(retriever_pb2.SearchRequest(**request_fields), timeout=5)
    assert await refusal(call) == (grpc.StatusCode.INVALID_ARGUMENT, fields)


async def test_every_method_refuses_another_bundle(stub: Any) -> None:
    for call in (
        stub.Search(retriever_pb2.SearchRequest(bundle_id="other", intent=[1.0, 0.0]), timeout=5),
        stub.ListPopular(retriever_pb2.ListPopularRequest(bundle_id="other"), timeout=5),
        stub.GetItems(retriever_pb2.RetrieverServiceGetItemsRequest(bundle_id="other", item_ids=["i0"]), timeout=5),
    ):
        assert await refusal(call) == (grpc.StatusCode.FAILED_PRECONDITION, [])


async def test_an_unknown_item_is_not_found(stub: Any) -> None:
    call = stub.Search(retriever_pb2.SearchRequest(item_id="nobody"), timeout=5)
    assert await refusal(call) == (grpc.StatusCode.NOT_FOUND, [])


async def test_bad_popularity_and_item_requests_are_refused_by_field(stub: Any) -> None:
    call = stub.ListPopular(retriever_pb2.ListPopularRequest(top_k=1_001), timeout=5)
    assert await refusal(call) == (grpc.StatusCode.INVALID_ARGUMENT, ["top_k"])
    call = stub.ListPopular(retriever_pb2.ListPopularRequest(filter=UNKNOWN_COLUMN), timeout=5)
    assert await refusal(call) == (grpc.StatusCode.INVALID_ARGUMENT, ["filter.condition.column"])
    call = stub.GetItems(retriever_pb2.RetrieverServiceGetItemsRequest(), timeout=5)
    assert await refusal(call) == (grpc.StatusCode.INVALID_ARGUMENT, ["item_ids"])


async def test_answers_at_once_are_the_answers_one_by_one(stub: Any) -> None:
    requests = [retriever_pb2.SearchRequest(item_id=f"i{row}", top_k=3) for row in range(3)] * 20
    one_by_one = [await stub.Search(request, timeout=5) for request in requests]
    at_once = await asyncio.gather(*(stub.Search(request, timeout=5) for request in requests))
    assert at_once == one_by_one


async def test_the_servicer_answers_within_the_process_too(bundle: Bundle, tmp_path: Path) -> None:
    servicer = build(bundle, RetrieverSettings(bundle=bundle.path, state_dir=tmp_path, search_threads=1))
    response = await LocalStub(servicer).Search(retriever_pb2.SearchRequest(item_id="i0", top_k=1), timeout=5)
    assert response.candidates[0].item_id == "i1"
    servicer.close()


async def test_work_whose_caller_has_run_out_of_time_is_dropped(bundle: Bundle, tmp_path: Path) -> None:
    servicer = build(bundle, RetrieverSettings(bundle=bundle.path, state_dir=tmp_path, search_threads=1))
    with handling({}, timeout_s=0), pytest.raises(DeadlineExceeded, match="deadline passed"):
        await servicer.Search(retriever_pb2.SearchRequest(item_id="i0"), None)
    servicer.close()


async def test_a_page_goes_on_after_its_last_candidate_and_brings_vectors_on_request(stub: Any) -> None:
    request = retriever_pb2.SearchRequest(bundle_id="tiny", intent=[1.0, 0.0], top_k=1, include_vectors=True)
    first = (await stub.Search(request, timeout=5)).candidates[0]
    assert (first.item_id, list(first.vector)) == ("i0", [1.0, 0.0])
    request.after.CopyFrom(retriever_pb2.Cursor(score=first.score, row=first.row))
    assert [each.item_id for each in (await stub.Search(request, timeout=5)).candidates] == ["i1"]
    request.as_cards = True
    assert list((await stub.Search(request, timeout=5)).cards.vectors) == pytest.approx([0.8, 0.6])
    popular = retriever_pb2.ListPopularRequest(top_k=5, after=retriever_pb2.Cursor(score=0.5, row=2))
    assert [each.item_id for each in (await stub.ListPopular(popular, timeout=5)).candidates] == ["i0", "i3"]
    popular.after.score = float("nan")
    assert await refusal(stub.ListPopular(popular, timeout=5)) == (grpc.StatusCode.INVALID_ARGUMENT, ["after.score"])
