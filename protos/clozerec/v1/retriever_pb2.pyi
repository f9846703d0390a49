from clozerec.v1 import filter_pb2 as _filter_pb2
from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SearchRequest(_message.Message):
    __slots__ = ("bundle_id", "intent", "top_k", "filter", "item_id", "exclude_item_ids", "metadata_fields", "exact", "after", "include_vectors", "exclude_rows", "as_cards")
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    INTENT_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELDS_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_VECTORS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_ROWS_FIELD_NUMBER: _ClassVar[int]
    AS_CARDS_FIELD_NUMBER: _ClassVar[int]
    bundle_id: str
    intent: _containers.RepeatedScalarFieldContainer[float]
    top_k: int
    filter: _filter_pb2.Filter
    item_id: str
    exclude_item_ids: _containers.RepeatedScalarFieldContainer[str]
    metadata_fields: _containers.RepeatedScalarFieldContainer[str]
    exact: bool
    after: Cursor
    include_vectors: bool
    exclude_rows: _containers.RepeatedScalarFieldContainer[int]
    as_cards: bool
    def __init__(self, bundle_id: _Optional[str] = ..., intent: _Optional[_Iterable[float]] = ..., top_k: _Optional[int] = ..., filter: _Optional[_Union[_filter_pb2.Filter, _Mapping]] = ..., item_id: _Optional[str] = ..., exclude_item_ids: _Optional[_Iterable[str]] = ..., metadata_fields: _Optional[_Iterable[str]] = ..., exact: _Optional[bool] = ..., after: _Optional[_Union[Cursor, _Mapping]] = ..., include_vectors: _Optional[bool] = ..., exclude_rows: _Optional[_Iterable[int]] = ..., as_cards: _Optional[bool] = ...) -> None: ...

class Cursor(_message.Message):
    __slots__ = ("score", "row")
    SCORE_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    score: float
    row: int
    def __init__(self, score: _Optional[float] = ..., row: _Optional[int] = ...) -> None: ...

class Candidate(_message.Message):
    __slots__ = ("item_id", "score", "row", "display_name", "metadata", "vector")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    score: float
    row: int
    display_name: str
    metadata: _struct_pb2.Struct
    vector: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, item_id: _Optional[str] = ..., score: _Optional[float] = ..., row: _Optional[int] = ..., display_name: _Optional[str] = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., vector: _Optional[_Iterable[float]] = ...) -> None: ...

class Cards(_message.Message):
    __slots__ = ("item_ids", "scores", "rows", "cards", "vectors")
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    CARDS_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    item_ids: _containers.RepeatedScalarFieldContainer[str]
    scores: _containers.RepeatedScalarFieldContainer[float]
    rows: _containers.RepeatedScalarFieldContainer[int]
    cards: _containers.RepeatedScalarFieldContainer[bytes]
    vectors: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, item_ids: _Optional[_Iterable[str]] = ..., scores: _Optional[_Iterable[float]] = ..., rows: _Optional[_Iterable[int]] = ..., cards: _Optional[_Iterable[bytes]] = ..., vectors: _Optional[_Iterable[float]] = ...) -> None: ...

class SearchResponse(_message.Message):
    __slots__ = ("bundle_id", "candidates", "exhausted", "vectorless_item", "cards")
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    EXHAUSTED_FIELD_NUMBER: _ClassVar[int]
    VECTORLESS_ITEM_FIELD_NUMBER: _ClassVar[int]
    CARDS_FIELD_NUMBER: _ClassVar[int]
    bundle_id: str
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    exhausted: bool
    vectorless_item: bool
    cards: Cards
    def __init__(self, bundle_id: _Optional[str] = ..., candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ..., exhausted: _Optional[bool] = ..., vectorless_item: _Optional[bool] = ..., cards: _Optional[_Union[Cards, _Mapping]] = ...) -> None: ...

