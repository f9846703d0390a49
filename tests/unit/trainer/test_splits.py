from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clozerec_core.errors import UsageError
from clozerec_trainer.data import Log
from clozerec_trainer.payload import Payload, parse_payload
from clozerec_trainer.splits import Split, split_log

REQUIRED = {"interactions": "i.csv", "user_column": "u", "item_column": "i", "timestamp_column": "t"}


def payload_with(**keys: Any) -> Payload:
    return parse_payload({**REQUIRED, **keys}, Path("/data"))


def log_of(*histories: dict[int, int]) -> Log:
    """For each user rows by second."""
    lengths = [len(each) for each in histories]
    return Log(
        user_ids=[str(user) for user in range(len(histories))],
        starts_U1=np.cumsum([0, *lengths]),
        rows_E=np.array([row for each in histories for row in each.values()], np.int64),
        times_us_E=np.array([second * 10**6 for each in histories for second in each], np.int64),
        weights_E=np.ones(sum(lengths), np.float32),
    )


def targets(split: Split) -> tuple[list[int], list[int]]:
    return tuple(split.log.rows_E[cases.stops_C].tolist() for cases in (split.validation, split.test))  # type: ignore[return-value]


def test_of_everybody_the_last_event_is_the_test_and_the_one_before_the_validation() -> None:
    log = log_of({0: 1, 1: 2, 2: 3, 3: 4}, {0: 5, 1: 6}, {0: 7, 1: 8, 2: 9})
    split = split_log(log, payload_with())
    assert targets(split) == ([3, 8], [4, 9])
    assert split.test.users_C.tolist() == [0, 2]
    assert log.rows_E[split.train_events].tolist() == [1, 2, 5, 6, 7]


def test_the_split_states_its_boundaries() -> None:
    facts = split_log(log_of({0: 1, 1: 2, 2: 3, 3: 4}, {0: 7, 1: 8, 2: 9}), payload_with()).facts()
    assert facts["num_users_held_out"] == 2
    assert facts["test"] == ["1970-01-01T00:00:02Z", "1970-01-01T00:00:03Z"]
    assert facts["last_train_event"] == "1970-01-01T00:00:01Z"


def test_a_global_split_trains_before_a_moment_and_judges_every_later_event_that_has_a_past() -> None:
    log = log_of({0: 1, 10: 2, 20: 3, 30: 4, 31: 5}, {21: 6, 32: 7}, {33: 8})
    keys = {"validation_start": "1970-01-01T00:00:20Z", "test_start": "1970-01-01T00:00:30Z"}
    split = split_log(log, payload_with(split="global_time", **keys))
    assert log.rows_E[split.train_events].tolist() == [1, 2]
    # 6 and 8 are the first events of their users: there is nothing to read.
    assert targets(split) == ([3], [4, 5, 7])
    assert split.facts()["test_start"] == "1970-01-01T00:00:30Z"


def test_boundaries_may_be_shares_of_the_events() -> None:
    log = log_of({second: second for second in range(100)})
    split = split_log(log, payload_with(split="global_time", validation_start=0.5, test_start=0.9))
    assert log.rows_E[split.train_events].tolist() == list(range(50))
    assert targets(split) == (list(range(50, 90)), list(range(90, 100)))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"validation_start": 0.9, "test_start": 0.5}, "leave a part without events"),
        ({"test_start": "2030-01-01"}, r"test_start \(2030-01-01T00:00:00Z\) leave a part without events"),
        ({"test_start": "in May"}, 'test_start: "in May" is no moment; write RFC 3339'),
    ],
)
def test_boundaries_that_cut_nothing_are_refused(keys: dict[str, Any], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        split_log(log_of({second: second for second in range(10)}), payload_with(split="global_time", **keys))


def test_boundaries_without_a_global_split_are_refused() -> None:
    with pytest.raises(UsageError, match="validation_start and test_start belong to `split: global_time`"):
        payload_with(test_start=0.95)


def test_yaml_dates_are_moments() -> None:
    import datetime

    assert payload_with(split="global_time", test_start=datetime.date(2026, 1, 31)).test_start == "2026-01-31"


def test_more_cases_than_wanted_are_drawn_evenly_and_equally_for_one_seed() -> None:
    log = log_of(*[{0: 1, 1: 2, 2: 3}] * 1000)
    drawn = [split_log(log, payload_with(judged_events=100, seed=seed)).test for seed in (1, 1, 2)]
    assert [len(each) for each in drawn] == [100] * 3
    assert drawn[0].users_C.tolist() == drawn[1].users_C.tolist() != drawn[2].users_C.tolist()
    assert 400 < drawn[0].users_C.mean() < 600
    assert (np.diff(drawn[0].users_C) > 0).all()


def test_the_past_of_a_case_is_what_its_user_did_before() -> None:
    log = log_of({0: 1, 1: 2, 2: 3, 3: 4}, {0: 7, 1: 8, 2: 9})
    cases = split_log(log, payload_with()).test
    owners, events = cases.past(log)
    assert list(zip(owners, log.rows_E[events], strict=True)) == [(0, 1), (0, 2), (0, 3), (1, 7), (1, 8)]
    owners, events = cases.past(log, newest=1)
    assert list(zip(owners, log.rows_E[events], strict=True)) == [(0, 3), (1, 8)]
