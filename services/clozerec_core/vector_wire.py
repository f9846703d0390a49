"""Vectors in messages, as one buffer: a list of Python floats between NumPy and protobuf costs many times as much."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from google.protobuf.message import Message

from clozerec_core.hybrid import Floats


def set_vector(message: Message, field: str, vector_D: Floats) -> None:
    """Give a message its vector.

    Args:
        message: whose field is unset.
        field: a repeated float.
        vector_D: of at least one value.
    """
    kind: Any = type(message)
    head = _head(kind, field, len(vector_D))
    message.MergeFromString(head + vector_D.astype("<f4", copy=False).tobytes())


@lru_cache(64)
def _head(kind: Callable[..., Message], field: str, dim: int) -> bytes:
    """What the wire has before a vector's values: the field's number and their length in bytes."""
    return kind(**{field: [0.0] * dim}).SerializeToString()[: -4 * dim]
