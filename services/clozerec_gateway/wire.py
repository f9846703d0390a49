"""Messages of the public API to domain types and back."""

from __future__ import annotations

import math
from typing import Any

from google.protobuf import struct_pb2

from clozerec.v1 import recommender_pb2
from clozerec_core import limits
from clozerec_core.bundle import Manifest
from clozerec_core.catalogue import Schema
from clozerec_core.errors import BadRequest, NotImplementedYet, Violation
from clozerec_core.filter_wire import columns_to_wire
from clozerec_core.filters import MAX_CONDITIONS, MAX_LEVELS, MAX_VALUES, parse_filter
from clozerec_core.predicate import EVERYTHING, Predicate
from clozerec_gateway.clients import StoredItem
from clozerec_gateway.query import Fallback, Query, QueryType, Recommendation, Source, violations_of

MAX_FILTER_NODES = 4 * (MAX_CONDITIONS + MAX_VALUES)
"""Objects and lists around conditions and values included; the parser then counts exactly."""

_QUERY_TYPES = {recommender_pb2.QueryType.Value(f"QUERY_TYPE_{kind.name}"): kind for kind in QueryType}
_QUERY_TYPES_TO_WIRE: dict[QueryType, Any] = {kind: number for number, kind in _QUERY_TYPES.items()}
_SOURCES: dict[Source, Any] = {source: recommender_pb2.Source.Value(f"SOURCE_{source.name}") for source in Source}
_FALLBACKS: dict[Fallback, Any] = {
    fallback: recommender_pb2.Fallback.Value(f"FALLBACK_{fallback.name}") for fallback in Fallback
}


def query_from_wire(request: recommender_pb2.RecommendRequest, schema: Schema) -> Query:
    """The domain's query, checked.

    Raises:
        BadRequest: with a violation for everything that is wrong.
        NotImplementedYet: a part of the API that this version does not answer.
    """
    faults: list[Violation] = []
    where: Predicate = EVERYTHING
    try:
        where = parse_filter(struct_to_dict(request.filters, MAX_FILTER_NODES), schema)
    except BadRequest as error:
        faults += error.violations
    if not (math.isfinite(request.diversity) and 0 <= request.diversity <= 1):
        faults.append(Violation("diversity", "expected 0 (off) to 1"))
    query_type = _QUERY_TYPES.get(request.query_type)
    if query_type is None:
        expected = ", ".join(kind.value for kind in QueryType)
        raise BadRequest([Violation("query_type", f"expected one of {expected}"), *faults])
    query = Query(
        query_type=query_type,
        user_id=request.user_id,
        item_id=request.item_id,
        item_text=request.item_text,
        session_items=list(request.session_items),
        where=where,
        top_k=request.top_k,
        exclude_item_ids=list(request.exclude_item_ids),
        exclude_seen=request.exclude_seen if request.HasField("exclude_seen") else None,
        mask_index=request.mask_index if request.HasField("mask_index") else None,
        metadata_fields=list(request.metadata_fields),
    )
    faults = [*violations_of(query, schema), *faults]
    if faults:
        raise BadRequest(faults)
    for name, used in (
        ("diversity", request.diversity > 0),
        ("explain", request.explain),
        ("page_token", bool(request.page_token)),
    ):
        if used:
            raise NotImplementedYet(name)
    return query


def recommendation_to_wire(answer: Recommendation) -> recommender_pb2.RecommendResponse:
    """The message for an answer."""
    source = _SOURCES[answer.source]
    response = recommender_pb2.RecommendResponse(
        query_type=_QUERY_TYPES_TO_WIRE[answer.query_type],
        fallback=_FALLBACKS[answer.fallback],
        bundle_id=answer.bundle_id,
        recommendation_id=answer.recommendation_id,
        unknown_item_ids=answer.unknown_item_ids,
        exhausted=answer.found.exhausted,
    )
    for candidate in answer.found.candidates:
        response.items.add(
            item_id=candidate.item_id,
            score=candidate.score,
            display_name=candidate.display_name,
            metadata=candidate.metadata,
            source=source,
        )
    return response


def items_to_wire(items: list[StoredItem]) -> recommender_pb2.GetItemsResponse:
    """The message for looked-up items."""
    response = recommender_pb2.GetItemsResponse(unknown_item_ids=[item.item_id for item in items if not item.known])
    for item in items:
        if item.known:
            response.items.add(item_id=item.item_id, display_name=item.display_name, metadata=item.metadata)
    return response


def info_to_wire(manifest: Manifest, version: str) -> recommender_pb2.GetServiceInfoResponse:
    """What is served, and its limits."""
    return recommender_pb2.GetServiceInfoResponse(
        bundle_ids=[manifest.bundle_id],
        num_items=manifest.model.num_items,
        columns=columns_to_wire(manifest.schema_),
        version=version,
        limits=recommender_pb2.Limits(
            max_top_k=limits.MAX_TOP_K,
            max_session_items=limits.MAX_SESSION_ITEMS,
            max_exclude_item_ids=limits.MAX_EXCLUDE_ITEM_IDS,
            max_id_bytes=limits.MAX_ID_BYTES,
            max_item_text_bytes=limits.MAX_ITEM_TEXT_BYTES,
            max_filter_levels=MAX_LEVELS,
            max_filter_conditions=MAX_CONDITIONS,
            max_filter_values=MAX_VALUES,
        ),
        default_top_k=manifest.serving.top_k_results,
        max_sequence_length=manifest.model.max_sequence_length,
        text_engine=manifest.text is not None,
    )


def struct_to_dict(struct: struct_pb2.Struct, max_nodes: int) -> dict[str, object]:
    """Plain values of a Struct, NaN included (protobuf's own JSON form refuses it before we can name the field).

    Raises:
        BadRequest: it has more than `max_nodes` values, inner ones included, and is not read to its end.
    """
    return _Plain(max_nodes).fields(struct)


class _Plain:
    def __init__(self, max_nodes: int) -> None:
        self.max_nodes = max_nodes
        self.num_nodes = 0

    def fields(self, struct: struct_pb2.Struct) -> dict[str, object]:
        return {key: self.value(value) for key, value in struct.fields.items()}

    def value(self, value: struct_pb2.Value) -> object:
        self.num_nodes += 1
        if self.num_nodes > self.max_nodes:
            raise BadRequest.of("filters", f"over {self.max_nodes} values, which no valid filter has")
        match value.WhichOneof("kind"):
            case "struct_value":
                return self.fields(value.struct_value)
            case "list_value":
                return [self.value(member) for member in value.list_value.values]
            case "string_value":
                return value.string_value
            case "number_value":
                return value.number_value
            case "bool_value":
                return value.bool_value
            case _:
                return None
