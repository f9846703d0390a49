"""Clients of an encoder and a retriever in this process: what these can do at once is called, without messages, without
a turn of the event loop, and without a circuit, for it can be neither slow nor gone. The rest goes by RPC.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from clozerec_core.bundle import Bundle
from clozerec_core.predicate import Predicate
from clozerec_gateway.clients import EncodedSequence, EncoderClient, Member, RetrieverClient, Selection
from clozerec_gateway.query import Candidate, Found


class EncoderHere(Protocol):
    """An encoder of this process."""

    def intent_at_once(self, bundle_id: str, rows: Sequence[int], mask_position: int) -> Sequence[float] | None:
        """The intent of a window of the bundle's items; None: ask by RPC."""
        ...


class RetrieverHere(Protocol):
    """A retriever of this process."""

    def find_at_once(
        self,
        bundle_id: str,
        question: Sequence[float] | str,
        fields: Sequence[str],
        top_k: int,
        where: Predicate,
        exclude_item_ids: Sequence[str],
        exclude_rows: Sequence[int],
    ) -> tuple[tuple[list[str], list[float], list[int], list[bytes]], bool, bool] | None:
        """Columns of a search by vector or stored item, `exhausted`, `vectorless_item`; None: ask by RPC."""
        ...


class NearEncoderClient(EncoderClient):
    """Asks an encoder of this process."""

    def __init__(self, here: EncoderHere, bundle: Bundle, *arguments: Any) -> None:
        """
        Args:
            here: the encoder.
            bundle: whose ids are meant.
            arguments: stub, bundle and dependency, as `EncoderClient` takes them.
        """
        super().__init__(*arguments)
        self._here = here
        self._id = bundle.bundle_id

    async def encode_sequence(self, members: Sequence[Member], mask_index: int | None) -> EncodedSequence:
        """See `EncoderClient`."""
        rows = self._rows_of([member for member in members if isinstance(member, str)])
        if rows and len(rows) == len(members):
            intent = self._here.intent_at_once(self._id, rows, len(rows) if mask_index is None else mask_index)
            if intent is not None:
                return EncodedSequence(intent)
        return await super().encode_sequence(members, mask_index)


class NearRetrieverClient(RetrieverClient):
    """Asks a retriever of this process."""

    def __init__(self, here: RetrieverHere, bundle: Bundle, *arguments: Any) -> None:
        """
        Args:
            here: the retriever.
            bundle: whose items are searched.
            arguments: stub, bundle id, schema and dependency, as `RetrieverClient` takes them.
        """
        super().__init__(*arguments)
        self._here = here
        self._id = bundle.bundle_id

    async def search(self, intent: Sequence[float], selection: Selection) -> Found:
        """See `RetrieverClient`."""
        return self._found(intent, selection) or await super().search(intent, selection)

    async def search_by_item(self, item_id: str, selection: Selection) -> Found:
        """See `RetrieverClient`."""
        return self._found(item_id, selection) or await super().search_by_item(item_id, selection)

    def _found(self, question: Sequence[float] | str, selection: Selection) -> Found | None:
        if selection.after is not None or selection.include_vectors:
            return None
        answer = self._here.find_at_once(
            self._id,
            question,
            selection.metadata_fields,
            selection.top_k,
            selection.where,
            selection.exclude_item_ids,
            selection.exclude_rows,
        )
        if answer is None:
            return None
        columns, exhausted, vectorless_item = answer
        return Found([Candidate(*each) for each in zip(*columns, strict=True)], exhausted, vectorless_item)
