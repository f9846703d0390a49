"""Event times: any usual spelling in, microseconds since 1970-01-01T00:00:00Z out.

Numbers are seconds, milliseconds, microseconds or nanoseconds; which one shows in their size, since the log of a live
service lies between 1973 and 5138 in exactly one reading.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import polars as pl

from clozerec_core.catalogue import rfc3339
from clozerec_core.errors import UsageError
from clozerec_core.filters import parse_datetime
from clozerec_trainer.payload import TimestampUnit

Unit = Literal["s", "ms", "us", "ns"]

_PER_SECOND: Mapping[Unit, int] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_UNIT_NAMES: Mapping[Unit, str] = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_FIRST_OF_UNIT: tuple[tuple[float, Unit], ...] = ((1e17, "ns"), (1e14, "us"), (1e11, "ms"), (0, "s"))
"""From which size on a number is read as which unit."""

_DAY_US = 86_400 * 10**6
_LATEST_US = 253_402_300_799 * 10**6
"""The end of the year 9999: later times have no RFC 3339 form."""


@dataclass(frozen=True)
class Times:
    """A column of event times."""

    microseconds: pl.Series
    read_as: str
    """How the column was understood, in words."""


def parse_times(column: pl.Series, unit: TimestampUnit, where: str) -> Times:
    """Read a column of event times.

    Args:
        column: numbers, datetimes or text.
        unit: of numbers; auto finds out.
        where: file and column, for messages.

    Raises:
        UsageError: a time is missing, unparseable, negative or in the future, or units are mixed.
    """
    if column.dtype == pl.String:
        numbers = column.cast(pl.Float64, strict=False)
        column = column if numbers.null_count() > column.null_count() else numbers
    _refuse_missing(column, where)
    if column.dtype == pl.String:
        times = Times(_from_text(column, where), "RFC 3339 text, UTC where it names no zone")
    elif column.dtype in (pl.Date, pl.Datetime):
        times = Times(
            column.cast(pl.Datetime("us")).to_physical().cast(pl.Int64), "datetimes, UTC where they name no zone"
        )
    elif column.dtype.is_numeric():
        found = unit if unit != "auto" else _find_unit(column, where)
        times = Times(_from_numbers(column, found, where), f"{_UNIT_NAMES[found]} since 1970")
    else:
        raise UsageError(f"{where} holds {column.dtype}; times are numbers, datetimes or RFC 3339 text")
    _refuse_impossible(times.microseconds, where)
    return times


def _refuse_missing(column: pl.Series, where: str) -> None:
    missing = column.is_null() | column.is_nan() if column.dtype.is_float() else column.is_null()
    if missing.any():
        first = missing.arg_true()[0]
        raise UsageError(f"{where}: {missing.sum()} events have no time, the first in row {first + 1}; each needs one")


def _find_unit(column: pl.Series, where: str) -> Unit:
    smallest, largest = float(column.min()), float(column.max())  # type: ignore[arg-type]
    first, last = _unit_of(smallest), _unit_of(largest)
    if first != last and smallest >= 0:
        raise UsageError(
            f"{where} mixes time units: {smallest:.0f} reads as {_UNIT_NAMES[first]}, {largest:.0f} as "
            f"{_UNIT_NAMES[last]}; write all in one unit, or name it with timestamp_unit"
        )
    return last


def _unit_of(value: float) -> Unit:
    return next((unit for first, unit in _FIRST_OF_UNIT if value >= first), "s")


def _from_numbers(column: pl.Series, unit: Unit, where: str) -> pl.Series:
    per_second = _PER_SECOND[unit]
    # Before the conversion, where the least integers would wrap around.
    _refuse_negative(column < 0, where)
    largest = float(column.max())  # type: ignore[arg-type]
    if largest / per_second > _LATEST_US / 10**6 or largest >= 2**63:
        raise UsageError(f"{where}: {largest:.0f} {_UNIT_NAMES[unit]} is too far in the future; mend timestamp_unit")
    if column.dtype.is_integer():
        whole = column.cast(pl.Int64)
        return whole * (10**6 // per_second) if per_second <= 10**6 else whole // (per_second // 10**6)
    return (column.cast(pl.Float64) * (10**6 / per_second)).round().cast(pl.Int64)


def _from_text(column: pl.Series, where: str) -> pl.Series:
    spellings = column.unique()
    moments = {text: parse_datetime(text) for text in spellings}
    wrong = next((text for text in column if moments[text] is None), None)
    if wrong is not None:
        row = int(column.eq(wrong).arg_true()[0]) + 1
        raise UsageError(
            f'{where}: "{wrong[:64]}" in row {row} is no time; write numbers since 1970, or RFC 3339 such as '
            "2026-01-31T12:00:00Z"
        )
    return column.replace_strict(list(moments), list(moments.values()), return_dtype=pl.Int64)


def _refuse_impossible(times: pl.Series, where: str) -> None:
    _refuse_negative(times < 0, where)
    future = times > int(time.time() * 10**6) + _DAY_US
    if future.any():
        row = int(future.arg_true()[0])
        shown = rfc3339(min(times[row], _LATEST_US))
        raise UsageError(
            f"{where}: {future.sum()} times lie more than a day in the future, the first in row {row + 1} ({shown}); "
            "remove them, or mend timestamp_unit"
        )


def _refuse_negative(negative: pl.Series, where: str) -> None:
    if negative.any():
        raise UsageError(
            f"{where}: {negative.sum()} times are negative, the first in row {negative.arg_true()[0] + 1}; times count "
            "from 1970"
        )
