"""The JSON form of messages: what is taken, what is refused, and that each refusal names its field."""

from __future__ import annotations

import json

import pytest

from clozerec.v1 import recommender_pb2
from clozerec_core.errors import BadRequest
from clozerec_gateway.json_codec import MAX_VIOLATIONS, parse_json, to_json

DESIGN_BODIES = [
    '{"query_type": "item_to_item", "item_id": "item_1024", "item_text": "Optional description for day-zero cold start '
    'items", "filters": {"meta.brand": "Samsung"}, "top_k": 10}',
    '{"query_type": "user_to_item", "user_id": "user_777", "top_k": 5}',
    '{"query_type": "contextual", "user_id": "user_777", "item_id": "item_1024", "top_k": 10}',
    '{"query_type": "sequential", "session_items": ["item_1024", "item_89", "item_300"], "top_k": 10, '
    '"filters": {"meta.category": "Electronics", "meta.in_stock": true}}',
]


def parse(document: object) -> recommender_pb2.RecommendRequest:
    return parse_json(json.dumps(document), recommender_pb2.RecommendRequest)


def faults(document: object) -> dict[str, str]:
    with pytest.raises(BadRequest) as refused:
        parse(document)
    return {violation.field: violation.description for violation in refused.value.violations}


@pytest.mark.parametrize("body", DESIGN_BODIES)
def test_the_documented_bodies_are_read_and_written_back_unchanged(body: str) -> None:
    written = to_json(parse_json(body, recommender_pb2.RecommendRequest))
    given = json.loads(body)
    assert {key: written[key] for key in given} == given


def test_optional_fields_are_told_apart_from_their_defaults() -> None:
    assert not parse({"query_type": "user_to_item"}).HasField("exclude_seen")
    assert parse({"exclude_seen": False}).HasField("exclude_seen")
    assert parse({"mask_index": 0}).HasField("mask_index")


def test_responses_write_their_defaults_and_lower_case_enums() -> None:
    response = recommender_pb2.RecommendResponse(
        query_type="QUERY_TYPE_SEQUENTIAL",
        fallback="FALLBACK_SESSION_ONLY",
        items=[recommender_pb2.RecommendedItem(item_id="a", score=0.8123, source="SOURCE_MODEL")],
    )
    document = to_json(response)
    assert document["query_type"] == "sequential"
    assert document["fallback"] == "session_only"
    assert document["items"][0]["source"] == "model"
    assert document["items"][0]["score"] == 0.8123
    assert document["exhausted"] is False
    assert document["next_page_token"] == ""
    assert document["unknown_item_ids"] == []


@pytest.mark.parametrize(
    ("document", "field", "hint"),
    [
        ({"queryType": "sequential"}, "queryType", 'did you mean "query_type"'),
        ({"usr_id": "7"}, "usr_id", 'did you mean "user_id"'),
        ({"query_type": "squential"}, "query_type", 'did you mean "sequential"'),
        ({"query_type": "QUERY_TYPE_SEQUENTIAL"}, "query_type", "expected one of"),
        ({"query_type": 4}, "query_type", "expected a word"),
        ({"user_id": 7}, "user_id", "expected a string, not a number"),
        ({"user_id": None}, "user_id", "not null"),
        ({"top_k": -1}, "top_k", "whole number from 0"),
        ({"top_k": 2.5}, "top_k", "whole number"),
        ({"top_k": "10"}, "top_k", "not a string"),
        ({"top_k": True}, "top_k", "not true or false"),
        ({"top_k": 2**32}, "top_k", "whole number from 0"),
        ({"exclude_seen": 1}, "exclude_seen", "expected true or false"),
        ({"diversity": "high"}, "diversity", "expected a number"),
        ({"session_items": "a"}, "session_items", "expected a list"),
        ({"session_items": ["a", 2]}, "session_items[1]", "expected a string"),
        ({"filters": ["meta.brand"]}, "filters", "expected an object"),
        ({"top_k": 10**400}, "top_k", "whole number from 0"),
        ({"diversity": 10**400}, "diversity", "too large"),
        ({"filters": {"meta.year": 10**400}}, "filters.meta.year", "too large"),
        ({"filters": {"meta.year": 2**53 + 1}}, "filters.meta.year", "no longer exact"),
        ({"filters": {"$or": [{"a": 1}, {"b": [-(2**60) - 1]}]}}, "filters.$or[1].b[0]", "no longer exact"),
    ],
)
def test_a_wrong_value_is_refused_by_its_path(document: object, field: str, hint: str) -> None:
    found = faults(document)
    assert list(found) == [field]
    assert hint in found[field]


