"""One bundle's catalogue as it stands now: the bundle's items, with the journal's changes laid over them.

A row, once given, stays an item's own for as long as the bundle is loaded: the bundle's items keep theirs, all others
that the journal speaks of get the next ones in its order, deleted ones too. So replicas of one journal agree on rows,
whenever they started, and a page begun with one goes on with another. Readers take a `View`, which never changes; the
writer makes the next one and puts it in place in one step, so a search sees a batch whole or not at all.

Shapes: N rows (the bundle's, then day-zero items), B rows of the bundle, C content_dim.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from clozerec_core.bundle import Bundle, Manifest
from clozerec_core.catalogue import Catalogue, Json, Schema, cell_to_json
from clozerec_core.hybrid import Floats
from clozerec_core.metadata import Cells
from clozerec_core.predicate import Predicate
from clozerec_core.telemetry import get_logger
from clozerec_retriever.masks import Mask
from clozerec_retriever.reading import RecordReader
from clozerec_retriever.records import ItemRecord
from clozerec_retriever.segments import Segment, merged, passing_rows
from clozerec_retriever.space import OutputSpace
from clozerec_retriever.tail import Tail, TailWriter

MAX_SEGMENTS = 8
"""Beyond it the later ones are merged: each costs every search a little."""

FOLD_SHARE = 0.25
FOLD_LEAST = 8_192
"""Of the bundle's rows, and at least: so many changed rows are merged into the first segment."""

log = get_logger("live")


@dataclass(frozen=True)
class ChangedItem:
    """What callers are shown of an item that is not, or not only, as the bundle has it."""

    item_id: str
    display_name: str
    cells: Cells
    """All columns."""
    version: int
    """Of the view that first showed it so."""
    content_digest: bytes | None
    """None: the content is the bundle's own."""


@dataclass(frozen=True)
class View:
    """The catalogue at one moment."""

    version: int
    num_rows: int
    gone_N: Mask
    """Deleted."""
    num_gone: int
    segments: tuple[Segment, ...]
    tail: Tail
    moved_B: Mask
    """The vector that the bundle's index has of the row is not its vector any more."""

    def passing(self, predicate: Predicate) -> Mask:
        """Rows that pass, deleted ones left out, `[N]`; read-only."""
        mask = passing_rows(self.segments, predicate, self.num_rows)
        return mask & ~self.gone_N if self.num_gone else mask


