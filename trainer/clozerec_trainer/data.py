"""The log: every person's events in chronological order, as flat arrays, beside the catalogue.

Shapes: U users, E events, N items.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clozerec_core.catalogue import Catalogue, rfc3339
from clozerec_core.errors import UsageError
from clozerec_core.wording import suggest
from clozerec_trainer.items import build_catalogue, read_items
from clozerec_trainer.payload import Payload
from clozerec_trainer.progress import Reporter
from clozerec_trainer.tables import MAX_ID_BYTES, Scan, scan_table
from clozerec_trainer.times import parse_times

Ints = NDArray[np.int64]
Weights = NDArray[np.float32]

_USER, _ITEM, _KIND, _TIME = "user", "item", "kind", "time"


@dataclass(frozen=True)
class Log:
    """Events of all users: those of user u stand at `starts_U1[u]` up to `starts_U1[u + 1]`, oldest first."""

    user_ids: list[str]
    starts_U1: Ints
    rows_E: Ints
    """Catalogue rows."""
    times_us_E: Ints
    weights_E: Weights
    """What the event counts in the loss when it is to be predicted."""

    @property
    def num_users(self) -> int:
        return len(self.user_ids)

    @property
    def lengths_U(self) -> Ints:
        """Events of each user."""
        return np.diff(self.starts_U1)


@dataclass(frozen=True)
class Dataset:
    """What the files hold."""

    catalogue: Catalogue
    log: Log
    fingerprint: str
    """SHA-256 over both tables' files."""
    num_unordered: int = 0
    """Events that stand in the file after a later one of the same user."""

    def facts(self) -> dict[str, Any]:
        """Counts and fingerprint for the manifest."""
        return {
            "sha256": self.fingerprint,
            "num_users": self.log.num_users,
            "num_items": len(self.catalogue),
            "num_interactions": len(self.log.rows_E),
            "num_items_with_interactions": int(np.count_nonzero(np.bincount(self.log.rows_E))),
            "first_event": rfc3339(int(self.log.times_us_E.min())),
            "last_event": rfc3339(int(self.log.times_us_E.max())),
        }


def read_dataset(payload: Payload, reporter: Reporter) -> Dataset:
    """Read and check both tables; the interactions are streamed and may be larger than memory.

    Raises:
        UsageError: whatever is wrong with them; the message names file and column and says what would be right.
    """
    items = read_items(payload)
    scan, events = _read_events(payload, reporter)
    catalogue = build_catalogue(items, payload, _distinct(events[_ITEM]).to_list())
    log, num_unordered = _build_log(events, catalogue, payload, scan, reporter)
    _refuse_degenerate(scan, log)
    fingerprint = hashlib.sha256((scan.sha256 + (items.sha256 if items else "")).encode()).hexdigest()
    dataset = Dataset(catalogue, log, fingerprint, num_unordered)
    reporter.say("data_read", **dataset.facts())
    return dataset


def _read_events(payload: Payload, reporter: Reporter) -> tuple[Scan, pl.DataFrame]:
    """Events with user, item, kind and time, in the order of the file: 20 bytes each, whatever the length of ids."""
    kinds = [payload.event_type_column] if payload.event_type_column else []
    id_columns = [payload.user_column, payload.item_column]
    scan = scan_table(payload.interactions, [*id_columns, *kinds])
    scan.require([*id_columns, payload.timestamp_column, *kinds])
    for column in id_columns:
        scan.require_ids(column)
    ids = dict(zip((_USER, _ITEM), id_columns, strict=True))
    kind = pl.col(kinds[0]).cast(pl.String).fill_null("") if kinds else pl.lit("")
    columns = [_encoded(pl.col(column).cast(pl.String)).alias(name) for name, column in ids.items()]
    time = pl.col(payload.timestamp_column).alias(_TIME)
    events = scan.collect(scan.frame.select(*columns, _encoded(kind).alias(_KIND), time))
    for name, column in ids.items():
        if not _distinct(events[name]).str.len_bytes().is_between(1, MAX_ID_BYTES).fill_null(value=False).all():
            scan.ids(column)  # says which and where
    times = parse_times(events[_TIME], payload.timestamp_unit, scan.where(payload.timestamp_column))
    reporter.say("times_read", column=payload.timestamp_column, read_as=times.read_as)
    return scan, events.with_columns(times.microseconds.alias(_TIME))


def _encoded(text: pl.Expr) -> pl.Expr:
    """Text as codes of a dictionary of its own."""
    return text.cast(pl.Categorical(pl.Categories.random()))


