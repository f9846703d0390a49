"""Items that callers add, change and delete while the service runs.

The encoder makes content vectors of their texts, the retriever stores them; the gateway owns how a text is made and
what a batch means: each item has an outcome of its own.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakValueDictionary

import grpc
from cachetools import TTLCache
from google.protobuf import json_format, struct_pb2

from clozerec_core.bundle import Manifest
from clozerec_core.catalogue import cell_to_json, item_text
from clozerec_core.errors import BadRequest, ClozerecError, DeadlineExceeded, NoTextEngine, Violation
from clozerec_core.filters import column_violations
from clozerec_core.limits import MAX_ITEM_TEXT_BYTES, MAX_ITEMS_PER_CALL
from clozerec_core.metadata import parse_item_metadata, parse_metadata
from clozerec_core.request_context import current_request
from clozerec_gateway.clients import (
    LOOKUP_SHARE,
    ContentItem,
    EncodedText,
    EncoderClient,
    ItemChange,
    ItemOutcome,
    RetrieverClient,
    StoredItem,
)
from clozerec_gateway.kept_catalogue import KeptCatalogue
from clozerec_gateway.notes import Note, NoteStore
from clozerec_gateway.query import check_item_ids, id_violations
from clozerec_gateway.recording import now_us

TEXTS_PER_CALL = 64
"""Embedded and stored together: about a second of one core."""

LONGEST_CALL_S = 60.0
"""For one batch of texts, where the request has so much time."""

CACHED_ITEMS = 20_000
CACHED_S = 30.0
"""A content vector may be so old where another gateway changed the item; this one's own changes count at once."""


@dataclass(frozen=True)
class ItemInput:
    """An item as a caller describes it."""

    item_id: str
    metadata: Mapping[str, Any]
    """Plain values by column."""
    text: str
    """Empty: made from the metadata."""


class DayZeroItems:
    """Items that are not as the bundle has them, as members of a sequence; kept for a while."""

    def __init__(self, retriever: RetrieverClient) -> None:
        self._retriever = retriever
        self._cache: TTLCache[str, ContentItem] = TTLCache(CACHED_ITEMS, CACHED_S)

    async def find(self, item_ids: Sequence[str]) -> dict[str, ContentItem]:
        """The known ones of ids. A known item without text has no content.

        Raises:
            DependencyGone: the retriever does not answer.
        """
        found, missing = {}, []
        for item_id in dict.fromkeys(item_ids):
            item = self._cache.get(item_id)
            if item is None:
                missing.append(item_id)
            else:
                found[item_id] = item
        for start in range(0, len(missing), MAX_ITEMS_PER_CALL):
            some = missing[start : start + MAX_ITEMS_PER_CALL]
            # Of the columns none is needed, but an empty list would mean all of them; the content weighs more anyway.
            for stored in await self._retriever.get_items(some, include_content=True, share=LOOKUP_SHARE):
                if stored.known:
                    content = array("f", stored.content)  # of Python's floats they would take 240 MB
                    found[stored.item_id] = ContentItem(stored.item_id, content, stored.display_name)
                    self._cache[stored.item_id] = found[stored.item_id]
        return found

    def forget(self, item_ids: Sequence[str]) -> None:
        """Look these up anew."""
        for item_id in item_ids:
            self._cache.pop(item_id, None)