class LiveCatalogue:
    """The changing catalogue of one bundle. `apply` and `fold` may run beside each other and beside readers."""

    def __init__(self, manifest: Manifest, catalogue: Catalogue, content_BC: Floats, space: OutputSpace) -> None:
        self.schema: Schema = manifest.schema_
        self._base = catalogue
        self._content_BC = content_BC
        self._space = space
        self._reader = RecordReader(manifest, catalogue, content_BC, space.content_dim)
        self._created_at_us = int(datetime.fromisoformat(manifest.created_at).timestamp() * 1e6)
        self._display_column: str | None = manifest.payload.get("display_name")
        self._new_rows: dict[str, int] = {}
        self._changed: dict[int, ChangedItem] = {}
        self._tail = TailWriter(manifest.model.dim)
        self._swap = threading.Lock()
        num_rows = len(self._base)
        nothing = np.zeros(num_rows, np.bool_)
        first = Segment.of(np.arange(num_rows), self._base.frame, self.schema)
        first.masks.prepare()
        self.view = View(0, num_rows, nothing, 0, (first,), self._tail.now(), nothing)

    @classmethod
    def open(cls, bundle: Bundle) -> LiveCatalogue:
        """The catalogue of a verified bundle, without changes."""
        return cls(bundle.manifest, bundle.catalogue, bundle.content, OutputSpace.open(bundle))

    # What readers ask of single items. They may see an item one batch newer than their view, never half of one.

    def row_of(self, item_id: str) -> int | None:
        """The item's row; None where it is unknown or deleted."""
        row = self._any_row(item_id)
        view = self.view
        return None if row is None or row >= view.num_rows or view.gone_N[row] else row

    def rows_of(self, item_ids: Iterable[str]) -> list[int]:
        """Rows of the known ones among the ids."""
        return [row for item_id in item_ids if (row := self.row_of(item_id)) is not None]

    def changed(self, row: int) -> ChangedItem | None:
        """The item as it was changed; None where it is as the bundle has it."""
        return self._changed.get(row)

    def item_id(self, row: int) -> str:
        """The item's id."""
        changed = self._changed.get(row)
        return self._base.item_ids[row] if changed is None else changed.item_id

    def display_name(self, row: int) -> str:
        """What to show a person."""
        changed = self._changed.get(row)
        return self._base.display_names[row] if changed is None else changed.display_name

    def metadata(self, row: int, fields: Sequence[str]) -> dict[str, Json]:
        """The item's metadata as callers see it."""
        changed = self._changed.get(row)
        if changed is None:
            return self._base.metadata(row, fields)
        return {name: cell_to_json(changed.cells[name], self.schema[name]) for name in fields}

    def content(self, row: int, record: ItemRecord | None) -> Floats:
        """The content vector that the item is read by in a sequence, `[C]`; empty where there is none.

        Args:
            row: the item's.
            record: what the journal holds of the item.
        """
        changed = self._changed.get(row)
        if changed is None or changed.content_digest is None:
            own: Floats = self._content_BC[row]
            return own if np.any(own) else own[:0]
        if record is None or record.content is None or not self._reader.is_readable(record):
            return np.empty(0, np.float32)
        return record.content

    def is_in_bundle(self, item_id: str) -> bool:
        """Whether the bundle itself has the item, deleted or not."""
        return self._base.row_of(item_id) is not None

    def moved_vector(self, row: int) -> Floats | None:
        """The vector of a row that the bundle's index does not have, `[D]`; None where there is none."""
        return self._tail.vector(row)

    def is_day_zero(self, row: int) -> bool:
        """Not one of the bundle's own items."""
        return row >= len(self._base)

    @property
    def text_model(self) -> str:
        """Empty without a text engine."""
        return self._reader.text_model

    @property
    def content_dim(self) -> int:
        """0 without a text engine."""
        return self._reader.content_dim

    @property
    def num_items(self) -> int:
        return self.view.num_rows - self.view.num_gone

    @property
    def num_day_zero(self) -> int:
        view = self.view
        return view.num_rows - len(self._base) - int(np.count_nonzero(view.gone_N[len(self._base) :]))

    @property
    def to_embed(self) -> list[str]:
        """Items whose content is of another text model."""
        return list(self._reader.to_embed)

    @property
    def retyped_columns(self) -> list[str]:
        """Columns of which some change was left out, for it was written for another type."""
        return list(self._reader.retyped)

    # What the writer does.

    def replay(self, records: Iterable[ItemRecord]) -> None:
        """Lay what the journal holds over a freshly opened bundle.

        Of an item that the bundle knows, the newer of both stands; a deletion always does.
        """
        batch = [
            record
            for record in records
            if record.deleted or record.changed_at_us > self._created_at_us or self._any_row(record.item_id) is None
        ]
        self.apply(batch)
        if self._reader.retyped:
            log.warning("columns_retyped", columns=self.retyped_columns)
        if self._reader.to_embed:
            log.warning("items_to_embed", count=len(self._reader.to_embed), text_model=self.text_model)
        self.fold()

    def apply(self, records: Sequence[ItemRecord]) -> None:
        """Let the next search see these records, all of them at once."""
        latest = {record.item_id: record for record in records}.values()
        with self._swap:
            version = self.view.version + 1
            gone: list[int] = []
            rows: list[int] = []
            there: list[ItemRecord] = []
            without_item = 0
            for record in latest:
                row = self._any_row(record.item_id)
                if row is None:
                    row = self._new_rows[record.item_id] = len(self._base) + len(self._new_rows)
                is_new = row >= len(self._base) and row not in self._changed
                if record.deleted or (is_new and record.content is None):
                    self._reader.to_embed.pop(record.item_id, None)
                    gone.append(row)
                    # A change to an item of an older bundle, which this one does not know, is no whole item.
                    without_item += not record.deleted
                    continue
                rows.append(row)
                there.append(record)
            cells_of = dict(zip(rows, self._reader.cells(rows, there), strict=True))
            unplaced: list[int] = []
            vectorised: dict[int, ItemRecord] = {}
            for row, record, digest in zip(rows, there, self._reader.digests(rows, there), strict=True):
                before = self._changed.get(row)
                name = cells_of[row].get(self._display_column or "")
                self._changed[row] = ChangedItem(
                    record.item_id, str(name) if name else record.item_id, cells_of[row], version, digest
                )
                if digest == (before.content_digest if before else None):
                    continue
                unplaced.append(row)
                if digest is not None and self._reader.is_readable(record):
                    vectorised[row] = record
            self._show(version, gone, cells_of, unplaced, vectorised)
        if without_item:
            log.warning("changes_without_item", count=without_item)

    def fold(self) -> None:
        """Merge segments where there are many, and sweep the tail where much of it is dead.

        Takes as long as it takes; nobody waits for it but the caller.
        """
        self._merge_segments()
        self._sweep_tail()

    def _merge_segments(self) -> None:
        segments = self.view.segments
        num_changed = sum(len(segment.rows) for segment in segments[1:])
        if num_changed > max(FOLD_LEAST, FOLD_SHARE * len(self._base)):
            num_kept = 0
        elif len(segments) > MAX_SEGMENTS:
            num_kept = 1
        else:
            return
        one = merged(segments[num_kept:], self.schema)
        one.masks.prepare()  # else the next search would
        with self._swap:
            now = self.view.segments
            self.view = replace(self.view, segments=(*segments[:num_kept], one, *now[len(segments) :]))

    def _sweep_tail(self) -> None:
        seen = self.view.tail
        swept = self._tail.sweep(seen)
        if swept is None:
            return
        with self._swap:
            self.view = replace(self.view, tail=swept.catch_up(seen, self.view.tail))
            self._tail = swept

    def _any_row(self, item_id: str) -> int | None:
        """Deleted or not."""
        row = self._base.row_of(item_id)
        return self._new_rows.get(item_id) if row is None else row

    def _show(
        self,
        version: int,
        gone: list[int],
        cells_of: dict[int, Cells],
        unplaced: list[int],
        vectorised: dict[int, ItemRecord],
    ) -> None:
        """Put the next view in place.

        Args:
            version: its number.
            gone: rows that are deleted.
            cells_of: the metadata of rows that are there, whether they were before or not.
            unplaced: rows whose present vector counts no more.
            vectorised: of these, the ones that have a content vector of their own.
        """
        view = self.view
        num_rows = len(self._base) + len(self._new_rows)
        gone_N = np.concatenate((view.gone_N, np.zeros(num_rows - view.num_rows, np.bool_)))
        gone_N[gone] = True
        gone_N[list(cells_of)] = False
        segments = view.segments
        if cells_of:
            segments = (*segments, Segment.of_cells(cells_of, self.schema))
        moved_B, tail = view.moved_B, view.tail
        if unplaced:
            rows = list(vectorised)
            vectors_ND = self._space.vectors(rows, self._reader.stacked(list(vectorised.values())))
            pointing = np.any(vectors_ND, axis=1)
            placed = [row for row, points in zip(rows, pointing, strict=True) if points]
            tail = self._tail.replace(unplaced, placed, vectors_ND[pointing])
            moved_B = moved_B.copy()
            for row in unplaced:
                if row < len(moved_B):
                    moved_B[row] = row in vectorised
        self.view = View(version, num_rows, gone_N, int(np.count_nonzero(gone_N)), segments, tail, moved_B)
