"""Messages of the public API to domain types and back."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from google.protobuf import struct_pb2, timestamp_pb2
from google.rpc import status_pb2

from clozerec.v1 import recommender_pb2
from clozerec_core import limits
from clozerec_core.bundle import Manifest
from clozerec_core.catalogue import Schema
from clozerec_core.errors import BadRequest, ClozerecError, Violation
from clozerec_core.filter_wire import columns_to_wire
from clozerec_core.filters import MAX_CONDITIONS, MAX_LEVELS, MAX_VALUES, parse_filter
from clozerec_core.predicate import EVERYTHING, Predicate
from clozerec_core.request_context import current_request
from clozerec_core.rpc_errors import to_status
from clozerec_gateway.clients import ItemOutcome, StoredItem
from clozerec_gateway.events import Event
from clozerec_gateway.histories import US_PER_S
from clozerec_gateway.live_items import ItemInput
from clozerec_gateway.query import Fallback, Query, QueryType, Recommendation, Source, violations_of
from clozerec_gateway.recording import Farewell

MAX_FILTER_NODES = 4 * (MAX_CONDITIONS + MAX_VALUES)
"""Objects and lists around conditions and values included; the parser then counts exactly."""

KNOWN_FILTERS, KNOWN_FILTER_BYTES = 256, 1_024
"""So many are kept parsed, of such a size at most."""

MAX_METADATA_NODES = 16_384
"""Of one item."""

_QUERY_TYPES = {recommender_pb2.QueryType.Value(f"QUERY_TYPE_{kind.name}"): kind for kind in QueryType}
_QUERY_TYPES_TO_WIRE: dict[QueryType, Any] = {kind: number for number, kind in _QUERY_TYPES.items()}
_SOURCES: dict[Source, Any] = {source: recommender_pb2.Source.Value(f"SOURCE_{source.name}") for source in Source}
_FALLBACKS: dict[Fallback, Any] = {
    fallback: recommender_pb2.Fallback.Value(f"FALLBACK_{fallback.name}") for fallback in Fallback
}


class FilterReader:
    """Reads filters in the terms of one schema. Those that came lately are known: most callers have a few of them."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._known = lru_cache(KNOWN_FILTERS)(self._parsed)

    def read(self, filters: struct_pb2.Struct) -> Predicate:
        """The predicate.

        Raises:
            BadRequest: with a violation for everything that is wrong.
        """
        raw = filters.SerializeToString(deterministic=True)
        return self._known(raw) if len(raw) <= KNOWN_FILTER_BYTES else self._parsed(raw)

    def _parsed(self, raw: bytes) -> Predicate:
        return parse_filter(struct_to_dict(struct_pb2.Struct.FromString(raw), MAX_FILTER_NODES), self.schema)


def query_from_wire(request: recommender_pb2.RecommendRequest, filters: FilterReader) -> Query:
    """The domain's query, checked.

    Raises:
        BadRequest: with a violation for everything that is wrong.
    """
    faults: list[Violation] = []
    where: Predicate = EVERYTHING
    if request.HasField("filters"):
        try:
            where = filters.read(request.filters)
        except BadRequest as error:
            faults += error.violations
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
        diversity=request.diversity,
        explain=request.explain,
        page_token=request.page_token,
        fingerprint=fingerprint(request),
    )
    faults = [*violations_of(query, filters.schema), *faults]
    if faults:
        raise BadRequest(faults)
    return query


def fingerprint(request: recommender_pb2.RecommendRequest) -> bytes:
    """Which request it is, its page token aside: equal requests have equal ones, over gRPC and JSON alike."""
    bare = request
    if request.page_token:
        bare = recommender_pb2.RecommendRequest()
        bare.CopyFrom(request)
        bare.page_token = ""
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).digest()[:16]


def recommendation_to_wire(answer: Recommendation) -> recommender_pb2.RecommendResponse:
    """The message for an answer."""
    source = _SOURCES[answer.source]
    response = recommender_pb2.RecommendResponse(
        query_type=_QUERY_TYPES_TO_WIRE[answer.query_type],
        fallback=_FALLBACKS[answer.fallback],
        bundle_id=answer.bundle_id,
        unknown_item_ids=answer.unknown_item_ids,
        exhausted=answer.found.exhausted,
        next_page_token=answer.next_page_token,
    )
    for candidate in answer.found.candidates:
        item = response.items.add()
        item.MergeFromString(candidate.card)
        item.score, item.source = candidate.score, source
        for reason in answer.reasons.get(candidate.item_id, ()):
            item.reasons.add(kind=reason.kind, item_id=reason.item_id, weight=reason.weight, text=reason.text)
    return response


