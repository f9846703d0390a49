"""The newest texts and their vectors. Knows no model."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass

from clozerec_core.hybrid import Floats


@dataclass(frozen=True, slots=True)
class EmbeddedText:
    """What the text engine made of a text."""

    content: Floats
    """[C], L2-normalised."""
    truncated: bool
    """Whether the text was longer than the model reads."""


class TextCache:
    """Least recently used goes first. From any thread."""

    def __init__(self, max_texts: int) -> None:
        self._max_texts = max_texts
        self._embedded: OrderedDict[bytes, EmbeddedText] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, text: str) -> EmbeddedText | None:
        """The text's vector, where it is known."""
        key = _key(text)
        with self._lock:
            embedded = self._embedded.get(key)
            if embedded is not None:
                self._embedded.move_to_end(key)
            return embedded

    def put(self, text: str, embedded: EmbeddedText) -> None:
        """Remember it."""
        with self._lock:
            self._embedded[_key(text)] = embedded
            while len(self._embedded) > self._max_texts:
                self._embedded.popitem(last=False)

    def __len__(self) -> int:
        return len(self._embedded)


def _key(text: str) -> bytes:
    """A hash in place of the text, whose 8 KiB would be more to keep than its vector."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