class ListPopularRequest(_message.Message):
    __slots__ = ("bundle_id", "top_k", "filter", "exclude_item_ids", "metadata_fields", "after", "exclude_rows", "as_cards")
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELDS_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_ROWS_FIELD_NUMBER: _ClassVar[int]
    AS_CARDS_FIELD_NUMBER: _ClassVar[int]
    bundle_id: str
    top_k: int
    filter: _filter_pb2.Filter
    exclude_item_ids: _containers.RepeatedScalarFieldContainer[str]
    metadata_fields: _containers.RepeatedScalarFieldContainer[str]
    after: Cursor
    exclude_rows: _containers.RepeatedScalarFieldContainer[int]
    as_cards: bool
    def __init__(self, bundle_id: _Optional[str] = ..., top_k: _Optional[int] = ..., filter: _Optional[_Union[_filter_pb2.Filter, _Mapping]] = ..., exclude_item_ids: _Optional[_Iterable[str]] = ..., metadata_fields: _Optional[_Iterable[str]] = ..., after: _Optional[_Union[Cursor, _Mapping]] = ..., exclude_rows: _Optional[_Iterable[int]] = ..., as_cards: _Optional[bool] = ...) -> None: ...

class ListPopularResponse(_message.Message):
    __slots__ = ("bundle_id", "candidates", "exhausted", "cards")
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    EXHAUSTED_FIELD_NUMBER: _ClassVar[int]
    CARDS_FIELD_NUMBER: _ClassVar[int]
    bundle_id: str
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    exhausted: bool
    cards: Cards
    def __init__(self, bundle_id: _Optional[str] = ..., candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ..., exhausted: _Optional[bool] = ..., cards: _Optional[_Union[Cards, _Mapping]] = ...) -> None: ...

class RetrieverServiceGetItemsRequest(_message.Message):
    __slots__ = ("bundle_id", "item_ids", "metadata_fields", "include_content")
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELDS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_CONTENT_FIELD_NUMBER: _ClassVar[int]
    bundle_id: str
    item_ids: _containers.RepeatedScalarFieldContainer[str]
    metadata_fields: _containers.RepeatedScalarFieldContainer[str]
    include_content: bool
    def __init__(self, bundle_id: _Optional[str] = ..., item_ids: _Optional[_Iterable[str]] = ..., metadata_fields: _Optional[_Iterable[str]] = ..., include_content: _Optional[bool] = ...) -> None: ...

class StoredItem(_message.Message):
    __slots__ = ("item_id", "known", "display_name", "metadata", "content", "text", "text_model", "day_zero")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TEXT_MODEL_FIELD_NUMBER: _ClassVar[int]
    DAY_ZERO_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    known: bool
    display_name: str
    metadata: _struct_pb2.Struct
    content: _containers.RepeatedScalarFieldContainer[float]
    text: str
    text_model: str
    day_zero: bool
    def __init__(self, item_id: _Optional[str] = ..., known: _Optional[bool] = ..., display_name: _Optional[str] = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., content: _Optional[_Iterable[float]] = ..., text: _Optional[str] = ..., text_model: _Optional[str] = ..., day_zero: _Optional[bool] = ...) -> None: ...

class RetrieverServiceGetItemsResponse(_message.Message):
    __slots__ = ("bundle_id", "items")
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    bundle_id: str
    items: _containers.RepeatedCompositeFieldContainer[StoredItem]
    def __init__(self, bundle_id: _Optional[str] = ..., items: _Optional[_Iterable[_Union[StoredItem, _Mapping]]] = ...) -> None: ...

