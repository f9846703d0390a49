"""What the encoder does, in the domain's words: resolve tokens, cut the window, run the engines.

Knows no protobuf and no threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from clozerec_core.bundle import Bundle
from clozerec_core.errors import BadRequest, BundleMismatch, NoTextEngine
from clozerec_core.hybrid import Floats, ItemSpace
from clozerec_core.interactions import window_around
from clozerec_core.limits import MAX_ITEM_TEXT_BYTES, MAX_SEQUENCE_TOKENS, MAX_SEQUENCES, MAX_TEXTS
from clozerec_encoder.engine import RowSequence, SequenceEngine
from clozerec_encoder.settings import EncoderSettings
from clozerec_encoder.text import TextEngine

NO_ROW = 0
"""Stands in a sequence of rows where a vector of its own takes its place."""

MAX_CONTENT_NORM = 1e6
"""Far beyond what any text engine returns, and far below what overflows."""


@dataclass(frozen=True)
class ContentToken:
    """An item by its content vector, `[C]`."""

    content: Floats


@dataclass(frozen=True)
class TextToken:
    """An item by its text."""

    text: str


Token = str | ContentToken | TextToken
"""The commonest kind, an item of the catalogue, is its bare id: a bulk request holds a hundred thousand."""


@dataclass(frozen=True)
class TokenSequence:
    """A history or session, oldest first."""

    tokens: Sequence[Token]
    mask_index: int | None = None


@dataclass
class Encoded:
    """What a sequence became; positions are those of its tokens."""

    intent: Floats | None = None
    """[D]; None where no token could be read."""
    unknown: list[int] = field(default_factory=list)
    vectorless: list[int] = field(default_factory=list)
    truncated: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class TextVectors:
    """Vectors of texts."""

    content: Floats
    """[B, C]"""
    items: Floats
    """[B, D], output side."""
    truncated: tuple[bool, ...]


class Encoder:
    """One loaded bundle."""

    def __init__(self, bundle: Bundle, settings: EncoderSettings) -> None:
        self.manifest = bundle.manifest
        weights = bundle.weights()
        self._catalogue = bundle.catalogue
        self._input_space = ItemSpace.from_weights(weights, "input")
        self._output_space = ItemSpace.from_weights(weights, "output")
        input_ND = self._input_space.catalogue_vectors(bundle.content)
        self._vectorless = frozenset(np.flatnonzero(~np.any(input_ND, axis=1)).tolist())
        self._engine = SequenceEngine(
            bundle, input_ND, settings.encoder_run_tokens, settings.encoder_threads, settings.encoder_device
        )
        text = bundle.manifest.text
        self._text = TextEngine(bundle, text, settings) if text else None

    @property
    def bundle_id(self) -> str:
        return self.manifest.bundle_id

    def warm_up(self) -> None:
        """Run each engine on the shapes that calls have, so that the first caller does not pay for lazy set-up."""
        for num_items in range(1, self.manifest.model.max_sequence_length + 1):
            self._engine.intents([RowSequence([0] * num_items, num_items)])
        if self._text is not None:
            self._text.embed(["warm-up"])

    def check_bundle(self, bundle_id: str) -> None:
        """Refuse a request that means another bundle; empty means the current one."""
        if bundle_id not in ("", self.bundle_id):
            raise BundleMismatch(bundle_id, self.bundle_id)

    def encode_sequences(self, sequences: Sequence[TokenSequence]) -> list[Encoded]:
        """One result for each sequence, in their order; batched equals one by one.

        Raises:
            BadRequest, NoTextEngine: see the RPC.
        """
        if not 1 <= len(sequences) <= MAX_SEQUENCES:
            raise BadRequest.of("sequences", f"expected 1 to {MAX_SEQUENCES} sequences, not {len(sequences)}")
        for i, sequence in enumerate(sequences):
            self._check_sequence(sequence, f"sequences[{i}]")
        text_vectors, truncated = self._text_token_vectors(sequences)
        results, windows = [], []
        for sequence in sequences:
            encoded, window = self._window(sequence, text_vectors, truncated)
            results.append(encoded)
            windows.append(window)
        readable = [i for i, window in enumerate(windows) if window is not None]
        intents_BD = self._engine.intents([window for window in windows if window is not None])
        for i, intent_D in zip(readable, intents_BD, strict=True):
            results[i].intent = intent_D
        return results

    def encode_texts(self, texts: Sequence[str]) -> TextVectors:
        """Content vectors of texts, and the output-side vectors of day-zero items with these texts."""
        if not 1 <= len(texts) <= MAX_TEXTS:
            raise BadRequest.of("texts", f"expected 1 to {MAX_TEXTS} texts, not {len(texts)}")
        for i, text in enumerate(texts):
            _check_text(text, f"texts[{i}]")
        if self._text is None:
            raise NoTextEngine
        embedded = self._text.embed(texts)
        return TextVectors(embedded.content, self._output_space.day_zero_vectors(embedded.content), embedded.truncated)

    def _check_sequence(self, sequence: TokenSequence, field: str) -> None:
        if len(sequence.tokens) > MAX_SEQUENCE_TOKENS:
            raise BadRequest.of(
                f"{field}.tokens", f"{len(sequence.tokens)} tokens; at most {MAX_SEQUENCE_TOKENS} are allowed"
            )
        if sequence.mask_index is not None and sequence.mask_index > len(sequence.tokens):
            raise BadRequest.of(f"{field}.mask_index", f"expected 0 to {len(sequence.tokens)}, the sequence's length")
        for i, token in enumerate(sequence.tokens):
            match token:
                case TextToken(text):
                    _check_text(text, f"{field}.tokens[{i}].text")
                    if self._text is None:
                        raise NoTextEngine
                case ContentToken(content):
                    self._check_content(content, f"{field}.tokens[{i}].content")
                case "":
                    raise BadRequest.of(f"{field}.tokens[{i}].item_id", "expected an item id, not the empty text")

    def _check_content(self, content: Floats, field: str) -> None:
        expected = self._input_space.content_dim
        if expected == 0:
            raise NoTextEngine
        if len(content) != expected:
            raise BadRequest.of(field, f"expected {expected} values, not {len(content)}")
        # Also false for NaN; a norm in double precision does not overflow.
        if not np.linalg.norm(content.astype(np.float64)) < MAX_CONTENT_NORM:
            raise BadRequest.of(field, "expected finite values, as the text engine returns them with length 1")

    def _text_token_vectors(self, sequences: Sequence[TokenSequence]) -> tuple[dict[str, Floats], frozenset[str]]:
        """Input-side vectors of all texts in the request, each embedded once, and which of them were cut."""
        tokens = (token for sequence in sequences for token in sequence.tokens)
        texts = list(dict.fromkeys(token.text for token in tokens if isinstance(token, TextToken)))
        if not texts or self._text is None:
            return {}, frozenset()
        embedded = self._text.embed(texts)
        vectors_BD = self._input_space.day_zero_vectors(embedded.content)
        cut = (text for text, truncated in zip(texts, embedded.truncated, strict=True) if truncated)
        return dict(zip(texts, vectors_BD, strict=True)), frozenset(cut)

    def _window(
        self, sequence: TokenSequence, text_vectors: dict[str, Floats], truncated: frozenset[str]
    ) -> tuple[Encoded, RowSequence | None]:
        """What the network reads: known tokens only, those nearest to the mask."""
        encoded = Encoded()
        rows, vectors = self._read(sequence.tokens, encoded, text_vectors, truncated)
        mask_index = len(sequence.tokens) if sequence.mask_index is None else sequence.mask_index
        skipped = encoded.unknown + encoded.vectorless
        num_before_mask = mask_index - sum(position < mask_index for position in skipped)
        if not rows:
            return encoded, None
        window = window_around(len(rows), num_before_mask, self.manifest.model.max_sequence_length)
        within = {
            place - window.start: vector_D for place, vector_D in vectors.items() if window.start <= place < window.stop
        }
        return encoded, RowSequence(rows[window.start : window.stop], window.mask_position, within)

    def _read(
        self, tokens: Sequence[Token], encoded: Encoded, text_vectors: dict[str, Floats], truncated: frozenset[str]
    ) -> tuple[list[int], dict[int, Floats]]:
        """Rows of the tokens that can be read, and the vectors of those without a row, by their place among them."""
        if set(map(type, tokens)) == {str}:
            # All of them known items, as nearly always: one pass, at the speed of the look-up.
            found = self._catalogue.rows_of(cast("Sequence[str]", tokens))
            if len(found) == len(tokens) and self._vectorless.isdisjoint(found):
                return found, {}
        rows: list[int] = []
        vectors: dict[int, Floats] = {}
        for position, token in enumerate(tokens):
            match token:
                case str():
                    row = self._catalogue.row_of(token)
                    if row is None:
                        encoded.unknown.append(position)
                    elif row in self._vectorless:
                        encoded.vectorless.append(position)
                    else:
                        rows.append(row)
                    continue
                case TextToken(text):
                    vector_D = text_vectors[text]
                    if text in truncated:
                        encoded.truncated.append(position)
                case ContentToken(content):
                    vector_D = self._input_space.day_zero_vectors(content[None])[0]
                    if not vector_D.any():
                        encoded.vectorless.append(position)
                        continue
            vectors[len(rows)] = vector_D
            rows.append(NO_ROW)
        return rows, vectors


def _check_text(text: str, field: str) -> None:
    if not text.strip():
        raise BadRequest.of(field, "expected some words, not an empty text")
    if len(text.encode()) > MAX_ITEM_TEXT_BYTES:
        raise BadRequest.of(field, f"{len(text.encode())} bytes; at most {MAX_ITEM_TEXT_BYTES} are allowed")
