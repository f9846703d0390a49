"""What the data can and cannot support, before training: `clozerec doctor payload.yaml`.

Every finding says what to change. None is an error: whatever makes training impossible is refused when reading.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clozerec_core.errors import UsageError
from clozerec_trainer.advice import Advice
from clozerec_trainer.data import Dataset, Log, read_dataset
from clozerec_trainer.experiment import estimate_training, prepare_model
from clozerec_trainer.item_features import item_texts, no_content
from clozerec_trainer.payload import Payload
from clozerec_trainer.progress import Reporter
from clozerec_trainer.splits import Split, split_log

FEW_EVENTS = 5
"""Events of the median user below which a sequence says little."""
MANY_TIED = 0.2
MANY_SINGLE = 0.3
MUCH_FUTURE = 0.2
MANY_REPEATS = 0.1
MUCH_TEXT_MISSING = 0.2

_QUANTILES = (0, 10, 25, 50, 75, 90, 100)


@dataclass(frozen=True)
class Diagnosis:
    """What was found."""

    facts: dict[str, str]
    """What the data are, in words, by heading."""
    advice: list[Advice]

    def __str__(self) -> str:
        """For a person at a terminal."""
        lines = [f"{heading:16}{fact}" for heading, fact in self.facts.items()]
        for each in self.advice:
            lines += ["", f"! {each.seen}", f"  -> {each.change}"]
        return "\n".join([*lines, "", *([] if self.advice else ["Nothing to change."])]).rstrip()


def examine(payload: Payload, reporter: Reporter) -> Diagnosis:
    """Read the data, try a few steps, and look for what training or its figures would suffer from.

    Raises:
        UsageError: the data cannot be trained on at all.
    """
    dataset = read_dataset(payload, reporter)
    split = split_log(dataset.log, payload)
    found = [symptom(dataset, split, payload) for symptom in _SYMPTOMS]
    training, more = _try_training(dataset, split, payload)
    facts = _facts(dataset, split) | {"training": training}
    return Diagnosis(facts, [*(advice for advice in found if advice is not None), *more])


def _try_training(dataset: Dataset, split: Split, payload: Payload) -> tuple[str, list[Advice]]:
    """What a few steps say of time and memory; without texts, which take their time to embed and then cost little."""
    try:
        prepared = prepare_model(dataset, split.train_stops_U, no_content(len(dataset.catalogue)), payload)
    except UsageError as error:
        return f"impossible: {error}", []
    expected = estimate_training(dataset, payload, prepared, payload.training_epochs)
    facts = expected.facts()
    said = (
        f"about {facts['minutes']:g} minutes for {payload.training_epochs} epochs, {facts['memory_gib']:g} of "
        f"{facts['available_gib']:g} GiB of memory; texts apart"
    )
    return said, expected.advice()


def _facts(dataset: Dataset, split: Split) -> dict[str, str]:
    log, facts = dataset.log, dataset.facts()
    counts_N = np.bincount(log.rows_E, minlength=len(dataset.catalogue))
    return {
        "data": f"{log.num_users:,} users, {len(dataset.catalogue):,} items, {len(log.rows_E):,} events from "
        f"{facts['first_event'][:10]} to {facts['last_event'][:10]}",
        "events a user": _distribution(log.lengths_U),
        "events an item": _distribution(counts_N[counts_N > 0]),
        "held out": f"{len(split.validation):,} events to validate, {len(split.test):,} to test ({split.method})",
    }


def _distribution(counts: np.ndarray) -> str:
    names = {0: "least", 50: "median", 100: "most"}
    values = np.percentile(counts, _QUANTILES, method="lower")
    return " · ".join(f"{names.get(q, f'{q}%')} {value:,}" for q, value in zip(_QUANTILES, values, strict=True))


def _short_histories(dataset: Dataset, split: Split, payload: Payload) -> Advice | None:
    lengths_U = dataset.log.lengths_U
    median = int(np.percentile(lengths_U, 50, method="lower"))
    if median >= FEW_EVENTS:
        return None
    return Advice(
        "few_events",
        f"Too few events a user: {_distribution(lengths_U)}. Half of the people have {median} or fewer; 5 to 10 are "
        "the least that an order can be learned from.",
        "Collect more data, join sessions to people, or use item-kNN (in the report's table), which needs no order.",
    )


def _constant_times(dataset: Dataset, split: Split, payload: Payload) -> Advice | None:
    times = dataset.log.times_us_E
    if times.min() < times.max():
        return None
    return Advice(
        "constant_times",
        f'Every event has the same time in "{payload.timestamp_column}", so the order is that of the file.',
        "Name the column with the time of the event; without one, item-kNN or matrix factorisation is the choice.",
    )


def _tied_times(dataset: Dataset, split: Split, payload: Payload) -> Advice | None:
    log = dataset.log
    if log.times_us_E.min() == log.times_us_E.max():
        return None
    tied_E = np.diff(log.times_us_E, prepend=-1) == 0
    tied_E[log.starts_U1[:-1]] = False
    share = tied_E.sum() / max(1, len(tied_E) - log.num_users)
    if share <= MANY_TIED:
        return None
    in_days = bool((log.times_us_E % (86_400 * 10**6) == 0).all())
    seen = f"{share:.0%} of the events have the time of the user's event before" + (
        "; all times are whole days." if in_days else "."
    )
    doubt = " The file is not sorted by time, so its order within a tie is doubtful too."
    return Advice(
        "tied_times",
        seen + (doubt if dataset.num_unordered else ""),
        "Export times to the second, and sort the file as things happened: within a tie the file's order counts.",
    )


def _unordered_file(dataset: Dataset, split: Split, payload: Payload) -> Advice | None:
    share = dataset.num_unordered / len(dataset.log.rows_E)
    if not dataset.num_unordered:
        return None
    return Advice(
        "unordered_times",
        f"{share:.0%} of the events stand in the file after a later one of the same user. They are sorted by time.",
        f'Nothing, if "{payload.timestamp_column}" is when the event happened and not when it was written down; else '
        "name that column.",
    )


def _single_events(dataset: Dataset, split: Split, payload: Payload) -> Advice | None:
    counts_N = np.bincount(dataset.log.rows_E)
    users = float((dataset.log.lengths_U == 1).mean())
    items = float((counts_N[counts_N > 0] == 1).mean())
    if max(users, items) <= MANY_SINGLE:
        return None
    return Advice(
        "single_events",
        f"{users:.0%} of the users and {items:.0%} of the items have one event.",
        "Such users teach nothing about order, and of such items only the text is known: name metadata_columns, take a "
        "longer stretch of the log, or merge variants of an item.",
    )


def _future_leak(dataset: Dataset, split: Split, payload: Payload) -> Advice | None:
    if payload.split != "leave_one_out" or not len(split.test):
        return None
    share = _share_after_tests(dataset.log, split)
    if share <= MUCH_FUTURE:
        return None
    return Advice(
        "future_leak",
        f"Leave-one-out looks into the future: {share:.0%} of the training events happened after half of the test "
        "events or more. The figures will be better than what a service meets.",
        "Judge with `split: global_time`.",
    )


def _share_after_tests(log: Log, split: Split) -> float:
    return float((log.times_us_E[split.train_events] > np.median(log.times_us_E[split.test.stops_C])).mean())


def _repeats(dataset: Dataset, split: Split, payload: Payload) -> Advice | None:
    """Whether the answer of a case stands in what may be read."""
    if not len(split.test):
        return None
    log = dataset.log
    case_P, events_P = split.test.past(log)
    targets_C = log.rows_E[split.test.stops_C]
    share = len(np.unique(case_P[log.rows_E[events_P] == targets_C[case_P]])) / len(split.test)
    if share <= MANY_REPEATS:
        return None
    if payload.exclude_seen:
        return Advice(
            "repeats",
            f"In {share:.0%} of the test cases people came back to what they had before, which exclude_seen rules out.",
            "Set exclude_seen: false if people should be offered what they know.",
        )
    return Advice(
        "repeats",
        f"In {share:.0%} of the test cases the answer stands in the history (a leak, unless people do come back).",
        "Remove events that are one action written down twice (duplicates: drop removes equal ones).",
    )


def _missing_text(dataset: Dataset, split: Split, payload: Payload) -> Advice | None:
    num_items = len(dataset.catalogue)
    if not payload.metadata_columns:
        return Advice(
            "no_text",
            "There is no text: items that nobody has touched cannot be recommended.",
            "Name metadata_columns (title, brand, categories) of the items table.",
        )
    without = sum(not text for text in item_texts(dataset.catalogue, payload.metadata_columns)) / num_items
    if without <= MUCH_TEXT_MISSING:
        return None
    return Advice(
        "missing_text",
        f"{without:.0%} of the items have no text in {', '.join(payload.metadata_columns)}.",
        "Fill the columns, name further metadata_columns, and see that every item of the log is in the items table.",
    )


_SYMPTOMS: tuple[Callable[[Dataset, Split, Payload], Advice | None], ...] = (
    _short_histories,
    _constant_times,
    _tied_times,
    _unordered_file,
    _single_events,
    _future_leak,
    _repeats,
    _missing_text,
)
