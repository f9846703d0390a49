"""What was loaded before the collector was kept away from it goes once it is dropped."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from clozerec_core.garbage import release, settle


class Ring:
    """Holds itself, as an object does whose cache is over a method of its own."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def usual_collector() -> Iterator[None]:
    """As it was, afterwards."""
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_what_was_settled_goes_when_it_is_released(usual_collector: None) -> None:
    first, second = Ring(), Ring()
    gone, kept = weakref.ref(first), weakref.ref(second)
    settle()
    del first
    gc.collect()
    assert gone() is not None  # frozen, so a collection alone does not see it
    release()
    assert gone() is None
    assert kept() is second
    assert gc.get_freeze_count() > 0


def test_a_process_that_has_not_settled_is_not_frozen_by_a_release(usual_collector: None) -> None:
    gc.unfreeze()
    release()
    assert gc.get_freeze_count() == 0
