"""Items, rows and typed metadata: what predicates, callers and the text engine see of the same cells."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import polars as pl
import pytest
from bundle_factory import make_catalogue

from clozerec_core.catalogue import Catalogue, ColumnType, SpecialRows, column_type, item_text, rfc3339

SCHEMA = {
    "title": ColumnType.STRING,
    "in_stock": ColumnType.BOOL,
    "year": ColumnType.INTEGER,
    "price": ColumnType.FLOAT,
    "released": ColumnType.DATETIME,
    "genres": ColumnType.STRING_LIST,
}
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def shelf() -> Catalogue:
    return make_catalogue(
        {
            "title": ["Alien", ""],
            "in_stock": [True, None],
            "year": [1979, None],
            "price": [math.inf, math.nan],
            "released": [NOON, None],
            "genres": [["Horror", None], None],
        },
        SCHEMA,
        item_ids=["007", "7"],
    )


def test_ids_are_text_and_map_to_rows(shelf: Catalogue) -> None:
    assert (shelf.row_of("007"), shelf.row_of("7"), shelf.row_of("07")) == (0, 1, None)
    assert shelf.rows_of(["7", "nobody", "007"]) == [1, 0]


def test_predicates_see_times_as_microseconds_and_lists_without_their_nulls(shelf: Catalogue) -> None:
    assert shelf.cells(0) == {
        "title": "Alien",
        "in_stock": True,
        "year": 1979,
        "price": math.inf,
        "released": int(NOON.timestamp()) * 1_000_000,
        "genres": ("Horror",),
    }


def test_callers_see_json_and_null_for_what_json_cannot_say(shelf: Catalogue) -> None:
    assert shelf.metadata(0) == {
        "title": "Alien",
        "in_stock": True,
        "year": 1979,
        "price": None,
        "released": "2026-01-31T12:00:00Z",
        "genres": ["Horror"],
    }
    assert shelf.metadata(1) == {
        "title": "",
        "in_stock": None,
        "year": None,
        "price": None,
        "released": None,
        "genres": None,
    }
    assert shelf.metadata(0, ["year"]) == {"year": 1979}


def test_a_catalogue_survives_its_file(shelf: Catalogue) -> None:
    again = Catalogue.from_parquet_frame(shelf.to_parquet_frame(), SCHEMA)
    assert list(again.item_ids) == list(shelf.item_ids)
    assert list(again.display_names) == list(shelf.display_names)
    assert [again.metadata(row) for row in range(2)] == [shelf.metadata(row) for row in range(2)]


def test_padding_and_mask_stand_after_the_items() -> None:
    special = SpecialRows(10)
    assert (special.pad, special.mask, special.num_rows) == (10, 11, 12)


def test_item_text_is_the_values_as_sentences() -> None:
    metadata = {"title": "Alien", "genres": ["Horror", "Sci-Fi"], "year": 1979}
    assert item_text(metadata, ["title", "genres", "year"]) == "Alien. Horror, Sci-Fi. 1979"
    assert item_text(metadata, ["year", "title"]) == "1979. Alien"


def test_item_text_leaves_out_what_is_missing_or_empty() -> None:
    metadata = {"title": None, "genres": [], "year": math.nan, "blurb": "  ", "brand": " ACME "}
    assert item_text(metadata, ["title", "genres", "year", "blurb", "nowhere", "brand"]) == "ACME"
    assert item_text({}, ["title"]) == ""


@pytest.mark.parametrize(
    ("datetime_us", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (1_500_000, "1970-01-01T00:00:01.500000Z"),
        (253_402_300_799_000_000, "9999-12-31T23:59:59Z"),
        (253_402_300_800_000_000, "10000-01-01T00:00:00.000000Z"),  # beyond RFC 3339: shown, never a crash
    ],
)
def test_times_are_shown_as_rfc_3339(datetime_us: int, text: str) -> None:
    assert rfc3339(datetime_us) == text


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        (pl.Int8(), ColumnType.INTEGER),
        (pl.UInt64(), ColumnType.INTEGER),
        (pl.Float32(), ColumnType.FLOAT),
        (pl.Decimal(10, 2), ColumnType.FLOAT),
        (pl.String(), ColumnType.STRING),
        (pl.Categorical(), ColumnType.STRING),
        (pl.Boolean(), ColumnType.BOOL),
        (pl.Date(), ColumnType.DATETIME),
        (pl.Datetime("ns"), ColumnType.DATETIME),
        (pl.List(pl.String()), ColumnType.STRING_LIST),
        (pl.List(pl.Int64()), None),
        (pl.Binary(), None),
    ],
    ids=str,
)
def test_column_types_follow_the_table(dtype: pl.DataType, kind: ColumnType | None) -> None:
    assert column_type(dtype) is kind
