"""The catalogue of a bundle: the items table, typed, and after it the items that only interactions know."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from clozerec_core.catalogue import POLARS_TYPES, Catalogue, ColumnType, Schema, column_type
from clozerec_core.errors import UsageError
from clozerec_core.filters import MAX_EXACT_INTEGER, parse_datetime
from clozerec_trainer.payload import Payload
from clozerec_trainer.tables import Table, read_table

_SPELLINGS_TRIED = 100
"""So that a column of titles is not read to its end in vain."""


def read_items(payload: Payload) -> Table | None:
    """The items table with every column that the payload names; None where it names no table."""
    if payload.items is None:
        return None
    text_columns = [
        payload.item_column,
        *payload.list_columns,
        *([payload.display_name] if payload.display_name else []),
    ]
    table = read_table(payload.items, text_columns)
    named = [payload.item_column, *payload.metadata_columns, *payload.list_columns]
    table.require([*named, *([payload.display_name] if payload.display_name else [])])
    return table


def build_catalogue(table: Table | None, payload: Payload, seen_item_ids: Sequence[str]) -> Catalogue:
    """Items in row order: those of the table first, then the others as they appear in the interactions.

    Raises:
        UsageError: an id is missing or repeated, or a column has a type that filters have no meaning for.
    """
    if table is None:
        return Catalogue(seen_item_ids, seen_item_ids, pl.DataFrame(), {})
    ids = table.ids(payload.item_column)
    repeated = ids.is_duplicated()
    if repeated.any():
        first = ids.filter(repeated)[0]
        raise UsageError(
            f'{table.where(payload.item_column)}: item "{first}" stands in {(ids == first).sum()} rows; write one row '
            "an item"
        )
    columns = [column for column in table.rows.get_columns() if column.name != payload.item_column]
    typed = [_typed(column, table, payload.list_columns.get(column.name)) for column in columns]
    schema = {column.name: kind for column, kind in typed}
    known = set(ids)
    item_ids = [*ids, *(item_id for item_id in seen_item_ids if item_id not in known)]
    frame = pl.DataFrame([_extended(column, schema, len(item_ids)) for column, _ in typed])
    return Catalogue(item_ids, _display_names(item_ids, table, payload.display_name), frame, schema)


def _typed(column: pl.Series, table: Table, separator: str | None) -> tuple[pl.Series, ColumnType]:
    where = table.where(column.name)
    if separator is not None:
        if column.dtype not in (pl.String, pl.Null):
            raise UsageError(f"{where} holds {column.dtype}; list_columns splits text columns only")
        members = column.cast(pl.String).str.split(separator).list.eval(pl.element().str.strip_chars())
        return members.list.eval(pl.element().filter(pl.element() != "")), ColumnType.STRING_LIST
    if column.dtype == pl.String:
        column = _as_datetimes(column)
    kind = ColumnType.STRING if column.dtype == pl.Null else column_type(column.dtype)
    if kind is None:
        raise UsageError(
            f"{where} holds {column.dtype}, which filters cannot read; make it one of "
            f"{', '.join(each.value for each in ColumnType)}, or leave it out"
        )
    if kind is ColumnType.INTEGER and (column.cast(pl.Int128).abs() > MAX_EXACT_INTEGER).any():
        raise UsageError(
            f"{where} holds whole numbers beyond ±2^53, which JSON cannot carry exactly; write them as text, quoted"
        )
    if isinstance(column.dtype, pl.Datetime) and column.dtype.time_zone is None:
        column = column.dt.replace_time_zone("UTC")
    try:
        return column.cast(POLARS_TYPES[kind]), kind
    except pl.exceptions.PolarsError:
        raise UsageError(f"{where} holds values that do not fit {kind.value}; make them smaller") from None


def _as_datetimes(column: pl.Series) -> pl.Series:
    """Text that is RFC 3339 throughout becomes datetimes; any other spelling stays text, for days and months are
    guessed wrong too easily."""
    spellings = column.drop_nulls().unique()
    moments = {text: parse_datetime(text) for text in spellings.head(_SPELLINGS_TRIED)}
    if None in moments.values() or not moments:
        return column
    moments |= {text: parse_datetime(text) for text in spellings}
    if None in moments.values():
        return column
    read = column.replace_strict(list(moments), list(moments.values()), default=None, return_dtype=pl.Int64)
    return read.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def _extended(column: pl.Series, schema: Schema, num_items: int) -> pl.Series:
    """With a missing value for each item that the table lacks."""
    return column.extend_constant(None, num_items - len(column)).cast(POLARS_TYPES[schema[column.name]])


def _display_names(item_ids: Sequence[str], table: Table, column: str | None) -> list[str]:
    """The shown column as text; the id where it is missing or empty."""
    if column is None:
        return list(item_ids)
    values = table.rows.get_column(column)
    if values.dtype.is_nested():
        raise UsageError(f"{table.where(column)} holds {values.dtype}; display_name is a column of text")
    names = values.cast(pl.String).to_list()
    return [name or item_id for name, item_id in zip(names + [None] * len(item_ids), item_ids, strict=False)]