def events_from_wire(request: recommender_pb2.RecordInteractionsRequest, now_us: int) -> list[Event]:
    """The events of a call, unchecked; without a time they happen now, without an id they get one."""
    return [
        Event(
            user_id=message.user_id,
            item_id=message.item_id,
            time_us=_microseconds(message.time) if message.HasField("time") else now_us,
            event_type=message.event_type,
            event_id=message.event_id or uuid.uuid4().hex,
            recommendation_id=message.recommendation_id,
        )
        for message in request.interactions
    ]


def _microseconds(time: timestamp_pb2.Timestamp) -> int:
    return time.seconds * US_PER_S + time.nanos // 1_000


def recorded_to_wire(
    events: Sequence[Event], refusals: Sequence[BadRequest | None]
) -> recommender_pb2.RecordInteractionsResponse:
    """One status for each event."""
    response, request_id = recommender_pb2.RecordInteractionsResponse(), current_request().request_id
    for event, refusal in zip(events, refusals, strict=True):
        status = status_pb2.Status() if refusal is None else to_status(refusal, request_id)
        response.statuses.add(event_id=event.event_id, status=status)
    return response


def farewell_to_wire(farewell: Farewell) -> recommender_pb2.DeleteUserResponse:
    """What was forgotten, and what remains."""
    remains = ""
    if farewell.trained_bundle_ids:
        bundles = ", ".join(farewell.trained_bundle_ids)
        remains = f"The weights and popularity of {bundles} reflect this person until a training without their events."
    return recommender_pb2.DeleteUserResponse(
        erased_events=farewell.erased_events, trained_bundle_ids=farewell.trained_bundle_ids, remains=remains
    )


def inputs_from_wire(request: recommender_pb2.UpsertItemsRequest) -> tuple[list[ItemInput], list[str] | None]:
    """The items of a call, unchecked, and its mask; None: all columns."""
    items = [
        ItemInput(
            message.item_id, struct_to_dict(message.metadata, MAX_METADATA_NODES, f"items[{i}].metadata"), message.text
        )
        for i, message in enumerate(request.items)
    ]
    return items, list(request.update_mask.paths) if request.HasField("update_mask") else None


def outcomes_to_wire(
    item_ids: Sequence[str], outcomes: Sequence[ClozerecError | ItemOutcome]
) -> list[recommender_pb2.ItemResult]:
    """One result for each item."""
    request_id = current_request().request_id
    results = []
    for item_id, outcome in zip(item_ids, outcomes, strict=True):
        truncated = False
        if isinstance(outcome, ItemOutcome):
            truncated = outcome.text_truncated
            status = status_pb2.Status(code=outcome.code.value[0], message=outcome.message)
        else:
            status = to_status(outcome, request_id)
        results.append(recommender_pb2.ItemResult(item_id=item_id, status=status, text_truncated=truncated))
    return results


def items_to_wire(items: list[StoredItem]) -> recommender_pb2.GetItemsResponse:
    """The message for looked-up items."""
    response = recommender_pb2.GetItemsResponse(unknown_item_ids=[item.item_id for item in items if not item.known])
    for item in items:
        if item.known:
            response.items.add(item_id=item.item_id, display_name=item.display_name, metadata=item.metadata)
    return response


def info_to_wire(manifests: Sequence[Manifest], version: str) -> recommender_pb2.GetServiceInfoResponse:
    """What is served, by the current bundle first, and its limits."""
    manifest = manifests[0]
    return recommender_pb2.GetServiceInfoResponse(
        bundle_ids=[each.bundle_id for each in manifests],
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


def struct_to_dict(struct: struct_pb2.Struct, max_nodes: int, field: str = "filters") -> dict[str, object]:
    """Plain values of a Struct, NaN included (protobuf's own JSON form refuses it before we can name the field).

    Raises:
        BadRequest: it has more than `max_nodes` values, inner ones included, and is not read to its end.
    """
    return _Plain(max_nodes, field).fields(struct)


class _Plain:
    def __init__(self, max_nodes: int, field: str) -> None:
        self.max_nodes = max_nodes
        self.field = field
        self.num_nodes = 0

    def fields(self, struct: struct_pb2.Struct) -> dict[str, object]:
        return {key: self.value(value) for key, value in struct.fields.items()}

    def value(self, value: struct_pb2.Value) -> object:
        self.num_nodes += 1
        if self.num_nodes > self.max_nodes:
            raise BadRequest.of(self.field, f"over {self.max_nodes} values; at most so many are read")
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
