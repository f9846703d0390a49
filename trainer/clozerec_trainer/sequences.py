"""Cut the training part of histories into windows, and what stands before a held-out event into what serving reads.

Shapes: U users, S windows, T positions of the network: max_sequence_length items and the mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clozerec_core.catalogue import SpecialRows
from clozerec_core.errors import UsageError
from clozerec_trainer.data import Ints, Log, Weights


@dataclass(frozen=True)
class Windows:
    """Training samples: rows right-aligned, padded on the left."""

    rows_ST: NDArray[np.int32]
    weights_ST: Weights
    """0 where there is padding."""

    def __len__(self) -> int:
        return len(self.rows_ST)


def cut_windows(
    log: Log, stops_U: Ints, special: SpecialRows, num_positions: int, stride: int | None = None
) -> Windows:
    """Windows of up to T items over each user's events before `stops_U`.

    Args:
        num_positions: T.
        stride: items between the ends of a user's windows, counted from the newest event; None: the newest window only.

    Raises:
        UsageError: nobody has two events, so there is no context to learn from.
    """
    starts_U = log.starts_U1[:-1]
    bounds = [
        span
        for first, last in zip(starts_U.tolist(), stops_U.tolist(), strict=True)
        if last - first > 1
        for span in _spans(first, last, num_positions, stride)
    ]
    if not bounds:
        raise UsageError("no user has two events to train on; the log is too short for sequences")
    bounds_S2 = np.array(bounds, np.int64)
    events_ST = bounds_S2[:, 1:] - num_positions + np.arange(num_positions)
    is_pad_ST = events_ST < bounds_S2[:, :1]
    events_ST[is_pad_ST] = 0
    return Windows(
        rows_ST=np.where(is_pad_ST, special.pad, log.rows_E[events_ST]).astype(np.int32),
        weights_ST=np.where(is_pad_ST, 0, log.weights_E[events_ST]).astype(np.float32),
    )


def last_windows(log: Log, stops: Ints, users: Ints, special: SpecialRows, num_positions: int) -> NDArray[np.int32]:
    """What the network reads when serving: the newest items before `stops`, then the mask. `[len(users), T]`"""
    starts = log.starts_U1[:-1][users]
    events_UT = stops[:, None] - (num_positions - 1) + np.arange(num_positions)
    is_pad_UT = events_UT < starts[:, None]
    rows_UT = np.where(is_pad_UT, special.pad, log.rows_E[np.clip(events_UT, 0, len(log.rows_E) - 1)])
    rows_UT[:, -1] = special.mask
    return rows_UT.astype(np.int32)


def _spans(first: int, last: int, num_positions: int, stride: int | None) -> list[tuple[int, int]]:
    """Start and stop of each window over events `first` up to `last`, the newest window first."""
    spans = []
    for stop in range(last, first + 1, -(stride or num_positions)):
        spans.append((max(first, stop - num_positions), stop))
        if stride is None or stop - num_positions <= first:
            break
    return spans