class CatalogueItem(_message.Message):
    __slots__ = ("item_id", "metadata", "content", "text_model", "text")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    TEXT_MODEL_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    metadata: _struct_pb2.Struct
    content: _containers.RepeatedScalarFieldContainer[float]
    text_model: str
    text: str
    def __init__(self, item_id: _Optional[str] = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., content: _Optional[_Iterable[float]] = ..., text_model: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class RetrieverServiceUpsertItemsRequest(_message.Message):
    __slots__ = ("bundle_id", "items", "update_mask", "renew_content")
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    RENEW_CONTENT_FIELD_NUMBER: _ClassVar[int]
    bundle_id: str
    items: _containers.RepeatedCompositeFieldContainer[CatalogueItem]
    update_mask: _field_mask_pb2.FieldMask
    renew_content: bool
    def __init__(self, bundle_id: _Optional[str] = ..., items: _Optional[_Iterable[_Union[CatalogueItem, _Mapping]]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ..., renew_content: _Optional[bool] = ...) -> None: ...

class ItemStatus(_message.Message):
    __slots__ = ("item_id", "code", "message")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    code: int
    message: str
    def __init__(self, item_id: _Optional[str] = ..., code: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...

class RetrieverServiceUpsertItemsResponse(_message.Message):
    __slots__ = ("statuses", "bundle_id")
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    statuses: _containers.RepeatedCompositeFieldContainer[ItemStatus]
    bundle_id: str
    def __init__(self, statuses: _Optional[_Iterable[_Union[ItemStatus, _Mapping]]] = ..., bundle_id: _Optional[str] = ...) -> None: ...

class RetrieverServiceDeleteItemsRequest(_message.Message):
    __slots__ = ("item_ids",)
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    item_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, item_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class RetrieverServiceDeleteItemsResponse(_message.Message):
    __slots__ = ("statuses", "bundle_id")
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    statuses: _containers.RepeatedCompositeFieldContainer[ItemStatus]
    bundle_id: str
    def __init__(self, statuses: _Optional[_Iterable[_Union[ItemStatus, _Mapping]]] = ..., bundle_id: _Optional[str] = ...) -> None: ...

class GetIndexInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetIndexInfoResponse(_message.Message):
    __slots__ = ("bundle_id", "num_items", "dim", "columns", "default_top_k", "loaded_bundle_ids", "num_day_zero_items", "num_items_to_embed", "items_to_embed", "retyped_columns")
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    NUM_ITEMS_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_TOP_K_FIELD_NUMBER: _ClassVar[int]
    LOADED_BUNDLE_IDS_FIELD_NUMBER: _ClassVar[int]
    NUM_DAY_ZERO_ITEMS_FIELD_NUMBER: _ClassVar[int]
    NUM_ITEMS_TO_EMBED_FIELD_NUMBER: _ClassVar[int]
    ITEMS_TO_EMBED_FIELD_NUMBER: _ClassVar[int]
    RETYPED_COLUMNS_FIELD_NUMBER: _ClassVar[int]
    bundle_id: str
    num_items: int
    dim: int
    columns: _containers.RepeatedCompositeFieldContainer[_filter_pb2.Column]
    default_top_k: int
    loaded_bundle_ids: _containers.RepeatedScalarFieldContainer[str]
    num_day_zero_items: int
    num_items_to_embed: int
    items_to_embed: _containers.RepeatedScalarFieldContainer[str]
    retyped_columns: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, bundle_id: _Optional[str] = ..., num_items: _Optional[int] = ..., dim: _Optional[int] = ..., columns: _Optional[_Iterable[_Union[_filter_pb2.Column, _Mapping]]] = ..., default_top_k: _Optional[int] = ..., loaded_bundle_ids: _Optional[_Iterable[str]] = ..., num_day_zero_items: _Optional[int] = ..., num_items_to_embed: _Optional[int] = ..., items_to_embed: _Optional[_Iterable[str]] = ..., retyped_columns: _Optional[_Iterable[str]] = ...) -> None: ...

class CreateSnapshotRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CreateSnapshotResponse(_message.Message):
    __slots__ = ("path",)
    PATH_FIELD_NUMBER: _ClassVar[int]
    path: str
    def __init__(self, path: _Optional[str] = ...) -> None: ...
