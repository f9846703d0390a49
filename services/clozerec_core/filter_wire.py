"""Filters on the wire: `clozerec.v1.Filter` and `Predicate`, both ways, and nothing else."""

from __future__ import annotations

from clozerec.v1 import filter_pb2
from clozerec_core.catalogue import ColumnType, Schema
from clozerec_core.errors import BadRequest
from clozerec_core.filters import MAX_CONDITIONS, MAX_LEVELS, MAX_VALUES
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

MAX_WIRE_LEVELS = 2 * MAX_LEVELS + 2
"""A level of the JSON form becomes two here, the object and the key within; operators and the leaf add one each."""

_TO_WIRE = {operator: f"OPERATOR_{operator.name}" for operator in Operator}
_FROM_WIRE = {filter_pb2.Operator.Value(name): operator for operator, name in _TO_WIRE.items()}
_TYPE_TO_WIRE = {kind: f"COLUMN_TYPE_{kind.name}" for kind in ColumnType}
_VALUE_FIELDS = {
    ColumnType.STRING: "string_value",
    ColumnType.STRING_LIST: "string_value",
    ColumnType.BOOL: "bool_value",
    ColumnType.INTEGER: "integer_value",
    ColumnType.FLOAT: "float_value",
    ColumnType.DATETIME: "datetime_us",
}


def filter_to_wire(predicate: Predicate, schema: Schema) -> filter_pb2.Filter:
    """The message for a predicate whose columns are in the schema."""
    match predicate:
        case AllOf(parts):
            return filter_pb2.Filter(all_of=_list_to_wire(parts, schema))
        case AnyOf(parts):
            return filter_pb2.Filter(any_of=_list_to_wire(parts, schema))
        case Negation(part):
            return filter_pb2.Filter(negation=filter_to_wire(part, schema))
        case Compare(column, operator, values):
            name = "bool_value" if operator is Operator.EXISTS else _VALUE_FIELDS[schema[column]]
            condition = filter_pb2.Condition(column=column, operator=_TO_WIRE[operator])
            for value in values:
                setattr(condition.values.add(), name, value)
            return filter_pb2.Filter(condition=condition)


def filter_from_wire(message: filter_pb2.Filter, schema: Schema, field: str = "filter") -> Predicate:
    """The predicate of a message, checked against the schema and the limits of the grammar.

    Raises:
        BadRequest: an unknown column, a value of another type, a wrong number of values, too large a tree.
    """
    return _Reader(schema, field).filter(message, field, level=1)


def columns_to_wire(schema: Schema) -> list[filter_pb2.Column]:
    """The schema as messages, in its order."""
    return [filter_pb2.Column(name=name, type=_TYPE_TO_WIRE[kind]) for name, kind in schema.items()]


def _list_to_wire(parts: tuple[Predicate, ...], schema: Schema) -> filter_pb2.FilterList:
    return filter_pb2.FilterList(parts=[filter_to_wire(part, schema) for part in parts])


class _Reader:
    def __init__(self, schema: Schema, root: str) -> None:
        self.schema = schema
        self.root = root
        self.num_conditions = 0
        self.num_values = 0

    def count(self, num_conditions: int, num_values: int) -> None:
        self.num_conditions += num_conditions
        self.num_values += num_values
        if self.num_conditions > MAX_CONDITIONS or self.num_values > MAX_VALUES:
            raise BadRequest.of(self.root, f"over {MAX_CONDITIONS} conditions or {MAX_VALUES} values")

    def filter(self, message: filter_pb2.Filter, field: str, level: int) -> Predicate:
        if level > MAX_WIRE_LEVELS:
            raise BadRequest.of(field, f"nested deeper than {MAX_WIRE_LEVELS} levels")
        match message.WhichOneof("node"):
            case "all_of":
                return AllOf(self.parts(message.all_of, f"{field}.all_of", level))
            case "any_of":
                return AnyOf(self.parts(message.any_of, f"{field}.any_of", level))
            case "negation":
                return Negation(self.filter(message.negation, f"{field}.negation", level + 1))
            case "condition":
                return self.condition(message.condition, f"{field}.condition")
            case _:
                self.count(1, 0)
                return EVERYTHING

    def parts(self, message: filter_pb2.FilterList, field: str, level: int) -> tuple[Predicate, ...]:
        if not message.parts:
            self.count(1, 0)
        return tuple(self.filter(part, f"{field}.parts[{i}]", level + 1) for i, part in enumerate(message.parts))

    def condition(self, message: filter_pb2.Condition, field: str) -> Predicate:
        self.count(1, len(message.values))
        kind = self.schema.get(message.column)
        if kind is None:
            known = ", ".join(self.schema) or "no columns"
            raise BadRequest.of(f"{field}.column", f'column "{message.column}" is unknown; the catalogue has {known}')
        operator = _FROM_WIRE.get(message.operator)
        if operator is None:
            raise BadRequest.of(f"{field}.operator", "unspecified or unknown operator")
        if operator in RANGES and kind not in (ColumnType.INTEGER, ColumnType.FLOAT, ColumnType.DATETIME):
            raise BadRequest.of(f"{field}.operator", "ranges are for integer, float and datetime columns only")
        if operator is Operator.ALL and kind is not ColumnType.STRING_LIST:
            raise BadRequest.of(f"{field}.operator", "ALL is for list columns only")
        if operator not in MANY and len(message.values) != 1:
            raise BadRequest.of(f"{field}.values", f"{operator.name} takes one value, not {len(message.values)}")
        expected = "bool_value" if operator is Operator.EXISTS else _VALUE_FIELDS[kind]
        values: list[Scalar] = []
        for i, value in enumerate(message.values):
            if value.WhichOneof("kind") != expected:
                raise BadRequest.of(
                    f"{field}.values[{i}]", f"{operator.name} on a {kind.value} column takes {expected}"
                )
            scalar: Scalar = getattr(value, expected)
            if isinstance(scalar, float) and (scalar != scalar or scalar in (float("inf"), float("-inf"))):
                raise BadRequest.of(f"{field}.values[{i}]", "expected a finite number")
            values.append(scalar)
        return Compare(message.column, operator, tuple(values))
