"""What is held out: the last events of everybody, or everything after a moment.

Leave-one-out uses the log best and lets the model see the future of others; the global time split is what a service
meets: trained yesterday, asked today, also for items that did not exist yesterday.

Shapes: U users, E events, C cases (held-out events to be guessed), N items.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from clozerec_core.catalogue import rfc3339
from clozerec_core.errors import UsageError
from clozerec_core.filters import parse_datetime
from clozerec_trainer.data import Ints, Log
from clozerec_trainer.payload import Payload

Part = Literal["validation", "test"]
PARTS: tuple[Part, ...] = ("validation", "test")

MIN_HISTORY_LEN = 3
"""Shorter histories are trained on whole: nothing would be left of them beside the two held-out events."""


@dataclass(frozen=True)
class Cases:
    """Held-out events: the item of event `stops_C` is to be guessed from the user's events before it."""

    users_C: Ints
    stops_C: Ints
    """Positions in the log."""

    def __len__(self) -> int:
        return len(self.stops_C)

    def __getitem__(self, chosen: slice | Ints) -> Cases:
        return Cases(self.users_C[chosen], self.stops_C[chosen])

    def past(self, log: Log, newest: int | None = None) -> tuple[Ints, Ints]:
        """What may be read: for each past event of each case, the case's index and the event's position.

        Args:
            newest: as many events of each case at most; None: all.
        """
        lengths_C = self.stops_C - log.starts_U1[:-1][self.users_C]
        if newest is not None:
            lengths_C = np.minimum(lengths_C, newest)
        case_P = np.repeat(np.arange(len(self)), lengths_C)
        ends_C = np.cumsum(lengths_C)
        events_P = np.arange(len(case_P)) + np.repeat(self.stops_C - ends_C, lengths_C)
        return case_P, events_P

    def sample(self, at_most: int, seed: int) -> Cases:
        """As many of them, drawn evenly; in their order."""
        if len(self) <= at_most:
            return self
        return self[np.sort(np.random.default_rng(seed).choice(len(self), at_most, replace=False))]


@dataclass(frozen=True)
class Split:
    """Of each user's events the first are for training; some of the others are cases."""

    log: Log
    method: str
    train_stops_U: Ints
    """Where the training part of each user's events ends."""
    validation: Cases
    test: Cases
    boundaries: dict[str, str]
    """What the split was cut by, for the manifest."""

    def cases(self, part: Part) -> Cases:
        """The held-out events of a part."""
        return self.validation if part == "validation" else self.test

    @cached_property
    def train_events(self) -> Ints:
        """Positions of the training events in the log."""
        stops_E = np.repeat(self.train_stops_U, self.log.lengths_U)
        return np.flatnonzero(np.arange(len(self.log.rows_E)) < stops_E)

    def train_counts(self, num_items: int) -> Ints:
        """Training events of each item, `[N]`. Held-out events would tell the answer."""
        counts: Ints = np.bincount(self.log.rows_E[self.train_events], minlength=num_items)
        return counts

    def facts(self) -> dict[str, Any]:
        """Description with boundaries for the manifest."""
        times_us_E = self.log.times_us_E
        described: dict[str, Any] = {
            "method": self.method,
            "order": "stable by time; ties keep file order",
            "num_users_held_out": len(np.unique(self.test.users_C)),
            "num_train_interactions": len(self.train_events),
            "last_train_event": rfc3339(int(times_us_E[self.train_events].max())),
            **self.boundaries,
        }
        for part in PARTS:
            times = times_us_E[self.cases(part).stops_C]
            described[part] = [rfc3339(int(times.min())), rfc3339(int(times.max()))] if len(times) else None
        return described


def split_log(log: Log, payload: Payload) -> Split:
    """Split as the payload asks.

    Raises:
        UsageError: the boundaries leave a part without events.
    """
    split = _leave_one_out(log) if payload.split == "leave_one_out" else _global_time(log, payload)
    sample = {part: split.cases(part).sample(payload.judged_events, payload.seed) for part in PARTS}
    return Split(log, split.method, split.train_stops_U, sample["validation"], sample["test"], split.boundaries)


def _leave_one_out(log: Log) -> Split:
    """Of each history the last event is the test's, the one before the validation's, the rest is for training."""
    users = np.flatnonzero(log.lengths_U >= MIN_HISTORY_LEN)
    held_out_U = np.where(log.lengths_U >= MIN_HISTORY_LEN, 2, 0)
    ends_C = log.starts_U1[1:][users]
    return Split(
        log, "leave-one-out", log.starts_U1[1:] - held_out_U, Cases(users, ends_C - 2), Cases(users, ends_C - 1), {}
    )


def _global_time(log: Log, payload: Payload) -> Split:
    """Every event from a boundary on whose user has a history by then is a case, read with all that came before it."""
    validation_us = _moment(log, payload.validation_start, "validation_start")
    test_us = _moment(log, payload.test_start, "test_start")
    if not log.times_us_E.min() < validation_us < test_us <= log.times_us_E.max():
        raise UsageError(
            f"validation_start ({rfc3339(validation_us)}) and test_start ({rfc3339(test_us)}) leave a part without "
            f"events; the log runs from {rfc3339(int(log.times_us_E.min()))} to {rfc3339(int(log.times_us_E.max()))}, "
            "and validation comes before the test"
        )
    users_E = np.repeat(np.arange(log.num_users), log.lengths_U)
    has_past_E = np.arange(len(log.rows_E)) > log.starts_U1[:-1][users_E]
    is_test_E = log.times_us_E >= test_us
    is_train_E = log.times_us_E < validation_us
    num_train_U = np.bincount(users_E[is_train_E], minlength=log.num_users)
    cases = [
        Cases(users_E[chosen], chosen)
        for chosen in (np.flatnonzero(~is_train_E & ~is_test_E & has_past_E), np.flatnonzero(is_test_E & has_past_E))
    ]
    boundaries = {"validation_start": rfc3339(validation_us), "test_start": rfc3339(test_us)}
    return Split(log, "global-time", log.starts_U1[:-1] + num_train_U, cases[0], cases[1], boundaries)


def _moment(log: Log, boundary: float | str, key: str) -> int:
    """Microseconds since 1970 of a boundary: a share of the events, or a moment as text."""
    if isinstance(boundary, float):
        return int(np.quantile(log.times_us_E, boundary, method="higher"))
    moment = parse_datetime(boundary)
    if moment is None:
        raise UsageError(f'{key}: "{boundary}" is no moment; write RFC 3339 such as 2026-01-31T12:00:00Z')
    return moment
