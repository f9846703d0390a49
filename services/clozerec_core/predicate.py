"""What a filter means: a small tree, and `matches`, the slow and truthful reading of it.

Everything faster (row bitmaps in the retriever) is tested against `matches`. The rules, with their reasons, stand in
docs/api.md: a comparison with a missing value is false, `$ne` and `$nin` included; `$not` is the complement of the set.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from enum import Enum

Scalar = str | bool | int | float
"""A condition's value. Datetimes are int: microseconds since 1970-01-01T00:00:00Z."""

Cell = str | bool | int | float | tuple[str, ...] | None
"""An item's value in one column; None (and NaN) is missing."""


class Operator(Enum):
    """How a condition compares; the values are the JSON spelling."""

    EQ = "$eq"
    NE = "$ne"
    IN = "$in"
    NIN = "$nin"
    GT = "$gt"
    GTE = "$gte"
    LT = "$lt"
    LTE = "$lte"
    EXISTS = "$exists"
    ALL = "$all"


RANGES = frozenset({Operator.GT, Operator.GTE, Operator.LT, Operator.LTE})
"""Operators that need an order: numbers and datetimes only."""

MANY = frozenset({Operator.IN, Operator.NIN, Operator.ALL})
"""Operators that take any number of values; the others take one."""


@dataclass(frozen=True)
class Compare:
    """One comparison on one column. The values have the column's type already."""

    column: str
    operator: Operator
    values: tuple[Scalar, ...]


@dataclass(frozen=True)
class AllOf:
    """Every part holds; no parts: everything."""

    parts: tuple[Predicate, ...]


@dataclass(frozen=True)
class AnyOf:
    """At least one part holds; no parts: nothing."""

    parts: tuple[Predicate, ...]


@dataclass(frozen=True)
class Negation:
    """The complement of the set that the part passes."""

    part: Predicate


Predicate = Compare | AllOf | AnyOf | Negation

EVERYTHING = AllOf(())


def meaning(predicate: Predicate) -> Hashable:
    """Equal for predicates that differ only in the order or repetition of parts and values."""
    match predicate:
        case AllOf(parts) | AnyOf(parts):
            return type(predicate), frozenset(map(meaning, parts))
        case Negation(part):
            return Negation, meaning(part)
        case Compare(column, operator, values):
            return column, operator, frozenset(values)


def is_missing(cell: Cell) -> bool:
    """Null and NaN are missing; an empty string and an empty list are present."""
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def matches(predicate: Predicate, item: Mapping[str, Cell]) -> bool:
    """Whether an item passes. A column that the item lacks counts as missing."""
    match predicate:
        case AllOf(parts):
            return all(matches(part, item) for part in parts)
        case AnyOf(parts):
            return any(matches(part, item) for part in parts)
        case Negation(part):
            return not matches(part, item)
        case Compare(column, operator, values):
            return _compare(item.get(column), operator, values)


def _compare(cell: Cell, operator: Operator, values: tuple[Scalar, ...]) -> bool:
    if operator is Operator.EXISTS:
        return is_missing(cell) is not values[0]
    if operator is Operator.ALL and not values:
        return True
    if cell is None or is_missing(cell):
        return False
    if isinstance(cell, tuple):
        members = set(cell)
        match operator:
            case Operator.EQ | Operator.IN:
                return any(value in members for value in values)
            case Operator.NE | Operator.NIN:
                return not any(value in members for value in values)
            case Operator.ALL:
                return all(value in members for value in values)
            case _:
                raise AssertionError(f"{operator} on a list column is refused by the parser")
    match operator:
        case Operator.EQ | Operator.IN:
            return cell in values
        case Operator.NE | Operator.NIN:
            return cell not in values
        case Operator.GT:
            return cell > values[0]  # type: ignore[operator]  # the parser gave the value the column's type
        case Operator.GTE:
            return cell >= values[0]  # type: ignore[operator]
        case Operator.LT:
            return cell < values[0]  # type: ignore[operator]
        case Operator.LTE:
            return cell <= values[0]  # type: ignore[operator]
        case _:
            raise AssertionError(f"{operator} on a scalar column is refused by the parser")
