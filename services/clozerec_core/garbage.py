"""Keeps Python's garbage collector away from what is loaded to stay, and gives back what loading left."""

from __future__ import annotations

import ctypes
import gc

THRESHOLDS = (10_000, 20, 50)
"""A call makes some hundred objects and hardly a cycle; by default every call would start a collection."""


def release() -> None:
    """Call it after something large was loaded or dropped: what is free then goes back to the system.

    What `settle` froze is looked at, too: the first bundle is among it, and caches hold on to their owners in circles.
    """
    is_settled = gc.get_freeze_count() > 0
    gc.unfreeze()
    gc.collect()
    if is_settled:
        gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc; other allocators do it by themselves
    if trim is not None:
        trim(0)


def settle() -> None:
    """Call it once in a process, when all is loaded. A full collection looks at every object of a catalogue: that is
    tens of milliseconds in the middle of somebody's call.
    """
    release()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
