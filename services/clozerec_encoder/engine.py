"""Turn sequences of rows into intent vectors. Knows tensors; knows nothing of gRPC, ids, texts or queues.

Shapes: L positions (items and one MASK, right-aligned), B sequences, D dim.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from clozerec_core.bundle import Bundle
from clozerec_core.catalogue import SpecialRows
from clozerec_core.hybrid import Floats
from clozerec_encoder.networks import open_network
from clozerec_encoder.runtime import Device


@dataclass(frozen=True, slots=True)
class RowSequence:
    """A window of items with the place of the mask in it."""

    rows: Sequence[int]
    """Catalogue rows, oldest first, at most the network's max_sequence_length; any row where `vectors` has an item."""
    mask_position: int
    """Items before the mask, 0 to their number."""
    vectors: dict[int, Floats] = field(default_factory=dict)
    """Input-side vectors `[D]` of items that are not of the catalogue, by their place in `rows`."""


class SequenceEngine:
    """Runs the bundle's network; from several threads at once where need be."""

    def __init__(self, bundle: Bundle, input_ND: Floats, run_tokens: int, threads: int, device: Device) -> None:
        """Open the network.

        Args:
            bundle: whose network.
            input_ND: input-side vectors of the catalogue's items.
            run_tokens: positions in one network run, at most, unless a single sequence has more.
            threads: of one run.
            device: where it runs.
        """
        self._model = bundle.manifest.model
        self._special = SpecialRows(len(input_ND))
        self._run_tokens = run_tokens
        self._network = open_network(bundle, input_ND, threads, device)

    def intents(self, sequences: Sequence[RowSequence]) -> Floats:
        """Intent vectors `[B, D]`, L2-normalised, in the order of the sequences."""
        if len(sequences) == 1:
            return self._run_one(sequences[0])
        intents_BD = np.empty((len(sequences), self._model.dim), np.float32)
        for batch in self._batches(sequences):
            intents_BD[batch] = self._run([sequences[i] for i in batch])
        return intents_BD

    def run_len(self, num_items: int) -> int:
        """Positions that the network computes for so many items: their own, unless it was trained reading padding."""
        return num_items + 1 if self._model.use_attention_mask else self._model.max_sequence_length + 1

    def run_size(self, num_items: int) -> int:
        """Sequences of so many items that run together."""
        return max(1, self._run_tokens // self.run_len(num_items))

    def _run_one(self, sequence: RowSequence) -> Floats:
        """`[1, D]`."""
        num_items, mask = len(sequence.rows), sequence.mask_position
        num_padded = self.run_len(num_items) - num_items - 1
        return self._network.intent(
            self._laid_out(sequence, num_padded),
            num_padded + mask,
            {(place, 0): vector_D for place, vector_D in self._placed(sequence, num_padded)}
            if sequence.vectors
            else {},
        )

    def _run(self, sequences: Sequence[RowSequence]) -> Floats:
        """Sequences of one length."""
        num_items = len(sequences[0].rows)
        num_padded = self.run_len(num_items) - num_items - 1
        rows_BL = [self._laid_out(sequence, num_padded) for sequence in sequences]
        mask_at_B = [num_padded + sequence.mask_position for sequence in sequences]
        vectors = {
            (place, number): vector_D
            for number, sequence in enumerate(sequences)
            for place, vector_D in self._placed(sequence, num_padded)
        }
        return self._network.intents(np.array(rows_BL).T, np.array(mask_at_B), vectors)

    def _laid_out(self, sequence: RowSequence, num_padded: int) -> list[int]:
        """Padding, items and the mask among them."""
        rows, mask = sequence.rows, sequence.mask_position
        return [*[self._special.pad] * num_padded, *rows[:mask], self._special.mask, *rows[mask:]]

    def _placed(self, sequence: RowSequence, num_padded: int) -> Iterator[tuple[int, Floats]]:
        """Where the items by vector lie then."""
        for place, vector_D in sequence.vectors.items():
            yield num_padded + place + (place >= sequence.mask_position), vector_D

    def _batches(self, sequences: Sequence[RowSequence]) -> Iterator[list[int]]:
        """Positions of sequences of equal length, at most `run_tokens` positions in a run.

        Equal, not similar: without padding inside a batch nothing is computed in vain, and the answer does not depend
        on who else is in it.
        """
        by_len: dict[int, list[int]] = {}
        for i, sequence in enumerate(sequences):
            by_len.setdefault(len(sequence.rows), []).append(i)
        for num_items, members in by_len.items():
            size = self.run_size(num_items)
            for start in range(0, len(members), size):
                yield members[start : start + size]
