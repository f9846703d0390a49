"""What the gateway itself keeps of the catalogue, to answer by popularity when the retriever does not.

The bundle's catalogue and counts are at hand; what callers changed since is noted when it is acknowledged, in a file
that outlives the process (or in Redis, where gateways share it), so that also then nothing deleted is returned, filters
hold on what is true now, and an item at hand that was deleted is unknown.

Items that the bundle does not have stand last, in the order in which callers first spoke of them: the retriever's own,
so pages go on where it is gone, over restarts, and in other gateways.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from clozerec_core.bundle import Bundle
from clozerec_core.card import render_card
from clozerec_core.catalogue import cell_to_json
from clozerec_core.errors import BadRequest
from clozerec_core.hybrid import SCORE_STEPS_PER_UNIT
from clozerec_core.metadata import Cells, parse_metadata
from clozerec_core.predicate import EVERYTHING, matches
from clozerec_core.request_context import check_time_left
from clozerec_gateway.clients import Selection
from clozerec_gateway.events import HistoryStoreGone
from clozerec_gateway.notes import Note, NoteStore
from clozerec_gateway.query import Candidate, Found

CHECK_EVERY = 4_096
"""Items between two looks at the clock."""


@dataclass(frozen=True)
class _Item:
    """An item whose state is not the bundle's."""

    item_id: str
    display_name: str
    cells: Cells


@dataclass(frozen=True)
class _Change:
    """What callers last said of an item."""

    item: _Item | None
    """None: deleted."""
    place: int
    """Among the items that the bundle does not have; means nothing of one that it has."""


