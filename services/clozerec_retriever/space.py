"""Item vectors of one bundle from content vectors: what a day-zero item, or an item with a new text, is ranked by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from safetensors import safe_open

from clozerec_core.bundle import WEIGHTS, Bundle
from clozerec_core.hybrid import Floats, ItemSpace, normalise

_BEHAVIOUR = "items.output.behaviour"
_SMALL = ("content.mean", "content.whitening", "items.output.projection", "items.output.bias")


class RowsOnDisk(Protocol):
    """A tensor of which rows are read when asked for, as safetensors has them."""

    def get_shape(self) -> list[int]: ...

    def __getitem__(self, rows: slice) -> Floats: ...


class OutputSpace:
    """The output side of a bundle's space."""

    def __init__(self, space: ItemSpace, behaviour_BD: RowsOnDisk) -> None:
        """
        Args:
            space: with everything but behaviour.
            behaviour_BD: of the bundle's items, read a row at a time.
        """
        self._space = space
        self._behaviour_BD = behaviour_BD
        self._num_known = int(behaviour_BD.get_shape()[0])

    @classmethod
    def open(cls, bundle: Bundle) -> OutputSpace:
        """Read a verified bundle's. Behaviour, as large as all vectors together, stays on disk."""
        weights: Any = safe_open(bundle.file(WEIGHTS), framework="numpy")
        small = {name: weights.get_tensor(name) for name in _SMALL}
        none = np.empty((0, bundle.manifest.model.dim), np.float32)
        return cls(ItemSpace.from_weights(small | {_BEHAVIOUR: none}, side="output"), weights.get_slice(_BEHAVIOUR))

    @property
    def content_dim(self) -> int:
        """0 without a text engine."""
        return self._space.content_dim

    def vectors(self, rows: Sequence[int], content_NC: Floats) -> Floats:
        """L2-normalised `[N, D]`; a row of the bundle keeps its behaviour. Zero without text and behaviour."""
        behaviour_ND = np.zeros((len(rows), self._space.dim), np.float32)
        for place, row in enumerate(rows):
            if row < self._num_known:
                behaviour_ND[place] = self._behaviour_BD[row : row + 1][0]
        return normalise(self._space.project(content_NC) + behaviour_ND)
