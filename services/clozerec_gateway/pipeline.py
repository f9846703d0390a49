"""The gateway's one path: resolve the query, encode what it reads, retrieve what is near, shape the answer.

Each query type is a function that yields a `Target`: what to retrieve by, and what to leave out. The rest is common.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from clozerec_core.bundle import Manifest
from clozerec_core.errors import BadRequest, BundleMismatch, NoTextEngine, UnknownItem
from clozerec_core.filters import column_violations
from clozerec_core.interactions import newest_distinct, window_around, without_repeats
from clozerec_core.limits import MAX_SEEN_ITEMS
from clozerec_gateway.clients import EncodedSequence, EncoderClient, RetrieverClient, Selection, StoredItem, TextItem
from clozerec_gateway.histories import Histories
from clozerec_gateway.query import (
    Fallback,
    Found,
    Query,
    QueryType,
    Recommendation,
    Source,
    check_item_ids,
    mask_index_fault,
)

LEAST_HISTORY_READ = 1_000
"""Members of a history that are sent to the encoder, those nearest to the mask; twice the window where that is more, so
that items without a vector among them do not shorten it."""


@dataclass(frozen=True)
class Target:
    """What to retrieve by: a vector, a stored item, or (neither) popularity."""

    intent: Sequence[float] | None = None
    stored_item_id: str = ""
    source: Source = Source.MODEL
    fallback: Fallback = Fallback.NONE
    unknown_item_ids: Sequence[str] = ()
    text_truncated: bool = False


def popularity(unknown_item_ids: Sequence[str] = ()) -> Target:
    """What is left when nothing of the person or session is known."""
    return Target(source=Source.POPULARITY, fallback=Fallback.POPULARITY, unknown_item_ids=unknown_item_ids)


class Pipeline:
    """Answers queries from one bundle."""

    def __init__(
        self, manifest: Manifest, encoder: EncoderClient, retriever: RetrieverClient, histories: Histories
    ) -> None:
        self.manifest = manifest
        self._encoder = encoder
        self._retriever = retriever
        self._histories = histories
        self._history_read = max(LEAST_HISTORY_READ, 2 * manifest.model.max_sequence_length)

    def check_bundle(self, bundle_id: str) -> None:
        """Refuse a request that means another bundle; empty means the current one."""
        if bundle_id not in ("", self.manifest.bundle_id):
            raise BundleMismatch(bundle_id, self.manifest.bundle_id)

    async def recommend(self, query: Query) -> Recommendation:
        """Answer one valid query.

        Raises:
            BadRequest, NoTextEngine, UnknownItem: see the RPC.
        """
        history = await self._histories.item_ids(query.user_id) if query.user_id else None
        selection = self._selection(query, history or ())
        match query.query_type:
            case QueryType.ITEM_TO_ITEM:
                return await self._item_to_item(query, selection)
            case QueryType.USER_TO_ITEM:
                target = await self._user_to_item(query, history)
            case QueryType.CONTEXTUAL:
                target = await self._contextual(query, history or ())
            case QueryType.SEQUENTIAL:
                target = await self._sequential(query)
        return self._answer(query, target, await self._retrieve(target, selection))

    async def get_items(self, item_ids: Sequence[str], metadata_fields: Sequence[str]) -> list[StoredItem]:
        """What is known of each id, in their order."""
        check_item_ids(item_ids)
        if faults := list(column_violations(metadata_fields, self.manifest.schema_, "metadata_fields")):
            raise BadRequest(faults)
        return await self._retriever.get_items(item_ids, metadata_fields)

    async def _item_to_item(self, query: Query, selection: Selection) -> Recommendation:
        """Nearest by the stored vector; by the text only when the id is unknown or missing."""
        target = Target(stored_item_id=query.item_id)
        try:
            if query.item_id:
                found = await self._retriever.search_by_item(query.item_id, selection)
                if found.vectorless_item:
                    target = popularity()
                    found = await self._retrieve(target, selection)
                return self._answer(query, target, found)
        except UnknownItem:
            if not query.item_text:
                raise
        encoded = await self._encoder.encode_text(self._usable_text(query))
        target = Target(
            intent=encoded.item_vector,
            source=Source.TEXT,
            unknown_item_ids=[query.item_id] if query.item_id else [],
            text_truncated=encoded.truncated,
        )
        return self._answer(query, target, await self._retrieve(target, selection))

    async def _user_to_item(self, query: Query, history: Sequence[str] | None) -> Target:
        if history is None:
            return popularity()
        if (query.mask_index or 0) > len(history):
            raise BadRequest.of("mask_index", mask_index_fault(query.mask_index or 0, len(history)))
        window = window_around(len(history), query.mask_index, self._history_read)
        members = history[window.start : window.stop]
        encoded = await self._encoder.encode_sequence(members, window.mask_position)
        return popularity() if encoded.intent is None else Target(encoded.intent)

    async def _contextual(self, query: Query, history: Sequence[str]) -> Target:
        """History and item as one sequence; the item's text stands in for an unknown id."""
        before = list(history[-self._history_read :])
        by_text = not query.item_id
        encoded = await self._encode_contextual(query, before, by_text)
        unknown = [query.item_id] if not by_text and len(before) in encoded.unknown else []
        if unknown:
            if not query.item_text:
                raise UnknownItem(query.item_id)
            by_text = True
            encoded = await self._encode_contextual(query, before, by_text)
        if encoded.intent is None:
            return popularity(unknown)
        unread = {position for position in encoded.unknown | encoded.vectorless if position < len(before)}
        return Target(
            encoded.intent,
            source=Source.TEXT if by_text else Source.MODEL,
            fallback=Fallback.SESSION_ONLY if len(unread) == len(before) else Fallback.NONE,
            unknown_item_ids=unknown,
            text_truncated=encoded.text_truncated,
        )

    async def _encode_contextual(self, query: Query, before: Sequence[str], by_text: bool) -> EncodedSequence:
        item = TextItem(self._usable_text(query)) if by_text else query.item_id
        return await self._encoder.encode_sequence([*before, item], None)

    async def _sequential(self, query: Query) -> Target:
        encoded = await self._encoder.encode_sequence(query.session_items, query.mask_index)
        unknown = without_repeats(query.session_items[position] for position in sorted(encoded.unknown))
        if encoded.intent is None:
            return popularity(unknown)
        return Target(encoded.intent, unknown_item_ids=unknown)

    def _usable_text(self, query: Query) -> str:
        if self.manifest.text is None:
            raise NoTextEngine
        return query.item_text

    def _selection(self, query: Query, history: Sequence[str]) -> Selection:
        """What may be returned: all but the query's item, what was named, and what was seen."""
        excluded = [*query.exclude_item_ids]
        if query.item_id:
            excluded.append(query.item_id)
        exclude_seen = self.manifest.serving.exclude_seen if query.exclude_seen is None else query.exclude_seen
        if exclude_seen:
            excluded += query.session_items
            excluded += newest_distinct(history, MAX_SEEN_ITEMS)
        return Selection(
            top_k=query.top_k or self.manifest.serving.top_k_results,
            where=query.where,
            exclude_item_ids=without_repeats(excluded),
            metadata_fields=query.metadata_fields,
        )

    async def _retrieve(self, target: Target, selection: Selection) -> Found:
        if target.intent is None:
            return await self._retriever.list_popular(selection)
        return await self._retriever.search(target.intent, selection)

    def _answer(self, query: Query, target: Target, found: Found) -> Recommendation:
        return Recommendation(
            recommendation_id=uuid.uuid4().hex,
            query_type=query.query_type,
            bundle_id=self.manifest.bundle_id,
            found=found,
            source=target.source,
            fallback=target.fallback,
            unknown_item_ids=target.unknown_item_ids,
            text_truncated=target.text_truncated,
        )
