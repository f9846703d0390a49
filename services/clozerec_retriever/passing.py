"""What passes a filter at one moment, prepared once for all searches that ask for it.

Shapes: N rows of the catalogue, B rows of the bundle's index.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from functools import cached_property
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from clozerec_core.hybrid import Floats
from clozerec_core.predicate import Predicate, meaning
from clozerec_retriever.cells import Cells, PassingByCell
from clozerec_retriever.masks import Mask, text_len
from clozerec_retriever.ranking import RowArray

MAX_CACHED = 32
COPIED_BYTES = 2**20
"""Of a filter whose passing vectors are kept side by side: 4,096 of them at 64 dims."""

MAX_CACHED_TEXT = 4_096
"""Characters in the values of a filter that is kept: beyond it, keys could outweigh what is kept."""


class Passing:
    """The rows that pass, and in the forms that searches read them. What is costly is made when first asked for."""

    def __init__(self, rows_N: Mask, searchable_B: Mask, cells: Cells | None = None) -> None:
        """
        Args:
            rows_N: all rows of the catalogue that pass.
            searchable_B: rows of which the index has the present vector.
            cells: of the index.
        """
        self.rows_N = rows_N
        self.of_index_B: Mask = rows_N[: len(searchable_B)] & searchable_B
        self.count = int(np.count_nonzero(self.of_index_B))
        """Rows of the index that pass."""
        self.is_all = self.count == len(searchable_B)
        self._cells = cells
        self._vectors_PD: Floats | None = None
        self._doubles_PD: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.of_index_B)

    @cached_property
    def rows(self) -> RowArray:
        """Rows of the index that pass, ascending."""
        return np.flatnonzero(self.of_index_B)

    def vectors(self, vectors_BD: Floats) -> Floats:
        """The vectors of `rows`, side by side, `[count, D]`: kept, for a scan of them is twice as fast as in place.

        Args:
            vectors_BD: of the index, the same at every call.
        """
        if self._vectors_PD is None:
            self._vectors_PD = vectors_BD[self.rows]
        return self._vectors_PD

    def doubles(self, vectors_BD: Floats) -> NDArray[np.float64]:
        """The same in double precision, for a handful."""
        if self._doubles_PD is None:
            self._doubles_PD = vectors_BD[self.rows].astype(np.float64)
        return self._doubles_PD

    @cached_property
    def not_of_index_B(self) -> Mask:
        """Rows of the index that do not pass."""
        mask: Mask = ~self.of_index_B
        return mask

    @cached_property
    def by_cell(self) -> PassingByCell:
        """The same by cell; for an index that has cells."""
        assert self._cells is not None
        return self._cells.of(self.rows)

    @cached_property
    def selector(self) -> Any:
        """The same for FAISS."""
        return faiss.IDSelectorBitmap(np.packbits(self.of_index_B, bitorder="little"))

    def without(self, rows: list[int]) -> Passing:
        """The same but some rows of the catalogue."""
        rest = self.rows_N.copy()
        rest[rows] = False
        return Passing(rest, self.of_index_B, self._cells)


class PassingCache:
    """Keeps what passes the filters asked for lately, as long as the catalogue stays as it is.

    A filter is known by its meaning, in whatever order callers write it.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, tuple[int, Passing]] = OrderedDict()
        self._meanings: OrderedDict[Predicate, Hashable] = OrderedDict()
        """Of filters that were found, for to work one out takes as long as a small search."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, predicate: Predicate, version: int) -> Passing | None:
        """What passes at a version of the catalogue; None where it has to be found out."""
        with self._lock:
            known = self._meanings.get(predicate)
            key = meaning(predicate) if known is None else known
            kept = self._kept.get(key)
            if kept is None or kept[0] != version:
                return None
            self._kept.move_to_end(key)
            if known is None:
                self._remember(predicate, key)
            return kept[1]

    def put(self, predicate: Predicate, version: int, passing: Passing) -> None:
        """Keep it, in the place of an older version and of what was asked for least lately."""
        if text_len(predicate) > MAX_CACHED_TEXT:
            return
        key = meaning(predicate)
        with self._lock:
            self._kept[key] = version, passing
            self._kept.move_to_end(key)
            self._remember(predicate, key)
            while len(self._kept) > MAX_CACHED:
                self._kept.popitem(last=False)

    def _remember(self, predicate: Predicate, key: Hashable) -> None:
        self._meanings[predicate] = key
        while len(self._meanings) > MAX_CACHED:
            self._meanings.popitem(last=False)
