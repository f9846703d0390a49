"""The gateway's two dependencies, as domain calls: messages are built and read here and nowhere behind.

Each call has its share of the request's time, and carries its id and trace context; what a failure is, `dependency.py`
says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import grpc
from google.protobuf import struct_pb2

from clozerec.v1 import encoder_pb2, retriever_pb2
from clozerec_core.bundle import Bundle
from clozerec_core.catalogue import Schema
from clozerec_core.errors import ClozerecError, UnknownItem
from clozerec_core.filter_wire import filter_to_wire
from clozerec_core.predicate import EVERYTHING, Predicate
from clozerec_gateway.dependency import Dependency
from clozerec_gateway.query import Candidate, Found, Place

if TYPE_CHECKING:
    from clozerec.v1.encoder_pb2_grpc import EncoderServiceAsyncStub
    from clozerec.v1.retriever_pb2_grpc import RetrieverServiceAsyncStub

KNOWN_FILTERS = 64
"""Kept as messages; each at most a thousand values."""

SEQUENCE_SHARE = 0.5
"""Of the time left: an answer without the encoder needs the retriever still."""

LOOKUP_SHARE = 0.2
"""Of the time left, for what an answer may do without: encoder and search may have to be waited for still."""

LAST_SHARE = 0.7
"""Of the time left, for calls after which only the gateway itself can answer. Where all three were waited for in vain,
this leaves it a tenth of the caller's time."""


@dataclass(frozen=True)
class TextItem:
    """A sequence member that is known by its text alone."""

    text: str


@dataclass(frozen=True)
class ContentItem:
    """A sequence member that is known by its content vector: a day-zero item."""

    item_id: str
    content: Sequence[float]
    display_name: str


Member = str | TextItem | ContentItem
"""Of a sequence; a str is the id of an item of the bundle."""


@dataclass(frozen=True)
class EncodedSequence:
    """What the encoder made of a sequence."""

    intent: Sequence[float] | None
    """None: no member of it could be read."""
    text_truncated: bool = False


@dataclass(frozen=True)
class EncodedText:
    """What the encoder made of a text."""

    content: Sequence[float]
    item_vector: Sequence[float]
    truncated: bool


@dataclass(frozen=True)
class Selection:
    """Which items may be returned, how many, and with which columns."""

    top_k: int
    where: Predicate = EVERYTHING
    exclude_item_ids: Sequence[str] = ()
    """Items that the bundle does not have."""
    exclude_rows: Sequence[int] = ()
    """Items of the bundle."""
    metadata_fields: Sequence[str] = ()
    after: Place | None = None
    """Only what comes after it in the order."""
    include_vectors: bool = False


@dataclass(frozen=True)
class StoredItem:
    """An item as the retriever knows it."""

    item_id: str
    known: bool
    display_name: str
    metadata: struct_pb2.Struct
    """Passed through as it came."""
    content: Sequence[float] = ()
    text: str = ""
    text_model: str = ""


@dataclass(frozen=True)
class ItemChange:
    """An upsert as the retriever takes it."""

    item_id: str
    metadata: struct_pb2.Struct
    text: str = ""
    content: Sequence[float] = ()
    text_model: str = ""
    """Empty: the content is not spoken of, or the item has no text."""
    text_truncated: bool = False
    """The content is of the text's beginning."""


@dataclass(frozen=True)
class ItemOutcome:
    """What became of one item of a batch."""

    item_id: str
    code: grpc.StatusCode
    message: str = ""
    text_truncated: bool = False


_CODES: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


