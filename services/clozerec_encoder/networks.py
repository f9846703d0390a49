"""`encoder.onnx` of every kind and bundle format: catalogue rows in, intent vectors out. Knows tensors; knows no queue.

A sequence may also hold items that the catalogue does not know, by their input-side vectors.

Shapes: L positions (items and one mask), B sequences of that one length, T the network's positions, D dim, R rows
(those of the catalogue, padding and mask).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clozerec_core.bundle import ENCODER, Bundle
from clozerec_core.catalogue import SpecialRows
from clozerec_core.hybrid import Floats
from clozerec_encoder.runtime import Device, open_session

Rows = NDArray[np.int64]
Feeds = dict[str, NDArray[Any]]
"""The graph's inputs by name."""
Vectors = Mapping[tuple[int, int], Floats]
"""Vectors `[D]` that stand in place of the row at (position, sequence)."""

INTENT = "intent"
"""The graph's output."""


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

    def intent(self, rows_L: Sequence[int], mask_at: int, vectors: Vectors) -> Floats:
        """The same of one sequence, `[1, D]`, with less ado."""
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
    kind = _TastingNetwork if "items" in inputs else _SummedNetwork
    return kind(session, input_ND, bundle.weights(), binds=device == "cpu")


class _SummedNetwork:
    """Without a taste, and all of format 2: the network reads item plus position, looked up here in scaled tables."""

    def __init__(self, session: Any, input_ND: Floats, weights: Mapping[str, Floats], binds: bool) -> None:
        """Prepare the tables.

        Args:
            session: over the graph.
            input_ND: input-side vectors of the catalogue's items.
            weights: of the bundle.
            binds: whether single sequences run in memory that is bound to the session once.
        """
        self.session = session
        self.dim = input_ND.shape[1]
        self._scale = weights["network.input_scale"]
        self._special = SpecialRows(len(input_ND))
        self._table_RD = np.zeros((self._special.num_rows, self.dim), np.float32)
        np.multiply(input_ND, self._scale, out=self._table_RD[: len(input_ND)])
        self.mask_D, self._pad_D = weights["network.mask_vector"], weights["network.pad_vector"]
        self._positions_T1D = weights["network.positions"][:, None, :]
        self._bound: dict[int, _BoundRun] | None = {} if binds else None
        """By length."""
        self._lock = threading.Lock()
        """Of the bound runs."""

    def intent(self, rows_L: Sequence[int], mask_at: int, vectors: Vectors) -> Floats:
        is_padded = rows_L[0] == self._special.pad
        if self._bound is None or is_padded or not self._lock.acquire(blocking=False):
            return self.intents(np.array(rows_L)[:, None], np.array([mask_at]), vectors)
        try:
            length = len(rows_L)
            if (run := self._bound.get(length)) is None:
                run = self._bound[length] = _BoundRun(self, length)
            return run(self, rows_L, mask_at, vectors)
        finally:
            self._lock.release()

    def intents(self, rows_LB: Rows, mask_at_B: Rows, vectors: Vectors) -> Floats:
        length, batch = rows_LB.shape
        feeds = self.feeds(length, batch)
        items_LBD, hidden_LBD = feeds.get("items", feeds["hidden"]), feeds["hidden"]
        self.look_up(rows_LB, vectors, items_LBD)
        np.add(items_LBD, self.positions(length), out=hidden_LBD)
        hidden_LBD[mask_at_B, np.arange(batch)] += self.mask_D
        if rows_LB[0, 0] == self._special.pad:  # all are of one length
            hidden_LBD[rows_LB == self._special.pad] += self._pad_D
        self.ask(feeds, mask_at_B)
        intents_BD: Floats
        (intents_BD,) = self.session.run([INTENT], feeds)
        return intents_BD

    def feeds(self, length: int, batch: int) -> Feeds:
        """Memory of the graph's inputs."""
        return {"hidden": np.empty((length, batch, self.dim), np.float32), "asked": np.empty(batch, np.int64)}

    def look_up(self, rows_LB: Rows, vectors: Vectors, items_LBD: Floats) -> None:
        """Write the scaled vectors of items; zeros at mask and padding."""
        self._table_RD.take(rows_LB, axis=0, out=items_LBD, mode="clip")  # unlike "raise", it writes where it is told
        for place, vector_D in vectors.items():
            items_LBD[place] = vector_D * self._scale

    def positions(self, length: int) -> Floats:
        """`[L, 1, D]`. They count from the right: the newest item has the same one at every length."""
        positions_L1D: Floats = self._positions_T1D[len(self._positions_T1D) - length :]
        return positions_L1D

    def ask(self, feeds: Feeds, mask_at_B: Rows) -> None:
        """Write the inputs that say where the masks are."""
        batch = len(mask_at_B)
        feeds["asked"][:] = mask_at_B * batch + np.arange(batch)


