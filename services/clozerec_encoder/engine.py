"""Turn sequences of item vectors into intent vectors. Knows tensors; knows nothing of gRPC, ids or texts.

Shapes: B sequences, L positions (items and one MASK, right-aligned, padded on the left), D dim.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime

from clozerec_core.bundle import ENCODER, Bundle
from clozerec_core.hybrid import Floats


@dataclass(frozen=True)
class VectorSequence:
    """A window of input-side item vectors with the place of the mask in it."""

    items: Floats
    """[n, D], oldest first, n at most the network's max_sequence_length."""
    mask_position: int
    """Items before the mask, 0 to n."""


class SequenceEngine:
    """Runs the bundle's network. Not for use from two threads at once."""

    def __init__(self, bundle: Bundle, batch_tokens: int, threads: int) -> None:
        self._model = bundle.manifest.model
        self._batch_tokens = batch_tokens
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(bundle.file(ENCODER), options, ["CPUExecutionProvider"])

    def intents(self, sequences: Sequence[VectorSequence]) -> Floats:
        """Intent vectors `[B, D]`, L2-normalised, in the order of the sequences."""
        intents_BD = np.zeros((len(sequences), self._model.dim), np.float32)
        for batch in self._batches(sequences):
            intents_BD[batch] = self._run([sequences[i] for i in batch])
        return intents_BD

    def _run(self, sequences: Sequence[VectorSequence]) -> Floats:
        longest = max(self._padded_len(sequence) for sequence in sequences)
        vectors_BLD = np.zeros((len(sequences), longest, self._model.dim), np.float32)
        is_mask_BL = np.zeros((len(sequences), longest), np.bool_)
        is_pad_BL = np.zeros((len(sequences), longest), np.bool_)
        for row, sequence in enumerate(sequences):
            start = longest - len(sequence.items) - 1
            mask = start + sequence.mask_position
            vectors_BLD[row, start:mask] = sequence.items[: sequence.mask_position]
            vectors_BLD[row, mask + 1 :] = sequence.items[sequence.mask_position :]
            is_mask_BL[row, mask] = True
            is_pad_BL[row, :start] = True
        intents_BD: Floats
        (intents_BD,) = self._session.run(
            ["intent"], {"token_vectors": vectors_BLD, "is_mask": is_mask_BL, "is_pad": is_pad_BL}
        )
        return intents_BD

    def _padded_len(self, sequence: VectorSequence) -> int:
        """Positions that the network must see: its own length, unless it was trained reading the padding."""
        return len(sequence.items) + 1 if self._model.use_attention_mask else self._model.max_sequence_length + 1

    def _batches(self, sequences: Sequence[VectorSequence]) -> Iterator[list[int]]:
        """Positions of sequences of equal padded length, at most `batch_tokens` positions in a run.

        Equal, not similar: without padding inside a batch the answer does not depend on who else is in it.
        """
        by_len: dict[int, list[int]] = {}
        for i, sequence in enumerate(sequences):
            by_len.setdefault(self._padded_len(sequence), []).append(i)
        for length, members in by_len.items():
            size = max(1, self._batch_tokens // length)
            for start in range(0, len(members), size):
                yield members[start : start + size]