def _distinct(column: pl.Series) -> pl.Series:
    """Texts of an encoded column, as they first appear."""
    return column.unique(maintain_order=True).cast(pl.String)


def _ranks(column: pl.Series, ranks: Sequence[int]) -> Ints:
    """For each row of an encoded column the rank that its text has, given those of `_distinct`."""
    codes = column.unique(maintain_order=True).to_physical().to_numpy()
    of_code = np.zeros(int(codes.max()) + 1, np.int64)
    of_code[codes] = ranks
    found: Ints = of_code[column.to_physical().to_numpy()]
    return found


def _weights(kinds: pl.Series, payload: Payload, scan: Scan) -> pl.Series:
    """What each event counts."""
    known = _distinct(kinds).sort().to_list()
    for kind in payload.event_weights:
        if kind not in known:
            raise UsageError(
                f'event_weights names "{kind}", but {scan.where(payload.event_type_column or "")} holds '
                f"{', '.join(known[:20])}{suggest(kind, known)}"
            )
    weights = np.array([payload.event_weights.get(kind, 1.0) for kind in _distinct(kinds)], np.float32)
    return pl.Series(weights[_ranks(kinds, range(len(weights)))])


def _build_log(
    events: pl.DataFrame, catalogue: Catalogue, payload: Payload, scan: Scan, reporter: Reporter
) -> tuple[Log, int]:
    """Drop events without weight, group by user in order of first appearance, sort stably by time."""
    kept = events.with_columns(_weights(events[_KIND], payload, scan).alias("weight")).with_row_index("row")
    kept = kept.filter(pl.col("weight") > 0)
    if kept.is_empty():
        raise UsageError(f"event_weights drops every event of {payload.interactions}; give one kind a weight above 0")
    users = _distinct(kept[_USER])
    kept = kept.with_columns(
        pl.Series(_USER, _ranks(kept[_USER], range(len(users))).astype(np.uint32)),
        pl.Series(_ITEM, _ranks(kept[_ITEM], catalogue.rows_of(_distinct(kept[_ITEM]))).astype(np.uint32)),
    )
    ordered = _without_duplicates(kept.sort(_USER, _TIME, "row"), payload, scan, reporter)
    starts_U1 = np.searchsorted(ordered[_USER].to_numpy(), np.arange(len(users) + 1)).astype(np.int64)
    is_earlier_E = np.diff(ordered["row"].to_numpy().astype(np.int64), prepend=0) < 0
    is_earlier_E[starts_U1[:-1]] = False
    log = Log(
        user_ids=users.to_list(),
        starts_U1=starts_U1,
        rows_E=ordered[_ITEM].to_numpy().astype(np.int64),
        times_us_E=ordered[_TIME].to_numpy(),
        weights_E=ordered["weight"].to_numpy(),
    )
    return log, int(is_earlier_E.sum())


def _without_duplicates(ordered: pl.DataFrame, payload: Payload, scan: Scan, reporter: Reporter) -> pl.DataFrame:
    """Equal rows are an export that ran twice, or two plays in one second: only the owner of the data knows.

    Repeats can only stand among a user's events of one moment, which lie side by side.
    """
    if payload.duplicates == "keep":
        return ordered
    same = (ordered[_USER].diff() == 0) & (ordered[_TIME].diff() == 0)
    is_tied = same.fill_null(value=False) | same.shift(-1, fill_value=False)
    is_first = pl.col("row") == pl.col("row").min().over(_USER, _TIME, _ITEM, _KIND)
    repeated = ordered.filter(is_tied).filter(~is_first)["row"].sort()
    if repeated.is_empty():
        return ordered
    if payload.duplicates == "refuse":
        raise UsageError(
            f"{scan.name}: {len(repeated)} rows repeat an earlier one in user, item, kind and time, the first in "
            f'row {repeated[0] + 1}; remove them, or write "duplicates: drop" or "duplicates: keep"'
        )
    reporter.say("duplicates_dropped", events=len(repeated), equal_in="user, item, kind and time")
    return ordered.filter(~pl.col("row").is_in(repeated.implode()))


def _refuse_degenerate(table: Scan, log: Log) -> None:
    if log.num_users == 1:
        raise UsageError(
            f'{table.name} has a single user ("{log.user_ids[0]}"); it takes the habits of several to learn'
        )
    if log.rows_E.min() == log.rows_E.max():
        raise UsageError(f"{table.name} has a single item; it takes several to have something to recommend")
