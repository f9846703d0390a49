from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Token(_message.Message):
    __slots__ = ("item_id", "content", "text")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    content: ContentVector
    text: str
    def __init__(self, item_id: _Optional[str] = ..., content: _Optional[_Union[ContentVector, _Mapping]] = ..., text: _Optional[str] = ...) -> None: ...

class ContentVector(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class Sequence(_message.Message):
    __slots__ = ("tokens", "mask_index", "rows")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    MASK_INDEX_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedCompositeFieldContainer[Token]
    mask_index: int
    rows: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, tokens: _Optional[_Iterable[_Union[Token, _Mapping]]] = ..., mask_index: _Optional[int] = ..., rows: _Optional[_Iterable[int]] = ...) -> None: ...

class EncodeSequencesRequest(_message.Message):
    __slots__ = ("bundle_id", "sequences")
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    bundle_id: str
    sequences: _containers.RepeatedCompositeFieldContainer[Sequence]
    def __init__(self, bundle_id: _Optional[str] = ..., sequences: _Optional[_Iterable[_Union[Sequence, _Mapping]]] = ...) -> None: ...

class EncodedSequence(_message.Message):
    __slots__ = ("intent", "unknown_tokens", "vectorless_tokens", "truncated_tokens")
    INTENT_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    VECTORLESS_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    intent: _containers.RepeatedScalarFieldContainer[float]
    unknown_tokens: _containers.RepeatedScalarFieldContainer[int]
    vectorless_tokens: _containers.RepeatedScalarFieldContainer[int]
    truncated_tokens: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, intent: _Optional[_Iterable[float]] = ..., unknown_tokens: _Optional[_Iterable[int]] = ..., vectorless_tokens: _Optional[_Iterable[int]] = ..., truncated_tokens: _Optional[_Iterable[int]] = ...) -> None: ...

class EncodeSequencesResponse(_message.Message):
    __slots__ = ("bundle_id", "sequences")
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    bundle_id: str
    sequences: _containers.RepeatedCompositeFieldContainer[EncodedSequence]
    def __init__(self, bundle_id: _Optional[str] = ..., sequences: _Optional[_Iterable[_Union[EncodedSequence, _Mapping]]] = ...) -> None: ...

class EncodeTextsRequest(_message.Message):
    __slots__ = ("bundle_id", "texts")
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    bundle_id: str
    texts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, bundle_id: _Optional[str] = ..., texts: _Optional[_Iterable[str]] = ...) -> None: ...

class EncodedText(_message.Message):
    __slots__ = ("content", "item", "truncated")
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    content: _containers.RepeatedScalarFieldContainer[float]
    item: _containers.RepeatedScalarFieldContainer[float]
    truncated: bool
    def __init__(self, content: _Optional[_Iterable[float]] = ..., item: _Optional[_Iterable[float]] = ..., truncated: _Optional[bool] = ...) -> None: ...

class EncodeTextsResponse(_message.Message):
    __slots__ = ("bundle_id", "texts")
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    bundle_id: str
    texts: _containers.RepeatedCompositeFieldContainer[EncodedText]
    def __init__(self, bundle_id: _Optional[str] = ..., texts: _Optional[_Iterable[_Union[EncodedText, _Mapping]]] = ...) -> None: ...

class GetEncoderInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetEncoderInfoResponse(_message.Message):
    __slots__ = ("bundle_id", "dim", "max_sequence_length", "content_dim", "text_model", "text_max_tokens", "loaded_bundle_ids")
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    MAX_SEQUENCE_LENGTH_FIELD_NUMBER: _ClassVar[int]
    CONTENT_DIM_FIELD_NUMBER: _ClassVar[int]
    TEXT_MODEL_FIELD_NUMBER: _ClassVar[int]
    TEXT_MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOADED_BUNDLE_IDS_FIELD_NUMBER: _ClassVar[int]
    bundle_id: str
    dim: int
    max_sequence_length: int
    content_dim: int
    text_model: str
    text_max_tokens: int
    loaded_bundle_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, bundle_id: _Optional[str] = ..., dim: _Optional[int] = ..., max_sequence_length: _Optional[int] = ..., content_dim: _Optional[int] = ..., text_model: _Optional[str] = ..., text_max_tokens: _Optional[int] = ..., loaded_bundle_ids: _Optional[_Iterable[str]] = ...) -> None: ...
