"""The bundles that are loaded: the current one, and during a roll-out a second. Changes go to all of them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from clozerec_core import metrics
from clozerec_core.errors import BundleMismatch
from clozerec_retriever.records import ItemRecord
from clozerec_retriever.retriever import Retriever


class Shelf:
    """Loaded bundles by id. Safe to use from several threads."""

    def __init__(self, current: Retriever) -> None:
        self._current = current
        self._loaded = {current.bundle_id: current}
        self._changing = threading.Lock()
        self._missed: list[list[ItemRecord]] = []
        """For each bundle that is being added, what was shown meanwhile."""
        self._count()

    @property
    def current(self) -> Retriever:
        """The bundle that calls without a bundle id mean."""
        return self._current

    @property
    def bundle_ids(self) -> list[str]:
        """Every bundle that calls may name, the oldest first."""
        return list(self._loaded)

    def get(self, bundle_id: str) -> Retriever:
        """The bundle that a call means; empty: the current one.

        Raises:
            BundleMismatch: it is not loaded here.
        """
        found = self._loaded.get(bundle_id) if bundle_id else self._current
        if found is None:
            raise BundleMismatch(bundle_id, self._current.bundle_id)
        return found

    def show(self, records: Sequence[ItemRecord]) -> None:
        """Make changes visible in every bundle."""
        with self._changing:
            for retriever in self._loaded.values():
                retriever.live.apply(records)
            for missed in self._missed:
                missed.extend(records)
        self._count()

    def tidy(self) -> None:
        """Merge what changes have left behind, where it is much."""
        for retriever in list(self._loaded.values()):
            retriever.live.fold()

    def add(self, retriever: Retriever, records: Iterable[ItemRecord]) -> None:
        """Take in a bundle with the journal's records laid over it; calls may name it when this returns.

        Changes go on meanwhile. Those that were shown since this began are laid over it once more at the end, for the
        journal may have been read before them.

        Args:
            retriever: of the bundle, without changes.
            records: the journal's, read while this runs.
        """
        missed: list[ItemRecord] = []
        with self._changing:
            self._missed.append(missed)
        try:
            retriever.live.replay(records)
            with self._changing:
                retriever.live.apply(missed)
                self._loaded = {**self._loaded, retriever.bundle_id: retriever}
        finally:
            with self._changing:
                self._missed = [each for each in self._missed if each is not missed]

    def make_current(self, bundle_id: str) -> None:
        """Let calls without a bundle id mean this one."""
        self._current = self._loaded[bundle_id]
        self._count()

    def release(self, bundle_id: str) -> None:
        """Forget a bundle that is not the current one; what still searches it keeps it until it is done."""
        assert bundle_id != self._current.bundle_id, "the current bundle stays"
        self._loaded = {known: retriever for known, retriever in self._loaded.items() if known != bundle_id}

    def _count(self) -> None:
        live = self._current.live
        num_day_zero = live.num_day_zero
        metrics.RETRIEVER_ITEMS.labels("bundle").set(live.num_items - num_day_zero)
        metrics.RETRIEVER_ITEMS.labels("day_zero").set(num_day_zero)
