"""Interactions, and the window of a history that the network reads.

Knows no ids of any catalogue: a history may hold item ids, rows or tokens alike.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
H = TypeVar("H", bound=Hashable)


@dataclass(frozen=True)
class Window:
    """The part of a sequence that the network reads, and where the mask stands in it."""

    start: int
    stop: int
    mask_position: int
    """0 to `stop - start`: how many items of the window stand before the mask."""


def window_around(sequence_len: int, mask_index: int | None, max_len: int) -> Window:
    """The `max_len` items nearest to the mask.

    Args:
        sequence_len: items in the whole sequence, 0 or more.
        mask_index: 0 to `sequence_len`, the number of items before the mask; None: after the last.
        max_len: items that the network reads beside the mask, 1 or more.

    The mask splits the window in halves where both sides have enough items, the odd one going to the past; a side that
    has fewer leaves its share to the other.
    """
    before = sequence_len if mask_index is None else mask_index
    after = sequence_len - before
    assert 0 <= before <= sequence_len, "mask_index is checked at the edge"
    from_before = min(before, max(max_len - max_len // 2, max_len - after))
    from_after = min(after, max_len - from_before)
    return Window(before - from_before, before + from_after, from_before)


def newest_distinct(sequence: Sequence[H], limit: int) -> list[H]:
    """Up to `limit` distinct members, newest first, from a sequence that is oldest first."""
    seen: dict[H, None] = {}
    for member in reversed(sequence):
        if len(seen) >= limit:
            break
        seen.setdefault(member)
    return list(seen)


def without_repeats(members: Iterable[H]) -> list[H]:
    """The distinct members in the order of their first appearance."""
    return list(dict.fromkeys(members))