class _TastingNetwork(_SummedNetwork):
    """With a taste, since format 3: the items also apart from their positions, and what they count by distance."""

    def __init__(self, session: Any, input_ND: Floats, weights: Mapping[str, Floats], binds: bool) -> None:
        super().__init__(session, input_ND, weights, binds)
        # By distance from the mask, which itself has no part in the taste: any number will do for it.
        self._recency_T1 = np.concatenate((weights["network.log_recency"][:1], weights["network.log_recency"]))

    def feeds(self, length: int, batch: int) -> Feeds:
        items_LBD = np.empty((length, batch, self.dim), np.float32)
        recency_B1L = np.empty((batch, 1, length), np.float32)
        return super().feeds(length, batch) | {"items": items_LBD, "recency": recency_B1L}

    def ask(self, feeds: Feeds, mask_at_B: Rows) -> None:
        super().ask(feeds, mask_at_B)
        apart_BL = np.abs(mask_at_B[:, None] - np.arange(feeds["items"].shape[0]))
        feeds["recency"][:, 0] = self._recency_T1[apart_BL]


class _BoundRun:
    """Single sequences of one length, not padded. Inputs and output stay where they are, and so does what the last
    sequence with its mask at the same place had: to bind and to fill anew takes as long as a third of a short run.
    """

    def __init__(self, network: _SummedNetwork, length: int) -> None:
        self._feeds = network.feeds(length, 1)
        self._rows_L1 = np.empty((length, 1), np.int64)
        self._intent_1D = np.empty((1, network.dim), np.float32)
        self._placed_L1D = np.empty((length, 1, network.dim), np.float32)
        """Positions, and the mask at its own."""
        self._mask_at = -1
        """For which all but the items is written."""
        self._binding = network.session.io_binding()
        for name, array in self._feeds.items():
            self._binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        self._binding.bind_output(INTENT, "cpu", 0, np.float32, self._intent_1D.shape, self._intent_1D.ctypes.data)

    def __call__(self, network: _SummedNetwork, rows_L: Sequence[int], mask_at: int, vectors: Vectors) -> Floats:
        """The intent `[1, D]`. The network is handed in at each call, for it holds this run."""
        hidden_L1D = self._feeds["hidden"]
        if mask_at != self._mask_at:
            self._mask_at = -1
            self._placed_L1D[:] = network.positions(len(rows_L))
            self._placed_L1D[mask_at] += network.mask_D
            network.ask(self._feeds, np.array([mask_at]))
            self._mask_at = mask_at
        self._rows_L1[:, 0] = rows_L
        items_L1D = self._feeds.get("items", hidden_L1D)
        network.look_up(self._rows_L1, vectors, items_L1D)
        np.add(items_L1D, self._placed_L1D, out=hidden_L1D)
        network.session.run_with_iobinding(self._binding)
        return self._intent_1D.copy()


class _FlaggedNetwork:
    """Format 1: the network adds mask, padding and positions itself, where two flags say so."""

    def __init__(self, session: Any, input_ND: Floats) -> None:
        self._session = session
        self._special = SpecialRows(len(input_ND))
        self._table_RD = np.zeros((self._special.num_rows, input_ND.shape[1]), np.float32)
        self._table_RD[: len(input_ND)] = input_ND

    def intent(self, rows_L: Sequence[int], mask_at: int, vectors: Vectors) -> Floats:
        return self.intents(np.array(rows_L)[:, None], np.array([mask_at]), vectors)

    def intents(self, rows_LB: Rows, mask_at_B: Rows, vectors: Vectors) -> Floats:
        rows_BL = np.ascontiguousarray(rows_LB.T)
        vectors_BLD = self._table_RD.take(rows_BL, axis=0)
        for (position, sequence), vector_D in vectors.items():
            vectors_BLD[sequence, position] = vector_D
        flags = {"is_mask": rows_BL == self._special.mask, "is_pad": rows_BL == self._special.pad}
        intents_BD: Floats
        (intents_BD,) = self._session.run([INTENT], {"token_vectors": vectors_BLD, **flags})
        return intents_BD
