from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import structlog
import toy_world
from listening import Listener

from clozerec_core.bundle import Bundle
from clozerec_core.errors import ClozerecError, UsageError
from clozerec_core.hybrid import ItemSpace
from clozerec_core.telemetry import configure_logging
from clozerec_trainer.payload import parse_payload
from clozerec_trainer.progress import LogReporter, SilentReporter, TerminalReporter
from clozerec_trainer.train import evaluate_bundle, train

Build = Callable[..., Bundle]


def next_items(bundle: Bundle, session: list[str]) -> list[str]:
    """The bundle's ranking after a session, through ONNX and numpy as services do it."""
    import onnxruntime

    rows = bundle.catalogue.rows_of(session)
    vectors = ItemSpace.from_weights(bundle.weights(), "input").catalogue_vectors(np.array(bundle.content))
    weights = bundle.weights()
    nothing = np.zeros_like(vectors[:1])
    items = np.concatenate([vectors[rows] * weights["network.input_scale"], nothing])
    hidden = items + weights["network.positions"][-len(items) :]
    hidden[-1] += weights["network.mask_vector"]
    recency = weights["network.log_recency"][[*range(len(rows) - 1, -1, -1), 0]]
    feeds = {
        "hidden": hidden[:, None].astype(np.float32),
        "items": items[:, None].astype(np.float32),
        "recency": recency[None, None],
        "asked": np.array([len(rows)]),
    }
    (intent,) = onnxruntime.InferenceSession(bundle.file("encoder.onnx")).run(["intent"], feeds)
    order = np.argsort(-(bundle.vectors @ intent[0]), kind="stable")
    return [bundle.catalogue.item_ids[row] for row in order if row not in rows]


@pytest.mark.parametrize("session", ["abc", "a", "hi", "nop", "op", "cdefgh"])
def test_a_cyclic_shopper_is_offered_the_next_item_in_the_cycle(toy_bundle: Bundle, session: str) -> None:
    assert next_items(toy_bundle, list(session))[0] == toy_world.next_item(session[-1])


def test_the_model_beats_popularity_in_its_own_report(toy_bundle: Bundle) -> None:
    test = toy_bundle.manifest.metrics["test"]
    assert test["bert4rec"]["ndcg@10"] > 0.9 > 1.2 * test["popularity"]["ndcg@10"]


def test_a_published_bundle_opens_and_current_names_it(toy_bundle: Bundle) -> None:
    opened = Bundle.open(toy_bundle.path.parent / "current")
    assert opened.bundle_id == toy_bundle.bundle_id == toy_bundle.path.name
    assert opened.manifest == toy_bundle.manifest
    assert not [path.name for path in toy_bundle.path.parent.iterdir() if path.name.startswith(".")]


def test_the_report_holds_the_figures_of_the_manifest(toy_bundle: Bundle) -> None:
    document = json.loads(toy_bundle.file("report/metrics.json").read_text())
    assert document["metrics"] == toy_bundle.manifest.metrics
    page = toy_bundle.file("report/report.html").read_text()
    assert toy_bundle.bundle_id in page
    assert f"{toy_bundle.manifest.metrics['test']['popularity']['ndcg@10']:.4f}" in page
    assert "http" not in page


def test_one_seed_gives_equal_runs_and_another_does_not(quick_bundle: Build) -> None:
    one, same, other = (quick_bundle(negative_samples=5, causal_ratio=0.5, seed=seed).weights() for seed in (1, 1, 2))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["network.positions"], other["network.positions"])


@pytest.mark.parametrize("fixture", ["toy_bundle", "text_bundle"])
def test_the_figures_come_out_of_the_bundle_again(fixture: str, request: pytest.FixtureRequest) -> None:
    bundle: Bundle = request.getfixturevalue(fixture)
    data_dir = bundle.path.parent / "data"
    again = evaluate_bundle(bundle, toy_world.toy_payload(data_dir))
    for part in ("validation", "test"):
        for system in ("bert4rec", "popularity"):
            assert again[part][system] == pytest.approx(bundle.manifest.metrics[part][system])


@pytest.mark.parametrize("change", ["other items", "the newest events gone", "read otherwise"])
def test_a_bundle_is_not_judged_by_other_data(toy_bundle: Bundle, tmp_path: Path, change: str) -> None:
    payload = toy_world.toy_payload(tmp_path)
    if change == "other items":
        toy_world.items_frame().reverse().write_parquet(tmp_path / "items.parquet")
    elif change == "the newest events gone":
        # The validation events would become the test's, and training events the validation's.
        events = toy_world.interactions_frame()
        is_newest = pl.col("timestamp") == pl.col("timestamp").max().over("user_id")
        events.filter(~is_newest).write_parquet(tmp_path / "interactions.parquet")
    else:
        payload = toy_world.toy_payload(tmp_path, duplicates="keep")
    with pytest.raises(UsageError, match="was trained on other data"):
        evaluate_bundle(toy_bundle, payload)


