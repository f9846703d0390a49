"""A vector that is written as one buffer reads as if it had been written value by value."""

from __future__ import annotations

import numpy as np
import pytest

from clozerec.v1 import encoder_pb2
from clozerec_core.vector_wire import set_vector


@pytest.mark.parametrize("dim", [1, 16, 64, 384, 5_000])
@pytest.mark.parametrize("dtype", [np.float32, ">f4", np.float64])
def test_a_vector_arrives_as_it_was(dim: int, dtype: str) -> None:
    vector_D = np.random.default_rng(dim).normal(size=dim).astype(np.float32).astype(dtype)
    text = encoder_pb2.EncodedText(truncated=True)
    set_vector(text, "item", vector_D)
    set_vector(text, "content", -vector_D)
    expected = encoder_pb2.EncodedText(content=(-vector_D).tolist(), item=vector_D.tolist(), truncated=True)
    assert text == expected
