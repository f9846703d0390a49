"""The JSON form of the public messages: snake_case keys, enums as lower-case words, nothing unknown let through.

protobuf's own parser accepts camelCase and names no field when a value is wrong, so requests are read here, guided by
the message's descriptor. Whatever a caller sends costs time in proportion to its size and no more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from google.protobuf import field_mask_pb2, json_format, struct_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from clozerec_core.errors import BadRequest, Violation
from clozerec_core.wording import json_kind, suggest

M = TypeVar("M", bound=Message)

MAX_DEPTH = 32
"""Deeper documents are refused before anything recurses into them; the deepest valid filter has half of it."""

MAX_VIOLATIONS = 64
"""Reading stops there: nobody mends more at once, and a status could not carry them."""

_WELL_KNOWN = "google.protobuf."
# Descriptors are typed Any below: protobuf's stubs and its C classes disagree on what they are.
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_FLOATS = (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE)
_EXPECTED = {
    FieldDescriptor.CPPTYPE_STRING: "a string",
    FieldDescriptor.CPPTYPE_BOOL: "true or false",
    FieldDescriptor.CPPTYPE_FLOAT: "a number",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number",
    FieldDescriptor.CPPTYPE_ENUM: "a word",
}
_WELL_KNOWN_FORMS = {
    "Timestamp": 'an RFC 3339 time such as "2026-01-31T12:00:00Z"',
    "FieldMask": 'column names joined by commas, such as "price,in_stock"',
}


def parse_json(body: bytes | str, make: Callable[[], M]) -> M:
    """Read a request.

    Args:
        body: one JSON object, in UTF-8.
        make: the message's class.

    Raises:
        BadRequest: not JSON, a duplicate, unknown or camelCase key, a wrong type; every fault by its path.
    """
    document = _load(body)
    if not isinstance(document, Mapping):
        raise BadRequest.of("body", "expected a JSON object")
    if _is_deeper(document, MAX_DEPTH):
        raise BadRequest.of("body", f"nested deeper than {MAX_DEPTH} levels")
    message = make()
    violations: list[Violation] = []
    try:
        _Reader(violations).message(document, message, "")
    except _TooMany:
        violations.append(Violation("body", f"over {MAX_VIOLATIONS} faults; the rest was not read"))
    if violations:
        raise BadRequest(violations)
    return message


def to_json(message: Message) -> dict[str, Any]:
    """A response as JSON values, defaults written out."""
    document: dict[str, Any] = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    _in_our_words(document, message.DESCRIPTOR)
    return document


class _Refused(ValueError):
    """A document that json would let through."""


class _TooMany(Exception):
    """Enough faults were found."""


def _load(body: bytes | str) -> object:
    try:
        text = body.decode() if isinstance(body, bytes) else body
        document = json.loads(
            text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_without_duplicates
        )
        if "\\u" in text or not isinstance(body, bytes):
            # A lone surrogate, which JSON can spell with an escape and UTF-8 cannot hold.
            json.dumps(document, ensure_ascii=False).encode()
    except _Refused as refusal:
        raise BadRequest.of("body", str(refusal)) from None
    except UnicodeError:
        raise BadRequest.of("body", "expected text that is valid Unicode, in UTF-8") from None
    except (ValueError, RecursionError):
        raise BadRequest.of("body", "the body is not valid JSON") from None
    return document


def _refuse_constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise _Refused(f"{digits[:32]} is too large for a number")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for key, value in pairs:
        if key in document:
            raise _Refused(f"the key {json.dumps(key[:64])} appears twice")
        document[key] = value
    return document


def _is_deeper(value: object, max_depth: int) -> bool:
    level: list[Any] = [value]
    for _ in range(max_depth):
        level = [
            child
            for each in level
            for child in (each.values() if isinstance(each, Mapping) else each)
            if isinstance(child, Mapping | list)
        ]
        if not level:
            return False
    return True


class _Reader:
    def __init__(self, violations: list[Violation]) -> None:
        self.violations = violations

    def message(self, document: object, message: Message, path: str) -> None:
        descriptor = message.DESCRIPTOR
        if descriptor.full_name.startswith(_WELL_KNOWN):
            self.well_known(document, message, path)
            return
        if not isinstance(document, Mapping):
            self.refuse(path, f"expected an object, not {json_kind(document)}")
            return
        for key, value in document.items():
            place = f"{path}.{key}" if path else key
            field = descriptor.fields_by_name.get(key)
            if field is None:
                self.refuse(place, f"unknown field{suggest(key, list(descriptor.fields_by_name))}")
            elif value is None:
                self.refuse(place, "expected a value, not null; leave the field out")
            elif field.is_repeated:
                self.repeated(value, message, field, place)
            elif field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
                child = getattr(message, field.name)
                child.SetInParent()
                self.message(value, child, place)
            else:
                scalar = self.scalar(value, field, place)
                if scalar is not None:
                    setattr(message, field.name, scalar)

    def repeated(self, value: object, message: Message, field: Any, place: str) -> None:
        if not isinstance(value, list):
            self.refuse(place, f"expected a list, not {json_kind(value)}")
            return
        for i, member in enumerate(value):
            if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
                self.message(member, getattr(message, field.name).add(), f"{place}[{i}]")
            else:
                scalar = self.scalar(member, field, f"{place}[{i}]")
                if scalar is not None:
                    getattr(message, field.name).append(scalar)

    def scalar(self, value: object, field: Any, place: str) -> object:
        """The value with the field's type; None after a refusal."""
        match field.cpp_type, value:
            case FieldDescriptor.CPPTYPE_STRING, str():
                return value
            case FieldDescriptor.CPPTYPE_BOOL, bool():
                return value
            case FieldDescriptor.CPPTYPE_ENUM, str():
                return self.enum(value, field.enum_type, place)
            case kind, int() | float() if kind in _FLOATS and not isinstance(value, bool):
                return self.double(value, place)
            case kind, int() | float() if kind in _INTEGERS and not isinstance(value, bool):
                lowest, highest = _INTEGERS[kind]
                if not lowest <= value <= highest or value != int(value):
                    self.refuse(place, f"expected a whole number from {lowest} to {highest}, not {_short(value)}")
                    return None
                return int(value)
            case kind, _:
                self.refuse(place, f"expected {_EXPECTED.get(kind, 'a whole number')}, not {json_kind(value)}")
                return None

    def double(self, value: float, place: str) -> float | None:
        """The number as JSON numbers are held; None after a refusal."""
        try:
            number = float(value)
        except OverflowError:
            self.refuse(place, f"{_short(value)} is too large for a number")
            return None
        if isinstance(value, int) and number != value:
            self.refuse(place, f"{_short(value)} is beyond ±2^53, where JSON numbers are no longer exact")
            return None
        return number

    def enum(self, word: str, kind: Any, place: str) -> int | None:
        words = _enum_words(kind)
        if word not in words:
            known = [each for each, number in words.items() if number != 0]
            self.refuse(place, f'"{word[:64]}" is unknown{suggest(word, known)}; expected one of {", ".join(known)}')
            return None
        return words[word]

    def well_known(self, document: Any, message: Message, path: str) -> None:
        if isinstance(message, struct_pb2.Struct):
            if isinstance(document, Mapping):
                self.struct(document, message, path)
            else:
                self.refuse(path, f"expected an object, not {json_kind(document)}")
            return
        if isinstance(message, field_mask_pb2.FieldMask) and isinstance(document, str):
            # protobuf would read camelCase here; columns are named as they are.
            message.paths.extend(part for each in document.split(",") if (part := each.strip()))
            return
        try:
            json_format.ParseDict(document, message)
        except (json_format.ParseError, TypeError, ValueError, AttributeError):
            self.refuse(path, f"expected {_WELL_KNOWN_FORMS.get(message.DESCRIPTOR.name, 'another form')}")

    def struct(self, document: Mapping[str, Any], struct: struct_pb2.Struct, path: str) -> None:
        for key, value in document.items():
            self.value(value, struct.fields[key], f"{path}.{key}")

    def value(self, value: Any, target: struct_pb2.Value, path: str) -> None:
        match value:
            case None:
                target.null_value = struct_pb2.NULL_VALUE
            case bool():
                target.bool_value = value
            case int() | float():
                number = self.double(value, path)
                if number is not None:
                    target.number_value = number
            case str():
                target.string_value = value
            case Mapping():
                target.struct_value.SetInParent()
                self.struct(value, target.struct_value, path)
            case _:
                target.list_value.SetInParent()
                for i, member in enumerate(value):
                    self.value(member, target.list_value.values.add(), f"{path}[{i}]")

    def refuse(self, field: str, description: str) -> None:
        if len(self.violations) >= MAX_VIOLATIONS:
            raise _TooMany
        self.violations.append(Violation(field, description))


