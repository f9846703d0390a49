"""Cut the training part of histories into windows, and what stands before a held-out event into what serving reads.

Shapes: U users, E events, S windows, B windows of a step, T positions of the network (max_sequence_length items and the
mask), of which L are read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clozerec_core.catalogue import SpecialRows
from clozerec_core.errors import UsageError
from clozerec_trainer.data import Ints, Log, Weights

_SORTED_TOGETHER = 32
"""Steps among which windows are sorted by length: enough for batches of nearly one length, few enough to leave it to
chance who meets whom."""


@dataclass(frozen=True)
class Windows:
    """Training samples, as spans of the log: laid out when a step needs them, for all at once can be many times it."""

    log: Log
    starts_S: Ints
    stops_S: Ints

    def __len__(self) -> int:
        return len(self.starts_S)

    @property
    def lengths_S(self) -> Ints:
        """Items in each window."""
        return self.stops_S - self.starts_S

    def distinct_rows(self) -> Ints:
        """Rows of all items in the windows, sorted."""
        borders_E1 = np.zeros(len(self.log.rows_E) + 1, np.int64)
        np.add.at(borders_E1, self.starts_S, 1)
        np.add.at(borders_E1, self.stops_S, -1)
        distinct: Ints = np.unique(self.log.rows_E[borders_E1.cumsum()[:-1] > 0])
        return distinct

    def batches(self, num_steps: int, generator: torch.Generator) -> list[Tensor]:
        """Indices of the windows of each step of one pass, in random order, as many a step as in any other.

        Windows of about one length go together, so that little of a step is padding: the random order is sorted within
        every `_SORTED_TOGETHER` steps, and then the steps are shuffled.
        """
        lengths_S = torch.from_numpy(self.lengths_S)
        steps = torch.randperm(len(self), generator=generator).tensor_split(num_steps)
        batches: list[Tensor] = []
        for first in range(0, num_steps, _SORTED_TOGETHER):
            together = steps[first : first + _SORTED_TOGETHER]
            some = torch.cat(together)
            batches += some[lengths_S[some].argsort(stable=True)].tensor_split(len(together))
        return [batches[i] for i in torch.randperm(num_steps, generator=generator).tolist()]

    def lay_out(
        self, chosen_B: Ints, special: SpecialRows, num_positions: int | None = None
    ) -> tuple[NDArray[np.int64], Weights]:
        """Rows and weights of some windows, `[B, L]`: right-aligned, padded on the left, where the weight is 0.

        Args:
            num_positions: L; None: those of the longest.
        """
        starts_B1, stops_B1 = self.starts_S[chosen_B, None], self.stops_S[chosen_B, None]
        length = num_positions or int((stops_B1 - starts_B1).max())
        events_BL = stops_B1 - length + np.arange(length)
        is_pad_BL = events_BL < starts_B1
        events_BL[is_pad_BL] = 0
        rows_BL = np.where(is_pad_BL, special.pad, self.log.rows_E[events_BL])
        return rows_BL, np.where(is_pad_BL, np.float32(0), self.log.weights_E[events_BL])


def cut_windows(
    log: Log,
    stops_U: Ints,
    num_positions: int,
    stride: int | None = None,
    shift_U: Ints | int = 0,
) -> Windows:
    """Windows of up to T items over each user's events before `stops_U`.

    Args:
        num_positions: T.
        stride: items between the ends of a user's windows, counted from the newest event; None: the newest window only.
        shift_U: items, less than the stride, by which all windows of a history that is longer than one of them lie
            later; the newest is then cut off by that much.

    Raises:
        UsageError: nobody has two events, so there is no context to learn from.
    """
    users = np.flatnonzero(stops_U - log.starts_U1[:-1] > 1)
    if not len(users):
        raise UsageError("no user has two events to train on; the log is too short for sequences")
    first, last = log.starts_U1[users], stops_U[users]
    shift = np.where(last - first > num_positions, np.broadcast_to(shift_U, len(stops_U))[users], 0)
    # The newest window, and one more for each stride that it does not reach.
    beyond = np.maximum(0, last + shift - first - num_positions)
    num_windows = 1 + (np.zeros_like(beyond) if stride is None else -(-beyond // stride))
    number_S = np.arange(num_windows.sum()) - np.repeat(num_windows.cumsum() - num_windows, num_windows)
    stops_S = np.repeat(last + shift, num_windows) - number_S * (stride or 0)
    starts_S = np.maximum(np.repeat(first, num_windows), stops_S - num_positions)
    stops_S = np.minimum(np.repeat(last, num_windows), stops_S)
    is_sequence_S = stops_S - starts_S > 1
    return Windows(log, starts_S[is_sequence_S], stops_S[is_sequence_S])


@dataclass(frozen=True)
class WindowPlan:
    """How histories are cut at each pass; `cut_windows` explains the parts."""

    log: Log
    stops_U: Ints
    num_positions: int
    stride: int | None
    is_shifted: bool = False
    """Whether each pass moves the windows of each user by a random part of the stride, so that events are met behind
    contexts of every length."""

    def windows(self, generator: torch.Generator | None = None) -> Windows:
        """Those of one pass; without a generator, those that end with the newest event."""
        shift_U: Ints | int = 0
        if self.is_shifted and self.stride is not None and generator is not None:
            shift_U = torch.randint(self.stride, (len(self.stops_U),), generator=generator).numpy()
        return cut_windows(self.log, self.stops_U, self.num_positions, self.stride, shift_U)


def last_windows(log: Log, stops: Ints, users: Ints, special: SpecialRows, num_positions: int) -> NDArray[np.int32]:
    """What the network reads when serving: the newest items before `stops`, then the mask. `[len(users), T]`"""
    starts = log.starts_U1[:-1][users]
    events_UT = stops[:, None] - (num_positions - 1) + np.arange(num_positions)
    is_pad_UT = events_UT < starts[:, None]
    rows_UT = np.where(is_pad_UT, special.pad, log.rows_E[np.clip(events_UT, 0, len(log.rows_E) - 1)])
    rows_UT[:, -1] = special.mask
    return rows_UT.astype(np.int32)
