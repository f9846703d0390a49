"""Metadata that callers send for an item: JSON values in, the schema's typed cells out, and cells as JSON text.

The inverse, cells as callers see them, is `catalogue.cell_to_json`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pydantic_core import from_json, to_json

from clozerec_core.catalogue import META_PREFIX, ColumnType, Schema
from clozerec_core.errors import BadRequest, Violation
from clozerec_core.filters import MAX_EXACT_INTEGER, a_column_type, parse_datetime, unknown_column
from clozerec_core.predicate import Cell
from clozerec_core.wording import json_kind

MAX_METADATA_BYTES = 64 * 1024
"""Of one item, as JSON text: thousands of such items come back in one answer."""

_EXPECTED = {
    ColumnType.STRING: "a string",
    ColumnType.BOOL: "true or false",
    ColumnType.INTEGER: "a whole number",
    ColumnType.FLOAT: "a number",
    ColumnType.DATETIME: 'an RFC 3339 time such as "2026-01-31T12:00:00Z"',
    ColumnType.STRING_LIST: "a list of strings",
}

Cells = dict[str, Cell]
"""Column to value; a column that is not named is not spoken of, None is a missing value."""


def parse_metadata(document: Mapping[str, object], schema: Schema, field: str = "metadata") -> Cells:
    """Typed cells of the named columns.

    Raises:
        BadRequest: with a violation for each unknown column and each value of a wrong type.
    """
    violations: list[Violation] = []
    cells: Cells = {}
    for name, value in document.items():
        kind = schema.get(name)
        if kind is None:
            bare = name.removeprefix(META_PREFIX)
            fault = f'write "{bare}" without "{META_PREFIX}"' if bare in schema else unknown_column(name, schema)
            violations.append(Violation(f"{field}.{name}", fault))
            continue
        try:
            cells[name] = _cell(value, kind)
        except ValueError as error:
            expected = f'column "{name}" is {a_column_type(kind)}: expected {_EXPECTED[kind]}'
            violations.append(Violation(f"{field}.{name}", f"{expected}, not {error}"))
    if violations:
        raise BadRequest(violations)
    return cells


def parse_item_metadata(document: Mapping[str, object], schema: Schema, field: str = "metadata") -> Cells:
    """The same of what a caller says of an item.

    Raises:
        BadRequest: as `parse_metadata`, and where all of it together is too much.
    """
    cells = parse_metadata(document, schema, field)
    if (size := len(to_json(cells))) > MAX_METADATA_BYTES:
        raise BadRequest.of(field, f"{size:,} bytes as JSON text; at most {MAX_METADATA_BYTES:,} are allowed")
    return cells


def _cell(value: object, kind: ColumnType) -> Cell:
    """The value with the column's type; ValueError says what it is instead."""
    match kind, value:
        case _, None:
            return None
        case (ColumnType.STRING, str()) | (ColumnType.BOOL, bool()):
            return value  # type: ignore[return-value]  # narrowed by the pair
        case ColumnType.DATETIME, str():
            moment = parse_datetime(value)
            if moment is None:
                raise ValueError(f'"{value[:64]}"')
            return moment
        case ColumnType.STRING_LIST, [*members] if all(isinstance(member, str) for member in members):
            return tuple(str(member) for member in members)
        case ColumnType.INTEGER, int() | float() if not isinstance(value, bool):
            return _whole(value)
        case ColumnType.FLOAT, int() | float() if not isinstance(value, bool):
            number = float(value)
            if not math.isfinite(number):
                raise ValueError(f"{value}; write null for a missing value")
            return number
        case _:
            raise ValueError(json_kind(value))


def _whole(value: float) -> int:
    if not math.isfinite(value) or value != int(value):
        raise ValueError(f"the fraction {value}" if math.isfinite(value) else f"{value}")
    if abs(value) > MAX_EXACT_INTEGER:
        raise ValueError(f"{value:.0f}, which is beyond ±2^53")
    return int(value)


def cells_to_text(cells: Mapping[str, Cell]) -> str:
    """One JSON object; `cells_from_text` reads it back for the same column types."""
    return to_json(cells).decode()


def cells_from_text(text: str) -> Cells:
    """The inverse of `cells_to_text`: JSON tells all cells apart but tuples, which come as lists."""
    loaded: dict[str, Cell | Sequence[str]] = from_json(text)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in loaded.items()}  # type: ignore[misc]
