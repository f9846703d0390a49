"""The JSON form of the public messages: snake_case keys, enums as lower-case words, nothing unknown let through.

protobuf's own parser accepts camelCase and names no field when a value is wrong, so requests are read here, guided by
the message's descriptor; well-known types are left to protobuf.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from clozerec_core.errors import BadRequest, Violation
from clozerec_core.filters import suggest

M = TypeVar("M", bound=Message)

MAX_DEPTH = 32
"""Deeper documents are refused before anything recurses into them; the deepest valid filter has half of it."""

_WELL_KNOWN = "google.protobuf."
# Descriptors are typed Any below: protobuf's stubs and its C classes disagree on what they are.
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


def parse_json(body: bytes | str, make: Callable[[], M]) -> M:
    """Read a request.

    Args:
        body: one JSON object.
        make: the message's class.

    Raises:
        BadRequest: not JSON, a duplicate, unknown or camelCase key, a wrong type; every fault by its path.
    """
    try:
        document = json.loads(body, parse_constant=_refuse_constant, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        reason = error.args[0] if isinstance(error, _Refused) else "the body is not valid JSON"
        raise BadRequest.of("body", str(reason)) from None
    if not isinstance(document, Mapping):
        raise BadRequest.of("body", "expected a JSON object")
    if _depth(document) > MAX_DEPTH:
        raise BadRequest.of("body", f"nested deeper than {MAX_DEPTH} levels")
    message = make()
    violations: list[Violation] = []
    _Reader(violations).message(document, message, "")
    if violations:
        raise BadRequest(violations)
    return message


def to_json(message: Message) -> dict[str, Any]:
    """A response as JSON values, defaults written out."""
    document: dict[str, Any] = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    _lower_enums(document, message.DESCRIPTOR)
    return document


class _Refused(ValueError):
    """A document that json would let through."""


def _refuse_constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is not JSON")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        keys = [key for key, _ in pairs]
        raise _Refused(f'the key "{next(key for key in keys if keys.count(key) > 1)}" appears twice')
    return document


def _depth(value: object) -> int:
    deepest, level = 0, [value]
    while level and deepest <= MAX_DEPTH:
        deepest += 1
        level = [
            child
            for each in level
            for child in (each.values() if isinstance(each, Mapping) else each if isinstance(each, list) else ())
        ]
    return deepest


class _Reader:
    def __init__(self, violations: list[Violation]) -> None:
        self.violations = violations

    def message(self, document: object, message: Message, path: str) -> None:
        descriptor = message.DESCRIPTOR
        if descriptor.full_name.startswith(_WELL_KNOWN):
            self.well_known(document, message, path)
            return
        if not isinstance(document, Mapping):
            self.refuse(path, f"expected an object, not {_kind(document)}")
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
            self.refuse(place, f"expected a list, not {_kind(value)}")
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
                try:
                    value.encode()
                except UnicodeEncodeError:  # a lone surrogate, which JSON can spell and UTF-8 cannot
                    self.refuse(place, "expected text that is valid Unicode")
                    return None
                return value
            case FieldDescriptor.CPPTYPE_BOOL, bool():
                return value
            case ((FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE), int() | float()) if not isinstance(
                value, bool
            ):
                return float(value)
            case FieldDescriptor.CPPTYPE_ENUM, str():
                return self.enum(value, field.enum_type, place)
            case kind, int() | float() if kind in _INTEGERS and not isinstance(value, bool):
                lowest, highest = _INTEGERS[kind]
                if value != int(value) or not lowest <= value <= highest:
                    self.refuse(place, f"expected a whole number from {lowest} to {highest}, not {value}")
                    return None
                return int(value)
            case kind, _:
                self.refuse(place, f"expected {_EXPECTED.get(kind, 'a whole number')}, not {_kind(value)}")
                return None

    def enum(self, word: str, kind: Any, place: str) -> int | None:
        words = _enum_words(kind)
        if word not in words:
            known = [each for each, number in words.items() if number != 0]
            self.refuse(place, f'"{word[:64]}" is unknown{suggest(word, known)}; expected one of {", ".join(known)}')
            return None
        return words[word]

    def well_known(self, document: Any, message: Message, path: str) -> None:
        try:
            json_format.ParseDict(document, message)
        except (json_format.ParseError, TypeError, ValueError, AttributeError):
            self.refuse(path, f"expected {_WELL_KNOWN_FORMS.get(message.DESCRIPTOR.name, 'another form')}")

    def refuse(self, field: str, description: str) -> None:
        self.violations.append(Violation(field, description))


_EXPECTED = {
    FieldDescriptor.CPPTYPE_STRING: "a string",
    FieldDescriptor.CPPTYPE_BOOL: "true or false",
    FieldDescriptor.CPPTYPE_FLOAT: "a number",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number",
    FieldDescriptor.CPPTYPE_ENUM: "a word",
}
_WELL_KNOWN_FORMS = {
    "Struct": "an object",
    "Timestamp": 'an RFC 3339 time such as "2026-01-31T12:00:00Z"',
    "FieldMask": 'column names joined by commas, such as "price,in_stock"',
}


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case Mapping():
            return "an object"
        case _:
            return "a list"


def _enum_words(kind: Any) -> dict[str, int]:
    """`item_to_item` for `QUERY_TYPE_ITEM_TO_ITEM`, with its number."""
    prefix = kind.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return {value.name.removeprefix(prefix).lower(): value.number for value in kind.values}


def _lower_enums(document: dict[str, Any], descriptor: Any) -> None:
    """Turn the names that protobuf writes for enums into the API's words, in place."""
    for field in descriptor.fields:
        value = document.get(field.name)
        if value is None:
            continue
        if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
            prefix = field.enum_type.values_by_number[0].name.removesuffix("UNSPECIFIED")
            document[field.name] = value.removeprefix(prefix).lower()
        elif field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE and not field.message_type.full_name.startswith(
            "google."
        ):
            for child in value if field.is_repeated else [value]:
                _lower_enums(child, field.message_type)
