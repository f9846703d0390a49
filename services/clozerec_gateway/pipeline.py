"""The gateway's one path: resolve the query, encode what it reads, retrieve what is near, shape the answer.

Each query type becomes a `Ranked`: what candidates are ranked by. The rest is common. Where a part of the system does
not reply, the same path goes on with less and says so:

    encoder gone      similar to the last item of the sequence; a text that only it can read: UNAVAILABLE
    retriever gone    popularity, as the gateway keeps it
    history gone      the session or item alone, or popularity; exclusions by what the request names
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import grpc

from clozerec_core import metrics
from clozerec_core.bundle import Bundle
from clozerec_core.errors import BadRequest, NoTextEngine, UnknownItem
from clozerec_gateway.clients import EncoderClient, RetrieverClient, Selection, TextItem
from clozerec_gateway.dependency import DependencyGone
from clozerec_gateway.diversity import num_candidates
from clozerec_gateway.events import HistoryStoreGone
from clozerec_gateway.histories import Histories
from clozerec_gateway.history import NO_HISTORY, History, Items
from clozerec_gateway.kept_catalogue import KeptCatalogue
from clozerec_gateway.live_items import LiveItems
from clozerec_gateway.paging import Page, PageTokens, Ranked
from clozerec_gateway.query import Fallback, Found, Query, QueryType, Reason, Recommendation, Source, mask_index_fault
from clozerec_gateway.reasoning import Explainer
from clozerec_gateway.sequences import NOTHING, SequenceReader, TokenSequence, item_id_of
from clozerec_gateway.shaping import diversified, next_page
from clozerec_gateway.stages import Stage, timed

MAX_TRIES_SIMILAR = 3
"""Items of a sequence that are tried, nearest first, when the encoder is gone: one may have been deleted."""


@dataclass(frozen=True)
class Person:
    """Whom a query is about."""

    history: History = NO_HISTORY
    is_known: bool = False
    is_lost: bool = False
    """The history could not be read."""


@dataclass(frozen=True)
class Services:
    """What the pipeline of one bundle works with."""

    encoder: EncoderClient
    retriever: RetrieverClient
    histories: Histories
    reader: SequenceReader
    items: LiveItems
    kept: KeptCatalogue
    tokens: PageTokens
    explainer: Explainer


class Pipeline:
    """Answers queries from one bundle."""

    def __init__(self, bundle: Bundle, services: Services) -> None:
        self.bundle = bundle
        self.manifest = bundle.manifest
        self.histories = services.histories
        self.items = services.items
        self._row_of = bundle.catalogue.row_of
        self._encoder = services.encoder
        self._retriever = services.retriever
        self._reader = services.reader
        self._kept = services.kept
        self._tokens = services.tokens
        self._explainer = services.explainer

    async def recommend(self, query: Query, page: Page | None = None) -> Recommendation:
        """Answer one valid query.

        Args:
            query: what is asked.
            page: where an earlier answer to the same query ended.

        Raises:
            BadRequest, NoTextEngine, UnknownItem: see the RPC.
            DependencyGone, HistoryStoreGone: what the answer needs is gone, and nothing can stand in for it.
        """
        with timed(Stage.HISTORY):
            person = await self._person(query)
        selection = self._selection(query, person, page)
        sequence = NOTHING
        if page is None or query.explain:
            with timed(Stage.SEQUENCE):
                sequence = await self._sequence(query, person)
        if page is not None:
            ranked = page.ranked
        else:
            with timed(Stage.ENCODE):
                ranked = await self._ranked(query, person, sequence)
        with timed(Stage.RETRIEVE):
            ranked, found = await self._retrieve(query, ranked, sequence, selection)
        if person.is_lost and ranked.fallback is Fallback.NONE:
            ranked = replace(ranked, fallback=Fallback.DEGRADED, missing="histories")
        if ranked.fallback is not Fallback.NONE:
            metrics.GATEWAY_FALLBACKS.labels(ranked.fallback.value, ranked.missing).inc()
        top_k = query.top_k or self.manifest.serving.top_k_results
        if query.diversity > 0:
            found, returned = diversified(found, query.diversity, top_k, page, self.bundle)
        else:
            returned = None
        next_ = next_page(ranked, found, top_k, returned)
        reasons: Mapping[str, Sequence[Reason]] = {}
        if query.explain:
            with timed(Stage.EXPLAIN):
                reasons = await self._explainer.reasons(query, ranked, sequence, found)
        return Recommendation(
            query_type=query.query_type,
            bundle_id=self.manifest.bundle_id,
            found=found,
            source=ranked.source,
            fallback=ranked.fallback,
            unknown_item_ids=[_named(query)[place] for place in ranked.unknown_places],
            text_truncated=ranked.text_truncated,
            reasons=reasons,
            next_page_token="" if next_ is None else self._tokens.write(next_, query.fingerprint),
        )

    async def read_notes(self) -> None:
        """Take over what callers changed in the catalogue so far.

        Raises:
            HistoryStoreGone: it cannot be known.
        """
        await self._kept.refresh()

    async def is_served(self) -> bool:
        """Whether encoder and retriever answer for the bundle."""
        any_id = self.bundle.catalogue.item_ids[0]
        try:
            await self._retriever.get_items([any_id])
            await self._encoder.encode_sequence([any_id], None)
        except DependencyGone:
            return False
        return True

    def close(self) -> None:
        """Let go of files and threads."""
        self._explainer.close()
        self.histories.close()

    async def _person(self, query: Query) -> Person:
        if not query.user_id or not self._needs_history(query):
            return Person()
        try:
            history = await self.histories.of(query.user_id)
        except HistoryStoreGone:
            return Person(is_lost=True)
        if history is None:
            return Person()
        if query.query_type is QueryType.USER_TO_ITEM and (query.mask_index or 0) > len(history):
            raise BadRequest.of("mask_index", mask_index_fault(query.mask_index or 0, len(history)))
        return Person(history, is_known=True)

    def _needs_history(self, query: Query) -> bool:
        """Whether the person's history is encoded, or what is in it left out."""
        return query.query_type in (QueryType.USER_TO_ITEM, QueryType.CONTEXTUAL) or self._excludes_seen(query)

    def _excludes_seen(self, query: Query) -> bool:
        return self.manifest.serving.exclude_seen if query.exclude_seen is None else query.exclude_seen

    async def _sequence(self, query: Query, person: Person) -> TokenSequence:
        """What the query has encoded, the item at hand of a contextual one aside."""
        match query.query_type:
            case QueryType.ITEM_TO_ITEM:
                return NOTHING
            case QueryType.USER_TO_ITEM:
                if query.mask_index is not None and person.is_known:
                    return await self._reader.read(person.history.item_ids, query.mask_index)
                return await self._reader.read_history(person.history)
            case QueryType.CONTEXTUAL:
                return await self._with_item(query, await self._reader.read_history(person.history))
            case QueryType.SEQUENTIAL:
                return await self._reader.read(query.session_items, query.mask_index)

    async def _with_item(self, query: Query, history: TokenSequence) -> TokenSequence:
        """The history, followed by the item at hand; its text stands in for an unknown id."""
        if query.item_id and not self._kept.is_deleted(query.item_id):
            if history.unresolved and not self._kept.is_bundled(query.item_id):
                # The retriever has just not answered: who asks twice waits twice.
                item = replace(NOTHING, unknown_item_ids=(query.item_id,), unresolved=True)
            else:
                item = await self._reader.read([query.item_id], None)
            if item.unresolved and not query.item_text:
                if not self._kept.is_known(query.item_id):
                    raise DependencyGone("retriever")  # nobody else can tell whether there is such an item
                return replace(history, unknown_item_ids=(), unresolved=True)
            if not item.unknown_item_ids:
                known = replace(history, unknown_item_ids=())
                return known.followed_by(item.members[0], self._reader.window_len) if item.members else known
        if not query.item_text:
            raise UnknownItem(query.item_id)
        unknown = (query.item_id,) if query.item_id else ()
        with_text = history.followed_by(TextItem(self._usable_text(query)), self._reader.window_len)
        return replace(with_text, unknown_item_ids=unknown)

    async def _ranked(self, query: Query, person: Person, sequence: TokenSequence) -> Ranked:
        if query.query_type is QueryType.ITEM_TO_ITEM:
            return await self._by_item(query)
        unknown: Sequence[int] = ()
        if sequence.unknown_item_ids and query.query_type is not QueryType.USER_TO_ITEM:
            place_of = {item_id: place for place, item_id in enumerate(_named(query))}
            unknown = [place_of[item_id] for item_id in sequence.unknown_item_ids]
        missing = "histories" if person.is_lost else "person"
        if not sequence.members:
            return self._popularity(missing, unknown)
        try:
            encoded = await self._encoder.encode_sequence(sequence.members, sequence.mask_position)
        except DependencyGone:
            if sequence.needs_text:
                raise
            return Ranked(
                self.manifest.bundle_id, fallback=Fallback.DEGRADED, missing="encoder", unknown_places=unknown
            )
        if encoded.intent is None:
            return self._popularity(missing, unknown)
        fallback, missing = self._fallback(query, person, sequence)
        return Ranked(
            self.manifest.bundle_id,
            encoded.intent,
            source=Source.TEXT if sequence.needs_text else Source.MODEL,
            fallback=fallback,
            missing=missing,
            unknown_places=unknown,
            text_truncated=encoded.text_truncated,
        )

    def _fallback(self, query: Query, person: Person, sequence: TokenSequence) -> tuple[Fallback, str]:
        """What an answer by the network lacks, and what is to blame."""
        if person.is_lost:
            return Fallback.DEGRADED, "histories"
        if sequence.unresolved:
            return Fallback.DEGRADED, "retriever"
        if query.query_type is QueryType.CONTEXTUAL and len(sequence.members) == 1:
            (member,) = sequence.members
            if item_id_of(member) in ("", query.item_id):
                return Fallback.SESSION_ONLY, "person"
        return Fallback.NONE, ""

    async def _by_item(self, query: Query) -> Ranked:
        """By the stored vector; by the text only when the id is unknown or missing."""
        if query.item_id and not (query.item_text and await self._is_unknown(query.item_id)):
            return Ranked(self.manifest.bundle_id, stored_item_id=query.item_id)
        (encoded,) = await self._encoder.encode_texts([self._usable_text(query)])
        return Ranked(
            self.manifest.bundle_id,
            encoded.item_vector,
            source=Source.TEXT,
            unknown_places=range(len(_named(query))),
            text_truncated=encoded.truncated,
        )

    async def _is_unknown(self, item_id: str) -> bool:
        """Whether the text that came with an id is needed."""
        if self._kept.is_deleted(item_id):
            return True
        item = await self._reader.read([item_id], None)
        return bool(item.unknown_item_ids) and not item.unresolved

    def _usable_text(self, query: Query) -> str:
        if self.manifest.text is None:
            raise NoTextEngine
        return query.item_text

    def _popularity(self, missing: str, unknown_places: Sequence[int] = ()) -> Ranked:
        return Ranked(
            self.manifest.bundle_id,
            source=Source.POPULARITY,
            fallback=Fallback.POPULARITY,
            missing=missing,
            unknown_places=unknown_places,
        )

    def _selection(self, query: Query, person: Person, page: Page | None) -> Selection:
        """What may be returned: all but the query's item, what was named, and what was seen."""
        excludes_seen = self._excludes_seen(query)
        named = [*query.exclude_item_ids, *(query.session_items if excludes_seen else ())]
        if query.item_id:
            named.append(query.item_id)
        excluded = Items.of(named, self._row_of)
        if excludes_seen:
            excluded += person.history.seen
        top_k = query.top_k or self.manifest.serving.top_k_results
        is_diverse = query.diversity > 0
        return Selection(
            top_k=num_candidates(top_k) if is_diverse else top_k,
            where=query.where,
            exclude_item_ids=excluded.strangers,
            exclude_rows=excluded.rows,
            metadata_fields=query.metadata_fields,
            after=None if page is None or is_diverse else page.after,
            include_vectors=is_diverse or query.explain,
        )

    async def _retrieve(
        self, query: Query, ranked: Ranked, sequence: TokenSequence, selection: Selection
    ) -> tuple[Ranked, Found]:
        """The candidates, and what they turned out to be ranked by."""
        try:
            if ranked.intent is not None:
                return ranked, await self._retriever.search(ranked.intent, selection)
            if ranked.stored_item_id:
                found = await self._retriever.search_by_item(ranked.stored_item_id, selection)
                if not found.vectorless_item:
                    return ranked, found
                ranked = self._popularity("person", ranked.unknown_places)
            elif ranked.missing == "encoder" and ranked.source is not Source.POPULARITY:
                return await self._similar_to_last(ranked, sequence, selection)
            return ranked, await self._retriever.list_popular(selection)
        except DependencyGone as gone:
            if gone.status is grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise  # too much is asked; the slow way to answer would make it worse
            if selection.after is not None and ranked.source is not Source.POPULARITY:
                raise  # a page of another order could repeat what the pages before it held
            if query.item_id and not query.item_text and self._is_surely_unknown(query.item_id):
                raise UnknownItem(query.item_id) from gone
            return await self._kept_popularity(ranked, selection)

    async def _similar_to_last(
        self, ranked: Ranked, sequence: TokenSequence, selection: Selection
    ) -> tuple[Ranked, Found]:
        for _, item_id in zip(range(MAX_TRIES_SIMILAR), sequence.nearest_item_ids, strict=False):
            try:
                found = await self._retriever.search_by_item(item_id, selection)
            except UnknownItem:
                continue
            if not found.vectorless_item:
                return replace(ranked, stored_item_id=item_id), found
        popular = self._popularity("encoder", ranked.unknown_places)
        return popular, await self._retriever.list_popular(selection)

    async def _kept_popularity(self, ranked: Ranked, selection: Selection) -> tuple[Ranked, Found]:
        await self._kept.refresh()
        found = await asyncio.to_thread(self._kept.popular, selection)
        return self._popularity("retriever", ranked.unknown_places), found

    def _is_surely_unknown(self, item_id: str) -> bool:
        """Whether neither the bundle nor callers spoke of the item, or it was deleted."""
        return self._kept.is_deleted(item_id) or not self._kept.is_known(item_id)


def _named(query: Query) -> Sequence[str]:
    """The ids that an answer may call unknown."""
    return query.session_items or ((query.item_id,) if query.item_id else ())
