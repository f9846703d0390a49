"""Keeps Python's garbage collector away from what is loaded to stay."""

from __future__ import annotations

import gc

THRESHOLDS = (10_000, 20, 50)
"""A call makes some hundred objects and hardly a cycle; by default every call would start a collection."""


def settle() -> None:
    """Call it once in a process, when all is loaded. A full collection looks at every object of a catalogue: that is
    tens of milliseconds in the middle of somebody's call.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
