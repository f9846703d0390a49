"""Parse the JSON form of a filter, `{"meta.<column>": condition, …}`, into a typed predicate.

The grammar stands in docs/api.md. Everything wrong is found in one pass and named by its path, so that a caller can
mend the whole filter at once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeGuard

from clozerec_core.catalogue import EPOCH, META_PREFIX, ColumnType, Schema
from clozerec_core.errors import BadRequest, Violation
from clozerec_core.limits import MAX_METADATA_FIELDS
from clozerec_core.predicate import (
    EVERYTHING,
    MANY,
    RANGES,
    AllOf,
    AnyOf,
    Compare,
    Negation,
    Operator,
    Predicate,
    Scalar,
)
from clozerec_core.wording import json_kind, suggest

MAX_LEVELS = 8
MAX_CONDITIONS = 256
"""Empty combinations count as conditions, since they cost the same to read and to evaluate."""
MAX_VALUES = 1024
MAX_EXACT_INTEGER = 2**53
"""Beyond it JSON numbers, being doubles, skip integers."""

_RFC3339 = re.compile(
    r"\d{4}-\d{2}-\d{2}([Tt ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?([Zz]|[+-]\d{2}:?\d{2}| ?UTC)?)?", flags=re.ASCII
)
_OPERATORS = {operator.value: operator for operator in Operator}
_COMBINATIONS = ("$and", "$or", "$not")

_EXPECTED = {
    ColumnType.STRING: "a string",
    ColumnType.BOOL: "true or false",
    ColumnType.INTEGER: "a whole number",
    ColumnType.FLOAT: "a number",
    ColumnType.DATETIME: 'an RFC 3339 time such as "2026-01-31T12:00:00Z"',
    ColumnType.STRING_LIST: "a string",
}


def parse_filter(document: Mapping[str, object], schema: Schema, field: str = "filters") -> Predicate:
    """A typed predicate from a JSON filter.

    Args:
        document: the parsed JSON object.
        schema: the catalogue's columns.
        field: what violations call the document.

    Raises:
        BadRequest: with a violation for each fault.
    """
    parser = _Parser(schema, field)
    predicate = parser.filter(document, field, level=1)
    if parser.violations:
        raise BadRequest(parser.violations)
    return predicate


def parse_datetime(text: str) -> int | None:
    """Microseconds since the epoch of an RFC 3339 time, naive meaning UTC; None where the text is none.

    Offsets without a colon and the word UTC are read as well, since many exports write them.
    """
    if not _RFC3339.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text.upper().replace("UTC", "Z").replace(" Z", "Z"))
    except ValueError:  # a month 13, say
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    delta = moment - EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def column_violations(names: Sequence[str], schema: Schema, field: str) -> Iterator[Violation]:
    """Names of columns to return that the catalogue does not have, or too many of them."""
    if len(names) > MAX_METADATA_FIELDS:
        yield Violation(field, f"{len(names)} names; at most {MAX_METADATA_FIELDS} are allowed")
        return
    for i, name in enumerate(names):
        if name not in schema:
            yield Violation(f"{field}[{i}]", unknown_column(name, schema))


def unknown_column(name: str, schema: Schema) -> str:
    """What is wrong with a column, and which ones there are."""
    known = ", ".join(schema) or "no columns"
    return f'column "{name}" is unknown{suggest(name, list(schema))}; the catalogue has {known}'


class _Parser:
    def __init__(self, schema: Schema, root: str) -> None:
        self.schema = schema
        self.root = root
        self.violations: list[Violation] = []
        self.num_conditions = 0
        self.num_values = 0

    def refuse(self, field: str, description: str) -> Predicate:
        """Note a fault and go on; what is returned stands in for the faulty part."""
        self.violations.append(Violation(field, description))
        return EVERYTHING

    def count(self, num_conditions: int, num_values: int) -> None:
        """Stop at the first part beyond the limits, so that a huge document costs no more than a large one."""
        self.num_conditions += num_conditions
        self.num_values += num_values
        for count, most, what in (
            (self.num_conditions, MAX_CONDITIONS, "conditions"),
            (self.num_values, MAX_VALUES, "values"),
        ):
            if count > most:
                limit = Violation(self.root, f"too many {what}; at most {most} are allowed in one filter")
                raise BadRequest([*self.violations, limit])

    def filter(self, document: object, field: str, level: int) -> Predicate:
        if not isinstance(document, Mapping):
            self.count(1, 0)
            return self.refuse(field, f"expected a filter, an object of conditions, not {json_kind(document)}")
        if level > MAX_LEVELS:
            self.count(1, 0)
            return self.refuse(field, f"nested deeper than {MAX_LEVELS} levels")
        return self.all_of([self.entry(str(key), value, f"{field}.{key}", level) for key, value in document.items()])

    def all_of(self, parts: list[Predicate]) -> Predicate:
        if not parts:
            self.count(1, 0)
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def entry(self, key: str, value: object, field: str, level: int) -> Predicate:
        if key == "$not":
            return Negation(self.filter(value, field, level + 1))
        if key in ("$and", "$or"):
            if not _is_list(value) or not value:
                self.count(1, 0)
            if not _is_list(value):
                return self.refuse(field, f"expected a list of filters, not {json_kind(value)}")
            parts = tuple(self.filter(part, f"{field}[{i}]", level + 1) for i, part in enumerate(value))
            return AllOf(parts) if key == "$and" else AnyOf(parts)
        if not key.startswith(META_PREFIX):
            self.count(1, 0)
            hint = f'write "{META_PREFIX}{key}"' if key in self.schema else f'keys are "{META_PREFIX}<column>"'
            return self.refuse(field, f"unknown key; {hint} or one of {', '.join(_COMBINATIONS)}")
        column = key.removeprefix(META_PREFIX)
        if column not in self.schema:
            self.count(1, 0)
            return self.refuse(field, unknown_column(column, self.schema))
        return self.condition(column, value, field)

    def condition(self, column: str, value: object, field: str) -> Predicate:
        if isinstance(value, Mapping):
            return self.all_of(
                [self.operator(column, str(name), operand, f"{field}.{name}") for name, operand in value.items()]
            )
        operator = Operator.IN if _is_list(value) else Operator.EQ
        return self.compare(column, operator, value, field)

    def operator(self, column: str, name: str, operand: object, field: str) -> Predicate:
        operator = _OPERATORS.get(name)
        if operator is None:
            self.count(1, 0)
            hint = suggest(name, list(_OPERATORS))
            return self.refuse(field, f"unknown operator{hint}; one of {', '.join(_OPERATORS)}")
        return self.compare(column, operator, operand, field)

    def compare(self, column: str, operator: Operator, operand: object, field: str) -> Predicate:
        self.count(1, len(operand) if _is_list(operand) else 1)
        kind = self.schema[column]
        if operator in RANGES and kind not in (ColumnType.INTEGER, ColumnType.FLOAT, ColumnType.DATETIME):
            return self.refuse(
                field,
                f'column "{column}" is {a_column_type(kind)}; ranges are for integer, float and datetime columns only',
            )
        if operator is Operator.ALL and kind is not ColumnType.STRING_LIST:
            return self.refuse(field, f'column "{column}" is {a_column_type(kind)}; $all is for list columns only')
        if operator is Operator.EXISTS:
            if not isinstance(operand, bool):
                return self.refuse(field, f"expected true or false, not {json_kind(operand)}")
            return Compare(column, operator, (operand,))
        if operator not in MANY:
            operands, fields = [operand], [field]
        elif _is_list(operand):
            operands, fields = list(operand), [f"{field}[{i}]" for i in range(len(operand))]
        else:
            return self.refuse(field, f"expected a list of values, not {json_kind(operand)}")
        values = [self.value(column, each, place) for each, place in zip(operands, fields, strict=True)]
        return Compare(column, operator, tuple(value for value in values if value is not None))

    def value(self, column: str, operand: object, field: str) -> Scalar | None:
        """The operand with the column's type; None after a refusal."""
        kind = self.schema[column]
        expected = f'column "{column}" is {a_column_type(kind)}: expected {_EXPECTED[kind]}'
        if operand is None:
            self.refuse(field, f"{expected}, not null; to test for a missing value write {{$exists: false}}")
            return None
        match kind, operand:
            case ((ColumnType.STRING | ColumnType.STRING_LIST), str()):
                return operand
            case (ColumnType.BOOL, bool()):
                return operand
            case (ColumnType.DATETIME, str()):
                moment = parse_datetime(operand)
                if moment is None:
                    self.refuse(field, f'{expected}, not "{operand[:64]}"')
                return moment
            case ((ColumnType.INTEGER | ColumnType.FLOAT), (int() | float())) if not isinstance(operand, bool):
                return self.number(kind, operand, field, expected)
            case _:
                self.refuse(field, f"{expected}, not {json_kind(operand)}")
                return None

    def number(self, kind: ColumnType, operand: float, field: str, expected: str) -> Scalar | None:
        if isinstance(operand, float) and not math.isfinite(operand):
            self.refuse(field, f"{expected}, not {operand}")
        elif kind is ColumnType.FLOAT:
            try:
                return float(operand)
            except OverflowError:  # Python's integers know no bounds
                self.refuse(field, f"{expected} that a double can hold")
        elif operand != int(operand):
            self.refuse(field, f"{expected}, not the fraction {operand}")
        elif abs(operand) > MAX_EXACT_INTEGER:
            self.refuse(field, f"{expected} within ±2^53, which JSON numbers hold exactly")
        else:
            return int(operand)
        return None


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, Sequence) and not isinstance(value, str)


def a_column_type(kind: ColumnType) -> str:
    """The type with its article."""
    return f"an {kind.value}" if kind is ColumnType.INTEGER else f"a {kind.value}"
