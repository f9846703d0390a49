"""Read sequences of tokens as rows: look up, check, report what is unknown, cut the window around the mask.

Knows no network, no text engine and no threads.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from clozerec_core.catalogue import Catalogue
from clozerec_core.errors import BadRequest, NoTextEngine
from clozerec_core.hybrid import Floats, ItemSpace
from clozerec_core.interactions import window_around
from clozerec_core.limits import MAX_ITEM_TEXT_BYTES, MAX_SEQUENCE_TOKENS, MAX_SEQUENCES, MAX_TEXTS
from clozerec_encoder.engine import RowSequence
from clozerec_encoder.tokens import ContentToken, Encoded, TextToken, Token, TokenSequence

NO_ROW = 0
"""Stands in a sequence of rows where a vector of its own takes its place."""

MAX_CONTENT_NORM = 1e6
"""Far beyond what any text engine returns, and far below what overflows."""


@dataclass(slots=True)
class Reading:
    """One sequence, read."""

    encoded: Encoded
    """What is known so far."""
    window: RowSequence | None = None
    """What the network shall read; None: no token could be read."""
    texts: dict[int, tuple[int, str]] = field(default_factory=dict)
    """Texts whose vectors the window still lacks: place in the window to token position and text."""


@dataclass(frozen=True)
class SequenceReader:
    """Reads for one bundle."""

    catalogue: Catalogue
    vectorless: frozenset[int]
    """Rows of items with neither text nor behaviour."""
    input_space: ItemSpace
    max_items: int
    """Items that the network reads beside the mask."""

    def read(self, sequences: Sequence[TokenSequence]) -> list[Reading]:
        """One reading for each sequence, in their order.

        Raises:
            BadRequest, NoTextEngine: see the RPC.
        """
        if not 1 <= len(sequences) <= MAX_SEQUENCES:
            raise BadRequest.of("sequences", f"expected 1 to {MAX_SEQUENCES} sequences, not {len(sequences)}")
        return [self._read(sequence, i) for i, sequence in enumerate(sequences)]

    def is_window(self, rows: Sequence[int]) -> bool:
        """Whether the network can read the rows as they are."""
        return 1 <= len(rows) <= self.max_items and self.vectorless.isdisjoint(rows)

    def check_texts(self, texts: Sequence[str]) -> None:
        """Refuse texts that nothing can be made of.

        Raises:
            BadRequest, NoTextEngine: see the RPC.
        """
        if not 1 <= len(texts) <= MAX_TEXTS:
            raise BadRequest.of("texts", f"expected 1 to {MAX_TEXTS} texts, not {len(texts)}")
        for i, text in enumerate(texts):
            _check_text(text, f"texts[{i}]")
        if self.input_space.content_dim == 0:
            raise NoTextEngine

    def _read(self, sequence: TokenSequence, number: int) -> Reading:
        tokens, rows = sequence.tokens, sequence.rows
        field, length = f"sequences[{number}]", len(tokens if rows is None else rows)
        if length > MAX_SEQUENCE_TOKENS:
            raise BadRequest.of(f"{field}.tokens", f"{length} tokens; at most {MAX_SEQUENCE_TOKENS} are allowed")
        mask_index = length if sequence.mask_index is None else sequence.mask_index
        if mask_index > length:
            raise BadRequest.of(f"{field}.mask_index", f"expected 0 to {length}, the sequence's length")
        encoded = Encoded()
        if rows is not None and max(rows, default=0) >= len(self.catalogue):
            raise BadRequest.of(f"{field}.rows", f"expected rows below {len(self.catalogue)}, the bundle's items")
        if rows is None and set(map(type, tokens)) == {str}:
            # All of them known items, as nearly always: one pass, at the speed of the look-up.
            known = self.catalogue.rows_of(cast("Sequence[str]", tokens))
            rows = known if len(known) == length else None
        if rows is not None:
            if rows and self.vectorless.isdisjoint(rows):
                if length <= self.max_items:
                    return Reading(encoded, RowSequence(rows, mask_index))
                window = window_around(length, mask_index, self.max_items)
                return Reading(encoded, RowSequence(rows[window.start : window.stop], window.mask_position))
            tokens = tokens or [self.catalogue.item_ids[row] for row in rows]
        return self._read_each(tokens, mask_index, encoded, f"{field}.tokens")

    def _read_each(self, tokens: Sequence[Token], mask_index: int, encoded: Encoded, field: str) -> Reading:
        """Tokens of any kind, known or not."""
        contents = self._content_vectors(tokens, field)
        readable: list[int] = []
        rows: list[int] = []
        for position, token in enumerate(tokens):
            row: int | None = NO_ROW
            match token:
                case "":
                    raise BadRequest.of(f"{field}[{position}].item_id", "expected an item id, not the empty text")
                case str():
                    row = self.catalogue.row_of(token)
                    lacks_vector = row in self.vectorless
                case ContentToken():
                    lacks_vector = not contents[position].any()
                case TextToken(text):
                    _check_text(text, f"{field}[{position}].text")
                    if self.input_space.content_dim == 0:
                        raise NoTextEngine
                    lacks_vector = False
            if row is None:
                encoded.unknown.append(position)
            elif lacks_vector:
                encoded.vectorless.append(position)
            else:
                readable.append(position)
                rows.append(row)
        if not rows:
            return Reading(encoded)
        window = window_around(len(rows), bisect_left(readable, mask_index), self.max_items)
        read = readable[window.start : window.stop]
        vectors = {place: contents[position] for place, position in enumerate(read) if position in contents}
        sequence = RowSequence(rows[window.start : window.stop], window.mask_position, vectors)
        texts = {
            place: (position, token.text)
            for place, position in enumerate(read)
            if isinstance(token := tokens[position], TextToken)
        }
        return Reading(encoded, sequence, texts)

    def _content_vectors(self, tokens: Sequence[Token], field: str) -> dict[int, Floats]:
        """Input-side vectors `[D]` of the content tokens by position; zero where the content is."""
        contents = {position: token.content for position, token in enumerate(tokens) if isinstance(token, ContentToken)}
        if not contents:
            return {}
        expected = self.input_space.content_dim
        if expected == 0:
            raise NoTextEngine
        for position, content in contents.items():
            if len(content) != expected:
                raise BadRequest.of(f"{field}[{position}].content", f"expected {expected} values, not {len(content)}")
        content_NC = np.stack(list(contents.values()))
        # In double precision a norm does not overflow; the comparison is false for NaN, too.
        usable_N = np.linalg.norm(content_NC.astype(np.float64), axis=1) < MAX_CONTENT_NORM
        if not usable_N.all():
            position = list(contents)[int(np.argmin(usable_N))]
            raise BadRequest.of(
                f"{field}[{position}].content", "expected finite values, as the text engine returns them with length 1"
            )
        return dict(zip(contents, self.input_space.day_zero_vectors(content_NC), strict=True))


def _check_text(text: str, field: str) -> None:
    if not text.strip():
        raise BadRequest.of(field, "expected some words, not an empty text")
    if len(text.encode()) > MAX_ITEM_TEXT_BYTES:
        raise BadRequest.of(field, f"{len(text.encode())} bytes; at most {MAX_ITEM_TEXT_BYTES} are allowed")
