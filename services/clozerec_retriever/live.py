"""One bundle's catalogue as it stands now: the bundle's items, with the journal's changes laid over them.

A row, once given, stays an item's own for as long as the bundle is loaded: the bundle's items keep theirs, day-zero
items get the next ones in the journal's order. Readers take a `View`, which never changes; the writer makes the next
one and puts it in place in one step, so a search sees a batch whole or not at all.

Shapes: N rows (the bundle's, then day-zero items), B rows of the bundle, C content_dim.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from clozerec_core.bundle import Bundle, Manifest
from clozerec_core.catalogue import Catalogue, Json, Schema, cell_to_json
from clozerec_core.hybrid import Floats
from clozerec_core.metadata import Cells
from clozerec_core.predicate import Cell, Predicate
from clozerec_core.telemetry import get_logger
from clozerec_retriever.journal import ItemRecord
from clozerec_retriever.masks import Mask
from clozerec_retriever.segments import Segment, merged, passing_rows
from clozerec_retriever.space import OutputSpace
from clozerec_retriever.tail import Tail, TailWriter

SAME_CONTENT = 1e-5
"""Content vectors whose numbers differ by no more are one text's, embedded on two machines."""

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
        self.content_dim = space.content_dim
        self.text_model = manifest.text.model if manifest.text else ""
        """Empty without a text engine."""
        self._created_at_us = int(datetime.fromisoformat(manifest.created_at).timestamp() * 1e6)
        self._display_column: str | None = manifest.payload.get("display_name")
        self._new_rows: dict[str, int] = {}
        self._changed: dict[int, ChangedItem] = {}
        self._to_embed: dict[str, None] = {}
        self._retyped: dict[str, None] = {}
        self._tail = TailWriter(manifest.model.dim)
        self._swap = threading.Lock()
        num_rows = len(self._base)
        nothing = np.zeros(num_rows, np.bool_)
        first = Segment.of(np.arange(num_rows), self._base.frame, self.schema)
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
        if record is None or record.content is None or not self._readable(record):
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
    def num_items(self) -> int:
        return self.view.num_rows - self.view.num_gone

    @property
    def num_day_zero(self) -> int:
        view = self.view
        return view.num_rows - len(self._base) - int(np.count_nonzero(view.gone_N[len(self._base) :]))

    @property
    def to_embed(self) -> list[str]:
        """Items whose content is of another text model."""
        return list(self._to_embed)

    @property
    def retyped_columns(self) -> list[str]:
        """Columns of which some change was left out, for it was written for another type."""
        return list(self._retyped)

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
        if self._retyped:
            log.warning("columns_retyped", columns=self.retyped_columns)
        if self._to_embed:
            log.warning("items_to_embed", count=len(self._to_embed), text_model=self.text_model)
        self.fold()

    def apply(self, records: Sequence[ItemRecord]) -> None:
        """Let the next search see these records, all of them at once."""
        latest = {record.item_id: record for record in records}.values()
        with self._swap:
            version = self.view.version + 1
            gone, back = [], []
            without_item = 0
            cells_of: dict[int, Cells] = {}
            unplaced: list[int] = []
            vectorised: dict[int, Floats] = {}
            for record in latest:
                row = self._any_row(record.item_id)
                if record.deleted:
                    self._to_embed.pop(record.item_id, None)
                    gone += [] if row is None else [row]
                    continue
                if row is None:
                    if record.content is None:
                        # A change to an item of an older bundle, which this one does not know: no whole item.
                        without_item += 1
                        continue
                    row = self._new_rows[record.item_id] = len(self._base) + len(self._new_rows)
                back.append(row)
                cells_of[row] = cells = self._cells(row, record)
                before = self._changed.get(row)
                old_digest = before.content_digest if before else None
                digest = self._digest(row, record)
                name = cells.get(self._display_column or "")
                self._changed[row] = ChangedItem(
                    record.item_id, str(name) if name else record.item_id, cells, version, digest
                )
                if digest == old_digest:
                    continue
                unplaced.append(row)
                if digest is not None and self._readable(record):
                    assert record.content is not None
                    vectorised[row] = record.content
            self._show(version, gone, back, cells_of, unplaced, vectorised)
        if without_item:
            log.warning("changes_without_item", count=without_item)

    def fold(self) -> None:
        """Merge segments, where there are many. Takes as long as it takes; nobody waits for it but the caller."""
        segments = self.view.segments
        num_changed = sum(len(segment.rows) for segment in segments[1:])
        if num_changed > max(FOLD_LEAST, FOLD_SHARE * len(self._base)):
            num_kept = 0
        elif len(segments) > MAX_SEGMENTS:
            num_kept = 1
        else:
            return
        one = merged(segments[num_kept:], self.schema)
        with self._swap:
            now = self.view.segments
            self.view = replace(self.view, segments=(*segments[:num_kept], one, *now[len(segments) :]))

    def _any_row(self, item_id: str) -> int | None:
        """Deleted or not."""
        row = self._base.row_of(item_id)
        return self._new_rows.get(item_id) if row is None else row

    def _cells(self, row: int, record: ItemRecord) -> Cells:
        """All columns: the record's where it speaks of them in the column's type, else the bundle's."""
        base: Cells = self._base.cells(row) if row < len(self._base) else {}
        cells: dict[str, Cell] = {}
        for name, kind in self.schema.items():
            cells[name] = base.get(name)
            if name in record.cells:
                if record.kinds[name] is kind:
                    cells[name] = record.cells[name]
                else:
                    self._retyped[name] = None
        return cells

    def _readable(self, record: ItemRecord) -> bool:
        """Whether the bundle's space has a meaning for the record's content; no text always has."""
        assert record.content is not None
        return len(record.content) == 0 or (
            record.text_model == self.text_model and len(record.content) == self.content_dim
        )

    def _digest(self, row: int, record: ItemRecord) -> bytes | None:
        """Tells contents apart; None where the bundle's own stands. Keeps the list of what is to be embedded."""
        if record.content is None:
            return None
        is_base = row < len(self._base)
        if not self._readable(record):
            if self.text_model:
                self._to_embed[record.item_id] = None
            # An item of the bundle keeps the vector that it was trained with until its text is embedded again.
            return None if is_base else b"unreadable"
        self._to_embed.pop(record.item_id, None)
        if is_base:
            own = self._content_BC[row]
            content = record.content if len(record.content) else np.zeros_like(own)
            if np.allclose(own, content, rtol=0, atol=SAME_CONTENT):
                return None
        return hashlib.blake2b(record.content.tobytes(), digest_size=16).digest()

    def _show(
        self,
        version: int,
        gone: list[int],
        back: list[int],
        cells_of: dict[int, Cells],
        unplaced: list[int],
        vectorised: dict[int, Floats],
    ) -> None:
        """Put the next view in place.

        Args:
            version: its number.
            gone: rows that are deleted.
            back: rows that are there, whether they were before or not.
            cells_of: rows whose metadata is set.
            unplaced: rows whose present vector counts no more.
            vectorised: of these, the ones that have a content vector of their own.
        """
        view = self.view
        num_rows = len(self._base) + len(self._new_rows)
        gone_N = np.concatenate((view.gone_N, np.zeros(num_rows - view.num_rows, np.bool_)))
        gone_N[gone] = True
        gone_N[back] = False
        segments = view.segments
        if cells_of:
            segments = (*segments, Segment.of_cells(cells_of, self.schema))
        moved_B, tail = view.moved_B, view.tail
        if unplaced:
            rows = list(vectorised)
            vectors_ND = self._space.vectors(rows, self._stacked(list(vectorised.values())))
            pointing = np.any(vectors_ND, axis=1)
            placed = [row for row, points in zip(rows, pointing, strict=True) if points]
            tail = self._tail.replace(unplaced, placed, vectors_ND[pointing])
            moved_B = moved_B.copy()
            for row in unplaced:
                if row < len(moved_B):
                    moved_B[row] = row in vectorised
        self.view = View(version, num_rows, gone_N, int(np.count_nonzero(gone_N)), segments, tail, moved_B)

    def _stacked(self, contents: list[Floats]) -> Floats:
        """`[N, C]`; zero without text."""
        stacked = np.zeros((len(contents), self.content_dim), np.float32)
        for place, content in enumerate(contents):
            if len(content):
                stacked[place] = content
        return stacked
