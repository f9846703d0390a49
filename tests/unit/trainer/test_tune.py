from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clozerec_core.errors import UsageError
from clozerec_trainer.payload import load_payload, parse_payload
from clozerec_trainer.progress import SilentReporter
from clozerec_trainer.tune import SEARCHED, space_of, tune


class Listener(SilentReporter):
    """Remembers the trials."""

    def __init__(self) -> None:
        self.trials: list[dict[str, object]] = []

    def say(self, event: str, **facts: object) -> None:
        if event == "trial_begins":
            self.trials.append(facts)


def test_the_search_begins_with_the_payload_goes_on_where_it_stood_and_ends_in_a_payload(
    quick_keys: dict[str, Any], tmp_path: Path
) -> None:
    payload = parse_payload({**quick_keys, "validate_every": 1}, tmp_path)
    listener = Listener()
    tune(payload, tmp_path / "out", 2, 10, listener)
    first = listener.trials[0]
    assert {key: first[key] for key in SEARCHED} == {key: getattr(payload, key) for key in SEARCHED}
    listener.trials.clear()
    tuned = tune(payload, tmp_path / "out", 3, 10, listener)
    assert [each["trial"] for each in listener.trials] == [2]
    assert tuned.num_trials == 3
    best = load_payload(tuned.path)
    assert {key: getattr(best, key) for key in SEARCHED} == tuned.keys
    assert best.interactions == payload.interactions
    assert best.training_epochs == payload.training_epochs
    listener.trials.clear()
    assert tune(payload, tmp_path / "out", 3, 10, listener).keys == tuned.keys
    assert listener.trials == []


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
