"""Predicates over the whole catalogue at once: which rows pass.

Says the same as `clozerec_core.predicate.matches` for every predicate and item, from arrays prepared when the bundle is
loaded: codes for strings, plain arrays for numbers and times, an inverted list for each member of a list column.

Shapes: N catalogue rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clozerec_core.catalogue import ColumnType, Schema
from clozerec_core.predicate import AllOf, AnyOf, Compare, Negation, Operator, Predicate, Scalar

Mask = NDArray[np.bool_]
"""[N], true where a row passes."""

MAX_CACHED_MASKS = 64
MAX_CACHED_TEXT = 4_096
"""Characters in the values of a predicate whose mask is kept: beyond it, keys could outweigh the masks."""


class RowMasks:
    """Evaluates predicates over a table of metadata. Safe to use from several threads."""

    def __init__(self, frame: pl.DataFrame, schema: Schema, num_rows: int) -> None:
        self._num_rows = num_rows
        self._columns = {name: _prepare(frame.get_column(name), kind) for name, kind in schema.items()}
        self._cached = lru_cache(MAX_CACHED_MASKS)(self._read_only)

    def passing(self, predicate: Predicate) -> Mask:
        """The rows that pass, `[N]`, read-only; masks of recent predicates are kept.

        The columns are in the schema and the values have their types, as the parsers see to.
        """
        if _text_len(predicate) > MAX_CACHED_TEXT:
            return self._read_only(predicate)
        return self._cached(predicate)

    def _read_only(self, predicate: Predicate) -> Mask:
        mask = self._evaluate(predicate)
        mask.flags.writeable = False
        return mask

    def _evaluate(self, predicate: Predicate) -> Mask:
        """A fresh mask, or a column's own where nothing needed computing."""
        match predicate:
            case AllOf(parts):
                mask = np.ones(self._num_rows, np.bool_)
                for part in parts:
                    mask &= self._evaluate(part)
                return mask
            case AnyOf(parts):
                mask = np.zeros(self._num_rows, np.bool_)
                for part in parts:
                    mask |= self._evaluate(part)
                return mask
            case Negation(part):
                return ~self._evaluate(part)
            case Compare(name, operator, values):
                return self._compare(self._columns[name], operator, values)

    def _compare(self, column: _Column, operator: Operator, values: tuple[Scalar, ...]) -> Mask:
        match operator:
            case Operator.EXISTS:
                return column.present if values[0] else ~column.present
            case Operator.EQ | Operator.IN:
                return column.any_of(values)
            case Operator.NE | Operator.NIN:
                return column.present & ~column.any_of(values)
            case Operator.ALL:
                mask = np.ones(self._num_rows, np.bool_)
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
    """Strings as codes: each distinct value has a number, and a missing one the number after the last."""

    def __init__(self, column: pl.Series) -> None:
        distinct = column.drop_nulls().unique(maintain_order=True)
        self._code_of: dict[Scalar, int] = {value: code for code, value in enumerate(distinct)}
        codes = [self._code_of.get(value, len(self._code_of)) for value in column]
        self._codes = np.array(codes, np.int32)
        self.present = column.is_not_null().to_numpy()

    def any_of(self, values: Sequence[Scalar]) -> Mask:
        wanted = np.zeros(len(self._code_of) + 1, np.bool_)
        wanted[[code for value in values if (code := self._code_of.get(value)) is not None]] = True
        mask: Mask = wanted[self._codes]
        return mask


class _Numbers:
    """Integers, floats, truth values (0 and 1) and times (microseconds since the epoch)."""

    def __init__(self, column: pl.Series) -> None:
        column = column.fill_nan(None) if column.dtype.is_float() else column.to_physical()
        self.present = column.is_not_null().to_numpy()
        self._data = column.cast(pl.Float64 if column.dtype.is_float() else pl.Int64).fill_null(0).to_numpy()

    def any_of(self, values: Sequence[Scalar]) -> Mask:
        found: Mask = np.isin(self._data, np.array(values, self._data.dtype))
        return self.present & found

    def range(self, operator: Operator, value: Scalar) -> Mask:
        """Rows in an order relation to the value."""
        holds: Mask
        match operator:
            case Operator.GT:
                holds = self._data > value
            case Operator.GTE:
                holds = self._data >= value
            case Operator.LT:
                holds = self._data < value
            case _:
                holds = self._data <= value
        return self.present & holds


class _Lists:
    """Lists of strings, inverted: for each member the rows that have it."""

    def __init__(self, column: pl.Series) -> None:
        self.present = column.is_not_null().to_numpy()
        members = pl.DataFrame({"row": np.arange(len(column)), "member": column}).explode("member").drop_nulls("member")
        grouped = members.group_by("member").agg("row")
        self._rows_of: dict[Scalar, NDArray[np.int64]] = {
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


def _text_len(predicate: Predicate) -> int:
    match predicate:
        case AllOf(parts) | AnyOf(parts):
            return sum(_text_len(part) for part in parts)
        case Negation(part):
            return _text_len(part)
        case Compare(_, _, values):
            return sum(len(value) for value in values if isinstance(value, str))
