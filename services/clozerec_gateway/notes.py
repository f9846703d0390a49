"""Notes of what callers last said of an item of the catalogue, and what a store of them promises."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from google.protobuf import json_format

from clozerec_gateway.clients import StoredItem


@dataclass(frozen=True)
class Note:
    """What callers last said of an item."""

    item_id: str
    deleted: bool
    changed_us: int
    display_name: str = ""
    metadata: str = "{}"
    """All columns, as JSON."""

    @classmethod
    def of(cls, item: StoredItem, changed_us: int) -> Note:
        """The note of an item that is as the retriever has it."""
        document = json.dumps(json_format.MessageToDict(item.metadata), ensure_ascii=False)
        return cls(item.item_id, False, changed_us, item.display_name, document)


class NoteStore(Protocol):
    """Where notes are kept. Methods may raise HistoryStoreGone."""

    async def write_notes(self, notes: Sequence[Note]) -> int:
        """Keep notes, durably; the latest of an item stands. The version of what is kept by then: one more a write."""
        ...

    async def notes_since(self, version: int) -> tuple[int, Sequence[Note]]:
        """The version of what is kept, and none where it is `version`; else every note, of a version as new or newer.

        In the order in which items were first spoken of, which no later note changes.
        """
        ...
