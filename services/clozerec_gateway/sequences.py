"""What the encoder is to read: ids become members (items of the bundle, day-zero items by their content), and of these
the ones nearest to the mask are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from clozerec_core.bundle import Bundle
from clozerec_core.interactions import window_around, without_repeats
from clozerec_gateway.clients import ContentItem, Member, TextItem
from clozerec_gateway.dependency import DependencyGone
from clozerec_gateway.history import History
from clozerec_gateway.live_items import DayZeroItems

LEAST_READ = 1_000
"""Ids that are looked at, those nearest to the mask; twice the window where that is more, so that ids without a vector
among them do not shorten it."""


@dataclass(frozen=True)
class TokenSequence:
    """A sequence as the encoder reads it."""

    members: Sequence[Member]
    mask_position: int
    """Members before the mask."""
    unknown_item_ids: Sequence[str] = ()
    """Ids that nobody knows, in their order, each once."""
    unresolved: bool = False
    """Ids that the bundle does not have could not be looked up: the retriever is gone."""

    @property
    def nearest_item_ids(self) -> Iterator[str]:
        """Ids of the members, those before the mask first, the nearest ones first of all."""
        before, after = self.members[: self.mask_position], self.members[self.mask_position :]
        for member in (*reversed(before), *after):
            if not isinstance(member, TextItem):
                yield item_id_of(member)

    @property
    def needs_text(self) -> bool:
        """Whether a member is known by its text alone."""
        return any(isinstance(member, TextItem) for member in self.members)

    def followed_by(self, member: Member, max_len: int) -> TokenSequence:
        """With one more item at the end, the mask after it; of `max_len` members at most."""
        members = [*self.members[max(0, len(self.members) - max_len + 1) :], member]
        return TokenSequence(members, len(members), self.unknown_item_ids, self.unresolved)

    def without(self, item_id: str) -> TokenSequence:
        """As if the item had not been there."""
        kept = [(place, member) for place, member in enumerate(self.members) if item_id_of(member) != item_id]
        before = sum(place < self.mask_position for place, _ in kept)
        return TokenSequence([member for _, member in kept], before)


NOTHING = TokenSequence((), 0)


def item_id_of(member: Member) -> str:
    """The member's id; empty for a text."""
    match member:
        case str():
            return member
        case ContentItem(item_id):
            return item_id
        case TextItem():
            return ""


class SequenceReader:
    """Reads ids in the terms of one bundle."""

    def __init__(self, bundle: Bundle, day_zero: DayZeroItems) -> None:
        self._row_of = bundle.catalogue.row_of
        self._has_vector: list[bool] = np.any(bundle.vectors, axis=1).tolist()
        self._day_zero = day_zero
        self._window_len = bundle.manifest.model.max_sequence_length
        self._num_read = max(LEAST_READ, 2 * self._window_len)

    @property
    def window_len(self) -> int:
        """Items that the network reads beside the mask."""
        return self._window_len

    async def read_history(self, history: History) -> TokenSequence:
        """The newest members; which ids are unknown is not told."""
        if history.window is not None:
            return history.window
        newest = history.item_ids[-self._window_len :]
        if all(self._is_lasting(item_id) for item_id in newest):
            history.window = TokenSequence(newest, len(newest))
            return history.window
        return await self.read(history.item_ids, None)

    def _is_lasting(self, item_id: str) -> bool:
        """Whether it is and stays a member as it is: an item of the bundle, with a vector."""
        row = self._row_of(item_id)
        return row is not None and self._has_vector[row]

    async def read(self, item_ids: Sequence[str], mask_index: int | None) -> TokenSequence:
        """The members nearest to the mask.

        Args:
            item_ids: oldest first.
            mask_index: 0 to their number; None: after the last.
        """
        looked_at = window_around(len(item_ids), mask_index, self._num_read)
        ids = item_ids[looked_at.start : looked_at.stop]
        strangers = [item_id for item_id in ids if self._row_of(item_id) is None]
        found: dict[str, ContentItem] = {}
        unresolved = False
        if strangers:
            try:
                found = await self._day_zero.find(strangers)
            except DependencyGone:
                unresolved = True
        members: list[Member] = []
        before = 0
        for place, item_id in enumerate(ids):
            member = self._member(item_id, found)
            if member is not None:
                members.append(member)
                before += place < looked_at.mask_position
        window = window_around(len(members), before, self._window_len)
        unknown = without_repeats(item_id for item_id in strangers if item_id not in found)
        return TokenSequence(members[window.start : window.stop], window.mask_position, unknown, unresolved)

    def _member(self, item_id: str, found: dict[str, ContentItem]) -> Member | None:
        row = self._row_of(item_id)
        if row is not None:
            return item_id if self._has_vector[row] else None
        item = found.get(item_id)
        return item if item is not None and item.content else None
