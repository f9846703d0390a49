from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clozerec_trainer.baselines import fit_baselines
from clozerec_trainer.data import Log
from clozerec_trainer.evaluate import Judge, Ranking
from clozerec_trainer.item_features import Content, no_content
from clozerec_trainer.payload import Payload, parse_payload
from clozerec_trainer.splits import split_log

DAY_US = 86_400 * 10**6
REQUIRED = {"interactions": "i.csv", "user_column": "u", "item_column": "i", "timestamp_column": "t"}


def payload_with(**keys: Any) -> Payload:
    return parse_payload({**REQUIRED, **keys}, Path("/data"))


def log_of(histories: list[list[int]], days: list[list[int]] | None = None) -> Log:
    rows = np.array([row for each in histories for row in each], np.int64)
    times = np.array([day for each in days for day in each], np.int64) * DAY_US if days else np.arange(len(rows))
    starts = np.cumsum([0, *map(len, histories)])
    return Log([str(u) for u in range(len(histories))], starts, rows, times, np.ones(len(rows), np.float32))


def ranking_of(name: str, log: Log, num_items: int, content: Content | None = None) -> Ranking:
    """The test part, ranked by one baseline; two answers a case."""
    payload = payload_with(baselines=[name])
    split = split_log(log, payload)
    (score,) = fit_baselines(split, content or no_content(num_items), num_items, payload).values()
    return Judge(log, split.test, num_items, True).rank(score, 2)


def checkerboard(num_users: int, num_items: int) -> list[list[int]]:
    """Even users take even items and odd users odd ones, each beginning elsewhere (after benfred/implicit)."""
    return [[(user + 2 * step) % num_items for step in range(num_items // 2)] for user in range(num_users)]


def test_popularity_counts_training_events_only() -> None:
    # Training events are 0, 1 · 0, 1 · 0, 2; items 3 and 4 are held out everywhere.
    log = log_of([[0, 1, 3, 4], [0, 1, 3, 4], [0, 2, 3, 4], [5, 5, 3, 4]])
    assert split_log(log, payload_with()).train_counts(6).tolist() == [3, 2, 1, 0, 0, 2]
    assert ranking_of("popularity", log, 6).top_CK.tolist() == [[5, 2], [5, 2], [1, 5], [0, 1]]


def test_recent_popularity_counts_the_seven_days_before_the_case() -> None:
    # Item 0 was the fashion of the first days, item 1 that of day 20; user 3 is asked in between, user 4 after.
    histories = [[0, 2, 3], [0, 2, 3], [1, 2, 3], [4, 4, 2], [4, 4, 2]]
    days = [[0, 40, 41], [1, 40, 41], [20, 40, 41], [0, 2, 5], [0, 2, 24]]
    top_CK = ranking_of("recent_popularity", log_of(histories, days), 5).top_CK
    assert top_CK[3][0] == 0
    assert top_CK[4][0] == 1


def test_after_training_recent_means_its_last_days() -> None:
    histories = [[0, 0, 0, 1, 2], [3, 1, 2]]
    days = [[0, 1, 2, 50, 99], [0, 97, 98]]
    log = log_of(histories, days)
    payload = payload_with(
        split="global_time", validation_start="1970-03-01", test_start="1970-04-09", baselines=["recent_popularity"]
    )
    split = split_log(log, payload)
    (score,) = fit_baselines(split, no_content(4), 4, payload).values()
    # Training ends on day 50: its last week holds item 1 only, whatever came on the days of the cases.
    assert score(split.test).tolist() == [[0, 1, 0, 0]] * 2


@pytest.mark.parametrize("name", ["item_knn", "matrix_factorisation"])
def test_on_a_checkerboard_everybody_is_offered_their_own_colour(name: str) -> None:
    ranking = ranking_of(name, log_of(checkerboard(40, 12)), 12)
    assert (ranking.ranks_C == 1).all()


def test_items_near_in_text_come_first_also_those_that_nobody_had() -> None:
    directions = np.eye(3, dtype=np.float32)
    near = np.array([1, 0.1, 0], np.float32) / np.sqrt(np.float32(1.01))
    vectors_NC = np.stack([directions[0], directions[0], near, directions[1], directions[2], 0 * near])
    content = Content(vectors_NC, np.zeros(3, np.float32), directions)
    log = log_of([[0, 1, 2], [3, 4, 3], [5, 4, 5]])
    ranking = ranking_of("content_knn", log, 6, content)
    assert ranking.ranks_C[0] == 1
    assert 5 not in ranking.top_CK  # it has no text


def test_without_texts_there_is_no_content_knn() -> None:
    payload = payload_with()
    split = split_log(log_of(checkerboard(6, 6)), payload)
    assert list(fit_baselines(split, no_content(6), 6, payload)) == [
        "popularity",
        "recent_popularity",
        "item_knn",
        "matrix_factorisation",
    ]