def test_all_faults_are_named_at_once() -> None:
    assert set(faults({"user_id": 7, "top_k": -1, "colour": "red"})) == {"user_id", "top_k", "colour"}


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "valid Unicode"),
        ('{"user_id": "é"}'.encode("utf-16"), "valid Unicode"),
        (b'{"user_id": "\xed\xa0\x80"}', "valid Unicode"),
        (b'{"user_id": "\\ud800"}', "valid Unicode"),
        (b'{"query_type": "\\ud800"}', "valid Unicode"),
        (b'{"\\ud800": 1}', "valid Unicode"),
        (b'{"\\ud800": 1, "\\ud800": 2}', "appears twice"),
        (b'{"filters": {"meta.a": ["\\udfff"]}}', "valid Unicode"),
        (b'{"top_k": 1e400}', "too large for a number"),
        (b'{"diversity": -1e999}', "too large for a number"),
        (b'{"top_k": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"[]", "expected a JSON object"),
        (b'{"top_k": NaN}', "NaN is not JSON"),
        (b'{"diversity": Infinity}', "Infinity is not JSON"),
        (b'{"top_k": 1, "top_k": 2}', '"top_k" appears twice'),
        (b'{"filters": ' + b'{"$not": ' * 40 + b"{}" + b"}" * 41, "nested deeper"),
        (b"[" * 100_000 + b"]" * 100_000, "not valid JSON"),
    ],
)
def test_a_body_that_is_no_request_is_refused_as_a_whole(body: bytes, hint: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_json(body, recommender_pb2.RecommendRequest)
    (violation,) = refused.value.violations
    assert violation.field == "body"
    assert hint in violation.description


def test_timestamps_and_nested_messages_are_read() -> None:
    request = parse_json(
        '{"interactions": [{"user_id": "7", "item_id": "a", "time": "2026-01-31T12:00:00Z"}]}',
        recommender_pb2.RecordInteractionsRequest,
    )
    assert request.interactions[0].time.seconds == 1_769_860_800
    with pytest.raises(BadRequest, match=r"interactions\[0\].time: expected an RFC 3339 time"):
        parse_json('{"interactions": [{"time": "yesterday"}]}', recommender_pb2.RecordInteractionsRequest)


def test_whole_numbers_in_metadata_are_written_as_integers() -> None:
    item = recommender_pb2.Item(item_id="a")
    item.metadata.update({"year": 2000, "price": 1.5, "in_stock": True, "brand": None})
    metadata = to_json(recommender_pb2.GetItemsResponse(items=[item]))["items"][0]["metadata"]
    assert json.dumps(metadata, sort_keys=True) == ('{"brand": null, "in_stock": true, "price": 1.5, "year": 2000}')


def test_many_faults_are_named_up_to_a_limit() -> None:
    with pytest.raises(BadRequest) as refused:
        parse({f"key-{number}": 1 for number in range(10_000)})
    assert len(refused.value.violations) == MAX_VIOLATIONS + 1
    assert "the rest was not read" in refused.value.violations[-1].description


def test_a_key_that_comes_twice_is_found_in_one_pass() -> None:
    keys = ", ".join(f'"key-{number}": 1' for number in range(50_000))
    with pytest.raises(BadRequest, match='"key-7" appears twice'):
        parse_json(f'{{{keys}, "key-7": 1}}', recommender_pb2.RecommendRequest)
