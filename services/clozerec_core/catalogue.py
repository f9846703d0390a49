"""The catalogue: external item ids and dense rows, typed metadata, and the rows that stand for no item.

A row is the position of an item in one catalogue version: in `catalogue.parquet`, in `vectors.npy` and in the index
alike. Item rows come first; the padding row and the mask row follow them and exist only inside the network.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import cached_property

import numpy as np
import polars as pl

from clozerec_core.packed_strings import PackedStrings, Places
from clozerec_core.predicate import Cell, is_missing

META_PREFIX = "meta."
"""Metadata columns bear it in filters and in `catalogue.parquet`, so that no name of theirs can clash."""

TEXT_SEPARATOR = ". "
LIST_SEPARATOR = ", "

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Json = str | bool | int | float | list[str] | None
"""A metadata value as callers see it: datetimes are RFC 3339 text, missing values null."""


class ColumnType(Enum):
    """The type of a metadata column; the values are the words of the manifest and of error messages."""

    STRING = "string"
    BOOL = "bool"
    INTEGER = "integer"
    FLOAT = "float"
    DATETIME = "datetime"
    STRING_LIST = "list of string"


POLARS_TYPES: Mapping[ColumnType, pl.DataType] = {
    ColumnType.STRING: pl.String(),
    ColumnType.BOOL: pl.Boolean(),
    ColumnType.INTEGER: pl.Int64(),
    ColumnType.FLOAT: pl.Float64(),
    ColumnType.DATETIME: pl.Datetime("us", "UTC"),
    ColumnType.STRING_LIST: pl.List(pl.String()),
}

Schema = Mapping[str, ColumnType]
"""Metadata columns by name, without prefix, in the order of the items table."""


@dataclass(frozen=True)
class SpecialRows:
    """Rows after the items', for positions of a sequence that hold no item."""

    num_items: int

    @property
    def pad(self) -> int:
        """Fills a sequence on the left."""
        return self.num_items

    @property
    def mask(self) -> int:
        """The position whose item is asked for."""
        return self.num_items + 1

    @property
    def num_rows(self) -> int:
        """Items, padding and mask."""
        return self.num_items + 2


@dataclass(frozen=True)
class Catalogue:
    """Items with ids, names to show, and typed metadata, in row order.

    `frame` holds the metadata columns only, cast to the types of `schema`.
    """

    item_ids: Sequence[str]
    display_names: Sequence[str]
    frame: pl.DataFrame
    schema: Schema
    _places: Places = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ids = _packed(self.item_ids)
        names = ids if self.display_names is self.item_ids else _packed(self.display_names)
        assert self.frame.width == 0 or self.frame.height == len(ids), "one row an item"
        for name, value in (("item_ids", ids), ("display_names", names), ("_places", Places(ids))):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.item_ids)

    def row_of(self, item_id: str) -> int | None:
        """The item's row, or None where the catalogue does not know it."""
        return self._places.of(item_id)

    def rows_of(self, item_ids: Iterable[str]) -> list[int]:
        """Rows of the known ones among the ids."""
        return [row for row in map(self._places.of, item_ids) if row is not None]

    def cells(self, row: int) -> dict[str, Cell]:
        """The item's metadata as predicates read it: datetimes as microseconds, lists as tuples."""
        return {name: self._cell(name, row) for name in self.schema}

    def cells_of(self, rows: Sequence[int]) -> list[dict[str, Cell]]:
        """The same of many items, each a dict of its own."""
        columns = [map(_as_cell, column.gather(list(rows)).to_list()) for column in self._columns.values()]
        return [dict(zip(self.schema, each, strict=True)) for each in zip(*columns, strict=True)] or [{} for _ in rows]

    def metadata(self, row: int, fields: Iterable[str] = ()) -> dict[str, Json]:
        """The item's metadata as callers see it; the named columns, or all of them."""
        return {name: cell_to_json(self._cell(name, row), self.schema[name]) for name in (fields or self.schema)}

    def _cell(self, name: str, row: int) -> Cell:
        """Read from the typed column each time: as Python objects, a million items' columns would fill gigabytes."""
        value = self._columns[name][row]
        return _as_cell(value.to_list() if isinstance(value, pl.Series) else value)

    @cached_property
    def _columns(self) -> dict[str, pl.Series]:
        """Columns by name, datetimes as microseconds."""
        return {
            name: column.to_physical() if kind is ColumnType.DATETIME else column
            for name, kind in self.schema.items()
            for column in (self.frame.get_column(name),)
        }

    def to_parquet_frame(self) -> pl.DataFrame:
        """What `catalogue.parquet` holds: `item_id`, `display_name`, then `meta.<column>` for each column."""
        names = pl.DataFrame({"item_id": list(self.item_ids), "display_name": list(self.display_names)})
        return names.hstack([column.alias(META_PREFIX + column.name) for column in self.frame.get_columns()])

    @classmethod
    def from_parquet_frame(cls, table: pl.DataFrame, schema: Schema) -> Catalogue:
        """The inverse of `to_parquet_frame`, with the manifest's schema."""
        frame = table.select(pl.col(META_PREFIX + name).alias(name) for name in schema)
        ids, names = table["item_id"], table["display_name"]
        packed = PackedStrings(ids)
        return cls(packed, packed if names.equals(ids) else PackedStrings(names), frame, schema)


