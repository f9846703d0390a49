from __future__ import annotations

import shutil
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from listening import Listener

import clozerec_trainer.tune as tune_module
from clozerec_core.errors import UsageError
from clozerec_trainer.payload import load_payload, parse_payload
from clozerec_trainer.progress import SilentReporter
from clozerec_trainer.tune import SEARCHED, space_of, tune


def test_the_search_begins_with_the_payload_goes_on_where_it_stood_and_ends_in_a_payload(
    quick_keys: dict[str, Any], tmp_path: Path
) -> None:
    payload = parse_payload({**quick_keys, "validate_every": 1}, tmp_path)
    listener = Listener()
    tune(payload, tmp_path / "out", 2, 10, listener)
    first = listener.named("trial_begins")[0]
    assert {key: first[key] for key in SEARCHED} == {key: getattr(payload, key) for key in SEARCHED}
    listener = Listener()
    tuned = tune(payload, tmp_path / "out", 3, 10, listener)
    assert [each["trial"] for each in listener.named("trial_begins")] == [2]
    assert tuned.num_trials == 3
    best = load_payload(tuned.path)
    assert {key: getattr(best, key) for key in SEARCHED} == tuned.keys
    assert best.interactions == payload.interactions
    assert best.training_epochs == payload.training_epochs
    listener = Listener()
    assert tune(payload, tmp_path / "out", 3, 10, listener).keys == tuned.keys
    assert listener.named("trial_begins") == []


def test_the_outcome_finds_the_data_wherever_it_lies(
    quick_keys: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {key: Path(shutil.copy(quick_keys[key], tmp_path)).name for key in ("interactions", "items")}
    payload = parse_payload({**quick_keys, **names, "validate_every": 1}, Path())
    best = load_payload(tune(payload, Path("out"), 1, 10, SilentReporter()).path)
    assert (best.interactions, best.items) == (tmp_path / names["interactions"], tmp_path / names["items"])


def test_a_hopeless_trial_is_pruned_before_its_last_epoch(
    quick_keys: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer epochs than validations would have been: what the median prunes is no figure, and counts as a trial."""
    monkeypatch.setattr(tune_module, "_STARTUP_TRIALS", 1)
    payload = parse_payload({**quick_keys, "validate_every": 1, "training_epochs": 6}, tmp_path)
    listener = Listener()
    tuned = tune(payload, tmp_path / "out", 8, 10, listener)
    done = [each["ndcg@10"] for each in listener.named("trial_done")]
    assert tuned.num_trials == len(done) == 8
    assert "pruned" in done
    assert tuned.validation == max(each for each in done if isinstance(each, float))


def test_a_search_that_runs_out_of_time_ends_its_trial_with_an_epoch(
    quick_keys: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that moves on by a minute whenever it is read: time for the first trial, and for a part of the second."""
    minutes = count()
    monkeypatch.setattr(tune_module.time, "monotonic", lambda: 60.0 * next(minutes))
    payload = parse_payload({**quick_keys, "validate_every": 1, "training_epochs": 4}, tmp_path)
    listener = Listener()
    tune(payload, tmp_path / "out", 5, 1e3, listener)
    reads = next(minutes)
    again = Listener()
    minutes = count()
    tune(payload.model_copy(update={"seed": 1}), tmp_path / "out", 5, reads / 5 * 1.5, again)
    assert [each["ndcg@10"] == "pruned" for each in again.named("trial_done")][-1]
    assert 1 <= len(again.named("trial_done")) < 5


def test_no_time_is_an_error_that_says_so(quick_keys: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no trial came to a figure within 0 minutes; allow more"):
        tune(parse_payload(quick_keys, tmp_path), tmp_path / "out", 3, 0, SilentReporter())


def test_nothing_held_out_is_refused(quick_keys: dict[str, Any], tmp_path: Path) -> None:
    import toy_world

    short = toy_world.interactions_frame().group_by("user_id", maintain_order=True).head(2)
    short.write_parquet(tmp_path / "short.parquet")
    payload = parse_payload({**quick_keys, "interactions": str(tmp_path / "short.parquet")}, tmp_path)
    with pytest.raises(UsageError, match="nothing can be held out"):
        tune(payload, tmp_path / "out", 3, 10, SilentReporter())


@pytest.mark.parametrize("keys", [{}, {"learning_rate": 0.5, "dropout_rate": 0.9, "model_depth": 9, "hidden_size": 24}])
def test_the_space_holds_the_payloads_own_values_and_valid_sizes_only(
    quick_keys: dict[str, Any], keys: dict[str, Any], tmp_path: Path
) -> None:
    payload = parse_payload({**quick_keys, "attention_heads": 3, "hidden_size": 12, **keys}, tmp_path)
    space = space_of(payload)
    assert set(space) == set(SEARCHED)
    for key, distribution in space.items():
        assert distribution._contains(distribution.to_internal_repr(getattr(payload, key)))
    assert all(size % 3 == 0 for size in space["hidden_size"].choices)  # type: ignore[attr-defined]
