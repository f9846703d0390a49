"""The JSON API as an OpenAPI 3.1 document, made from the protos' own descriptors and comments.

`described.binpb` lies beside the generated code and holds the descriptors with their comments, which the code itself
does not keep; `make proto` writes both.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from clozerec.v1 import recommender_pb2

Json = dict[str, Any]

_SERVICE = recommender_pb2.DESCRIPTOR.services_by_name["RecommenderService"]
_HEADERS = {
    "grpc-timeout": "A deadline, such as 500m: up to 8 digits and one of H, M, S, m (milliseconds), u and n.",
    "x-request-id": "The request's name in the answer, logs and errors; one is made where none is sent.",
}
_ERROR: Json = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "code": {"type": "string", "description": "The name of a google.rpc.Code."},
                "message": {"type": "string"},
                "details": {"type": "array", "items": {"type": "object"}},
            },
        }
    },
}
_WELL_KNOWN: Mapping[str, Json] = {
    "google.protobuf.Struct": {"type": "object", "additionalProperties": True},
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.FieldMask": {"type": "string", "description": "Column names, joined by commas."},
    "google.rpc.Status": {
        "type": "object",
        "properties": {
            "code": {"type": "integer", "description": "A google.rpc.Code; 0 is OK."},
            "message": {"type": "string"},
            "details": {"type": "array", "items": {"type": "object"}},
        },
    },
}
_SCALARS: Mapping[int, Json] = {
    FieldDescriptor.CPPTYPE_STRING: {"type": "string"},
    FieldDescriptor.CPPTYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.CPPTYPE_FLOAT: {"type": "number"},
    FieldDescriptor.CPPTYPE_DOUBLE: {"type": "number"},
    FieldDescriptor.CPPTYPE_UINT32: {"type": "integer", "minimum": 0},
    FieldDescriptor.CPPTYPE_INT32: {"type": "integer"},
}


def document(routes: Mapping[str, str], version: str) -> Json:
    """The whole document.

    Args:
        routes: RPC by `METHOD /path`.
        version: of this release.
    """
    schemas: Json = {"Error": _ERROR}
    paths: dict[str, Json] = {}
    for route, rpc in routes.items():
        verb, path = route.split(" ", 1)
        paths.setdefault(path, {})[verb.lower()] = _operation(rpc, verb == "POST", schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "ClozeRec", "version": version, "description": _comments().get(_SERVICE.full_name, "")},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _operation(rpc: str, has_body: bool, schemas: Json) -> Json:
    method = _SERVICE.methods_by_name[rpc]
    operation: Json = {
        "operationId": rpc,
        "description": _comments().get(method.full_name, ""),
        "parameters": [
            {"name": name, "in": "header", "description": description, "schema": {"type": "string"}}
            for name, description in _HEADERS.items()
        ],
        "responses": {
            "200": {"description": "The answer.", "content": _as_json(_reference(method.output_type, schemas))},
            "default": {"description": "What went wrong.", "content": _as_json({"$ref": "#/components/schemas/Error"})},
        },
    }
    if has_body:
        operation["requestBody"] = {"required": True, "content": _as_json(_reference(method.input_type, schemas))}
    return operation


def _as_json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _reference(message: Any, schemas: Json) -> Json:
    """A reference to a message's schema, which is added where it is not there yet."""
    if message.full_name in _WELL_KNOWN:
        return dict(_WELL_KNOWN[message.full_name])
    if message.name not in schemas:
        schemas[message.name] = schema = {
            "type": "object",
            "description": _comments().get(message.full_name, ""),
            "additionalProperties": False,
            "properties": {},
        }
        schema["properties"] = {field.name: _field(field, schemas) for field in message.fields}
    return {"$ref": f"#/components/schemas/{message.name}"}


def _field(field: Any, schemas: Json) -> Json:
    if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        schema = _reference(field.message_type, schemas)
    elif field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        prefix = field.enum_type.values_by_number[0].name.removesuffix("UNSPECIFIED")
        words = [value.name.removeprefix(prefix).lower() for value in field.enum_type.values if value.number]
        schema = {"type": "string", "enum": words}
    else:
        schema = dict(_SCALARS[field.cpp_type])
    if field.is_repeated:
        schema = {"type": "array", "items": schema}
    comment = _comments().get(field.full_name)
    return schema | {"description": comment} if comment else schema


@cache
def _comments() -> Mapping[str, str]:
    """What the protos say of each service, method, message and field, by full name."""
    described = FileDescriptorSet.FromString(files("clozerec.v1").joinpath("described.binpb").read_bytes())
    comments: dict[str, str] = {}
    for file in described.file:
        names: dict[tuple[int, ...], str] = {}
        for i, message in enumerate(file.message_type):
            names[4, i] = f"{file.package}.{message.name}"
            names |= {(4, i, 2, j): f"{names[4, i]}.{field.name}" for j, field in enumerate(message.field)}
        for i, service in enumerate(file.service):
            names[6, i] = f"{file.package}.{service.name}"
            names |= {(6, i, 2, j): f"{names[6, i]}.{method.name}" for j, method in enumerate(service.method)}
        for location in file.source_code_info.location:
            name = names.get(tuple(location.path))
            if name and location.leading_comments:
                lines = (line.strip() for line in location.leading_comments.strip().splitlines())
                comments[name] = "\n".join(lines).replace("\n\n", "\0").replace("\n", " ").replace("\0", "\n\n")
    return comments
