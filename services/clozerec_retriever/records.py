"""What callers change, what the journal says of an item, and a record as a row of its table."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from clozerec_core.catalogue import Schema
from clozerec_core.hybrid import Floats
from clozerec_core.metadata import Cells, cells_from_text, cells_to_text


@dataclass(frozen=True)
class Put:
    """A caller's upsert of one item, typed and checked."""

    item_id: str
    cells: Cells
    masked: bool = False
    """Change the named cells only, of an item that is known; else the cells replace all metadata, and `content` too."""
    content: Floats | None = None
    """[C]; empty: no text; None: leave it as it is."""
    text_model: str = ""
    text: str = ""
    renews: bool = False
    """The content is of the text that the item has already, by another model; of no other text may it be."""


@dataclass(frozen=True)
class Drop:
    """A caller's deletion of one item."""

    item_id: str


Change = Put | Drop


@dataclass(frozen=True)
class ItemRecord:
    """What the journal says of an item."""

    ordinal: int
    item_id: str
    deleted: bool
    cells: Cells
    kinds: Schema
    """The types that the cells have."""
    content: Floats | None
    """[C]; empty: no text; None: as the bundle has it."""
    text_model: str
    text: str
    changed_at_us: int


def finds_nothing(change: Change, before: ItemRecord | None, is_in_bundle: Callable[[str], bool]) -> bool:
    """Whether a change speaks of an item that is not there, or of a text that it has not.

    Args:
        change: what a caller asks for.
        before: what is recorded of the item; only a masked change reads it.
        is_in_bundle: whether an item of which nothing is recorded is known all the same.
    """
    if not (isinstance(change, Put) and change.masked):
        return False
    if change.renews:
        return before is None or before.deleted or before.text != change.text
    return before.deleted if before else not is_in_bundle(change.item_id)


def left_by(change: Change, before: ItemRecord | None, ordinal: int, schema: Schema, now_us: int) -> ItemRecord:
    """What a change leaves.

    Args:
        change: one that finds its item; its cells are typed by `schema`.
        before: what is recorded of the item; only a masked change reads it.
        ordinal: of the record.
        schema: of the change's cells.
        now_us: microseconds since the epoch.
    """
    item_id = change.item_id
    if isinstance(change, Drop):
        return ItemRecord(ordinal, item_id, True, {}, schema, None, "", "", now_us)
    if change.renews and before is not None:
        # Whoever changed the item did so when it was, and said what it says.
        return replace(before, content=change.content, text_model=change.text_model)
    said: Put | ItemRecord = change
    cells = change.cells
    if change.masked and before is not None:
        cells = {name: cell for name, cell in before.cells.items() if before.kinds.get(name) is schema.get(name)}
        cells |= change.cells
        said = before if change.content is None else change
    return ItemRecord(ordinal, item_id, False, cells, schema, said.content, said.text_model, said.text, now_us)


FIELDS = (
    "ordinal",
    "item_id",
    "deleted",
    "cells",
    "schema_id",
    "content",
    "text_model",
    "text",
    "changed_at_us",
    "checksum",
)

Row = tuple[int, str, int, str, int, bytes | None, str, str, int, int]
"""In the order of FIELDS."""


def to_row(record: ItemRecord, schema_id: int) -> Row:
    """With its checksum."""
    row: Row = (
        record.ordinal,
        record.item_id,
        int(record.deleted),
        cells_to_text(record.cells),
        schema_id,
        None if record.content is None else record.content.astype("<f4", copy=False).tobytes(),
        record.text_model,
        record.text,
        record.changed_at_us,
        0,
    )
    return (*row[:-1], _checksum(row))


def from_row(row: Row, schemas: Mapping[int, Schema]) -> ItemRecord:
    """The inverse."""
    ordinal, item_id, deleted, cells, schema_id, content, text_model, text, changed_at_us, _ = row
    return ItemRecord(
        ordinal=ordinal,
        item_id=item_id,
        deleted=bool(deleted),
        cells=cells_from_text(cells),
        kinds=schemas[schema_id],
        content=None if content is None else np.frombuffer(content, "<f4"),
        text_model=text_model,
        text=text,
        changed_at_us=changed_at_us,
    )


def is_sound(row: Row) -> bool:
    """Whether the row is what was written."""
    return _checksum(row) == row[-1]


def _checksum(row: Row) -> int:
    ordinal, item_id, deleted, cells, schema_id, content, text_model, text, changed_at_us, _ = row
    before = f"{ordinal}\0{item_id}\0{deleted}\0{cells}\0{schema_id}\0".encode()
    after = f"\0{text_model}\0{text}\0{changed_at_us}".encode()
    return zlib.crc32(b"".join((before, b"None" if content is None else content, after)))
