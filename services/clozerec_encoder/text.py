"""The text engine: item texts to content vectors, by the bundle's MiniLM in ONNX with its tokenizer.

Shapes: B texts, L word pieces, C content_dim.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
from tokenizers import Encoding, Tokenizer

from clozerec_core.bundle import TEXT_MODEL, TOKENIZER, Bundle, TextInfo
from clozerec_core.hybrid import Floats
from clozerec_core.request_context import check_time_left
from clozerec_encoder.runtime import open_session
from clozerec_encoder.settings import EncoderSettings

TEXTS_AT_ONCE = 32
"""Texts that are cut into word pieces together; what a tokenizer makes of a long text is many times its size."""


@dataclass(frozen=True)
class EmbeddedTexts:
    """Content vectors and what was cut."""

    content: Floats
    """[B, C], L2-normalised."""
    truncated: tuple[bool, ...]
    """Which texts were longer than the model reads."""


class TextEngine:
    """Not for use from two threads at once: the caller runs it on a thread of its own."""

    def __init__(self, bundle: Bundle, info: TextInfo, settings: EncoderSettings) -> None:
        self.info = info
        self._batch_tokens = settings.text_batch_tokens
        self._tokenizer = Tokenizer.from_file(str(bundle.file(TOKENIZER)))
        self._tokenizer.enable_truncation(info.max_tokens)
        # Lengths differ from run to run, so memory planned for one serves no other and would be kept in vain.
        self._session = open_session(
            bundle.file(TEXT_MODEL), settings.encoder_threads, settings.encoder_device, repeats_shapes=False
        )
        self._run_options = onnxruntime.RunOptions()
        # An arena that a burst of long texts grew gives its memory back after each run.
        self._run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def embed(self, texts: Sequence[str]) -> EmbeddedTexts:
        """Content vectors in the order of the texts, each non-empty.

        Raises:
            DeadlineExceeded: the caller gave up before the last batch.
        """
        content_BC = np.zeros((len(texts), self.info.content_dim), np.float32)
        truncated = [False] * len(texts)
        by_size = sorted(range(len(texts)), key=lambda position: len(texts[position]))
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            positions = by_size[start : start + TEXTS_AT_ONCE]
            encodings = self._tokenizer.encode_batch([texts[position] for position in positions])
            for position, encoding in zip(positions, encodings, strict=True):
                truncated[position] = bool(encoding.overflowing)
            for batch in _batches([len(encoding.ids) for encoding in encodings], self._batch_tokens):
                check_time_left()
                content_BC[[positions[i] for i in batch]] = self._run([encodings[i] for i in batch])
        return EmbeddedTexts(content_BC, tuple(truncated))

    def _run(self, encodings: Sequence[Encoding]) -> Floats:
        longest = max(len(encoding.ids) for encoding in encodings)
        ids_BL = np.zeros((len(encodings), longest), np.int64)
        attention_BL = np.zeros((len(encodings), longest), np.int64)
        for row, encoding in enumerate(encodings):
            ids_BL[row, : len(encoding.ids)] = encoding.ids
            attention_BL[row, : len(encoding.ids)] = 1
        content_BC: Floats
        (content_BC,) = self._session.run(
            ["content_vector"], {"input_ids": ids_BL, "attention_mask": attention_BL}, self._run_options
        )
        return content_BC


def _batches(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Positions of texts of like length, cut so that a padded batch holds at most `max_tokens` (or one text)."""
    batch: list[int] = []
    for position in sorted(range(len(lengths)), key=lengths.__getitem__):
        # Ascending lengths: the newest member sets the padded length of the batch.
        if batch and (len(batch) + 1) * lengths[position] > max_tokens:
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch
