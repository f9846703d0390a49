"""What a sequence is made of, in the domain's words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from clozerec_core.hybrid import Floats


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


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """A history or session, oldest first."""

    tokens: Sequence[Token]
    mask_index: int | None = None
    rows: Sequence[int] | None = None
    """In place of tokens: items of the bundle by their rows."""


@dataclass(slots=True)
class Encoded:
    """What a sequence became; positions are those of its tokens."""

    intent: Floats | None = None
    """[D]; None where no token could be read."""
    unknown: list[int] = field(default_factory=list)
    vectorless: list[int] = field(default_factory=list)
    truncated: list[int] = field(default_factory=list)