def test_refit_trains_on_every_event_and_keeps_the_figures(
    quick_bundle: Build, quick_keys: Any, tmp_path: Path
) -> None:
    plain, refitted = quick_bundle(), quick_bundle(refit=True)
    assert refitted.manifest.metrics == plain.manifest.metrics
    assert not np.array_equal(plain.weights()["network.positions"], refitted.weights()["network.positions"])
    with pytest.raises(UsageError, match="trained once more on every event"):
        evaluate_bundle(refitted, parse_payload(quick_keys, tmp_path))


def test_items_without_a_training_event_have_no_behaviour(quick_bundle: Build, tmp_path: Path) -> None:
    items = toy_world.items_frame()
    extra = items.head(1).with_columns(item_id=toy_world.pl.lit("new"))
    toy_world.pl.concat([items, extra]).write_parquet(tmp_path / "items.parquet")
    bundle = quick_bundle(items=str(tmp_path / "items.parquet"))
    row = bundle.catalogue.row_of("new")
    assert not bundle.weights()["items.output.behaviour"][row].any()
    assert not bundle.vectors[row].any()
    assert bundle.popularity_counts[row] == 0


def test_a_loss_that_is_no_number_stops_with_advice_and_leaves_nothing(quick_bundle: Build, tmp_path: Path) -> None:
    with pytest.raises(ClozerecError, match="lower learning_rate"):
        quick_bundle(learning_rate=1e30, gradient_clipping=0)
    assert [path.name for path in (tmp_path / "bundles").iterdir() if path.name != ".checkpoints"] == []


def test_an_unwritable_output_directory_is_refused_before_any_work(quick_keys: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="cannot write to output directory"):
        train(parse_payload(quick_keys, tmp_path), tmp_path / "file" / "bundles")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_bad_data_leaves_nothing_in_the_output_directory(quick_bundle: Build, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        quick_bundle(user_column="nobody")
    assert list((tmp_path / "bundles").iterdir()) == []


def test_a_killed_writer_leaves_no_bundle(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from clozerec_core.bundle import writing_directory\n"
        "with writing_directory(Path(sys.argv[1])) as staging:\n"
        "    (staging / 'weights.safetensors').write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".writing-")] == []


def test_reporters_speak_on_standard_error_only(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logging(log_format="json")
    for reporter in (SilentReporter(), LogReporter(), TerminalReporter()):
        reporter.say("epoch_done", epoch=1, loss=0.5, note="[/not markup]")
        with reporter.steps("training", 2) as advance:
            advance("loss 0.5")
    structlog.reset_defaults()
    out, err = capfd.readouterr()
    assert "epoch" in err
    assert out == ""


def test_histories_too_short_to_hold_out_train_without_figures(quick_bundle: Build, tmp_path: Path) -> None:
    events = toy_world.interactions_frame().group_by("user_id", maintain_order=True).head(2)
    events.write_parquet(tmp_path / "short.parquet")
    bundle = quick_bundle(interactions=str(tmp_path / "short.parquet"))
    assert bundle.manifest.metrics["num_users_evaluated"] == 0
    assert bundle.manifest.metrics["test"] == {name: {} for name in bundle.manifest.metrics["test"]}
    assert bundle.manifest.metrics["choice"] is None
    assert bundle.manifest.split["test"] is None


def test_time_and_memory_are_said_before_the_first_epoch(quick_keys: Any, tmp_path: Path) -> None:
    listener = Listener()
    train(parse_payload(quick_keys, tmp_path), tmp_path / "out", listener)
    order = [event for event, _ in listener.said if event in ("estimate", "epoch_done")]
    assert order == ["estimate", "epoch_done", "epoch_done"]
    (said,) = listener.named("estimate")
    assert 0 < float(str(said["memory_gib"])) < float(str(said["available_gib"]))


def test_a_training_that_overfits_says_so_and_its_report_repeats_it(quick_keys: Any, tmp_path: Path) -> None:
    """A log in which nothing follows from anything: all that can be learned is who took what."""
    items = np.random.default_rng(0).choice(list("abcdefghijklmnop"), size=(60, 8))
    events = [
        {"user_id": f"u{user}", "item_id": item, "timestamp": 1_700_000_000 + place}
        for user, row in enumerate(items.tolist())
        for place, item in enumerate(row)
    ]
    pl.DataFrame(events).write_parquet(tmp_path / "noise.parquet")
    keys = {
        **quick_keys,
        "interactions": str(tmp_path / "noise.parquet"),
        "training_epochs": 20,
        "validate_every": 1,
        "hidden_size": 32,
        "learning_rate": 0.01,
        "dropout_rate": 0.0,
    }
    listener = Listener()
    bundle = train(parse_payload(keys, tmp_path), tmp_path / "out", listener).bundle
    (advice,) = (each for each in listener.named("advice") if each["symptom"] == "overfitting")
    assert str(advice["seen"]).startswith("Overfitting: since epoch ")
    assert str(advice["change"]) in bundle.file("report/report.html").read_text()
    document = json.loads(bundle.file("report/metrics.json").read_text())
    assert "overfitting" in [each["symptom"] for each in document["advice"]]
