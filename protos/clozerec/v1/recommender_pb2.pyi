import datetime

from clozerec.v1 import filter_pb2 as _filter_pb2
from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class QueryType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    QUERY_TYPE_UNSPECIFIED: _ClassVar[QueryType]
    QUERY_TYPE_ITEM_TO_ITEM: _ClassVar[QueryType]
    QUERY_TYPE_USER_TO_ITEM: _ClassVar[QueryType]
    QUERY_TYPE_CONTEXTUAL: _ClassVar[QueryType]
    QUERY_TYPE_SEQUENTIAL: _ClassVar[QueryType]

class Source(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SOURCE_UNSPECIFIED: _ClassVar[Source]
    SOURCE_MODEL: _ClassVar[Source]
    SOURCE_TEXT: _ClassVar[Source]
    SOURCE_POPULARITY: _ClassVar[Source]

class Fallback(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FALLBACK_UNSPECIFIED: _ClassVar[Fallback]
    FALLBACK_NONE: _ClassVar[Fallback]
    FALLBACK_POPULARITY: _ClassVar[Fallback]
    FALLBACK_SESSION_ONLY: _ClassVar[Fallback]
    FALLBACK_DEGRADED: _ClassVar[Fallback]
QUERY_TYPE_UNSPECIFIED: QueryType
QUERY_TYPE_ITEM_TO_ITEM: QueryType
QUERY_TYPE_USER_TO_ITEM: QueryType
QUERY_TYPE_CONTEXTUAL: QueryType
QUERY_TYPE_SEQUENTIAL: QueryType
SOURCE_UNSPECIFIED: Source
SOURCE_MODEL: Source
SOURCE_TEXT: Source
SOURCE_POPULARITY: Source
FALLBACK_UNSPECIFIED: Fallback
FALLBACK_NONE: Fallback
FALLBACK_POPULARITY: Fallback
FALLBACK_SESSION_ONLY: Fallback
FALLBACK_DEGRADED: Fallback

class RecommendRequest(_message.Message):
    __slots__ = ("query_type", "user_id", "item_id", "item_text", "session_items", "filters", "top_k", "exclude_item_ids", "exclude_seen", "mask_index", "diversity", "explain", "metadata_fields", "page_token", "bundle_id")
    QUERY_TYPE_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_TEXT_FIELD_NUMBER: _ClassVar[int]
    SESSION_ITEMS_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_SEEN_FIELD_NUMBER: _ClassVar[int]
    MASK_INDEX_FIELD_NUMBER: _ClassVar[int]
    DIVERSITY_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELDS_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    query_type: QueryType
    user_id: str
    item_id: str
    item_text: str
    session_items: _containers.RepeatedScalarFieldContainer[str]
    filters: _struct_pb2.Struct
    top_k: int
    exclude_item_ids: _containers.RepeatedScalarFieldContainer[str]
    exclude_seen: bool
    mask_index: int
    diversity: float
    explain: bool
    metadata_fields: _containers.RepeatedScalarFieldContainer[str]
    page_token: str
    bundle_id: str
    def __init__(self, query_type: _Optional[_Union[QueryType, str]] = ..., user_id: _Optional[str] = ..., item_id: _Optional[str] = ..., item_text: _Optional[str] = ..., session_items: _Optional[_Iterable[str]] = ..., filters: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., top_k: _Optional[int] = ..., exclude_item_ids: _Optional[_Iterable[str]] = ..., exclude_seen: _Optional[bool] = ..., mask_index: _Optional[int] = ..., diversity: _Optional[float] = ..., explain: _Optional[bool] = ..., metadata_fields: _Optional[_Iterable[str]] = ..., page_token: _Optional[str] = ..., bundle_id: _Optional[str] = ...) -> None: ...

class Reason(_message.Message):
    __slots__ = ("kind", "item_id", "weight", "text")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    kind: str
    item_id: str
    weight: float
    text: str
    def __init__(self, kind: _Optional[str] = ..., item_id: _Optional[str] = ..., weight: _Optional[float] = ..., text: _Optional[str] = ...) -> None: ...

class RecommendedItem(_message.Message):
    __slots__ = ("item_id", "score", "display_name", "metadata", "source", "reasons")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    score: float
    display_name: str
    metadata: _struct_pb2.Struct
    source: Source
    reasons: _containers.RepeatedCompositeFieldContainer[Reason]
    def __init__(self, item_id: _Optional[str] = ..., score: _Optional[float] = ..., display_name: _Optional[str] = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., source: _Optional[_Union[Source, str]] = ..., reasons: _Optional[_Iterable[_Union[Reason, _Mapping]]] = ...) -> None: ...

class RecommendResponse(_message.Message):
    __slots__ = ("items", "query_type", "fallback", "bundle_id", "recommendation_id", "unknown_item_ids", "exhausted", "next_page_token")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    QUERY_TYPE_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    RECOMMENDATION_ID_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    EXHAUSTED_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[RecommendedItem]
    query_type: QueryType
    fallback: Fallback
    bundle_id: str
    recommendation_id: str
    unknown_item_ids: _containers.RepeatedScalarFieldContainer[str]
    exhausted: bool
    next_page_token: str
    def __init__(self, items: _Optional[_Iterable[_Union[RecommendedItem, _Mapping]]] = ..., query_type: _Optional[_Union[QueryType, str]] = ..., fallback: _Optional[_Union[Fallback, str]] = ..., bundle_id: _Optional[str] = ..., recommendation_id: _Optional[str] = ..., unknown_item_ids: _Optional[_Iterable[str]] = ..., exhausted: _Optional[bool] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class RecommendResult(_message.Message):
    __slots__ = ("response", "status")
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    response: RecommendResponse
    status: _status_pb2.Status
    def __init__(self, response: _Optional[_Union[RecommendResponse, _Mapping]] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class LiveInteraction(_message.Message):
    __slots__ = ("user_id", "item_id", "time", "event_type", "event_id", "recommendation_id")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    EVENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    RECOMMENDATION_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    item_id: str
    time: _timestamp_pb2.Timestamp
    event_type: str
    event_id: str
    recommendation_id: str
    def __init__(self, user_id: _Optional[str] = ..., item_id: _Optional[str] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., event_type: _Optional[str] = ..., event_id: _Optional[str] = ..., recommendation_id: _Optional[str] = ...) -> None: ...

class RecordInteractionsRequest(_message.Message):
    __slots__ = ("interactions",)
    INTERACTIONS_FIELD_NUMBER: _ClassVar[int]
    interactions: _containers.RepeatedCompositeFieldContainer[LiveInteraction]
    def __init__(self, interactions: _Optional[_Iterable[_Union[LiveInteraction, _Mapping]]] = ...) -> None: ...

class InteractionStatus(_message.Message):
    __slots__ = ("event_id", "status")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    status: _status_pb2.Status
    def __init__(self, event_id: _Optional[str] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class RecordInteractionsResponse(_message.Message):
    __slots__ = ("statuses",)
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    statuses: _containers.RepeatedCompositeFieldContainer[InteractionStatus]
    def __init__(self, statuses: _Optional[_Iterable[_Union[InteractionStatus, _Mapping]]] = ...) -> None: ...

class ItemInput(_message.Message):
    __slots__ = ("item_id", "metadata", "text")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    metadata: _struct_pb2.Struct
    text: str
    def __init__(self, item_id: _Optional[str] = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., text: _Optional[str] = ...) -> None: ...

class UpsertItemsRequest(_message.Message):
    __slots__ = ("items", "update_mask")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[ItemInput]
    update_mask: _field_mask_pb2.FieldMask
    def __init__(self, items: _Optional[_Iterable[_Union[ItemInput, _Mapping]]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ...) -> None: ...

class ItemResult(_message.Message):
    __slots__ = ("item_id", "status", "text_truncated")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    TEXT_TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    status: _status_pb2.Status
    text_truncated: bool
    def __init__(self, item_id: _Optional[str] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., text_truncated: _Optional[bool] = ...) -> None: ...

class UpsertItemsResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ItemResult]
    def __init__(self, results: _Optional[_Iterable[_Union[ItemResult, _Mapping]]] = ...) -> None: ...

class DeleteItemsRequest(_message.Message):
    __slots__ = ("item_ids",)
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    item_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, item_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class DeleteItemsResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ItemResult]
    def __init__(self, results: _Optional[_Iterable[_Union[ItemResult, _Mapping]]] = ...) -> None: ...

class GetItemsRequest(_message.Message):
    __slots__ = ("item_ids", "metadata_fields")
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELDS_FIELD_NUMBER: _ClassVar[int]
    item_ids: _containers.RepeatedScalarFieldContainer[str]
    metadata_fields: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, item_ids: _Optional[_Iterable[str]] = ..., metadata_fields: _Optional[_Iterable[str]] = ...) -> None: ...

class Item(_message.Message):
    __slots__ = ("item_id", "display_name", "metadata")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    display_name: str
    metadata: _struct_pb2.Struct
    def __init__(self, item_id: _Optional[str] = ..., display_name: _Optional[str] = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class GetItemsResponse(_message.Message):
    __slots__ = ("items", "unknown_item_ids")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Item]
    unknown_item_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, items: _Optional[_Iterable[_Union[Item, _Mapping]]] = ..., unknown_item_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class DeleteUserRequest(_message.Message):
    __slots__ = ("user_id",)
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    def __init__(self, user_id: _Optional[str] = ...) -> None: ...

class DeleteUserResponse(_message.Message):
    __slots__ = ("erased_events", "trained_bundle_ids", "remains")
    ERASED_EVENTS_FIELD_NUMBER: _ClassVar[int]
    TRAINED_BUNDLE_IDS_FIELD_NUMBER: _ClassVar[int]
    REMAINS_FIELD_NUMBER: _ClassVar[int]
    erased_events: int
    trained_bundle_ids: _containers.RepeatedScalarFieldContainer[str]
    remains: str
    def __init__(self, erased_events: _Optional[int] = ..., trained_bundle_ids: _Optional[_Iterable[str]] = ..., remains: _Optional[str] = ...) -> None: ...

class GetServiceInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_top_k", "max_session_items", "max_exclude_item_ids", "max_id_bytes", "max_item_text_bytes", "max_filter_levels", "max_filter_conditions", "max_filter_values")
    MAX_TOP_K_FIELD_NUMBER: _ClassVar[int]
    MAX_SESSION_ITEMS_FIELD_NUMBER: _ClassVar[int]
    MAX_EXCLUDE_ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    MAX_ID_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_ITEM_TEXT_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_FILTER_LEVELS_FIELD_NUMBER: _ClassVar[int]
    MAX_FILTER_CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_FILTER_VALUES_FIELD_NUMBER: _ClassVar[int]
    max_top_k: int
    max_session_items: int
    max_exclude_item_ids: int
    max_id_bytes: int
    max_item_text_bytes: int
    max_filter_levels: int
    max_filter_conditions: int
    max_filter_values: int
    def __init__(self, max_top_k: _Optional[int] = ..., max_session_items: _Optional[int] = ..., max_exclude_item_ids: _Optional[int] = ..., max_id_bytes: _Optional[int] = ..., max_item_text_bytes: _Optional[int] = ..., max_filter_levels: _Optional[int] = ..., max_filter_conditions: _Optional[int] = ..., max_filter_values: _Optional[int] = ...) -> None: ...

class GetServiceInfoResponse(_message.Message):
    __slots__ = ("bundle_ids", "num_items", "columns", "version", "limits", "default_top_k", "max_sequence_length", "text_engine")
    BUNDLE_IDS_FIELD_NUMBER: _ClassVar[int]
    NUM_ITEMS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_TOP_K_FIELD_NUMBER: _ClassVar[int]
    MAX_SEQUENCE_LENGTH_FIELD_NUMBER: _ClassVar[int]
    TEXT_ENGINE_FIELD_NUMBER: _ClassVar[int]
    bundle_ids: _containers.RepeatedScalarFieldContainer[str]
    num_items: int
    columns: _containers.RepeatedCompositeFieldContainer[_filter_pb2.Column]
    version: str
    limits: Limits
    default_top_k: int
    max_sequence_length: int
    text_engine: bool
    def __init__(self, bundle_ids: _Optional[_Iterable[str]] = ..., num_items: _Optional[int] = ..., columns: _Optional[_Iterable[_Union[_filter_pb2.Column, _Mapping]]] = ..., version: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., default_top_k: _Optional[int] = ..., max_sequence_length: _Optional[int] = ..., text_engine: _Optional[bool] = ...) -> None: ...
