"""Which fields serve which query type, and what every field may hold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clozerec_core.catalogue import ColumnType
from clozerec_gateway.query import Query, QueryType, violations_of

SCHEMA = {"brand": ColumnType.STRING}

VALID = [
    Query(QueryType.ITEM_TO_ITEM, item_id="a"),
    Query(QueryType.ITEM_TO_ITEM, item_text="a red lamp"),
    Query(QueryType.ITEM_TO_ITEM, item_id="a", item_text="a red lamp", user_id="u"),
    Query(QueryType.USER_TO_ITEM, user_id="u"),
    Query(QueryType.USER_TO_ITEM, user_id="u", mask_index=3),
    Query(QueryType.CONTEXTUAL, user_id="u", item_id="a"),
    Query(QueryType.CONTEXTUAL, user_id="u", item_text="a red lamp"),
    Query(QueryType.SEQUENTIAL, session_items=["a"]),
    Query(QueryType.SEQUENTIAL, session_items=["a", "b"], user_id="u", mask_index=2),
]


def faults(query: Query) -> dict[str, str]:
    return {violation.field: violation.description for violation in violations_of(query, SCHEMA)}


@pytest.mark.parametrize("query", VALID)
def test_what_a_type_needs_and_may_have_is_enough(query: Query) -> None:
    assert faults(query) == {}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        (Query(QueryType.ITEM_TO_ITEM), "item_id"),
        (Query(QueryType.USER_TO_ITEM), "user_id"),
        (Query(QueryType.CONTEXTUAL, item_id="a"), "user_id"),
        (Query(QueryType.CONTEXTUAL, user_id="u"), "item_id"),
        (Query(QueryType.SEQUENTIAL), "session_items"),
    ],
)
def test_what_a_type_needs_is_asked_for(query: Query, field: str) -> None:
    found = faults(query)
    assert list(found) == [field]
    assert "needs" in found[field]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        (replace(VALID[0], session_items=["b"]), "session_items"),
        (replace(VALID[0], mask_index=0), "mask_index"),
        (replace(VALID[3], item_id="a"), "item_id"),
        (replace(VALID[3], item_text="a lamp"), "item_text"),
        (replace(VALID[3], session_items=["b"]), "session_items"),
        (replace(VALID[5], mask_index=0), "mask_index"),
        (replace(VALID[5], session_items=["b"]), "session_items"),
        (replace(VALID[7], item_id="a"), "item_id"),
        (replace(VALID[7], item_text="a lamp"), "item_text"),
    ],
)
def test_what_a_type_has_no_use_for_is_refused_by_name(query: Query, field: str) -> None:
    found = faults(query)
    assert list(found) == [field]
    assert "no use" in found[field]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"user_id": "u" * 257}, "user_id"),
        ({"user_id": "ü" * 129}, "user_id"),
        ({"session_items": ["a", ""]}, "session_items[1]"),
        ({"session_items": ["a", "b" * 257]}, "session_items[1]"),
        ({"session_items": ["a"] * 1001}, "session_items"),
        ({"exclude_item_ids": ["a"] * 10_001}, "exclude_item_ids"),
        ({"exclude_item_ids": [""]}, "exclude_item_ids[0]"),
        ({"top_k": 1001}, "top_k"),
        ({"mask_index": 2}, "mask_index"),
        ({"metadata_fields": ["brnad"]}, "metadata_fields[0]"),
    ],
)
def test_values_out_of_range_are_refused_by_name(change: dict[str, object], field: str) -> None:
    assert list(faults(replace(VALID[7], **change))) == [field]  # type: ignore[arg-type]


def test_texts_have_a_limit_in_bytes() -> None:
    assert faults(replace(VALID[1], item_text="ü" * 4096)) == {}
    assert list(faults(replace(VALID[1], item_text="ü" * 4097))) == ["item_text"]
    assert list(faults(replace(VALID[1], item_text="  "))) == ["item_text"]


def test_ids_of_256_bytes_and_the_largest_lists_are_taken() -> None:
    query = replace(
        VALID[7], user_id="u" * 256, session_items=["é" * 128] * 1000, exclude_item_ids=["x"] * 10_000, top_k=1000
    )
    assert faults(query) == {}
