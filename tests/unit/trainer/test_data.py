from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import toy_world
from listening import Listener

from clozerec_core.catalogue import ColumnType
from clozerec_core.errors import UsageError
from clozerec_trainer.data import Dataset, read_dataset
from clozerec_trainer.payload import Payload, parse_payload
from clozerec_trainer.progress import SilentReporter

Written = Callable[..., Payload]

GOOD: dict[str, list[Any]] = {"user": ["1", "1", "2", "2"], "item": ["a", "b", "b", "c"], "time": [10, 20, 30, 40]}


def read(payload: Payload) -> Dataset:
    return read_dataset(payload, SilentReporter())


def refused(payload: Payload) -> str:
    with pytest.raises(UsageError) as caught:
        read(payload)
    return caught.value.message


def histories(dataset: Dataset) -> dict[str, list[str]]:
    log, ids = dataset.log, dataset.catalogue.item_ids
    return {
        user: [ids[row] for row in log.rows_E[log.starts_U1[u] : log.starts_U1[u + 1]]]
        for u, user in enumerate(log.user_ids)
    }


def with_times(*times: Any) -> dict[str, list[Any]]:
    return {**GOOD, "time": list(times)}


def test_csv_and_parquet_of_the_toy_world_read_the_same(tmp_path: Path) -> None:
    keys = toy_world.write_toy_csv(tmp_path)
    csv = read(parse_payload(keys, tmp_path))
    parquet = read(parse_payload({**toy_world.write_toy_data(tmp_path)}, tmp_path))
    assert histories(csv) == histories(parquet)
    assert csv.catalogue.schema == parquet.catalogue.schema
    assert csv.catalogue.cells(8) == parquet.catalogue.cells(8)


def test_every_metadata_type_is_read_as_itself(toy_keys: dict[str, Any], tmp_path: Path) -> None:
    catalogue = read(parse_payload(toy_keys, tmp_path)).catalogue
    assert catalogue.schema == {
        "title": ColumnType.STRING,
        "brand": ColumnType.STRING,
        "in_stock": ColumnType.BOOL,
        "year": ColumnType.INTEGER,
        "price": ColumnType.FLOAT,
        "released": ColumnType.DATETIME,
        "genres": ColumnType.STRING_LIST,
    }
    assert catalogue.metadata(4)["released"] == "2026-01-05T00:00:00Z"
    assert catalogue.display_names[1] == "blue denim jeans"


def test_ids_are_text_whatever_they_look_like(written: Written) -> None:
    payload = written("user,item,time\n007,01,1\n007,1,2\n7,1.0,3\n7,01,4\n")
    assert histories(read(payload)) == {"007": ["01", "1"], "7": ["1.0", "01"]}


def test_events_are_sorted_by_time_and_ties_keep_file_order(written: Written) -> None:
    payload = written({"user": list("xxxxyy"), "item": list("dcbaab"), "time": [5, 1, 1, 1, 2, 2]})
    assert histories(read(payload)) == {"x": ["c", "b", "a", "d"], "y": ["a", "b"]}


TWICE = {"user": list("xxxyy"), "item": list("abaab"), "time": [1, 1, 1, 2, 3]}


def test_duplicate_rows_are_refused_with_the_ways_out(written: Written) -> None:
    message = refused(written(TWICE))
    assert "1 rows repeat an earlier one in user, item, kind and time, the first in row 3" in message
    assert "duplicates: drop" in message


def test_duplicate_rows_are_dropped_and_said_or_kept_as_asked(written: Written) -> None:
    listener = Listener()
    dropped = read_dataset(written(TWICE, duplicates="drop"), listener)
    assert histories(dropped) == {"x": ["a", "b"], "y": ["a", "b"]}
    assert listener.named("duplicates_dropped")[0]["events"] == 1
    assert histories(read(written(TWICE, duplicates="keep"))) == {"x": ["a", "b", "a"], "y": ["a", "b"]}


def test_a_repeat_at_another_time_is_no_duplicate(written: Written) -> None:
    payload = written({"user": list("xxyy"), "item": list("aaab"), "time": [1, 2, 2, 3]})
    assert histories(read(payload))["x"] == ["a", "a"]


def test_globs_are_read_in_the_order_of_names(written: Written, tmp_path: Path) -> None:
    for part, items in (("1", "ab"), ("2", "cd")):
        frame = pl.DataFrame({"user": list("xy"), "item": list(items), "time": [1, 1]})
        frame.write_csv(tmp_path / f"part-{part}.csv")
    payload = written(GOOD).model_copy(update={"interactions": tmp_path / "part-*.csv"})
    assert histories(read(payload)) == {"x": ["a", "c"], "y": ["b", "d"]}


