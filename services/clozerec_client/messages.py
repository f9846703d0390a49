"""What goes to ClozeRec and what comes back, as plain values; the meanings stand in `recommender.proto`."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from google.protobuf import json_format
from google.rpc import status_pb2

from clozerec.v1 import filter_pb2, recommender_pb2

QueryType = Literal["item_to_item", "user_to_item", "contextual", "sequential"]
Source = Literal["model", "text", "popularity"]
Fallback = Literal["none", "popularity", "session_only", "degraded"]


@dataclass(frozen=True)
class Event:
    """Something that a person did with an item."""

    user_id: str
    item_id: str
    time: datetime | None = None
    """With a time zone; None: now."""
    event_type: str = ""
    event_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Makes sending it again harmless."""
    recommendation_id: str = ""


@dataclass(frozen=True)
class NewItem:
    """An item to add or change."""

    item_id: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """By column; a datetime with its time zone, or as RFC 3339 text."""
    text: str = ""
    """Empty: made from the metadata."""


@dataclass(frozen=True)
class Outcome:
    """What became of one event or item of a call."""

    id: str
    code: int
    """A google.rpc.Code; 0 is OK."""
    message: str
    text_truncated: bool = False
    """An item whose text is read in part only."""


@dataclass(frozen=True)
class Item:
    """An item of the catalogue."""

    item_id: str
    display_name: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class ServiceInfo:
    """What a gateway serves."""

    bundle_ids: Sequence[str]
    """Those that answer now, the current one first."""
    num_items: int
    columns: Mapping[str, str]
    """The type of each filterable column: string, bool, integer, float, datetime or string_list."""
    version: str
    limits: Mapping[str, int]
    """The largest requests that are answered, such as `max_top_k`."""
    default_top_k: int
    max_sequence_length: int
    """Items of a history that the network reads."""
    text_engine: bool
    """Whether `item_text` can be used."""


@dataclass(frozen=True)
class Reason:
    """Why an item was recommended."""

    kind: str
    item_id: str
    weight: float
    text: str


@dataclass(frozen=True)
class Recommended(Item):
    """An item of an answer."""

    score: float
    source: Source
    reasons: Sequence[Reason]


@dataclass(frozen=True)
class Recommendation:
    """An answer, best items first."""

    items: Sequence[Recommended]
    fallback: Fallback
    bundle_id: str
    recommendation_id: str
    unknown_item_ids: Sequence[str]
    exhausted: bool
    next_page_token: str


def query_to_wire(query_type: QueryType, fields: Mapping[str, Any]) -> recommender_pb2.RecommendRequest:
    """The request for keyword arguments named as in the proto; `filters` is a dict, in which datetimes may stand.

    Raises:
        TypeError, ValueError: a value is none that can be sent.
    """
    fields = dict(fields)
    filters = fields.pop("filters", None)
    for name in ("session_items", "exclude_item_ids", "metadata_fields"):
        listed(name, fields.get(name, ()))
    request = recommender_pb2.RecommendRequest(query_type=f"QUERY_TYPE_{query_type.upper()}", **fields)
    if filters:
        json_format.ParseDict(_plain(filters), request.filters)
    return request


def listed(name: str, values: Sequence[str]) -> Sequence[str]:
    """The values, unless they are one text: that is a sequence as well, of an id for each of its characters.

    Raises:
        TypeError: they are.
    """
    if isinstance(values, str):
        raise TypeError(f'{name}: expected a list of texts, such as ["{values}"], not one text')
    return values


def answer_from_wire(message: recommender_pb2.RecommendResponse) -> Recommendation:
    """The answer as plain values."""
    return Recommendation(
        items=[
            Recommended(
                item_id=item.item_id,
                display_name=item.display_name,
                metadata=json_format.MessageToDict(item.metadata),
                score=item.score,
                source=_word(recommender_pb2.Source.Name(item.source), "SOURCE_"),  # type: ignore[arg-type]
                reasons=[Reason(each.kind, each.item_id, each.weight, each.text) for each in item.reasons],
            )
            for item in message.items
        ],
        fallback=_word(recommender_pb2.Fallback.Name(message.fallback), "FALLBACK_"),  # type: ignore[arg-type]
        bundle_id=message.bundle_id,
        recommendation_id=message.recommendation_id,
        unknown_item_ids=list(message.unknown_item_ids),
        exhausted=message.exhausted,
        next_page_token=message.next_page_token,
    )


def events_to_wire(events: Sequence[Event]) -> recommender_pb2.RecordInteractionsRequest:
    """The request for events.

    Raises:
        ValueError: a time has no time zone.
    """
    request = recommender_pb2.RecordInteractionsRequest()
    for event in events:
        message = request.interactions.add(
            user_id=event.user_id,
            item_id=event.item_id,
            event_type=event.event_type,
            event_id=event.event_id,
            recommendation_id=event.recommendation_id,
        )
        if event.time is not None:
            if event.time.tzinfo is None:
                raise ValueError(f"the time of event {event.event_id} needs a time zone, such as timezone.utc")
            message.time.FromDatetime(event.time)
    return request


def items_to_wire(items: Sequence[NewItem], update_mask: Sequence[str] | None) -> recommender_pb2.UpsertItemsRequest:
    """The request for items."""
    request = recommender_pb2.UpsertItemsRequest()
    for item in items:
        message = request.items.add(item_id=item.item_id, text=item.text)
        json_format.ParseDict(_plain(item.metadata), message.metadata)
    if update_mask is not None:
        request.update_mask.SetInParent()
        request.update_mask.paths.extend(listed("update_mask", update_mask))
    return request


def lookup_to_wire(item_ids: Sequence[str], metadata_fields: Sequence[str]) -> recommender_pb2.GetItemsRequest:
    """The request for items by their ids."""
    return recommender_pb2.GetItemsRequest(
        item_ids=listed("item_ids", item_ids), metadata_fields=listed("metadata_fields", metadata_fields)
    )


def items_from_wire(message: recommender_pb2.GetItemsResponse) -> list[Item]:
    """Looked-up items as plain values."""
    return [Item(item.item_id, item.display_name, json_format.MessageToDict(item.metadata)) for item in message.items]


def info_from_wire(message: recommender_pb2.GetServiceInfoResponse) -> ServiceInfo:
    """What is served as plain values."""
    return ServiceInfo(
        bundle_ids=list(message.bundle_ids),
        num_items=message.num_items,
        columns={
            column.name: _word(filter_pb2.ColumnType.Name(column.type), "COLUMN_TYPE_") for column in message.columns
        },
        version=message.version,
        limits={field.name: getattr(message.limits, field.name) for field in message.limits.DESCRIPTOR.fields},
        default_top_k=message.default_top_k,
        max_sequence_length=message.max_sequence_length,
        text_engine=message.text_engine,
    )


def outcome(of: str, status: status_pb2.Status, text_truncated: bool = False) -> Outcome:
    """The outcome for an id."""
    return Outcome(of, status.code, status.message, text_truncated)


def _plain(value: Any) -> Any:
    """Metadata or a filter as JSON has it: datetimes as texts, tuples and sets as lists.

    Raises:
        ValueError: a datetime has no time zone.
    """
    match value:
        case datetime():
            if value.tzinfo is None:
                raise ValueError(f"{value} needs a time zone, such as timezone.utc")
            return value.isoformat()
        case Mapping():
            return {name: _plain(member) for name, member in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(member) for member in value]
        case _:
            return value


def _word(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower()