class KeptCatalogue:
    """One bundle's items as they are now, in order of popularity."""

    def __init__(self, bundle: Bundle, notes: NoteStore) -> None:
        self._notes = notes
        self._version = 0
        self._catalogue = bundle.catalogue
        self._schema = bundle.manifest.schema_
        self._created_us = int(datetime.fromisoformat(bundle.manifest.created_at).timestamp() * 1e6)
        counts_N = bundle.popularity_counts
        steps_N = np.rint(counts_N / max(1, int(counts_N.max(initial=0))) * SCORE_STEPS_PER_UNIT).astype(np.int64)
        order_N = np.lexsort((np.arange(len(steps_N)), -steps_N))
        self._order = list(zip(order_N.tolist(), (steps_N[order_N] / SCORE_STEPS_PER_UNIT).tolist(), strict=True))
        self._changed: dict[str, _Change] = {}
        """By item id, in the order of places. Without deleted items that neither the bundle nor this process knew."""
        self._num_places = 0
        self._reading = asyncio.Lock()
        self._num_reads, self._last_ended, self._last_failed = 0, 0, False
        self._said_meanwhile: list[tuple[Sequence[Note], int]] = []
        """Through this gateway, while a reading is under way."""

    async def refresh(self) -> None:
        """Take over what callers said through any gateway until now.

        Many may ask at once: who comes while a reading is under way shares the next one, which begins after that.

        Raises:
            HistoryStoreGone: nobody knows what was deleted since.
        """
        begun_before = self._num_reads
        async with self._reading:
            if self._last_ended > begun_before:
                if self._last_failed:
                    raise HistoryStoreGone
                return
            self._num_reads += 1
            number = self._num_reads
            try:
                await self._read()
            except HistoryStoreGone:
                self._last_ended, self._last_failed = number, True
                raise
            self._last_ended, self._last_failed = number, False

    def apply(self, notes: Sequence[Note], version: int) -> None:
        """Take over what was said through this gateway.

        Args:
            notes: that were written.
            version: that the store had then.
        """
        if self._reading.locked():
            self._said_meanwhile.append((notes, version))
        if version <= self._version:
            return  # was read already, and something newer perhaps
        self._num_places = self._lay_over(self._changed, notes, self._num_places)
        if version == self._version + 1:  # else another gateway wrote, too: the next reading tells what
            self._version = version

    async def _read(self) -> None:
        said_meanwhile = self._said_meanwhile = []
        version, notes = await self._notes.notes_since(self._version)
        if version == self._version:
            return
        before = dict(self._changed)
        changed, num_places = await asyncio.to_thread(self._read_over, before, notes)
        self._changed, self._num_places, self._version = changed, num_places, version
        for said in tuple(said_meanwhile):
            self.apply(*said)

    def _read_over(self, before: Mapping[str, _Change], notes: Sequence[Note]) -> tuple[dict[str, _Change], int]:
        """What notes of everything mean; blocking."""
        changed: dict[str, _Change] = {}
        num_places = self._lay_over(changed, notes, 0)
        lost = before.keys() - {note.item_id for note in notes}  # by a store that began anew: a deletion stands
        for item_id in [item_id for item_id in before if item_id in lost]:
            changed[item_id] = _Change(before[item_id].item, num_places)
            num_places += 1
        return changed, num_places

    def _lay_over(self, changed: dict[str, _Change], notes: Sequence[Note], num_places: int) -> int:
        """Of an item that the bundle knows the newer stands, and a deletion always. How many places there are then."""
        for note in notes:
            is_bundled, before = self.is_bundled(note.item_id), changed.get(note.item_id)
            place = num_places if before is None else before.place
            if before is None and not is_bundled:
                num_places += 1
            if note.deleted:
                # What nobody knew is as unknown as before: its note is for bundles to come, and takes its place here.
                if is_bundled or before is not None:
                    changed[note.item_id] = _Change(None, place)
            elif note.changed_us > self._created_us or not is_bundled:
                cells = self._cells(json.loads(note.metadata))
                item = _Item(note.item_id, note.display_name or note.item_id, cells)
                changed[note.item_id] = _Change(item, place)
            else:
                changed.pop(note.item_id, None)
        return num_places

    def is_deleted(self, item_id: str) -> bool:
        """Whether callers deleted it."""
        change = self._changed.get(item_id)
        return change is not None and change.item is None

    def is_known(self, item_id: str) -> bool:
        """Whether the bundle has it or callers added it."""
        change = self._changed.get(item_id)
        return self.is_bundled(item_id) if change is None else change.item is not None

    def is_bundled(self, item_id: str) -> bool:
        """Whether the bundle itself has the item, deleted or not: the encoder reads it by its id."""
        return self._catalogue.row_of(item_id) is not None

    def is_as_bundled(self, item_id: str) -> bool:
        """Whether the bundle has the item, and callers have said nothing of it since."""
        return item_id not in self._changed and self.is_bundled(item_id)

    def display_name(self, item_id: str) -> str:
        """What to show a person; the id of an unknown one."""
        change = self._changed.get(item_id)
        if change is not None and change.item is not None:
            return change.item.display_name
        row = self._catalogue.row_of(item_id)
        return item_id if row is None else self._catalogue.display_names[row]

    def popular(self, selection: Selection) -> Found:
        """The most popular items that pass, one by one; blocking, and slow beside the retriever.

        Raises:
            DeadlineExceeded: the request's time was up before enough were found.
        """
        excluded, excluded_rows = frozenset(selection.exclude_item_ids), frozenset(selection.exclude_rows)
        after = selection.after
        found: list[Candidate] = []
        for seen, (row, score, item) in enumerate(self._in_order()):
            if seen % CHECK_EVERY == 0:
                check_time_left()
            if after is not None and (-score, row) <= (-round(after.score, 4), after.row):
                continue
            if row in excluded_rows or item.item_id in excluded:
                continue
            if selection.where != EVERYTHING and not matches(selection.where, item.cells):
                continue
            found.append(self._candidate(row, score, item, selection.metadata_fields))
            if len(found) == selection.top_k:
                break
        return Found(found, exhausted=len(found) < selection.top_k)

    def _in_order(self) -> Iterator[tuple[int, float, _Item]]:
        """Row, score and item, deleted ones left out; day-zero items come last, with rows of their own."""
        changed = dict(self._changed)
        for row, score in self._order:
            item_id = self._catalogue.item_ids[row]
            if item_id not in changed:
                yield row, score, _Item(item_id, self._catalogue.display_names[row], self._catalogue.cells(row))
            else:
                change = changed.pop(item_id)
                if change.item is not None:
                    yield row, score, change.item
        for change in changed.values():
            if change.item is not None:
                yield len(self._order) + change.place, 0.0, change.item

    def _candidate(self, row: int, score: float, item: _Item, fields: Sequence[str]) -> Candidate:
        names = fields or list(self._schema)
        metadata = {name: cell_to_json(item.cells.get(name), self._schema[name]) for name in names}
        return Candidate(item.item_id, score, row, render_card(item.item_id, item.display_name, metadata))

    def _cells(self, document: Mapping[str, Any]) -> Cells:
        """Columns that the bundle does not have, or has with another type, are not spoken of."""
        cells: Cells = {}
        for name, value in document.items():
            try:
                cells |= parse_metadata({name: value}, self._schema)
            except BadRequest:
                continue
        return cells
