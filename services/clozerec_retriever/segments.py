"""Metadata in segments: the bundle's table, and small tables of later changes laid over it one after another.

A segment never changes, so what was evaluated over it stays true: a change costs the evaluation of its own rows only.

Shapes: N rows of the catalogue, S rows of a segment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from pydantic_core import to_json

from clozerec_core.catalogue import POLARS_TYPES, ColumnType, Schema
from clozerec_core.predicate import Cell, Predicate
from clozerec_retriever.masks import Mask, RowMasks
from clozerec_retriever.ranking import RowArray


@dataclass(frozen=True)
class Segment:
    """Metadata that some rows have, or had until a later segment."""

    rows: RowArray
    """[S], ascending. The first segment of a catalogue has every row from 0."""
    frame: pl.DataFrame
    """[S] rows, typed as the schema says."""
    masks: RowMasks

    @classmethod
    def of(cls, rows: RowArray, frame: pl.DataFrame, schema: Schema) -> Segment:
        """A segment with its columns prepared for filters."""
        return cls(rows, frame, RowMasks(frame, schema, len(rows)))

    @classmethod
    def of_cells(cls, cells_of: Mapping[int, Mapping[str, Cell]], schema: Schema) -> Segment:
        """A segment of these rows' cells, all columns of the schema given."""
        rows = sorted(cells_of)
        columns = [column_of([cells_of[row][name] for row in rows], name, kind) for name, kind in schema.items()]
        return cls.of(np.array(rows, np.int64), pl.DataFrame(columns), schema)


def column_of(cells: Sequence[Cell], name: str, kind: ColumnType) -> pl.Series:
    """Cells, datetimes being microseconds, as a typed column."""
    if kind is ColumnType.DATETIME:
        return pl.Series(name, cells, pl.Int64).cast(POLARS_TYPES[kind])
    if kind is ColumnType.STRING_LIST:
        # Five times as fast as from Python's lists, and without the interpreter's lock.
        texts = pl.Series(name, [to_json(cell).decode() for cell in cells], pl.String)
        return texts.str.json_decode(POLARS_TYPES[kind])
    return pl.Series(name, cells, POLARS_TYPES[kind])


def passing_rows(segments: Sequence[Segment], predicate: Predicate, num_rows: int) -> Mask:
    """Which of all rows pass, `[N]`, read-only; a later segment has the last word on its rows."""
    first, *later = segments
    mask = first.masks.passing(predicate)
    if len(mask) == num_rows and not later:
        return mask
    mask = np.concatenate((mask, np.zeros(num_rows - len(mask), np.bool_)))
    for segment in later:
        mask[segment.rows] = segment.masks.passing(predicate)
    mask.flags.writeable = False
    return mask


def merged(segments: Sequence[Segment], schema: Schema) -> Segment:
    """One segment that says the same."""
    rows = np.concatenate([segment.rows for segment in segments])
    # The last place of each row counts: `unique` gives the first, so read backwards.
    distinct, from_end = np.unique(rows[::-1], return_index=True)
    frame = pl.concat([segment.frame for segment in segments])[len(rows) - 1 - from_end]
    return Segment.of(distinct, frame, schema)