class EncoderClient:
    """Calls EncoderService for one bundle."""

    def __init__(self, stub: EncoderServiceAsyncStub, bundle: Bundle, encoder: Dependency) -> None:
        self._stub = stub
        self._bundle_id = bundle.bundle_id
        self._rows_of = bundle.catalogue.rows_of
        self._encoder = encoder

    async def encode_sequence(self, members: Sequence[Member], mask_index: int | None) -> EncodedSequence:
        """Intent of one sequence, oldest first; the mask after the last member by default."""
        return (await self.encode_sequences([members], [mask_index]))[0]

    async def encode_sequences(
        self, sequences: Sequence[Sequence[Member]], mask_indexes: Sequence[int | None]
    ) -> list[EncodedSequence]:
        """Intents of several sequences, in one batch."""
        request = encoder_pb2.EncodeSequencesRequest(bundle_id=self._bundle_id)
        for members, mask_index in zip(sequences, mask_indexes, strict=True):
            ids = [member for member in members if isinstance(member, str)]
            rows = self._rows_of(ids) if len(ids) == len(members) else []
            if len(rows) == len(members):
                request.sequences.add(rows=rows, mask_index=mask_index)
            else:
                request.sequences.add(tokens=[_token(member) for member in members], mask_index=mask_index)
        response = await self._encoder.call(self._stub.EncodeSequences, request, SEQUENCE_SHARE)
        return [
            EncodedSequence(list(encoded.intent) or None, text_truncated=bool(encoded.truncated_tokens))
            for encoded in response.sequences
        ]

    async def encode_texts(self, texts: Sequence[str], timeout_s: float | None = None) -> list[EncodedText]:
        """Content vectors of texts, and the vectors of items with these texts and no behaviour."""
        request = encoder_pb2.EncodeTextsRequest(bundle_id=self._bundle_id, texts=texts)
        response = await self._encoder.call(self._stub.EncodeTexts, request, LAST_SHARE, timeout_s)
        return [EncodedText(text.content, text.item, text.truncated) for text in response.texts]


