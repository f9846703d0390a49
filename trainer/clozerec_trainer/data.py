"""The log: every person's events in chronological order, as flat arrays, beside the catalogue.

Shapes: U users, E events, N items.
"""

from __future__ import annotations

import hashlib
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
from clozerec_trainer.tables import Table, read_table
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

    def facts(self) -> dict[str, Any]:
        """Counts and fingerprint for the manifest."""
        return {
            "sha256": self.fingerprint,
            "num_users": self.log.num_users,
            "num_items": len(self.catalogue),
            "num_interactions": len(self.log.rows_E),
            "num_items_with_interactions": len(np.unique(self.log.rows_E)),
            "first_event": rfc3339(int(self.log.times_us_E.min())),
            "last_event": rfc3339(int(self.log.times_us_E.max())),
        }


def read_dataset(payload: Payload, reporter: Reporter) -> Dataset:
    """Read and check both tables.

    Raises:
        UsageError: whatever is wrong with them; the message names file and column and says what would be right.
    """
    items = read_items(payload)
    table, events = _read_events(payload, reporter)
    catalogue = build_catalogue(items, payload, events[_ITEM].unique(maintain_order=True).to_list())
    log = _build_log(events, catalogue, payload)
    _refuse_degenerate(table, log)
    fingerprint = hashlib.sha256((table.sha256 + (items.sha256 if items else "")).encode()).hexdigest()
    dataset = Dataset(catalogue, log, fingerprint)
    reporter.say("data_read", **dataset.facts())
    return dataset


def _read_events(payload: Payload, reporter: Reporter) -> tuple[Table, pl.DataFrame]:
    """Events with user, item, kind and time, in the order of the file."""
    kinds = [payload.event_type_column] if payload.event_type_column else []
    id_columns = [payload.user_column, payload.item_column]
    table = read_table(payload.interactions, [*id_columns, *kinds])
    table.require([*id_columns, payload.timestamp_column, *kinds])
    where = table.where(payload.timestamp_column)
    times = parse_times(table.frame.get_column(payload.timestamp_column), payload.timestamp_unit, where)
    reporter.say("times_read", column=payload.timestamp_column, read_as=times.read_as)
    events = pl.DataFrame(
        {
            _USER: table.ids(payload.user_column),
            _ITEM: table.ids(payload.item_column),
            _KIND: _event_kinds(table, payload),
            _TIME: times.microseconds,
        }
    )
    return table, _without_duplicates(events, table, payload, reporter)


def _without_duplicates(events: pl.DataFrame, table: Table, payload: Payload, reporter: Reporter) -> pl.DataFrame:
    """Equal rows are an export that ran twice, or two plays in one second: only the owner of the data knows."""
    if payload.duplicates == "keep":
        return events
    is_repeat = (
        events.with_row_index("row").select(pl.col("row") != pl.col("row").min().over(events.columns)).to_series()
    )
    if not is_repeat.any():
        return events
    if payload.duplicates == "refuse":
        raise UsageError(
            f"{table.name}: {is_repeat.sum()} rows repeat an earlier one in user, item, kind and time, the first in "
            f'row {is_repeat.arg_true()[0] + 1}; remove them, or write "duplicates: drop" or "duplicates: keep"'
        )
    reporter.say("duplicates_dropped", events=is_repeat.sum(), equal_in="user, item, kind and time")
    return events.filter(~is_repeat)


def _event_kinds(table: Table, payload: Payload) -> pl.Series:
    if payload.event_type_column is None:
        return pl.repeat("", table.frame.height, dtype=pl.String, eager=True)
    kinds = table.frame.get_column(payload.event_type_column).cast(pl.String).fill_null("")
    known = kinds.unique().sort().to_list()
    for kind in payload.event_weights:
        if kind not in known:
            raise UsageError(
                f'event_weights names "{kind}", but {table.where(payload.event_type_column)} holds '
                f"{', '.join(known[:20])}{suggest(kind, known)}"
            )
    return kinds


def _build_log(events: pl.DataFrame, catalogue: Catalogue, payload: Payload) -> Log:
    """Drop events without weight, group by user in order of first appearance, sort stably by time."""
    weights = events[_KIND].replace_strict(payload.event_weights, default=1.0, return_dtype=pl.Float32)
    kept = events.with_columns(weights.alias("weight")).filter(pl.col("weight") > 0)
    if kept.is_empty():
        raise UsageError(f"event_weights drops every event of {payload.interactions}; give one kind a weight above 0")
    users = kept[_USER].unique(maintain_order=True)
    user_index = kept[_USER].replace_strict(users, pl.arange(len(users), eager=True), return_dtype=pl.Int64)
    ordered = kept.with_columns(user_index.alias("index")).sort("index", _TIME, maintain_order=True)
    rows = ordered[_ITEM].replace_strict(
        pl.Series(catalogue.item_ids), pl.arange(len(catalogue), eager=True), return_dtype=pl.Int64
    )
    return Log(
        user_ids=users.to_list(),
        starts_U1=np.searchsorted(ordered["index"].to_numpy(), np.arange(len(users) + 1)).astype(np.int64),
        rows_E=rows.to_numpy(),
        times_us_E=ordered[_TIME].to_numpy(),
        weights_E=ordered["weight"].to_numpy(),
    )


def _refuse_degenerate(table: Table, log: Log) -> None:
    if log.num_users == 1:
        raise UsageError(
            f'{table.name} has a single user ("{log.user_ids[0]}"); it takes the habits of several to learn'
        )
    if len(np.unique(log.rows_E)) == 1:
        raise UsageError(f"{table.name} has a single item; it takes several to have something to recommend")
