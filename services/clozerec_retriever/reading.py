"""What the journal's records mean to one bundle: their cells in its columns, their content in its space.

Whole batches at a time, for thousands of records a second are to be read beside searches.

Shapes: P records, C content_dim.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from clozerec_core.bundle import Manifest
from clozerec_core.catalogue import Catalogue
from clozerec_core.hybrid import Floats
from clozerec_core.metadata import Cells
from clozerec_retriever.records import ItemRecord

SAME_CONTENT = 1e-5
"""Content vectors whose numbers differ by no more are one text's, embedded on two machines."""

UNREADABLE = b"unreadable"


class RecordReader:
    """Reads records for one bundle, and keeps account of what it could not read. For one thread."""

    def __init__(self, manifest: Manifest, catalogue: Catalogue, content_BC: Floats, content_dim: int) -> None:
        self._catalogue = catalogue
        self._schema = catalogue.schema
        self._content_BC = np.asarray(content_BC)  # of a memory map, each row would be one more map
        self.content_dim = content_dim
        self.text_model = manifest.text.model if manifest.text else ""
        """Empty without a text engine."""
        self.to_embed: dict[str, None] = {}
        """Items whose content is of another text model."""
        self.retyped: dict[str, None] = {}
        """Columns of which some change was left out, for it was written for another type."""

    def cells(self, rows: Sequence[int], records: Sequence[ItemRecord]) -> list[Cells]:
        """All columns of each item: the record's where it speaks of them in the column's type, else the bundle's.

        Args:
            rows: of the items, those beyond the bundle's being day-zero items.
            records: of the same items, not deleted.
        """
        schema = self._schema
        partial = [
            place
            for place, record in enumerate(records)
            if len(record.cells) != len(schema) or (record.kinds is not schema and record.kinds != schema)
        ]
        known = [place for place in partial if rows[place] < len(self._catalogue)]
        base = dict(zip(known, self._catalogue.cells_of([rows[place] for place in known]), strict=True))
        read = [record.cells for record in records]
        for place in partial:
            read[place] = self._laid_over(base.get(place) or dict.fromkeys(schema), records[place])
        return read

    def _laid_over(self, base: Cells, record: ItemRecord) -> Cells:
        for name, kind in self._schema.items():
            if name in record.cells:
                if record.kinds[name] is kind:
                    base[name] = record.cells[name]
                else:
                    self.retyped[name] = None
        return base

    def digests(self, rows: Sequence[int], records: Sequence[ItemRecord]) -> list[bytes | None]:
        """Tells contents apart; None where the bundle's own stands. Brings `to_embed` up to date.

        Args:
            rows: as for `cells`.
            records: as for `cells`.
        """
        found: list[bytes | None] = [None] * len(records)
        own: list[int] = []
        for place, (row, record) in enumerate(zip(rows, records, strict=True)):
            if record.content is None:
                continue
            is_base = row < len(self._catalogue)
            if not self.is_readable(record):
                if self.text_model:
                    self.to_embed[record.item_id] = None
                # An item of the bundle keeps the vector that it was trained with until its text is embedded again.
                found[place] = None if is_base else UNREADABLE
                continue
            self.to_embed.pop(record.item_id, None)
            if is_base:
                own.append(place)
            else:
                found[place] = _digest(record)
        own_PC = self._content_BC[[rows[place] for place in own]]
        gap_P = np.abs(own_PC - self.stacked([records[place] for place in own])).max(axis=1, initial=0)
        for place in np.compress(gap_P > SAME_CONTENT, own).tolist():
            found[place] = _digest(records[place])
        return found

    def is_readable(self, record: ItemRecord) -> bool:
        """Whether the bundle's space has a meaning for the record's content; no text always has."""
        assert record.content is not None
        return len(record.content) == 0 or (
            record.text_model == self.text_model and len(record.content) == self.content_dim
        )

    def stacked(self, records: Sequence[ItemRecord]) -> Floats:
        """Readable contents, `[P, C]`; zero without text."""
        stacked_PC = np.zeros((len(records), self.content_dim), np.float32)
        for place, record in enumerate(records):
            if record.content is not None and len(record.content):
                stacked_PC[place] = record.content
        return stacked_PC


def _digest(record: ItemRecord) -> bytes:
    assert record.content is not None
    return hashlib.blake2b(record.content.tobytes(), digest_size=16).digest()