class RetrieverClient:
    """Calls RetrieverService for one bundle."""

    def __init__(self, stub: RetrieverServiceAsyncStub, bundle_id: str, schema: Schema, retriever: Dependency) -> None:
        self._stub = stub
        self._bundle_id = bundle_id
        self._filter_to_wire = lru_cache(KNOWN_FILTERS)(partial(filter_to_wire, schema=schema))
        self._retriever = retriever

    async def search(self, intent: Sequence[float], selection: Selection) -> Found:
        """Items nearest to a vector of the bundle's space."""
        return await self._search(self._search_request(selection, intent=intent))

    async def search_by_item(self, item_id: str, selection: Selection) -> Found:
        """Items nearest to a stored one.

        Raises:
            UnknownItem: the catalogue does not hold it.
        """
        try:
            return await self._search(self._search_request(selection, item_id=item_id))
        except ClozerecError as error:
            if error.status is grpc.StatusCode.NOT_FOUND:
                raise UnknownItem(item_id) from None
            raise

    async def list_popular(self, selection: Selection) -> Found:
        """The most popular items first."""
        request = retriever_pb2.ListPopularRequest(
            bundle_id=self._bundle_id,
            top_k=selection.top_k,
            exclude_item_ids=selection.exclude_item_ids,
            exclude_rows=selection.exclude_rows,
            metadata_fields=selection.metadata_fields,
            after=_cursor(selection.after),
            as_cards=True,
        )
        if selection.where != EVERYTHING:
            request.filter.CopyFrom(self._filter_to_wire(selection.where))
        response = await self._retriever.call(self._stub.ListPopular, request, LAST_SHARE)
        return Found(_candidates(response.cards), response.exhausted)

    async def get_items(
        self,
        item_ids: Sequence[str],
        metadata_fields: Sequence[str] = (),
        include_content: bool = False,
        share: float = LAST_SHARE,
    ) -> list[StoredItem]:
        """What is known of each id, in their order; `share` is of the time left."""
        request = retriever_pb2.RetrieverServiceGetItemsRequest(
            bundle_id=self._bundle_id,
            item_ids=item_ids,
            metadata_fields=metadata_fields,
            include_content=include_content,
        )
        response = await self._retriever.call(self._stub.GetItems, request, share)
        return [
            StoredItem(
                item.item_id, item.known, item.display_name, item.metadata, item.content, item.text, item.text_model
            )
            for item in response.items
        ]

    async def upsert(
        self, changes: Sequence[ItemChange], update_mask: Sequence[str] | None, timeout_s: float
    ) -> list[ItemOutcome]:
        """Store items; one outcome for each, in their order."""
        request = self._upsert_request(changes)
        if update_mask is not None:
            request.update_mask.SetInParent()  # also where no path is named
            request.update_mask.paths.extend(update_mask)
        response = await self._retriever.call(self._stub.UpsertItems, request, LAST_SHARE, timeout_s)
        return [_outcome(status) for status in response.statuses]

    async def items_to_embed(self) -> Sequence[str]:
        """Items that have no content of the bundle's text model, those that come first; none while the retriever's
        current bundle is another."""
        request = retriever_pb2.GetIndexInfoRequest()
        response = await self._retriever.call(self._stub.GetIndexInfo, request, LAST_SHARE)
        return response.items_to_embed if response.bundle_id == self._bundle_id else ()

    async def renew_content(self, changes: Sequence[ItemChange], timeout_s: float) -> None:
        """Store content of the texts that items have; one that is gone, or has another text by now, stays as it is."""
        request = self._upsert_request(changes)
        request.renew_content = True
        await self._retriever.call(self._stub.UpsertItems, request, LAST_SHARE, timeout_s)

    async def delete(self, item_ids: Sequence[str], timeout_s: float) -> list[ItemOutcome]:
        """Remove items; one outcome for each, in their order."""
        request = retriever_pb2.RetrieverServiceDeleteItemsRequest(item_ids=item_ids)
        response = await self._retriever.call(self._stub.DeleteItems, request, LAST_SHARE, timeout_s)
        return [_outcome(status) for status in response.statuses]

    def _upsert_request(self, changes: Sequence[ItemChange]) -> retriever_pb2.RetrieverServiceUpsertItemsRequest:
        return retriever_pb2.RetrieverServiceUpsertItemsRequest(
            bundle_id=self._bundle_id,
            items=[
                retriever_pb2.CatalogueItem(
                    item_id=change.item_id,
                    metadata=change.metadata,
                    content=change.content,
                    text_model=change.text_model,
                    text=change.text,
                )
                for change in changes
            ],
        )

    def _search_request(
        self, selection: Selection, intent: Sequence[float] = (), item_id: str = ""
    ) -> retriever_pb2.SearchRequest:
        request = retriever_pb2.SearchRequest(
            bundle_id=self._bundle_id,
            intent=intent,
            item_id=item_id,
            top_k=selection.top_k,
            exclude_item_ids=selection.exclude_item_ids,
            exclude_rows=selection.exclude_rows,
            metadata_fields=selection.metadata_fields,
            after=_cursor(selection.after),
            include_vectors=selection.include_vectors,
            as_cards=True,
        )
        if selection.where != EVERYTHING:
            request.filter.CopyFrom(self._filter_to_wire(selection.where))
        return request

    async def _search(self, request: retriever_pb2.SearchRequest) -> Found:
        response = await self._retriever.call(self._stub.Search, request, LAST_SHARE)
        return Found(_candidates(response.cards), response.exhausted, response.vectorless_item)


def _token(member: Member) -> encoder_pb2.Token:
    match member:
        case str():
            return encoder_pb2.Token(item_id=member)
        case TextItem(text):
            return encoder_pb2.Token(text=text)
        case ContentItem(_, content):
            return encoder_pb2.Token(content=encoder_pb2.ContentVector(values=content))


def _cursor(place: Place | None) -> retriever_pb2.Cursor | None:
    return None if place is None else retriever_pb2.Cursor(score=place.score, row=place.row)


def _candidates(cards: retriever_pb2.Cards) -> list[Candidate]:
    columns = (cards.item_ids, list(cards.scores), list(cards.rows), cards.cards)
    vectors = list(cards.vectors)
    if not vectors:
        return [Candidate(*each) for each in zip(*columns, strict=True)]
    dim = len(vectors) // len(columns[1])
    of_each = [vectors[start : start + dim] for start in range(0, len(vectors), dim)]
    return [Candidate(*each) for each in zip(*columns, of_each, strict=True)]


def _outcome(status: retriever_pb2.ItemStatus) -> ItemOutcome:
    return ItemOutcome(status.item_id, _CODES[status.code], status.message)
