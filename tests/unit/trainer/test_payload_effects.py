"""No key is for show: changing it changes the bundle, in the way that the key says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import polars as pl
import pytest
import torch
import toy_world
from listening import Listener

from clozerec_core.bundle import Bundle
from clozerec_core.catalogue import ColumnType
from clozerec_core.errors import UsageError
from clozerec_core.hybrid import ItemSpace
from clozerec_core.search_file import SearchFile
from clozerec_trainer import search_index
from clozerec_trainer.payload import Payload, parse_payload
from clozerec_trainer.train import evaluate_bundle, train

Build = Callable[..., Bundle]

TRAINING_KEYS: dict[str, Any] = {
    "learning_rate": 0.002,
    "warmup_ratio": 0.5,
    "weight_decay": 0.5,
    "gradient_clipping": 0.01,
    "dropout_rate": 0.4,
    "masking_ratio": 0.6,
    "last_item_ratio": 0.0,
    "causal_ratio": 1.0,
    "sequence_sampling": "last_window",
    "sequence_stride": 1,
    "use_attention_mask": False,
    "taste": False,
    "weight_tying": False,
    "negative_samples": 3,
    "temperature": 0.5,
    "batch_size": 8,
    "training_epochs": 1,
    "attention_heads": 4,
    "seed": 8,
}
"""Keys that change what is learned, and nothing that shows elsewhere. The learned weights must differ."""

SHOWN_KEYS = {
    "duplicates",
    "interactions", "items", "user_column", "item_column", "timestamp_column", "timestamp_unit", "event_type_column",
    "event_weights", "metadata_columns", "list_columns", "display_name", "max_sequence_length", "hidden_size",
    "model_depth", "content_dims", "behaviour_dropout", "behaviour_limit", "new_item_lift",
    "validate_every", "device", "refit",
    "text_model", "top_k_results", "exclude_seen", "split", "validation_start", "test_start", "judged_events",
    "baselines", "patience", "checkpoint_seconds", "start_from", "index_quantisation",
}  # fmt: skip
"""Keys with a test of their own, here, in test_data.py, test_splits.py, test_checkpoint.py or test_train.py."""


def test_every_key_is_tested() -> None:
    assert set(Payload.model_fields) == SHOWN_KEYS | set(TRAINING_KEYS)


@pytest.fixture(scope="module")
def plain_weights(quick_keys: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    bundle = toy_world.train_toy_bundle(tmp_path_factory.mktemp("plain"), **quick_keys)
    return bundle.weights()


@pytest.mark.parametrize("key", list(TRAINING_KEYS))
def test_a_training_key_changes_what_is_learned(key: str, plain_weights: dict[str, Any], quick_bundle: Build) -> None:
    bundle = quick_bundle(**{key: TRAINING_KEYS[key]})
    weights = bundle.weights()
    assert bundle.manifest.payload[key] == TRAINING_KEYS[key]
    assert not np.array_equal(weights["items.output.behaviour"], plain_weights["items.output.behaviour"])


def test_the_shape_keys_shape_the_network(quick_bundle: Build) -> None:
    bundle = quick_bundle(hidden_size=12, model_depth=2, max_sequence_length=6)
    weights = bundle.weights()
    assert weights["items.output.behaviour"].shape == (16, 12)
    assert weights["network.positions"].shape == (7, 12)
    assert "network.blocks.1.attention_out.weight" in weights
    assert "network.blocks.2.attention_out.weight" not in weights
    assert (bundle.manifest.model.dim, bundle.manifest.model.max_sequence_length) == (12, 6)


def test_a_fixed_temperature_stays_and_a_learned_one_moves(quick_bundle: Build) -> None:
    fixed = quick_bundle(temperature=0.1).weights()["network.log_temperature"]
    learned = quick_bundle(temperature=None).weights()["network.log_temperature"]
    assert fixed == pytest.approx(np.log(0.1))
    assert learned != pytest.approx(np.log(0.1))


def test_weight_tying_shares_both_sides(quick_bundle: Build) -> None:
    tied, untied = quick_bundle(weight_tying=True).weights(), quick_bundle(weight_tying=False).weights()
    assert np.array_equal(tied["items.input.behaviour"], tied["items.output.behaviour"])
    assert not np.array_equal(untied["items.input.behaviour"], untied["items.output.behaviour"])


def test_validate_every_says_which_epochs_are_judged(quick_bundle: Build) -> None:
    bundle = quick_bundle(training_epochs=5, validate_every=2)
    epochs = json.loads(bundle.file("report/metrics.json").read_text())["epochs"]
    assert [each["epoch"] for each in epochs if each["validation"]] == [2, 4, 5]


def test_the_best_validated_epoch_is_kept(quick_bundle: Build) -> None:
    bundle = quick_bundle(training_epochs=6, validate_every=1)
    epochs = json.loads(bundle.file("report/metrics.json").read_text())["epochs"]
    figures = [each["validation"]["ndcg@10"] for each in epochs]
    assert bundle.manifest.metrics["best_epoch"] == 1 + figures.index(max(figures))
    assert bundle.manifest.metrics["validation"]["bert4rec"]["ndcg@10"] == pytest.approx(max(figures))


def test_top_k_results_is_served_and_reported(quick_bundle: Build) -> None:
    bundle = quick_bundle(top_k_results=7)
    assert bundle.manifest.serving.top_k_results == 7
    assert "ndcg@7" in bundle.manifest.metrics["test"]["bert4rec"]


def test_exclude_seen_is_served_and_judged_by(quick_bundle: Build) -> None:
    removed, kept = quick_bundle(exclude_seen=True), quick_bundle(exclude_seen=False)
    assert (removed.manifest.serving.exclude_seen, kept.manifest.serving.exclude_seen) == (True, False)
    one, other = (each.manifest.metrics["test"]["popularity"]["mrr"] for each in (removed, kept))
    assert one > other


def test_items_may_be_left_out(quick_bundle: Build) -> None:
    bundle = quick_bundle(items=None, display_name=None)
    assert bundle.manifest.schema_ == {}
    assert sorted(bundle.catalogue.item_ids) == toy_world.ITEM_IDS
    assert list(bundle.catalogue.display_names) == list(bundle.catalogue.item_ids)


def test_display_name_is_the_id_unless_a_column_is_named(quick_bundle: Build) -> None:
    assert quick_bundle(display_name=None).catalogue.display_names[0] == "a"
    assert quick_bundle(display_name="title").catalogue.display_names[0] == "red running shoes"


def test_columns_are_found_by_their_names(quick_bundle: Build, tmp_path: Path) -> None:
    names = {"user_id": "who", "item_id": "what", "timestamp": "when"}
    toy_world.interactions_frame().rename(names).write_parquet(tmp_path / "i.parquet")
    columns = {"user_column": "who", "item_column": "what", "timestamp_column": "when"}
    toy_world.items_frame().rename({"item_id": "what"}).write_parquet(tmp_path / "x.parquet")
    bundle = quick_bundle(interactions=str(tmp_path / "i.parquet"), items=str(tmp_path / "x.parquet"), **columns)
    assert bundle.manifest.data["num_users"] == 96


def test_event_weights_change_what_is_learned(quick_bundle: Build, tmp_path: Path) -> None:
    kinds = pl.when(pl.col("item_id") < "h").then(pl.lit("view")).otherwise(pl.lit("buy")).alias("kind")
    path = tmp_path / "kinds.parquet"
    toy_world.interactions_frame().with_columns(kinds).write_parquet(path)
    alike, weighed = (
        quick_bundle(interactions=str(path), event_type_column="kind", event_weights=weights)
        for weights in ({}, {"buy": 5})
    )
    assert not np.array_equal(alike.weights()["network.positions"], weighed.weights()["network.positions"])
    assert alike.manifest.data["num_interactions"] == weighed.manifest.data["num_interactions"]


def test_event_kinds_tell_events_of_one_moment_apart(quick_bundle: Build, tmp_path: Path) -> None:
    events = toy_world.interactions_frame()
    kinds = [events.with_columns(kind=pl.lit(kind)) for kind in ("view", "buy")]
    pl.concat(kinds).write_parquet(tmp_path / "kinds.parquet")
    path = str(tmp_path / "kinds.parquet")
    apart = quick_bundle(interactions=path, event_type_column="kind")
    alike = quick_bundle(interactions=path, duplicates="drop")
    assert apart.manifest.data["num_interactions"] == 2 * alike.manifest.data["num_interactions"]


def test_list_columns_become_lists(quick_bundle: Build, tmp_path: Path) -> None:
    keys = toy_world.write_toy_csv(tmp_path)
    listed = quick_bundle(items=str(tmp_path / "items.csv"), list_columns=keys["list_columns"])
    assert listed.manifest.schema_["genres"] is ColumnType.STRING_LIST
    assert quick_bundle(items=str(tmp_path / "items.csv")).manifest.schema_["genres"] is ColumnType.STRING


def test_text_keys_change_the_content_and_how_it_is_used(quick_bundle: Build) -> None:
    titles = quick_bundle(metadata_columns=["title"])
    two = quick_bundle(metadata_columns=["title", "brand"])
    assert not np.array_equal(titles.content[0], two.content[0])
    fewer = quick_bundle(metadata_columns=["title"], content_dims=3)
    assert fewer.weights()["items.output.projection"].shape == (8, 3)
    undropped = quick_bundle(metadata_columns=["title"], behaviour_dropout=0.0)
    assert not np.array_equal(titles.weights()["items.output.bias"], undropped.weights()["items.output.bias"])
    near = quick_bundle(metadata_columns=["title"], behaviour_limit=0.01)
    texts_ND = ItemSpace.from_weights(near.weights(), "output").project(near.content)
    behaviour_N = np.linalg.norm(near.weights()["items.output.behaviour"], axis=1)
    assert 0 < behaviour_N.max() <= 0.01001 * np.linalg.norm(texts_ND, axis=1).max()


def test_a_lift_moves_new_items_and_the_bundle_is_judged_with_it(quick_keys: dict[str, Any], tmp_path: Path) -> None:
    keys = {**quick_keys, **toy_world.write_toy_data(tmp_path), "metadata_columns": ["title"]}
    toy_world.interactions_frame().filter(pl.col("item_id") != "p").write_parquet(tmp_path / "interactions.parquet")
    level, lifted = (
        train(parse_payload({**keys, "new_item_lift": lift}, tmp_path), tmp_path / "bundles").bundle
        for lift in (0, 0.1)
    )
    moved_N = np.abs(lifted.vectors - level.vectors).max(axis=1)
    assert moved_N[15] > 0.1
    assert moved_N[:15].max() < 0.01  # for the direction that is given up
    again = evaluate_bundle(lifted, parse_payload(keys, tmp_path))
    assert again["test"]["bert4rec"] == pytest.approx(lifted.manifest.metrics["test"]["bert4rec"])


@pytest.mark.parametrize(("quantisation", "kind"), [("none", "IndexHNSWFlat"), ("sq8", "IndexHNSWSQ")])
def test_the_graph_of_a_large_catalogue_holds_what_was_asked_for_and_its_recall_is_said(
    quick_keys: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantisation: str, kind: str
) -> None:
    for name, small in {"GRAPH_FROM": 1, "NUM_QUERIES": 5, "ROWS_A_CELL": 13}.items():
        monkeypatch.setattr(search_index, name, small)
    listener = Listener()
    payload = parse_payload({**quick_keys, "index_quantisation": quantisation}, tmp_path)
    bundle = train(payload, tmp_path / "bundles", listener).bundle
    assert type(faiss.read_index(str(bundle.file("index.faiss")))).__name__ == kind
    (said,) = listener.named("index_recall")
    assert said["recall_at_10"] == SearchFile.open(bundle).recall >= 0.9


def test_a_text_model_without_safe_weights_is_refused(quick_bundle: Build, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(UsageError, match=r"has no model\.safetensors; pickled weights are not read"):
        quick_bundle(metadata_columns=["title"], text_model=str(tmp_path / "model"))


def test_texts_that_are_all_one_are_refused(quick_bundle: Build, tmp_path: Path) -> None:
    toy_world.items_frame().with_columns(title=pl.lit("thing")).write_parquet(tmp_path / "items.parquet")
    with pytest.raises(UsageError, match="title hold fewer than two texts"):
        quick_bundle(items=str(tmp_path / "items.parquet"), metadata_columns=["title"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here; runs on a machine without one")
def test_a_device_that_is_not_there_is_refused(quick_bundle: Build) -> None:
    with pytest.raises(UsageError, match='device "cuda" is not there; write auto or cpu'):
        quick_bundle(device="cuda")


def test_the_split_is_what_is_trained_and_judged(quick_bundle: Build) -> None:
    bundle = quick_bundle(split="global_time", validation_start=0.6, test_start=0.8, judged_events=20)
    manifest = bundle.manifest
    assert manifest.split["method"] == "global-time"
    assert manifest.split["last_train_event"] < manifest.split["validation_start"] <= manifest.split["validation"][0]
    assert manifest.metrics["num_cases"] == {"validation": 20, "test": 20}
    assert manifest.metrics["segments"]["test"]["target"]["total"]["num_cases"] == 20


def test_only_the_named_baselines_are_judged(quick_bundle: Build) -> None:
    assert list(quick_bundle(baselines=["item_knn"]).manifest.metrics["test"]) == ["item_knn", "bert4rec"]
