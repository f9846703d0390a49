"""torch, numpy and ONNX are three readings of one bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import faiss
import numpy as np
import onnxruntime
import polars as pl
import pytest
import torch
from encoder_bundle import random_network
from tokenizers import Tokenizer

from clozerec_core.bundle import ENCODER, HISTORIES, INDEX, POPULARITY, TEXT_MODEL, TOKENIZER, Bundle
from clozerec_core.errors import UsageError
from clozerec_core.history_file import HistoryFile
from clozerec_core.hybrid import ItemSpace
from clozerec_trainer.encoder_graph import write_encoder
from clozerec_trainer.item_features import find_text_model
from clozerec_trainer.model import NetworkSpec
from clozerec_trainer.text_graph import write_text_engine

TOLERANCE = 1e-4


@pytest.fixture(params=["toy_bundle", "text_bundle"])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    found: Bundle = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("taste", [True, False])
@pytest.mark.parametrize("depth", [1, 3])
def test_the_onnx_encoder_equals_torch_at_every_length_and_mask_position(
    depth: int, taste: bool, tmp_path: Path
) -> None:
    network = random_network(NetworkSpec(12, 7, depth, 3, 0.1, True, taste))
    write_encoder(network, tmp_path / ENCODER)
    session = onnxruntime.InferenceSession(tmp_path / ENCODER)
    for length in range(1, 8):
        is_mask = torch.eye(length, dtype=torch.bool)  # one sequence for each place of the mask
        vectors = torch.randn(length, length, 12) * ~is_mask.unsqueeze(-1)
        with torch.no_grad():
            states = network(vectors, is_mask, torch.zeros_like(is_mask)).at(is_mask)
            expected = network.answer(states).numpy()
            items = vectors * network.input_scale
            hidden = items + is_mask.unsqueeze(-1) * network.mask_vector + network.positions[7 - length :]
        places = np.arange(length)
        feeds = {"hidden": hidden.transpose(0, 1).numpy(), "asked": places * length + places}
        if taste:
            recency = network.log_recency.detach().numpy()[np.maximum(abs(places[:, None] - places) - 1, 0)]
            feeds |= {"items": items.transpose(0, 1).numpy(), "recency": recency[:, None]}
        (intent,) = session.run(["intent"], feeds)
        assert np.abs(intent - expected).max() < TOLERANCE
        assert np.allclose(np.linalg.norm(intent, axis=1), 1, atol=1e-5)


def test_vectors_and_index_are_the_output_side_in_row_order(bundle: Bundle) -> None:
    space = ItemSpace.from_weights(bundle.weights(), "output")
    assert np.abs(space.catalogue_vectors(np.array(bundle.content)) - bundle.vectors).max() < TOLERANCE
    index = faiss.read_index(str(bundle.file(INDEX)))
    assert np.array_equal(index.reconstruct_n(0, index.ntotal), bundle.vectors)


def test_the_onnx_text_engine_equals_the_content_vectors(text_bundle: Bundle) -> None:
    tokenizer = Tokenizer.from_file(str(text_bundle.file(TOKENIZER)))
    session = onnxruntime.InferenceSession(text_bundle.file(TEXT_MODEL))
    for row in (0, 6, 15):
        ids = np.array([tokenizer.encode(text_bundle.catalogue.display_names[row]).ids], np.int64)
        (vector,) = session.run(["content_vector"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        assert np.abs(vector[0] - text_bundle.content[row]).max() < TOLERANCE


def test_the_tokenizer_neither_pads_nor_truncates(text_bundle: Bundle) -> None:
    tokenizer = Tokenizer.from_file(str(text_bundle.file(TOKENIZER)))
    assert (tokenizer.padding, tokenizer.truncation) == (None, None)
    assert len(tokenizer.encode("word " * 600).ids) == 602


def test_the_manifest_names_the_text_engine(text_bundle: Bundle, toy_bundle: Bundle) -> None:
    text = text_bundle.manifest.text
    assert text is not None
    assert (text.content_dim, text.max_tokens, text.columns) == (384, 256, ("title",))
    assert text.sha256 == find_text_model(None).sha256
    assert toy_bundle.manifest.text is None
    assert not toy_bundle.file(TEXT_MODEL).exists()


def test_popularity_and_histories_hold_every_event(toy_bundle: Bundle) -> None:
    table = pl.read_parquet(toy_bundle.file(POPULARITY))
    assert table.schema == {"row": pl.UInt32, "item_id": pl.String, "count": pl.Int64}
    assert table["count"].sum() == toy_bundle.manifest.data["num_interactions"] == 16 * sum(range(4, 10))
    assert table.equals(table.sort(["count", "row"], descending=[True, False]))
    histories = HistoryFile(toy_bundle.file(HISTORIES))
    rows, times = histories.read("user-0") or ([], [])
    assert rows == [0, 1, 2, 3]
    assert times == sorted(times)
    assert histories.read("nobody") is None
    histories.close()


@pytest.fixture
def copied_minilm(tmp_path: Path) -> Path:
    """The model's directory, every file of it a link or a copy that a test may change."""
    original = find_text_model(None).directory
    copy = tmp_path / "minilm"
    shutil.copytree(original, copy, ignore=shutil.ignore_patterns("model.safetensors"))
    (copy / "model.safetensors").symlink_to(original / "model.safetensors")
    return copy


def test_a_directory_overrides_the_text_model(copied_minilm: Path) -> None:
    found = find_text_model(str(copied_minilm))
    assert (found.name, found.directory) == (str(copied_minilm), copied_minilm)
    assert found.sha256 == find_text_model(None).sha256


def test_a_model_that_does_not_pool_by_the_mean_is_refused(copied_minilm: Path, tmp_path: Path) -> None:
    pooling = copied_minilm / "1_Pooling" / "config.json"
    modes = json.loads(pooling.read_text())
    pooling.write_text(json.dumps({**modes, "pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}))
    (tmp_path / "staging").mkdir()
    with pytest.raises(UsageError, match="does not pool by the mean"):
        write_text_engine(find_text_model(str(copied_minilm)), tmp_path / "staging", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
