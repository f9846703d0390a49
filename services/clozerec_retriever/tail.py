"""Vectors that the bundle's index does not hold: of day-zero items, and of items whose text has changed.

Scanned whole at each search, so it is meant to stay small beside the index: places that a later vector took from are
swept out in the background.

Shapes: T places of the tail, D dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clozerec_core.hybrid import Floats
from clozerec_retriever.masks import Mask
from clozerec_retriever.products import inner_products
from clozerec_retriever.ranking import RowArray, Scores

FIRST_CAPACITY = 256

DEAD_LEAST = 256
DEAD_SHARE = 0.25
"""Of the living places, and at least: more dead ones are swept out."""


@dataclass(frozen=True)
class Tail:
    """The tail at one moment. The arrays of vectors and rows are shared with later moments, which only append."""

    vectors_TD: Floats
    rows_T: RowArray
    live_T: Mask
    """False where a later vector, or none, took the place."""

    def best(self, intent_D: Floats, margin: float, top_k: int, passing_N: Mask | None) -> tuple[RowArray, Scores]:
        """Rows that may be among the `top_k` best, with their cosines in double precision.

        Args:
            intent_D: L2-normalised.
            margin: scores so close to the last one asked for are proposed too.
            passing_N: the rows that may be returned; None: all.
        """
        usable_T = self.live_T if passing_N is None else self.live_T & passing_N[self.rows_T]
        places = np.flatnonzero(usable_T)
        if not len(places):
            return np.empty(0, np.int64), np.empty(0, np.float64)
        all_usable = len(places) == len(usable_T)
        products = inner_products(self.vectors_TD if all_usable else self.vectors_TD[places], intent_D)
        if len(places) > top_k:
            places = places[products >= np.partition(products, -top_k)[-top_k] - margin]
        return self.rows_T[places], self.vectors_TD[places].astype(np.float64) @ intent_D.astype(np.float64)


class TailWriter:
    """Appends to a tail; for one thread at a time, but `vector`, which any may call."""

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._vectors = np.empty((FIRST_CAPACITY, dim), np.float32)
        self._rows = np.empty(FIRST_CAPACITY, np.int64)
        self._live = np.empty(0, np.bool_)
        self._place_of: dict[int, int] = {}

    def vector(self, row: int) -> Floats | None:
        """The vector of a row that has one here, `[D]`."""
        place = self._place_of.get(row)
        return None if place is None else self._vectors[place]

    def replace(self, gone: list[int], rows: list[int], vectors_ND: Floats) -> Tail:
        """The tail without the vectors of some rows, and with new vectors of others or the same."""
        size = len(self._live)
        places = dict(zip(rows, range(size, size + len(rows)), strict=True))
        self._live = np.concatenate((self._live, np.ones(len(rows), np.bool_)))
        for row in (*gone, *rows):
            place = self._place_of.get(row)
            if place is not None:
                self._live[place] = False
        self._make_room(size + len(rows))
        self._vectors[size : size + len(rows)] = vectors_ND
        self._rows[size : size + len(rows)] = rows
        # A row that moves is never without a vector, for `vector` may be asked on the way.
        self._place_of.update(places)
        for row in gone:
            if row not in places:
                self._place_of.pop(row, None)
        return self.now()

    def sweep(self, seen: Tail) -> TailWriter | None:
        """A writer of the living places alone, as they were at a moment; None where few are dead.

        As slow as the tail is long, and safe beside this writer's thread. What has come since is left to `catch_up`.

        Args:
            seen: one of this writer's, not long ago.
        """
        num_living = int(np.count_nonzero(seen.live_T))
        if len(seen.live_T) - num_living <= max(DEAD_LEAST, DEAD_SHARE * num_living):
            return None
        swept = TailWriter(self._dim)
        swept.replace([], seen.rows_T[seen.live_T].tolist(), seen.vectors_TD[seen.live_T])
        return swept

    def catch_up(self, seen: Tail, now: Tail) -> Tail:
        """The swept tail, with what became of the one that it was made from since it was seen."""
        size = len(seen.live_T)
        died = seen.rows_T[seen.live_T & ~now.live_T[:size]]
        came_T = now.live_T[size:]
        return self.replace(died.tolist(), now.rows_T[size:][came_T].tolist(), now.vectors_TD[size:][came_T])

    def now(self) -> Tail:
        """The tail as it stands."""
        size = len(self._live)
        return Tail(self._vectors[:size], self._rows[:size], self._live)

    def _make_room(self, size: int) -> None:
        """Readers keep the arrays that they have; grown ones are copies."""
        if size > len(self._rows):
            capacity = max(size, 2 * len(self._rows))
            for name in ("_vectors", "_rows"):
                old = getattr(self, name)
                grown = np.empty((capacity, *old.shape[1:]), old.dtype)
                grown[: len(old)] = old
                setattr(self, name, grown)
