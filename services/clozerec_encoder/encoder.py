"""One loaded bundle: sequences and texts to vectors, many callers at a time. Knows no protobuf.

Shapes: B texts, C content_dim, D dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clozerec_core.bundle import Bundle, Manifest
from clozerec_core.errors import NoTextEngine
from clozerec_core.hybrid import Floats, ItemSpace
from clozerec_encoder.batcher import Batcher
from clozerec_encoder.engine import RowSequence, SequenceEngine
from clozerec_encoder.reader import NO_ROW, Reading, SequenceReader
from clozerec_encoder.settings import EncoderSettings
from clozerec_encoder.text import Texts
from clozerec_encoder.tokens import Encoded, TokenSequence

RUN_COST = 20
"""What starting a run of the network costs, in positions: very short sequences are not that cheap."""


@dataclass(frozen=True)
class TextVectors:
    """Vectors of texts."""

    content: Floats
    """[B, C]"""
    items: Floats
    """[B, D], output side."""
    truncated: tuple[bool, ...]


class Encoder:
    """Holds the bundle's network with its queue and threads; `close` it."""

    def __init__(self, bundle: Bundle, settings: EncoderSettings, texts: Texts | None) -> None:
        """Load, not yet warm.

        Args:
            bundle: what to load.
            settings: of the process.
            texts: its text engine, which may serve other bundles too and stays theirs to close; None: it has none.
        """
        self.manifest: Manifest = bundle.manifest
        self.texts = texts
        weights = bundle.weights()
        input_space = ItemSpace.from_weights(weights, "input")
        input_ND = input_space.catalogue_vectors(bundle.content)
        self._reader = SequenceReader(
            bundle.catalogue,
            frozenset(np.flatnonzero(~np.any(input_ND, axis=1)).tolist()),
            input_space,
            bundle.manifest.model.max_sequence_length,
        )
        self._input_space = input_space
        self._output_space = ItemSpace.from_weights(weights, "output")
        self._engine = SequenceEngine(
            bundle, input_ND, settings.encoder_run_tokens, settings.encoder_threads, settings.encoder_device
        )
        self._batcher = Batcher[RowSequence, Floats](
            "encoder",
            self._engine.intents,
            settings.encoder_batch_tokens,
            settings.encoder_max_waiting_tokens,
            settings.encoder_lone_tokens,
            settings.encoder_workers,
        )

    @property
    def bundle_id(self) -> str:
        return self.manifest.bundle_id

    def warm_up(self) -> None:
        """Run the network at every length, alone and together: the first caller shall not pay for lazy set-up."""
        for num_items in range(1, self.manifest.model.max_sequence_length + 1):
            sequence = RowSequence([NO_ROW] * num_items, num_items)
            self._engine.intents([sequence])
            self._engine.intents([sequence] * self._engine.run_size(num_items))

    def read(self, sequences: Sequence[TokenSequence]) -> list[Reading]:
        """Look the tokens up; see `SequenceReader.read`. Work of microseconds a token, for whoever has the time."""
        return self._reader.read(sequences)

    async def encode(self, readings: Sequence[Reading], caller: str) -> list[Encoded]:
        """The answers to sequences that were read, in their order; batched equals one by one.

        Args:
            readings: from `read` of this encoder.
            caller: who asks; callers take turns.

        Raises:
            Overloaded, DeadlineExceeded: see `Batcher.submit`.
        """
        await self._embed_texts(readings, caller)
        readable = [(reading.encoded, reading.window) for reading in readings if reading.window is not None]
        if len(readable) > 1:
            # Side by side those of one length fall into one batch, where they run together.
            readable.sort(key=lambda each: len(each[1].rows))
        if readable:
            windows = [window for _, window in readable]
            costs = [self._engine.run_len(len(window.rows)) + RUN_COST for window in windows]
            intents = await self._batcher.submit(windows, costs, caller)
            for (encoded, _), intent_D in zip(readable, intents, strict=True):
                encoded.intent = intent_D
        return [reading.encoded for reading in readings]

    def intent_at_once(self, rows: Sequence[int], mask_position: int) -> Floats | None:
        """The intent of a window of the bundle's items, `[D]`, where it takes well under a millisecond; else None.

        Args:
            rows: of the catalogue, oldest first, as many as the network reads at most.
            mask_position: how many stand before the mask.
        """
        if not self._reader.is_window(rows):
            return None
        return self._batcher.at_once(RowSequence(rows, mask_position), self._engine.run_len(len(rows)) + RUN_COST)

    async def encode_texts(self, texts: Sequence[str], caller: str) -> TextVectors:
        """Content vectors of texts, and the output-side vectors of day-zero items with these texts.

        Raises:
            BadRequest, NoTextEngine: see the RPC. Overloaded, DeadlineExceeded: see `Batcher.submit`.
        """
        self._reader.check_texts(texts)
        if self.texts is None:
            raise NoTextEngine
        embedded = await self.texts.embed(texts, caller)
        content_BC = np.stack([embedded[text].content for text in texts])
        truncated = tuple(embedded[text].truncated for text in texts)
        return TextVectors(content_BC, self._output_space.day_zero_vectors(content_BC), truncated)

    def close(self) -> None:
        """Finish what waits."""
        self._batcher.close()

    async def _embed_texts(self, readings: Sequence[Reading], caller: str) -> None:
        """Give windows the input-side vectors of their texts, each embedded once."""
        texts = list(dict.fromkeys(text for reading in readings for _, text in reading.texts.values()))
        if not texts:
            return
        if self.texts is None:
            raise NoTextEngine
        embedded = await self.texts.embed(texts, caller)
        vectors_BD = self._input_space.day_zero_vectors(np.stack([embedded[text].content for text in texts]))
        vectors = dict(zip(texts, vectors_BD, strict=True))
        for reading in readings:
            for place, (position, text) in reading.texts.items():
                assert reading.window is not None, "texts lie in a window"
                reading.window.vectors[place] = vectors[text]
                if embedded[text].truncated:
                    reading.encoded.truncated.append(position)
