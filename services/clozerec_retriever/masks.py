"""Predicates over the whole catalogue at once: which rows pass.

Says the same as `clozerec_core.predicate.matches` for every predicate and item, from arrays prepared when the bundle is
loaded: an inverted list for each string and for each member of a list column, sorted columns for numbers and times.

Shapes: N catalogue rows.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clozerec_core.catalogue import ColumnType, Schema
from clozerec_core.predicate import AllOf, AnyOf, Compare, Negation, Operator, Predicate, Scalar

Mask = NDArray[np.bool_]
"""[N], true where a row passes."""

MAX_CACHED_MASKS = 64

FEW_SCATTERED = 0.05
"""Of all rows: so many are faster marked one by one than found by a comparison of all values."""

MAX_CACHED_TEXT = 4_096
"""Characters in the values of a predicate whose mask is kept: beyond it, keys could outweigh the masks."""


class RowMasks:
    """Evaluates predicates over a table of metadata. Safe to use from several threads."""

    def __init__(self, frame: pl.DataFrame, schema: Schema, num_rows: int) -> None:
        # Apart, for a cache of its own method would hold an object until the garbage collector comes by: each batch of
        # changes makes one.
        self._table = _Table(frame, schema, num_rows)
        self._cached = lru_cache(MAX_CACHED_MASKS)(self._table.packed)

    def passing(self, predicate: Predicate) -> Mask:
        """The rows that pass, `[N]`, the caller's own; those of recent predicates are kept, packed.

        The columns are in the schema and the values have their types, as the parsers see to.
        """
        if text_len(predicate) > MAX_CACHED_TEXT:
            return self._table.evaluate(predicate).copy()
        return np.unpackbits(self._cached(predicate), count=self._table.num_rows).view(np.bool_)

    def prepare(self) -> None:
        """Prepare every column now, not when it is first asked for."""
        self._table.prepare()

    def cache_info(self) -> Any:
        """How many masks are kept."""
        return self._cached.cache_info()


class _Table:
    """Columns, prepared for questions about all rows."""

    def __init__(self, frame: pl.DataFrame, schema: Schema, num_rows: int) -> None:
        self.num_rows = num_rows
        self._frame, self._schema = frame, schema
        self._columns: dict[str, _Column] = {}

    def packed(self, predicate: Predicate) -> NDArray[np.uint8]:
        return np.packbits(self.evaluate(predicate))

    def evaluate(self, predicate: Predicate) -> Mask:
        """A fresh mask, or a column's own where nothing needed computing."""
        match predicate:
            case AllOf(parts):
                mask = np.ones(self.num_rows, np.bool_)
                for part in parts:
                    mask &= self.evaluate(part)
                return mask
            case AnyOf(parts):
                mask = np.zeros(self.num_rows, np.bool_)
                for part in parts:
                    mask |= self.evaluate(part)
                return mask
            case Negation(part):
                return ~self.evaluate(part)
            case Compare(name, operator, values):
                return self._compare(self._column(name), operator, values)

    def prepare(self) -> None:
        for name in self._schema:
            self._column(name)

    def _column(self, name: str) -> _Column:
        column = self._columns.get(name)
        if column is None:
            # Two threads may both prepare one; either will do.
            column = self._columns[name] = _prepare(self._frame.get_column(name), self._schema[name])
        return column

    def _compare(self, column: _Column, operator: Operator, values: tuple[Scalar, ...]) -> Mask:
        match operator:
            case Operator.EXISTS:
                return column.present if values[0] else ~column.present
            case Operator.EQ | Operator.IN:
                return column.any_of(values)
            case Operator.NE | Operator.NIN:
                return column.present & ~column.any_of(values)
            case Operator.ALL:
                mask = np.ones(self.num_rows, np.bool_)
                for value in values:
                    mask &= column.any_of((value,))
                return mask
            case _:
                assert isinstance(column, _Numbers), "the parsers refuse ranges on other columns"
                return column.range(operator, values[0])


class _Column(Protocol):
    """One column, prepared for questions about all rows."""

    present: Mask
    """Where the value is not missing."""

    def any_of(self, values: Sequence[Scalar]) -> Mask:
        """Rows whose value, or one of whose members, is among the values."""
        ...


