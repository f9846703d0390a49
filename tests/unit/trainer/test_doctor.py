"""Each symptom is provoked by data that have it, and absent where they do not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import toy_world

from clozerec_trainer.advice import Advice, advise_on_training
from clozerec_trainer.doctor import Diagnosis, examine
from clozerec_trainer.estimate import Estimate
from clozerec_trainer.metrics import EpochRecord
from clozerec_trainer.payload import Payload
from clozerec_trainer.progress import SilentReporter

Written = Callable[..., Payload]

DAY = 86_400


def log_of(num_users: int, length: int, **columns: Any) -> dict[str, list[Any]]:
    """Users that walk over ten items, one event a minute, user after user an hour apart."""
    events = [(user, step) for user in range(num_users) for step in range(length)]
    return {
        "user": [f"u{user}" for user, _ in events],
        "item": [f"i{(user + step) % 10}" for user, step in events],
        "time": [1_700_000_000 + 60 * step for _, step in events],
    } | columns


def items_of(texts: list[str | None]) -> dict[str, list[Any]]:
    return {"item": [f"i{row}" for row in range(10)], "title": texts}


def symptoms(payload: Payload) -> dict[str, Advice]:
    return {each.symptom: each for each in examine(payload, SilentReporter()).advice}


def test_good_data_get_no_advice(written: Written) -> None:
    payload = written(log_of(12, 8), items_of([f"title {row}" for row in range(10)]), metadata_columns=["title"])
    diagnosis = examine(payload, SilentReporter())
    assert diagnosis.advice == []
    assert diagnosis.facts["events a user"] == "least 8 · 10% 8 · 25% 8 · median 8 · 75% 8 · 90% 8 · most 8"
    assert str(diagnosis).endswith("Nothing to change.")


def test_too_few_events_a_user_come_with_the_distribution_and_item_knn(written: Written) -> None:
    advice = symptoms(written(log_of(12, 4)))["few_events"]
    assert "least 4 · 10% 4" in advice.seen
    assert "more data" in advice.change
    assert "item-kNN" in advice.change


def test_where_nothing_can_be_trained_the_doctor_says_so_beside_the_advice(written: Written) -> None:
    diagnosis = examine(written(log_of(12, 3)), SilentReporter())
    assert diagnosis.facts["training"].startswith("impossible: no user has two events to train on")
    assert "few_events" in [each.symptom for each in diagnosis.advice]


def test_constant_times_are_found(written: Written) -> None:
    found = symptoms(written(log_of(6, 6, time=[1_700_000_000] * 36)))
    assert 'same time in "time"' in found["constant_times"].seen
    assert "tied_times" not in found


def test_tied_times_are_found_and_days_named(written: Written) -> None:
    days = [DAY * (19_000 + step // 3) for _ in range(6) for step in range(6)]
    advice = symptoms(written(log_of(6, 6, time=days)))["tied_times"]
    assert "80% of the events" in advice.seen
    assert "whole days" in advice.seen
    assert "to the second" in advice.change


def test_a_file_out_of_order_is_found(written: Written) -> None:
    data = log_of(6, 6)
    backwards = {name: column[::-1] for name, column in data.items()}
    advice = symptoms(written(backwards))["unordered_times"]
    assert "83% of the events" in advice.seen  # all but the first of each user
    assert "unordered_times" not in symptoms(written(data))


def test_users_and_items_with_one_event_are_found(written: Written) -> None:
    data = log_of(4, 6)
    for number in range(6):
        data["user"].append(f"once{number}")
        data["item"].append(f"rare{number}")
        data["time"].append(1_700_000_000)
    advice = symptoms(written(data))["single_events"]
    assert "60% of the users and 53% of the items have one event" in advice.seen


def test_leaving_one_out_of_a_log_that_goes_on_is_a_leak(written: Written) -> None:
    times = [1_700_000_000 + 1_000 * user + 60 * step for user in range(12) for step in range(8)]
    assert "global_time" in symptoms(written(log_of(12, 8, time=times)))["future_leak"].change


@pytest.mark.parametrize(("exclude_seen", "expected"), [(True, "exclude_seen: false"), (False, "written down twice")])
def test_answers_that_stand_in_the_history_are_found(written: Written, exclude_seen: bool, expected: str) -> None:
    again = [f"i{step % 3}" for _ in range(6) for step in range(6)]
    advice = symptoms(written(log_of(6, 6, item=again), exclude_seen=exclude_seen))["repeats"]
    assert "100% of the test cases" in advice.seen
    assert expected in advice.change


def test_missing_text_is_found(written: Written) -> None:
    assert "Name metadata_columns" in symptoms(written(log_of(6, 6)))["no_text"].change
    texts = [None if row < 4 else f"title {row}" for row in range(10)]
    found = symptoms(written(log_of(6, 6), items_of(texts), metadata_columns=["title"]))
    assert "40% of the items have no text in title" in found["missing_text"].seen


def records(*figures: float, losses: list[float] | None = None) -> list[EpochRecord]:
    losses = losses or [1 / epoch for epoch in range(1, len(figures) + 1)]
    return [EpochRecord(epoch, losses[epoch - 1], 1.0, {"ndcg@10": each}) for epoch, each in enumerate(figures, 1)]


def test_overfitting_is_named_with_its_cure() -> None:
    advice = advise_on_training(records(0.05, 0.10, 0.09, 0.08), 20)
    assert advice is not None
    assert advice.symptom == "overfitting"
    assert "since epoch 2 validation NDCG@10 fell from 0.1000 to 0.0800" in advice.seen
    assert all(word in advice.change for word in ("model_depth", "dropout_rate", "masking_ratio", "training_epochs"))


def test_a_plateau_is_named_with_its_cure() -> None:
    advice = advise_on_training(records(0.05, 0.10, 0.1001, 0.1, 0.1002), 20)
    assert advice is not None
    assert advice.symptom == "plateau"
    assert all(word in advice.change for word in ("order", "5 to 10 events", "hidden_size", "model_depth"))


@pytest.mark.parametrize(
    ("figures", "num_epochs"),
    [
        ((0.01, 0.02, 0.03, 0.04, 0.05), 20),  # it climbs
        ((0.05, 0.10, 0.1001, 0.1, 0.1002), 6),  # near the end the learning rate has fallen
        ((0.10, 0.099, 0.0985), 20),  # a wobble
        ((), 20),
    ],
)
def test_healthy_curves_get_no_advice(figures: tuple[float, ...], num_epochs: int) -> None:
    assert advise_on_training(records(*figures), num_epochs) is None


def test_too_long_and_too_large_are_said_before_training_with_what_to_lower() -> None:
    long, memory = Estimate(seconds=7200, peak_bytes=15 * 2**30, available_bytes=16 * 2**30).advice()
    assert (long.symptom, memory.symptom) == ("long", "memory")
    assert "2.0 hours" in long.seen
    assert all(word in long.change for word in ("hidden_size", "model_depth", "max_sequence_length", "GPU"))
    assert "15.0 of 16.0 GiB" in memory.seen
    assert "batch_size or max_sequence_length" in memory.change
    assert Estimate(60, 2**30, 16 * 2**30).advice() == []


def test_the_doctor_estimates_time_and_memory(written: Written) -> None:
    diagnosis: Diagnosis = examine(written(log_of(6, 6), training_epochs=7), SilentReporter())
    assert "minutes for 7 epochs" in diagnosis.facts["training"]


def test_the_command_prints_facts_and_advice(tmp_path: Path) -> None:
    events = toy_world.interactions_frame()
    payload = toy_world.write_toy_payload(tmp_path)
    events.with_columns(timestamp=pl.lit(1_700_000_000)).write_parquet(tmp_path / "interactions.parquet")
    command = [sys.executable, "-m", "clozerec_cli", "doctor", str(payload)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "96 users, 16 items, 624 events" in done.stdout
    assert "! Every event has the same time" in done.stdout
