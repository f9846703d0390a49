"""Find the reasons of an answer: ask the encoder again, or split the similarity; `explaining.py` has the arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clozerec_core.bundle import Bundle
from clozerec_core.interactions import without_repeats
from clozerec_core.workers import Workers
from clozerec_gateway.clients import EncoderClient
from clozerec_gateway.dependency import DependencyGone
from clozerec_gateway.explaining import SimilarityParts, by_history, by_popularity
from clozerec_gateway.kept_catalogue import KeptCatalogue
from clozerec_gateway.live_items import DayZeroItems
from clozerec_gateway.paging import Ranked
from clozerec_gateway.query import Found, Query, QueryType, Reason, Source
from clozerec_gateway.sequences import TokenSequence, item_id_of

MAX_LEFT_OUT = 50
"""Items of a sequence that are left out one by one, the newest ones: each is one more sequence to encode."""


class Explainer:
    """Explains answers of one bundle."""

    def __init__(self, bundle: Bundle, encoder: EncoderClient, day_zero: DayZeroItems, kept: KeptCatalogue) -> None:
        self._bundle = bundle
        self._encoder = encoder
        self._day_zero = day_zero
        self._kept = kept
        self._worker = Workers("explainer", num_threads=1)
        self._parts: SimilarityParts | None = None

    async def reasons(
        self, query: Query, ranked: Ranked, sequence: TokenSequence, found: Found
    ) -> Mapping[str, Sequence[Reason]]:
        """Reasons of each item by its id; none where a part that is needed does not reply: the answer stands."""
        if ranked.source is Source.POPULARITY:
            return by_popularity(found.candidates)
        try:
            if ranked.intent is not None and query.query_type is not QueryType.ITEM_TO_ITEM:
                return await self._by_history(ranked.intent, sequence, found)
            return await self._by_similarity(query, ranked, found)
        except DependencyGone:
            return {}

    def close(self) -> None:
        """Let work under way finish."""
        self._worker.close()

    async def _by_history(
        self, intent: Sequence[float], sequence: TokenSequence, found: Found
    ) -> Mapping[str, Sequence[Reason]]:
        item_ids = [item_id for member in reversed(sequence.members) if (item_id := item_id_of(member))]
        left_out = without_repeats(item_ids)[:MAX_LEFT_OUT]
        rests = {item_id: sequence.without(item_id) for item_id in left_out}
        rests = {item_id: rest for item_id, rest in rests.items() if rest.members}
        if not rests:  # one item is the whole sequence, and drove all of every score
            return {
                candidate.item_id: [Reason("history", item_id, candidate.score, f"Because of {self._name(item_id)}")]
                for candidate in found.candidates
                for item_id in left_out[:1]
            }
        encoded = await self._encoder.encode_sequences(
            [rest.members for rest in rests.values()], [rest.mask_position for rest in rests.values()]
        )
        without = {
            item_id: rest.intent for item_id, rest in zip(rests, encoded, strict=True) if rest.intent is not None
        }
        names = {item_id: self._name(item_id) for item_id in without}
        return await self._worker.run(lambda: by_history(found.candidates, intent, without, names))

    async def _by_similarity(self, query: Query, ranked: Ranked, found: Found) -> Mapping[str, Sequence[Reason]]:
        item_id = ranked.stored_item_id
        involved = [item_id, *(candidate.item_id for candidate in found.candidates)]
        not_as_bundled = [each for each in involved if each and not self._kept.is_as_bundled(each)]
        contents = {each: item.content for each, item in (await self._day_zero.find(not_as_bundled)).items()}
        if item_id:
            content, name = contents.get(item_id, ()), self._name(item_id)
        else:
            (encoded,) = await self._encoder.encode_texts([query.item_text])
            content, name = encoded.content, "the text"
        return await self._worker.run(
            lambda: self._loaded().reasons((item_id, content), name, found.candidates, contents)
        )

    def _loaded(self) -> SimilarityParts:
        """On the worker's thread: the space is read at the first question."""
        if self._parts is None:
            self._parts = SimilarityParts(self._bundle)
        return self._parts

    def _name(self, item_id: str) -> str:
        return self._kept.display_name(item_id)