@pytest.mark.parametrize(
    ("times", "read_as"),
    [
        ([1_700_000_000, 1_700_000_001, 1_700_000_002, 1_700_000_003], "seconds since 1970"),
        ([1_700_000_000_000 + i * 1000 for i in range(4)], "milliseconds since 1970"),
        ([1_700_000_000_000_000 + i * 10**6 for i in range(4)], "microseconds since 1970"),
        ([1_700_000_000_000_000_000 + i * 10**9 for i in range(4)], "nanoseconds since 1970"),
        ([f"2023-11-14T22:13:2{i}Z" for i in range(4)], "RFC 3339 text, UTC where it names no zone"),
        ([f"2023-11-14 23:13:2{i}+01:00" for i in range(4)], "RFC 3339 text, UTC where it names no zone"),
    ],
)
def test_the_unit_of_times_is_found_out_and_said(written: Written, times: list[Any], read_as: str) -> None:
    listener = Listener()
    dataset = read_dataset(written(with_times(*times)), listener)
    assert dataset.log.times_us_E.tolist() == [(1_700_000_000 + i) * 10**6 for i in range(4)]
    assert listener.named("times_read")[0]["read_as"] == read_as


def test_datetimes_of_parquet_are_read(written: Written) -> None:
    moments = [datetime(2023, 11, 14, 22, 13, 20 + i, tzinfo=UTC) for i in range(4)]
    dataset = read(written(with_times(*moments), suffix=".parquet"))
    assert dataset.log.times_us_E[0] == 1_700_000_000 * 10**6


def test_an_explicit_unit_wins(written: Written) -> None:
    dataset = read(written(with_times(1000, 2000, 3000, 4000), timestamp_unit="ms"))
    assert dataset.log.times_us_E.tolist() == [1_000_000, 2_000_000, 3_000_000, 4_000_000]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([-1, 20, 30, 40], "1 times are negative, the first in row 1"),
        ([1_700_000_000, 1, -(2**63), 1_700_000_000], "1 times are negative, the first in row 3"),
        ([10, 20, 30, 4_000_000_000], "more than a day in the future, the first in row 4 (2096-10-02T07:06:40Z)"),
        ([1_700_000_000, 1_700_000_000_000, 1_700_000_000, 1_700_000_000], "mixes time units"),
        (["2023-01-01", "yesterday", "2023-01-01", "2023-01-01"], '"yesterday" in row 2 is no time'),
        (["2023-01-01", None, "2023-01-01", "2023-01-01"], "1 events have no time, the first in row 2"),
        ([10, None, 30, None], "2 events have no time, the first in row 2"),
        ([1.0, float("nan"), 3.0, 4.0], "1 events have no time, the first in row 2"),
        ([True, False, True, True], "times are numbers, datetimes or RFC 3339 text"),
    ],
)
def test_impossible_times_are_refused(written: Written, times: list[Any], expected: str) -> None:
    suffix = ".parquet" if isinstance(times[0], bool) else ".csv"
    message = refused(written(with_times(*times), suffix=suffix))
    assert expected in message
    assert 'column "time"' in message


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({**GOOD, "user": ["1", None, "2", "2"]}, 'column "user": 1 ids are missing or empty, the first in row 2'),
        ({**GOOD, "item": ["", "b", "b", "c"]}, 'column "item": 1 ids are missing or empty, the first in row 1'),
        ({**GOOD, "item": ["a", "b", "é" * 129, "c"]}, "1 ids are longer than 256 bytes, the first in row 3"),
        ({**GOOD, "user": ["1"] * 4}, 'has a single user ("1")'),
        ({**GOOD, "item": ["a"] * 4}, "has a single item"),
        (
            {"users": ["1"], "item": ["a"], "time": [1]},
            'has no column "user" (did you mean "users"?); it has users, item',
        ),
        ("user,item,time\n", "is empty: it has no rows"),
        ("", "is empty: it has no rows"),
        ("user,item,time\n1,a,3\n1,a,3,4,5,6\n", "cannot read"),
        (",user,item,time\n0,1,a,3\n", "column 1 has no name"),
        ("user,item,time,time\n1,a,3,3\n", 'has two columns "time"'),
    ],
)
def test_bad_interactions_are_refused(written: Written, columns: Any, expected: str) -> None:
    message = refused(written(columns))
    assert expected in message
    assert "interactions.csv" in message


def test_fractional_ids_are_refused(written: Written) -> None:
    assert "ids are text or whole numbers" in refused(
        written({**GOOD, "user": [1.0, 1.0, 2.0, 2.0]}, suffix=".parquet")
    )


@pytest.mark.parametrize("name", ["missing.csv", "missing-*.parquet"])
def test_a_file_that_is_not_there_is_named(written: Written, tmp_path: Path, name: str) -> None:
    assert name in refused(written(GOOD).model_copy(update={"interactions": tmp_path / name}))


def test_files_of_another_kind_are_refused(written: Written) -> None:
    assert "neither CSV nor Parquet" in refused(written("{}", suffix=".json"))


def test_broken_parquet_is_refused(written: Written) -> None:
    assert "cannot read" in refused(written("this is no parquet", suffix=".parquet"))


