"""`encoder.onnx` of every kind and bundle format: catalogue rows in, intent vectors out. Knows tensors; knows no queue.

A sequence may also hold items that the catalogue does not know, by their input-side vectors.

Shapes: L positions (items and one mask), B sequences of that one length, T the network's positions, D dim, R rows
(those of the catalogue, padding and mask).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clozerec_core.bundle import ENCODER, Bundle
from clozerec_core.catalogue import SpecialRows
from clozerec_core.hybrid import Floats
from clozerec_encoder.runtime import Device, open_session

Rows = NDArray[np.int64]
Vectors = Mapping[tuple[int, int], Floats]
"""Vectors `[D]` that stand in place of the row at (position, sequence)."""


class Network(Protocol):
    """One reading of `encoder.onnx`."""

    def intents(self, rows_LB: Rows, mask_at_B: Rows, vectors: Vectors) -> Floats:
        """Intent vectors `[B, D]`, L2-normalised.

        Args:
            rows_LB: catalogue, padding and mask rows, oldest first.
            mask_at_B: the position of each sequence's mask.
            vectors: items by their vector.
        """
        ...


def open_network(bundle: Bundle, input_ND: Floats, threads: int, device: Device) -> Network:
    """The bundle's network.

    Args:
        bundle: of any format that this release reads.
        input_ND: input-side vectors of the catalogue's items.
        threads: of one run.
        device: where it runs.
    """
    session = open_session(bundle.file(ENCODER), threads, device, repeats_shapes=True)
    inputs = {each.name for each in session.get_inputs()}
    if "token_vectors" in inputs:
        return _FlaggedNetwork(session, input_ND)
    return (_TastingNetwork if "items" in inputs else _SummedNetwork)(session, input_ND, bundle.weights())


class _SummedNetwork:
    """Without a taste, and all of format 2: the network reads item plus position, looked up here in scaled tables."""

    def __init__(self, session: Any, input_ND: Floats, weights: Mapping[str, Floats]) -> None:
        self._session = session
        self._scale = weights["network.input_scale"]
        special = SpecialRows(len(input_ND))
        self._table_RD = np.empty((special.num_rows, input_ND.shape[1]), np.float32)
        np.multiply(input_ND, self._scale, out=self._table_RD[: len(input_ND)])
        self._table_RD[special.pad] = weights["network.pad_vector"]
        self._table_RD[special.mask] = weights["network.mask_vector"]
        self._positions_T1D = weights["network.positions"][:, None, :]

    def intents(self, rows_LB: Rows, mask_at_B: Rows, vectors: Vectors) -> Floats:
        length, batch = rows_LB.shape
        hidden_LBD = self._table_RD.take(rows_LB, axis=0)
        for place, vector_D in vectors.items():
            hidden_LBD[place] = vector_D * self._scale
        # Positions count from the right: the newest item has the same one at every length.
        hidden_LBD += self._positions_T1D[len(self._positions_T1D) - length :]
        intents_BD: Floats
        feeds = {"hidden": hidden_LBD, "asked": _flat(mask_at_B, batch)}
        (intents_BD,) = self._session.run(["intent"], feeds)
        return intents_BD


class _TastingNetwork:
    """With a taste, since format 3: the items also apart from their positions, and what they count by distance."""

    def __init__(self, session: Any, input_ND: Floats, weights: Mapping[str, Floats]) -> None:
        self._session = session
        self._scale = weights["network.input_scale"]
        self._special = SpecialRows(len(input_ND))
        self._table_RD = np.zeros((self._special.num_rows, input_ND.shape[1]), np.float32)
        np.multiply(input_ND, self._scale, out=self._table_RD[: len(input_ND)])
        self._mask_D, self._pad_D = weights["network.mask_vector"], weights["network.pad_vector"]
        self._positions_T1D = weights["network.positions"][:, None, :]
        # By distance from the mask, which itself has no part in the taste: any number will do for it.
        self._recency_T1 = np.concatenate((weights["network.log_recency"][:1], weights["network.log_recency"]))
        self._recency_before_T1 = self._recency_T1[::-1].copy()

    def intents(self, rows_LB: Rows, mask_at_B: Rows, vectors: Vectors) -> Floats:
        length, batch = rows_LB.shape
        items_LBD = self._table_RD.take(rows_LB, axis=0)
        for place, vector_D in vectors.items():
            items_LBD[place] = vector_D * self._scale
        # Positions count from the right: the newest item has the same one at every length.
        hidden_LBD = items_LBD + self._positions_T1D[len(self._positions_T1D) - length :]
        if batch == 1:
            hidden_LBD[mask_at_B[0], 0] += self._mask_D
        else:
            hidden_LBD[mask_at_B, np.arange(batch)] += self._mask_D
        if rows_LB[0, 0] == self._special.pad:  # all are of one length
            hidden_LBD[rows_LB == self._special.pad] += self._pad_D
        feeds = {
            "hidden": hidden_LBD,
            "items": items_LBD,
            "recency": self._recency(length, mask_at_B),
            "asked": _flat(mask_at_B, batch),
        }
        intents_BD: Floats
        (intents_BD,) = self._session.run(["intent"], feeds)
        return intents_BD

    def _recency(self, length: int, mask_at_B: Rows) -> Floats:
        """`[B, 1, L]`."""
        recency_B1L: Floats
        if len(mask_at_B) == 1 and mask_at_B[0] == length - 1:
            recency_B1L = self._recency_before_T1[None, None, len(self._recency_before_T1) - length :]
        else:
            recency_B1L = self._recency_T1[np.abs(mask_at_B[:, None] - np.arange(length))][:, None]
        return recency_B1L


def _flat(mask_at_B: Rows, batch: int) -> Rows:
    """Each sequence's mask in `[L * B]`."""
    return mask_at_B if batch == 1 else mask_at_B * batch + np.arange(batch)


class _FlaggedNetwork:
    """Format 1: the network adds mask, padding and positions itself, where two flags say so."""

    def __init__(self, session: Any, input_ND: Floats) -> None:
        self._session = session
        self._special = SpecialRows(len(input_ND))
        self._table_RD = np.zeros((self._special.num_rows, input_ND.shape[1]), np.float32)
        self._table_RD[: len(input_ND)] = input_ND

    def intents(self, rows_LB: Rows, mask_at_B: Rows, vectors: Vectors) -> Floats:
        rows_BL = np.ascontiguousarray(rows_LB.T)
        vectors_BLD = self._table_RD.take(rows_BL, axis=0)
        for (position, sequence), vector_D in vectors.items():
            vectors_BLD[sequence, position] = vector_D
        flags = {"is_mask": rows_BL == self._special.mask, "is_pad": rows_BL == self._special.pad}
        intents_BD: Floats
        (intents_BD,) = self._session.run(["intent"], {"token_vectors": vectors_BLD, **flags})
        return intents_BD