def _short(value: float) -> str:
    """A number for a message. Python refuses to print the longest integers."""
    return f"{value:.17g}" if isinstance(value, float) else str(value) if value.bit_length() < 128 else "this"


def _enum_words(kind: Any) -> dict[str, int]:
    """`item_to_item` for `QUERY_TYPE_ITEM_TO_ITEM`, with its number."""
    prefix = kind.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return {value.name.removeprefix(prefix).lower(): value.number for value in kind.values}


def _in_our_words(document: dict[str, Any], descriptor: Any) -> None:
    """Turn what protobuf writes into the API's form, in place: enums as words, whole metadata numbers as integers."""
    for field in descriptor.fields:
        value = document.get(field.name)
        if value is None:
            continue
        if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
            prefix = field.enum_type.values_by_number[0].name.removesuffix("UNSPECIFIED")
            document[field.name] = value.removeprefix(prefix).lower()
        elif field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            if field.message_type.full_name == "google.protobuf.Struct":
                document[field.name] = {key: _whole(each) for key, each in value.items()}
            elif not field.message_type.full_name.startswith("google."):
                for child in value if field.is_repeated else [value]:
                    _in_our_words(child, field.message_type)


def _whole(value: Any) -> Any:
    """Structs hold doubles only; strictly typed clients want 2000 for an integer column, not 2000.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
