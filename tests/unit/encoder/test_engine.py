"""The engine's network against torch: every length, every place of the mask, items by row and by vector."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from bundle_factory import random_vectors
from encoder_bundle import random_network, torch_intent, write_encoder_bundle

from clozerec_encoder.engine import RowSequence, SequenceEngine
from clozerec_trainer.model import NetworkSpec

NUM_ITEMS, MAX_LEN, DIM = 20, 6, 12


@pytest.mark.parametrize("taste", [True, False])
@pytest.mark.parametrize("use_attention_mask", [True, False])
@pytest.mark.parametrize(("depth", "heads", "run_tokens"), [(1, 3, 1), (2, 1, 16), (3, 4, 1000)])
def test_intents_are_those_of_torch_at_every_length_and_mask_position(
    use_attention_mask: bool, taste: bool, depth: int, heads: int, run_tokens: int, tmp_path: Path
) -> None:
    network = random_network(NetworkSpec(DIM, MAX_LEN + 1, depth, heads, 0.1, use_attention_mask, taste))
    bundle = write_encoder_bundle(tmp_path, network, NUM_ITEMS)
    input_ND = random_vectors(NUM_ITEMS, DIM)
    engine = SequenceEngine(bundle, input_ND, run_tokens, threads=1, device="cpu")
    shuffled = np.random.default_rng(1)
    sequences = [
        RowSequence(shuffled.integers(NUM_ITEMS, size=num_items).tolist(), mask_position)
        for num_items in range(1, MAX_LEN + 1)
        for mask_position in range(num_items + 1)
        for _ in range(2)
    ]
    shuffled.shuffle(sequences)
    expected = [torch_intent(network, input_ND[list(each.rows)], each.mask_position) for each in sequences]
    intents = engine.intents(sequences)
    np.testing.assert_allclose(intents, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(intents, axis=1), 1, atol=1e-5)
    for sequence, together in zip(sequences, intents, strict=True):
        np.testing.assert_allclose(engine.intents([sequence])[0], together, atol=1e-5)


def test_an_item_by_its_vector_is_the_item_by_its_row(tmp_path: Path) -> None:
    network = random_network(NetworkSpec(DIM, MAX_LEN + 1, 2, 3, 0.1, True))
    bundle = write_encoder_bundle(tmp_path, network, NUM_ITEMS)
    input_ND = random_vectors(NUM_ITEMS, DIM)
    engine = SequenceEngine(bundle, input_ND, 256, threads=1, device="cpu")
    for mask_position in range(5):
        by_row = RowSequence([3, 14, 15, 9], mask_position)
        by_vector = RowSequence([3, 0, 15, 0], mask_position, {1: input_ND[14], 3: input_ND[9]})
        alone = engine.intents([by_row])[0]
        for intent in engine.intents([by_vector, by_row, by_vector]):
            np.testing.assert_allclose(intent, alone, atol=1e-5)


def test_single_sequences_from_several_threads_do_not_mix(tmp_path: Path) -> None:
    bundle = write_encoder_bundle(tmp_path, random_network(NetworkSpec(DIM, MAX_LEN + 1, 2, 3, 0.1, True)), NUM_ITEMS)
    engine = SequenceEngine(bundle, random_vectors(NUM_ITEMS, DIM), 256, threads=1, device="cpu")
    sequences = [RowSequence([row, *range(num_items)], num_items) for row in range(NUM_ITEMS) for num_items in (1, 4)]
    expected = engine.intents(sequences)
    with ThreadPoolExecutor(4) as threads:
        alone = list(threads.map(lambda sequence: engine.intents([sequence])[0], sequences * 20))
    np.testing.assert_allclose(alone, np.tile(expected, (20, 1)), atol=1e-5)
