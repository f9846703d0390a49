"""What a person did, as item ids, oldest first: the bundle's history and the live events since, as one.

A bundle knows what its training log held; the store of live events knows what callers recorded. After a new training
both know the same events, so a live event is left out where the bundle has one of the same item in the same second
(logs often keep no finer time). What a bundle knows from before a person was forgotten is not read any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from heapq import merge

from cachetools import LRUCache

from clozerec_core import metrics
from clozerec_core.bundle import HISTORIES, Bundle
from clozerec_core.history_file import HistoryFile
from clozerec_core.request_context import current_request
from clozerec_core.workers import Workers
from clozerec_gateway.circuit import Circuit
from clozerec_gateway.events import EventStore, HistoryStoreGone, LiveHistory
from clozerec_gateway.history import History

US_PER_S = 1_000_000

STAGE_SHARE = 0.25
"""Of the time that a request has left, for its person's history."""

TELLING_SHARE = 0.25
"""Of the store's usual time, from which on an answer that does not come says something of the store: in less, more of
its caller's haste."""

CACHED_EVENTS = 1_000_000
"""Of people who were read lately, in each of two caches; about 80 bytes each."""

BundleHistory = tuple[Sequence[str], Sequence[int]]
"""Item ids, oldest first, and the times of their events in microseconds."""

_HITS, _MISSES = (metrics.GATEWAY_HISTORY_READS.labels("bundle", cache) for cache in ("hit", "miss"))


class BundleHistories:
    """The histories of one bundle, read off the event loop; they never change."""

    def __init__(self, bundle: Bundle) -> None:
        self._file = HistoryFile(bundle.file(HISTORIES))
        self._item_ids = bundle.catalogue.item_ids
        self._worker = Workers("histories", num_threads=1)
        self._cache: LRUCache[str, BundleHistory | None] = LRUCache(
            CACHED_EVENTS, lambda history: min(CACHED_EVENTS, 1 + len(history[0])) if history else 1
        )

    async def read(self, user_id: str) -> BundleHistory | None:
        """A person's history; None for an unknown one."""
        try:
            history = self._cache[user_id]
            _HITS.inc()
        except KeyError:
            _MISSES.inc()
            history = self._cache[user_id] = await self._worker.run(lambda: self._read(user_id))
        return history

    def close(self) -> None:
        """Close the file."""
        self._worker.close()
        self._file.close()

    def _read(self, user_id: str) -> BundleHistory | None:
        found = self._file.read(user_id)
        return None if found is None else ([self._item_ids[row] for row in found[0]], found[1])


class Histories:
    """Bundle histories and live events together."""

    def __init__(self, bundle: Bundle, live: EventStore, circuit: Circuit, timeout_s: float) -> None:
        """
        Args:
            bundle: whose histories come first.
            live: the events recorded since.
            circuit: of the store, shared by all that use it.
            timeout_s: seconds that the store has for an answer.
        """
        self._bundle = BundleHistories(bundle)
        self._live = live
        self._circuit = circuit
        self._timeout_s = timeout_s
        self._weights: Mapping[str, float] = bundle.manifest.payload.get("event_weights") or {}
        self._row_of = bundle.catalogue.row_of
        self._merged: LRUCache[str, tuple[LiveHistory, History | None]] = LRUCache(
            CACHED_EVENTS, lambda kept: min(CACHED_EVENTS, 1 + len(kept[1] or ()))
        )

    async def of(self, user_id: str) -> History | None:
        """What the person did; None for an unknown person.

        Raises:
            HistoryStoreGone: nobody knows what was recorded, nor whether the person asked to be forgotten.
        """
        live = self._live.at_hand(user_id) or await self._live_history(user_id)
        kept = self._merged.get(user_id)
        if kept is not None and kept[0] is live:
            return kept[1]
        item_ids = merged(await self._bundle.read(user_id), live, self._weights)
        history = None if item_ids is None else History(item_ids, self._row_of)
        if live.is_kept or self._live.at_hand(user_id) is live:  # else the store would not say when it changes
            self._merged[user_id] = live, history
        return history

    async def _live_history(self, user_id: str) -> LiveHistory:
        if not self._circuit.lets_pass():
            raise HistoryStoreGone
        remaining_s = current_request().remaining_s()
        stage_s = self._timeout_s if remaining_s is None else min(self._timeout_s, remaining_s * STAGE_SHARE)
        try:
            async with asyncio.timeout(stage_s):
                history = await self._live.history(user_id)
        except TimeoutError:
            if stage_s >= TELLING_SHARE * self._timeout_s:
                self._circuit.failed()
            raise HistoryStoreGone from None
        except HistoryStoreGone:
            self._circuit.failed()
            raise
        self._circuit.succeeded()
        return history

    async def is_in_bundle(self, user_id: str) -> bool:
        """Whether the bundle was trained with events of this person."""
        return await self._bundle.read(user_id) is not None

    def close(self) -> None:
        """Close the bundle's file."""
        self._bundle.close()


def merged(bundle: BundleHistory | None, live: LiveHistory, weights: Mapping[str, float]) -> Sequence[str] | None:
    """One history by time; at equal times the bundle's events come first.

    Args:
        bundle: what the bundle knows; None: nothing.
        live: what was recorded since.
        weights: of event types; events of weight 0 do not count, as in training.
    """
    if not live.events and live.forgotten_us is None:
        return None if bundle is None else bundle[0]
    old = [] if bundle is None else list(zip(bundle[1], bundle[0], strict=True))
    if live.forgotten_us is not None:
        old = [(time_us, item_id) for time_us, item_id in old if time_us > live.forgotten_us]
    trained = {(time_us // US_PER_S, item_id) for time_us, item_id in old}
    new = [
        (event.time_us, event.item_id)
        for event in live.events
        if weights.get(event.event_type, 1.0) > 0 and (event.time_us // US_PER_S, event.item_id) not in trained
    ]
    return [item_id for _, item_id in merge(old, new, key=lambda event: event[0])] or None