def test_event_weights_drop_and_weigh(written: Written) -> None:
    kinds = {**GOOD, "kind": ["view", "buy", "skip", "buy"]}
    weights = {"skip": 0, "buy": 3}
    dataset = read(written(kinds, event_type_column="kind", event_weights=weights))
    assert histories(dataset) == {"1": ["a", "b"], "2": ["c"]}
    assert dataset.log.weights_E.tolist() == [1, 3, 3]


def test_an_event_weight_for_a_kind_that_never_happens_is_refused(written: Written) -> None:
    kinds = {**GOOD, "kind": ["view", "buy", "view", "buy"]}
    message = refused(written(kinds, event_type_column="kind", event_weights={"views": 2}))
    assert 'event_weights names "views"' in message
    assert 'did you mean "view"' in message


def test_weights_that_drop_everything_are_refused(written: Written) -> None:
    kinds = {**GOOD, "kind": ["view"] * 4}
    assert "drops every event" in refused(written(kinds, event_type_column="kind", event_weights={"view": 0}))


def test_items_of_the_table_come_first_then_the_others_as_they_appear(written: Written) -> None:
    dataset = read(written(GOOD, {"item": ["z", "c"], "title": ["Zed", None]}, display_name="title"))
    assert list(dataset.catalogue.item_ids) == ["z", "c", "a", "b"]
    assert list(dataset.catalogue.display_names) == ["Zed", "c", "a", "b"]
    assert dataset.catalogue.metadata(2) == {"title": None}


def test_list_columns_are_split(written: Written) -> None:
    dataset = read(written(GOOD, {"item": ["a", "b", "c"], "tags": ["x| y |", "", None]}, list_columns={"tags": "|"}))
    tags = [dataset.catalogue.metadata(row)["tags"] for row in range(3)]
    assert tags[0] == ["x", "y"]
    assert tags[2] is None


@pytest.mark.parametrize(
    ("items", "keys", "expected"),
    [
        ({"item": ["a", "a"]}, {}, 'item "a" stands in 2 rows'),
        ({"item": ["a", None]}, {}, "1 ids are missing or empty"),
        ({"item": ["a"], "title": ["A"]}, {"metadata_columns": ["titel"]}, 'no column "titel" (did you mean "title"?)'),
        ({"item": ["a"], "title": ["A"]}, {"display_name": "name"}, 'no column "name"'),
        ({"item": ["a"], "title": ["A"]}, {"list_columns": {"tags": "|"}}, 'no column "tags"'),
        ({"item": ["a"], "spot": [{"x": 1}]}, {}, "which filters cannot read; make it one of string, bool"),
        ({"item": ["a"], "sizes": [[1, 2]]}, {}, "which filters cannot read"),
        ({"item": ["a"], "year": [1999]}, {"list_columns": {"year": "|"}}, "list_columns splits text columns only"),
        ({"id": ["a"]}, {}, 'no column "item"'),
        ({"item": ["a"], "stock": [2**53 + 1]}, {}, "beyond ±2^53"),
    ],
)
def test_bad_items_are_refused(written: Written, items: Any, keys: dict[str, Any], expected: str) -> None:
    message = refused(written(GOOD, items, suffix=".parquet", **keys))
    assert expected in message
    assert "items.parquet" in message


def test_names_and_dates_are_not_changed_while_reading(written: Written) -> None:
    items = {
        "item": ["a", "b"],
        "title": ["007", "1.10"],
        "us_date": ["03/04/2024", "12/11/2024"],
        "clock": ["10:30", "11:00"],
        "released": ["2024-03-04", "2024-03-04T10:00:00+02:00"],
    }
    catalogue = read(written(GOOD, items, display_name="title")).catalogue
    assert list(catalogue.display_names)[:2] == ["007", "1.10"]
    assert catalogue.metadata(1) == {
        "title": "1.10", "us_date": "12/11/2024", "clock": "11:00", "released": "2024-03-04T08:00:00Z",
    }  # fmt: skip


def test_a_directory_is_refused_with_the_glob_to_write(written: Written, tmp_path: Path) -> None:
    (tmp_path / "events.parquet").mkdir()
    assert "events.parquet/*.parquet" in refused(
        written(GOOD).model_copy(update={"interactions": tmp_path / "events.parquet"})
    )


@pytest.mark.parametrize("dtype", [pl.Int8, pl.UInt16, pl.Int32, pl.UInt32])
def test_narrow_integers_are_whole_numbers_too(written: Written, dtype: type[pl.DataType]) -> None:
    interactions = {"user": ["u", "u", "v"], "item": ["a", "b", "a"], "time": [1, 2, 3]}
    items = pl.DataFrame({"item": ["a", "b"], "stock": pl.Series([1, 99], dtype=dtype)})
    dataset = read(written(interactions, items.to_dict(as_series=True), suffix=".parquet"))
    assert dataset.catalogue.frame["stock"].to_list() == [1, 99]