class _Strings:
    """Strings as codes, and the rows of each: a value costs as much as it has rows."""

    def __init__(self, column: pl.Series) -> None:
        distinct = column.drop_nulls().unique().sort()
        self.present = column.is_not_null().to_numpy()
        self._code_of: dict[Scalar, int] = {value: code for code, value in enumerate(distinct)}
        # A dense rank counts from 1 and leaves a missing value missing.
        codes_N = (column.rank("dense").cast(pl.Int32) - 1).fill_null(len(distinct)).to_numpy()
        self._rows_N = np.argsort(codes_N, kind="stable").astype(np.int32)
        sizes = np.bincount(codes_N, minlength=len(distinct) + 1)
        self._starts = np.concatenate(([0], np.cumsum(sizes)))

    def any_of(self, values: Sequence[Scalar]) -> Mask:
        mask = np.zeros(len(self.present), np.bool_)
        for code in {code for value in values if (code := self._code_of.get(value)) is not None}:
            mask[self._rows_N[self._starts[code] : self._starts[code + 1]]] = True
        return mask


class _Numbers:
    """Integers, floats, truth values (0 and 1) and times (microseconds since the epoch), and their order."""

    def __init__(self, column: pl.Series) -> None:
        column = column.fill_nan(None) if column.dtype.is_float() else column.to_physical()
        if not column.dtype.is_float():
            column = column.cast(pl.Int64).shrink_dtype()
        self.present = column.is_not_null().to_numpy()
        self._order = column.arg_sort()[column.null_count() :].to_numpy().astype(np.int32)
        self._values_N = column.fill_null(0).to_numpy()
        self._has_gaps = column.null_count() > 0

    def any_of(self, values: Sequence[Scalar]) -> Mask:
        mask = np.zeros(len(self.present), np.bool_)
        for value in set(values):
            mask |= self._between(self._place(value, "left"), self._place(value, "right"))
        return mask

    def range(self, operator: Operator, value: Scalar) -> Mask:
        """Rows in an order relation to the value."""
        match operator:
            case Operator.GT:
                return self._between(self._place(value, "right"), len(self._order))
            case Operator.GTE:
                return self._between(self._place(value, "left"), len(self._order))
            case Operator.LT:
                return self._between(0, self._place(value, "left"))
            case _:
                return self._between(0, self._place(value, "right"))

    def _between(self, low: int, high: int) -> Mask:
        """Rows at these places of the order."""
        num_rows = len(self.present)
        if high - low <= FEW_SCATTERED * num_rows:
            mask = np.zeros(num_rows, np.bool_)
            mask[self._order[low:high]] = True
            return mask
        # Where many pass, to compare each value is faster than to write here and there.
        mask = self.present.copy() if self._has_gaps else np.ones(num_rows, np.bool_)
        if low > 0:
            mask &= self._values_N >= self._values_N[self._order[low]]
        if high < len(self._order):
            mask &= self._values_N < self._values_N[self._order[high]]
        return mask

    def _place(self, value: Scalar, side: Literal["left", "right"]) -> int:
        """How many values come before it in the order."""
        kind = self._values_N.dtype
        if isinstance(value, int) and kind.kind == "i":
            # A value beyond the column's width has no place of its own, but is beyond all that have.
            width = np.iinfo(kind)
            if not width.min <= value <= width.max:
                return 0 if value < width.min else len(self._order)
        find = bisect_left if side == "left" else bisect_right
        return find(self._order, kind.type(value), key=self._values_N.__getitem__)


class _Lists:
    """Lists of strings, inverted: for each member the rows that have it."""

    def __init__(self, column: pl.Series) -> None:
        self.present = column.is_not_null().to_numpy()
        members = (
            pl.DataFrame({"row": np.arange(len(column), dtype=np.int32), "member": column})
            .explode("member")
            .drop_nulls("member")
        )
        grouped = members.group_by("member").agg("row")
        self._rows_of: dict[Scalar, NDArray[np.int32]] = {
            member: rows.to_numpy() for member, rows in zip(grouped["member"], grouped["row"], strict=True)
        }

    def any_of(self, values: Sequence[Scalar]) -> Mask:
        mask = np.zeros(len(self.present), np.bool_)
        for value in values:
            rows = self._rows_of.get(value)
            if rows is not None:
                mask[rows] = True
        return mask


def _prepare(column: pl.Series, kind: ColumnType) -> _Column:
    match kind:
        case ColumnType.STRING:
            return _Strings(column)
        case ColumnType.STRING_LIST:
            return _Lists(column)
        case _:
            return _Numbers(column)


def text_len(predicate: Predicate) -> int:
    """Characters in the values of a predicate."""
    match predicate:
        case AllOf(parts) | AnyOf(parts):
            return sum(text_len(part) for part in parts)
        case Negation(part):
            return text_len(part)
        case Compare(_, _, values):
            return sum(len(value) for value in values if isinstance(value, str))