class LiveItems:
    """Changes the catalogue, in the terms of one bundle."""

    def __init__(
        self,
        manifest: Manifest,
        encoder: EncoderClient,
        retriever: RetrieverClient,
        day_zero: DayZeroItems,
        kept: KeptCatalogue,
        notes: NoteStore,
    ) -> None:
        self._manifest = manifest
        self._encoder = encoder
        self._retriever = retriever
        self._day_zero = day_zero
        self._kept = kept
        self._notes = notes
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """Of items that are being changed."""

    async def upsert(
        self, items: Sequence[ItemInput], update_mask: Sequence[str] | None
    ) -> list[ClozerecError | ItemOutcome]:
        """Add or change items; for each, in their order, what became of it.

        Args:
            items: those of one call.
            update_mask: columns to change; None: all metadata is replaced.

        Raises:
            BadRequest: no item, too many, or an unknown column in the mask.
        """
        if not 1 <= len(items) <= MAX_ITEMS_PER_CALL:
            raise BadRequest.of("items", f"expected 1 to {MAX_ITEMS_PER_CALL:,} items, not {len(items):,}")
        if update_mask is not None and (
            faults := list(column_violations(update_mask, self._manifest.schema_, "update_mask"))
        ):
            raise BadRequest(faults)
        outcomes: list[ClozerecError | ItemOutcome] = []
        for start in range(0, len(items), TEXTS_PER_CALL):
            some = items[start : start + TEXTS_PER_CALL]
            outcomes += await self._upsert_some(some, update_mask, start)
        return outcomes

    async def delete(self, item_ids: Sequence[str]) -> list[ItemOutcome]:
        """Remove items; for each, in their order, what became of it.

        Raises:
            BadRequest: no id, too many, or one that no item can have.
            HistoryStoreGone, DependencyGone: nothing is acknowledged; the same call again is harmless.
        """
        check_item_ids(item_ids)
        # The retriever first: were it gone, a note would make unknown what is still recommended. A deletion is
        # acknowledged once it is noted, too, so no answer without the retriever brings back what a caller saw deleted.
        async with self._turn(item_ids):
            try:
                outcomes = await self._retriever.delete(item_ids, LONGEST_CALL_S)
            finally:
                self._day_zero.forget(item_ids)
            done = [outcome.item_id for outcome in outcomes if outcome.code is grpc.StatusCode.OK]
            await self._note([Note(item_id, deleted=True, changed_us=now_us()) for item_id in done])
            return outcomes

    async def get(self, item_ids: Sequence[str], metadata_fields: Sequence[str]) -> list[StoredItem]:
        """What is known of each id, in their order.

        Raises:
            BadRequest: no id, too many, a wrong one, or an unknown column.
        """
        check_item_ids(item_ids)
        if faults := list(column_violations(metadata_fields, self._manifest.schema_, "metadata_fields")):
            raise BadRequest(faults)
        return await self._retriever.get_items(item_ids, metadata_fields)

    async def embed_again(self) -> int:
        """Give items a content vector of the bundle's text model, where they have one of another; how many got it.

        Not all of them in one call; 0 where none is left that has a text, or the retriever is not at this bundle yet.

        Raises:
            DependencyGone: encoder or retriever did not answer.
        """
        item_ids = await self._retriever.items_to_embed()
        num_embedded = 0
        for start in range(0, len(item_ids), TEXTS_PER_CALL):
            some = item_ids[start : start + TEXTS_PER_CALL]
            stored = await self._retriever.get_items(some, include_content=True)
            num_embedded += await self._renew([item for item in stored if item.text])
        return num_embedded

    async def _renew(self, items: Sequence[StoredItem]) -> int:
        if not items or self._manifest.text is None:
            return 0
        encoded = await self._encoder.encode_texts([item.text for item in items], LONGEST_CALL_S)
        changes = [
            ItemChange(item.item_id, struct_pb2.Struct(), item.text, vectors.content, self._manifest.text.model)
            for item, vectors in zip(items, encoded, strict=True)
        ]
        try:
            await self._retriever.renew_content(changes, LONGEST_CALL_S)
        finally:
            self._day_zero.forget([item.item_id for item in items])
        return len(items)

    async def _upsert_some(
        self, items: Sequence[ItemInput], update_mask: Sequence[str] | None, first: int
    ) -> list[ClozerecError | ItemOutcome]:
        if current_request().remaining_s() == 0:
            return [DeadlineExceeded("the deadline passed before this item's turn; send it again")] * len(items)
        outcomes: list[ClozerecError | ItemOutcome | None] = [
            self._refusal(item, f"items[{first + i}]") for i, item in enumerate(items)
        ]
        valid = [item for item, outcome in zip(items, outcomes, strict=True) if outcome is None]
        try:
            async with self._turn(item.item_id for item in valid):
                stored = iter(await self._store(valid, update_mask) if valid else ())
        except ClozerecError as error:
            return [outcome or error for outcome in outcomes]
        return [outcome or next(stored) for outcome in outcomes]

    @asynccontextmanager
    async def _turn(self, item_ids: Iterable[str]) -> AsyncIterator[None]:
        """Change items when nobody else does here, so that notes come in the retriever's order: a deletion that is
        noted after a later upsert would make unknown what is recommended.
        """
        async with AsyncExitStack() as stack:
            for item_id in sorted(set(item_ids)):  # in one order, or two calls might wait for each other
                await stack.enter_async_context(self._turns.setdefault(item_id, asyncio.Lock()))
            yield

    async def _store(self, items: Sequence[ItemInput], update_mask: Sequence[str] | None) -> list[ItemOutcome]:
        changes = await self._with_content(items, update_mask)
        try:
            outcomes = await self._retriever.upsert(changes, update_mask, LONGEST_CALL_S)
        finally:
            self._day_zero.forget([item.item_id for item in items])
        done = [outcome.item_id for outcome in outcomes if outcome.code is grpc.StatusCode.OK]
        if done:
            stored = await self._retriever.get_items(list(dict.fromkeys(done)))
            await self._note([Note.of(item, now_us()) for item in stored if item.known])
        return [
            replace(outcome, text_truncated=change.text_truncated)
            for outcome, change in zip(outcomes, changes, strict=True)
        ]

    async def _note(self, notes: Sequence[Note]) -> None:
        self._kept.apply(notes, await self._notes.write_notes(notes))

    async def _with_content(self, items: Sequence[ItemInput], update_mask: Sequence[str] | None) -> list[ItemChange]:
        """The changes with the content vectors of their texts, each text embedded once."""
        text = self._manifest.text
        documents = [dict(item.metadata) for item in items]
        speaks_of_text = [update_mask is None or bool(item.text) for item in items]
        if text is not None and update_mask is not None and set(update_mask) & set(text.columns):
            documents = await self._laid_over(items, update_mask)
            speaks_of_text = [True] * len(items)
        whole = [
            item.text or self._text_of(document) if speaks else ""
            for item, document, speaks in zip(items, documents, speaks_of_text, strict=True)
        ]
        texts = [each.encode()[:MAX_ITEM_TEXT_BYTES].decode(errors="ignore") for each in whole]
        if text is None:
            return [ItemChange(item.item_id, _struct(item.metadata)) for item in items]
        distinct = [each for each in dict.fromkeys(texts) if each]
        encoded = await self._encoder.encode_texts(distinct, LONGEST_CALL_S) if distinct else []
        vectors_of: dict[str, EncodedText] = dict(zip(distinct, encoded, strict=True))
        return [
            ItemChange(
                item.item_id,
                _struct(item.metadata),
                text=own_text,
                content=vectors_of[own_text].content if own_text else (),
                text_model=text.model if speaks else "",
                text_truncated=bool(own_text) and (len(own_text) < len(said) or vectors_of[own_text].truncated),
            )
            for item, own_text, said, speaks in zip(items, texts, whole, speaks_of_text, strict=True)
        ]

    async def _laid_over(self, items: Sequence[ItemInput], update_mask: Sequence[str]) -> list[dict[str, Any]]:
        """The items' metadata as they will be: what is stored, with the masked columns replaced."""
        stored = await self._retriever.get_items([item.item_id for item in items])
        return [
            json_format.MessageToDict(before.metadata) | {name: item.metadata.get(name) for name in update_mask}
            for item, before in zip(items, stored, strict=True)
        ]

    def _text_of(self, document: Mapping[str, Any]) -> str:
        """The text that the bundle's template makes of metadata, as the trainer makes it."""
        if self._manifest.text is None:
            return ""
        schema = self._manifest.schema_
        cells = parse_metadata(document, schema)
        shown = {name: cell_to_json(cell, schema[name]) for name, cell in cells.items()}
        return item_text(shown, self._manifest.text.columns)

    def _refusal(self, item: ItemInput, field: str) -> ClozerecError | None:
        faults = list(id_violations(f"{field}.item_id", item.item_id, is_required=True))
        size = len(item.text.encode())
        if size > MAX_ITEM_TEXT_BYTES:
            faults.append(Violation(f"{field}.text", f"{size} bytes; at most {MAX_ITEM_TEXT_BYTES} are allowed"))
        if item.text and not item.text.strip():
            faults.append(Violation(f"{field}.text", "expected some words, not blanks only"))
        try:
            parse_item_metadata(item.metadata, self._manifest.schema_, f"{field}.metadata")
        except BadRequest as error:
            faults += error.violations
        if faults:
            return BadRequest(faults)
        return NoTextEngine() if item.text and self._manifest.text is None else None


def _struct(document: Mapping[str, Any]) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update(document)
    return struct
