from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clozerec_trainer.comparison import choose, compare
from clozerec_trainer.data import Log
from clozerec_trainer.evaluate import Judge, Ranking
from clozerec_trainer.metrics import NO_ITEM, beyond_accuracy, interval, resampled_means
from clozerec_trainer.payload import parse_payload
from clozerec_trainer.splits import Cases, split_log

PAYLOAD = parse_payload(
    {"interactions": "i.csv", "user_column": "u", "item_column": "i", "timestamp_column": "t"}, Path("/data")
)


def cases_of(num_cases: int) -> Cases:
    return Cases(np.arange(num_cases), np.arange(num_cases))


def ranked(ranks: list[int] | np.ndarray) -> Ranking:
    return Ranking(np.asarray(ranks), np.zeros((len(ranks), 0), np.int64))


def test_the_interval_of_a_mean_is_as_wide_as_theory_says() -> None:
    hits_C = (np.arange(2000) % 10 == 0).astype(float)
    low, high = interval(resampled_means(np.arange(2000), hits_C[:, None], 0)[:, 0])
    error = 1.96 * np.sqrt(0.1 * 0.9 / 2000)
    assert low == pytest.approx(0.1 - error, abs=0.002)
    assert high == pytest.approx(0.1 + error, abs=0.002)


def test_cases_of_one_user_count_as_kin() -> None:
    # Twenty users with a hundred equal cases each know no more than twenty cases do.
    users_C = np.repeat(np.arange(20), 100)
    spread = resampled_means(users_C, (users_C % 2).astype(float)[:, None], 0)[:, 0].std()
    assert spread == pytest.approx(0.5 / np.sqrt(20), rel=0.1)


def test_the_simplest_system_that_is_not_clearly_worse_is_chosen() -> None:
    generator = np.random.default_rng(0)
    noisy = generator.integers(1, 20, 500)
    nearly = np.where(generator.random(500) < 0.1, noisy + 1, noisy)
    systems = {"popularity": ranked(noisy * 5), "item_knn": ranked(nearly), "bert4rec": ranked(noisy)}
    choice = choose(systems, cases_of(500), 0)
    assert choice is not None
    assert (choice["system"], choice["best"]) == ("bert4rec", "bert4rec")  # paired: always a little better is clear
    shuffled = {**systems, "item_knn": ranked(generator.permutation(noisy))}
    choice = choose(shuffled, cases_of(500), 0)
    assert choice is not None
    assert choice["system"] == "item_knn"
    low, high = choice["behind"]["popularity"]["interval"]
    assert 0 < low < choice["behind"]["popularity"]["difference"] < high


def test_without_cases_nothing_is_chosen() -> None:
    assert choose({"bert4rec": ranked([])}, cases_of(0), 0) is None


def test_cases_are_told_apart_by_whether_training_shows_the_target_and_by_length_of_history() -> None:
    histories = [[0, 1, 2, 3], [0, 1, 2, 9], [*range(5), 2, 3, 0, 1, 4]]
    rows = np.array([row for each in histories for row in each], np.int64)
    starts = np.cumsum([0, *map(len, histories)])
    log = Log(["a", "b", "c"], starts, rows, rows * 0, np.ones(len(rows), np.float32))
    split = split_log(log, PAYLOAD)
    judge = Judge(log, split.test, 10, True)
    figures = compare({"bert4rec": ranked([1, 2, 100])}, judge, split.train_counts(10), [10], 0)
    target, length = figures["segments"]["target"], figures["segments"]["history_length"]
    assert {name: each["num_cases"] for name, each in target.items()} == {"cold": 1, "warm": 2, "total": 3}
    assert target["cold"]["systems"]["bert4rec"]["mrr@10"] == 1 / 2
    assert target["warm"]["systems"]["bert4rec"]["mrr@10"] == 1 / 2
    assert (length["1-4"]["num_cases"], length["5-9"]["num_cases"]) == (2, 1)
    assert length["5-9"]["systems"]["bert4rec"]["hr@10"] == 0
    assert length["100+"] == {"num_cases": 0, "systems": {"bert4rec": {}}}


def test_coverage_novelty_and_popularity_bias_of_a_hand_computed_example() -> None:
    counts_N = np.array([7, 3, 1, 0])  # shares with one added: 8, 4, 2 and 1 of 15
    figures = beyond_accuracy(np.array([[0, 1], [0, NO_ITEM]]), np.array([1, 2]), counts_N, 4)
    assert figures["coverage@2"] == 2 / 4
    assert figures["novelty@2"] == pytest.approx(-np.log2([8 / 15, 4 / 15, 8 / 15]).mean())
    assert figures["popularity_bias@2"] == pytest.approx((7 + 3 + 7) / 3 / 2)
