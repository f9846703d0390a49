"""The text engine: item texts to content vectors, by the bundle's MiniLM in ONNX with its tokenizer.

Shapes: B texts, L word pieces, C content_dim.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnxruntime
from tokenizers import Encoding, Tokenizer

from clozerec_core import metrics
from clozerec_core.bundle import TEXT_MODEL, TOKENIZER, Bundle, TextInfo
from clozerec_core.hybrid import Floats
from clozerec_encoder.batcher import Batcher
from clozerec_encoder.runtime import open_session
from clozerec_encoder.settings import EncoderSettings
from clozerec_encoder.text_cache import EmbeddedText, TextCache

TEXTS_AT_ONCE = 32
"""Texts that are cut into word pieces together; what a tokenizer makes of a long text is many times its size."""

BYTES_A_WORD_PIECE = 4
"""Of English, about: the cost of a text, before the tokenizer has seen it."""


_HITS, _MISSES = (metrics.ENCODER_TEXTS.labels(result) for result in ("hit", "miss"))


class TextEngine:
    """Not for use from two threads at once."""

    def __init__(self, bundle: Bundle, info: TextInfo, settings: EncoderSettings) -> None:
        self.info = info
        self._run_tokens = settings.text_batch_tokens
        self._tokenizer = Tokenizer.from_file(str(bundle.file(TOKENIZER)))
        self._tokenizer.enable_truncation(info.max_tokens)
        # Lengths differ from run to run, so memory planned for one serves no other and would be kept in vain.
        self._session = open_session(
            bundle.file(TEXT_MODEL), settings.encoder_threads, settings.encoder_device, repeats_shapes=False
        )
        self._run_options = onnxruntime.RunOptions()
        # An arena that a burst of long texts grew gives its memory back after each run.
        arenas = "cpu:0;gpu:0" if settings.encoder_device == "cuda" else "cpu:0"
        self._run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", arenas)

    def embed(self, texts: Sequence[str]) -> list[EmbeddedText]:
        """Content vectors in the order of the texts, each non-empty."""
        embedded: list[EmbeddedText | None] = [None] * len(texts)
        by_size = sorted(range(len(texts)), key=lambda position: len(texts[position]))
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            positions = by_size[start : start + TEXTS_AT_ONCE]
            encodings = self._tokenizer.encode_batch_fast([texts[position] for position in positions])
            for batch in _batches([len(encoding.ids) for encoding in encodings], self._run_tokens):
                vectors_BC = self._run([encodings[i] for i in batch])
                for i, vector_C in zip(batch, vectors_BC, strict=True):
                    embedded[positions[i]] = EmbeddedText(vector_C.copy(), bool(encodings[i].overflowing))
        return [each for each in embedded if each is not None]

    def cost(self, text: str) -> int:
        """Word pieces of a text, about."""
        return min(2 + len(text) // BYTES_A_WORD_PIECE, self.info.max_tokens)

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


class Texts:
    """Vectors of texts for many callers: known ones at once, new ones in batches on a thread of their own."""

    def __init__(self, engine: TextEngine, settings: EncoderSettings) -> None:
        self._engine = engine
        self._cache = TextCache(settings.text_cache_texts)
        self._batcher = Batcher(
            "text engine", self._embed_new, settings.text_batch_tokens, settings.text_max_waiting_tokens
        )

    def warm_up(self) -> None:
        """Run the model on a short text, a long one, and several: the first caller shall not pay for lazy set-up."""
        for texts in (["warm"], ["warm " * 1000], [f"{number} warm words" for number in range(8)]):
            self._engine.embed(texts)

    async def embed(self, texts: Sequence[str], caller: str) -> dict[str, EmbeddedText]:
        """What each text became; the same text is embedded once.

        Raises:
            Overloaded, DeadlineExceeded: see `Batcher.submit`.
        """
        known = {text: self._cache.get(text) for text in dict.fromkeys(texts)}
        new = [text for text, embedded in known.items() if embedded is None]
        _HITS.inc(len(known) - len(new))
        _MISSES.inc(len(new))
        if new:
            costs = [self._engine.cost(text) for text in new]
            known.update(zip(new, await self._batcher.submit(new, costs, caller), strict=True))
        return {text: embedded for text, embedded in known.items() if embedded is not None}

    def close(self) -> None:
        """Finish what waits."""
        self._batcher.close()

    def _embed_new(self, texts: Sequence[str]) -> list[EmbeddedText]:
        """On the batcher's thread. A text that another call has just brought is not run again."""
        embedded = {text: self._cache.get(text) for text in texts}
        new = [text for text, known in embedded.items() if known is None]
        for text, vector in zip(new, self._engine.embed(new), strict=True):
            self._cache.put(text, vector)
            embedded[text] = vector
        return [known for text in texts if (known := embedded[text]) is not None]


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