def _as_cell(value: object) -> Cell:
    # A null among the members is no member: nothing could ask for it.
    return tuple(member for member in value if member is not None) if isinstance(value, list) else value  # type: ignore[return-value]


def _packed(strings: Sequence[str]) -> PackedStrings:
    return strings if isinstance(strings, PackedStrings) else PackedStrings(strings)


def item_text(metadata: Mapping[str, Cell | Json], columns: Iterable[str]) -> str:
    """The text of an item that the text engine embeds: the values of the columns, in their order, as sentences.

    Lists are joined by commas; missing and empty values are left out. No value at all gives the empty text.
    """
    parts = []
    for name in columns:
        value = metadata.get(name)
        if isinstance(value, list | tuple):
            text = LIST_SEPARATOR.join(value)
        else:
            text = "" if is_missing(value) else str(value)
        if text.strip():
            parts.append(text.strip())
    return TEXT_SEPARATOR.join(parts)


def column_type(dtype: pl.DataType) -> ColumnType | None:
    """The metadata type that a column of a table becomes; None where there is none for it."""
    if dtype.is_integer():
        return ColumnType.INTEGER
    if dtype.is_float() or dtype.is_decimal():
        return ColumnType.FLOAT
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return ColumnType.STRING
    if dtype == pl.Boolean:
        return ColumnType.BOOL
    if dtype in (pl.Date, pl.Datetime):
        return ColumnType.DATETIME
    if dtype == pl.List(pl.String):
        return ColumnType.STRING_LIST
    return None


def cell_to_json(cell: Cell, kind: ColumnType) -> Json:
    """A cell as callers see it."""
    if isinstance(cell, tuple):
        return list(cell)
    if isinstance(cell, float) and not math.isfinite(cell):
        return None  # filters see an infinity, but JSON has no word for it
    if kind is ColumnType.DATETIME and isinstance(cell, int):
        return rfc3339(cell)
    return cell


def rfc3339(datetime_us: int) -> str:
    """Microseconds since the epoch as RFC 3339 in UTC, with a fraction only where there is one.

    Years that RFC 3339 cannot write, before 1 or after 9999, come in ISO 8601's longer form.
    """
    try:
        moment = EPOCH + timedelta(microseconds=datetime_us)
    except OverflowError:
        return f"{np.datetime64(datetime_us, 'us')}Z"
    return moment.isoformat().replace("+00:00", "Z")
