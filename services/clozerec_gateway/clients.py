"""The gateway's two dependencies, as domain calls: messages are built and read here and nowhere behind.

Each call carries a deadline derived from the request's, its id and its trace context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import grpc
from google.protobuf import struct_pb2
from google.protobuf.message import Message

from clozerec.v1 import encoder_pb2, encoder_pb2_grpc, retriever_pb2, retriever_pb2_grpc
from clozerec_core.catalogue import Schema
from clozerec_core.errors import ClozerecError, DeadlineExceeded, UnknownItem
from clozerec_core.filter_wire import filter_to_wire
from clozerec_core.predicate import EVERYTHING, Predicate
from clozerec_core.request_context import current_request
from clozerec_core.rpc_errors import from_rpc_error, relayed
from clozerec_gateway.query import Candidate, Found

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True)
class TextItem:
    """A sequence member that is known by its text alone."""

    text: str


@dataclass(frozen=True)
class EncodedSequence:
    """What the encoder made of a sequence; positions are those of its members."""

    intent: Sequence[float] | None
    unknown: frozenset[int]
    vectorless: frozenset[int]
    text_truncated: bool


@dataclass(frozen=True)
class EncodedText:
    """What the encoder made of a text."""

    item_vector: Sequence[float]
    truncated: bool


@dataclass(frozen=True)
class Selection:
    """Which items may be returned, how many, and with which columns."""

    top_k: int
    where: Predicate
    exclude_item_ids: Sequence[str]
    metadata_fields: Sequence[str]


@dataclass(frozen=True)
class StoredItem:
    """An item as the retriever knows it."""

    item_id: str
    known: bool
    display_name: str
    metadata: struct_pb2.Struct
    """Passed through as it came."""


class EncoderClient:
    """Calls EncoderService for one bundle."""

    def __init__(self, stub: encoder_pb2_grpc.EncoderServiceAsyncStub, bundle_id: str) -> None:
        self._stub = stub
        self._bundle_id = bundle_id

    async def encode_sequence(self, members: Sequence[str | TextItem], mask_index: int | None) -> EncodedSequence:
        """Intent of one sequence of item ids and texts, oldest first; the mask after the last member by default."""
        tokens = [
            encoder_pb2.Token(text=member.text) if isinstance(member, TextItem) else encoder_pb2.Token(item_id=member)
            for member in members
        ]
        sequence = encoder_pb2.Sequence(tokens=tokens, mask_index=mask_index)
        request = encoder_pb2.EncodeSequencesRequest(bundle_id=self._bundle_id, sequences=[sequence])
        response = await _call(self._stub.EncodeSequences, request, "the encoder")
        encoded = response.sequences[0]
        return EncodedSequence(
            intent=encoded.intent or None,
            unknown=frozenset(encoded.unknown_tokens),
            vectorless=frozenset(encoded.vectorless_tokens),
            text_truncated=bool(encoded.truncated_tokens),
        )

    async def encode_text(self, text: str) -> EncodedText:
        """Item vector of an item with this text and no behaviour."""
        request = encoder_pb2.EncodeTextsRequest(bundle_id=self._bundle_id, texts=[text])
        response = await _call(self._stub.EncodeTexts, request, "the encoder")
        return EncodedText(response.texts[0].item, response.texts[0].truncated)


class RetrieverClient:
    """Calls RetrieverService for one bundle."""

    def __init__(
        self,
        stub: retriever_pb2_grpc.RetrieverServiceAsyncStub,
        bundle_id: str,
        schema: Schema,
    ) -> None:
        self._stub = stub
        self._bundle_id = bundle_id
        self._schema = schema

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
            metadata_fields=selection.metadata_fields,
        )
        if selection.where != EVERYTHING:
            request.filter.CopyFrom(filter_to_wire(selection.where, self._schema))
        response = await _call(self._stub.ListPopular, request, "the retriever")
        return Found([_candidate(message) for message in response.candidates], response.exhausted)

    async def get_items(self, item_ids: Sequence[str], metadata_fields: Sequence[str]) -> list[StoredItem]:
        """What is known of each id, in their order."""
        request = retriever_pb2.RetrieverServiceGetItemsRequest(
            bundle_id=self._bundle_id, item_ids=item_ids, metadata_fields=metadata_fields
        )
        response = await _call(self._stub.GetItems, request, "the retriever")
        return [StoredItem(item.item_id, item.known, item.display_name, item.metadata) for item in response.items]

    def _search_request(
        self, selection: Selection, intent: Sequence[float] = (), item_id: str = ""
    ) -> retriever_pb2.SearchRequest:
        request = retriever_pb2.SearchRequest(
            bundle_id=self._bundle_id,
            intent=intent,
            item_id=item_id,
            top_k=selection.top_k,
            exclude_item_ids=selection.exclude_item_ids,
            metadata_fields=selection.metadata_fields,
        )
        if selection.where != EVERYTHING:
            request.filter.CopyFrom(filter_to_wire(selection.where, self._schema))
        return request

    async def _search(self, request: retriever_pb2.SearchRequest) -> Found:
        response = await _call(self._stub.Search, request, "the retriever")
        candidates = [_candidate(message) for message in response.candidates]
        return Found(candidates, response.exhausted, response.vectorless_item)


def _candidate(message: retriever_pb2.Candidate) -> Candidate:
    return Candidate(message.item_id, message.score, message.display_name, message.metadata)


async def _call(
    method: grpc.aio.UnaryUnaryMultiCallable[Request, Response], request: Request, service: str
) -> Response:
    """One call inside the request's deadline.

    Raises:
        ClozerecError: what the failure means to the gateway's caller.
    """
    context = current_request()
    try:
        return await method(request, timeout=context.remaining_s(), metadata=context.outgoing_metadata())
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, service) from error
    except TimeoutError:
        raise DeadlineExceeded(f"{service} did not answer in time") from None
    except ClozerecError as error:
        raise relayed(error, service) from error
