"""The device is the one that was asked for: a GPU where there is one, and a word of advice where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import onnxruntime
import pytest
import toy_world
from bundle_factory import random_vectors
from encoder_bundle import random_network, torch_intent, write_encoder_bundle

from clozerec_core.bundle import Bundle
from clozerec_core.errors import UsageError
from clozerec_encoder.bundles import LoadedBundles
from clozerec_encoder.engine import RowSequence, SequenceEngine
from clozerec_encoder.runtime import Device
from clozerec_encoder.settings import EncoderSettings
from clozerec_encoder.text import TextEngine
from clozerec_trainer.model import NetworkSpec

HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
needs_cuda = pytest.mark.skipif(not HAS_CUDA, reason="needs a GPU, and onnxruntime-gpu in place of onnxruntime")
SPEC = NetworkSpec(12, 7, 2, 3, 0.1, True)


@pytest.mark.skipif(HAS_CUDA, reason="this onnxruntime can use a GPU; the message is for one that cannot")
def test_a_gpu_that_is_not_there_is_refused_with_the_way_out(tmp_path: Path) -> None:
    bundle = write_encoder_bundle(tmp_path, random_network(SPEC))
    with pytest.raises(UsageError, match=r"encoder_device is cuda, .* install onnxruntime-gpu"):
        LoadedBundles(bundle, EncoderSettings(bundle=bundle.path, encoder_device="cuda"))


@needs_cuda
def test_a_gpu_gives_the_same_content_vectors(toy_text_bundle: Bundle) -> None:
    info = toy_text_bundle.manifest.text
    assert info is not None
    texts = [*toy_world.TITLES, "long words " * 1_000]
    cpu, gpu = (
        TextEngine(toy_text_bundle, info, EncoderSettings(bundle=toy_text_bundle.path, encoder_device=device))
        for device in get_args(Device)
    )
    for expected, found in zip(cpu.embed(texts), gpu.embed(texts), strict=True):
        np.testing.assert_allclose(found.content, expected.content, atol=1e-3)
        assert found.truncated == expected.truncated


@needs_cuda
def test_a_gpu_gives_the_same_intents(tmp_path: Path) -> None:
    network = random_network(SPEC)
    engine = SequenceEngine(
        write_encoder_bundle(tmp_path, network), random_vectors(20, 12), 256, threads=1, device="cuda"
    )
    for length in range(1, 7):
        rows = list(range(length))
        expected = torch_intent(network, random_vectors(20, 12)[rows], length)
        np.testing.assert_allclose(engine.intents([RowSequence(rows, length)])[0], expected, atol=1e-3)
