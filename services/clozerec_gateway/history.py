"""One person's history, with what queries derive from it: derived once, and kept as long as the history is.

It never changes: after an event there is another one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from clozerec_core.interactions import newest_distinct
from clozerec_core.limits import MAX_SEEN_ITEMS

if TYPE_CHECKING:
    from clozerec_gateway.sequences import TokenSequence


@dataclass(frozen=True)
class Items:
    """Items of two kinds, those of the bundle by their rows in its catalogue."""

    rows: Sequence[int] = ()
    strangers: Sequence[str] = ()
    """Ids that the bundle does not have."""

    @classmethod
    def of(cls, item_ids: Sequence[str], row_of: Callable[[str], int | None]) -> Items:
        """Ids, sorted by kind."""
        rows, strangers = [], []
        for item_id in item_ids:
            row = row_of(item_id)
            if row is None:
                strangers.append(item_id)
            else:
                rows.append(row)
        return cls(rows, strangers)

    def __add__(self, other: Items) -> Items:
        if not (other.rows or other.strangers):
            return self
        if not (self.rows or self.strangers):
            return other
        return Items([*self.rows, *other.rows], [*self.strangers, *other.strangers])


class History:
    """What a person did, in the terms of one bundle."""

    def __init__(self, item_ids: Sequence[str], row_of: Callable[[str], int | None]) -> None:
        """
        Args:
            item_ids: oldest first, repeats included.
            row_of: the bundle's row of an id.
        """
        self.item_ids = item_ids
        self._row_of = row_of
        self.window: TokenSequence | None = None
        """Its newest items as `SequenceReader` read them, where that can never change."""

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def seen(self) -> Items:
        """What `exclude_seen` leaves out: the newest distinct items."""
        return Items.of(newest_distinct(self.item_ids, MAX_SEEN_ITEMS), self._row_of)


NO_HISTORY = History((), lambda _: None)
