"""The parts that an answer's time is made of, each in a metric and, where requests are traced, in a span of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from clozerec_core import metrics
from clozerec_core.tracing import stage_span


class Stage(Enum):
    """In their order; the values are metric labels and span names."""

    HISTORY = "history"
    """What the person did is read."""
    SEQUENCE = "sequence"
    """Ids become what the encoder reads; day-zero items among them are looked up."""
    ENCODE = "encode"
    """The sequence or text becomes a vector."""
    RETRIEVE = "retrieve"
    """The nearest items that pass are found."""
    EXPLAIN = "explain"
    """Each item's reasons are found, where they were asked for."""


_SECONDS = {stage: metrics.GATEWAY_STAGE_SECONDS.labels(stage.value) for stage in Stage}


@contextmanager
def timed(stage: Stage) -> Iterator[None]:
    """The block is this stage of an answer."""
    began = time.perf_counter()
    try:
        with stage_span(stage.value):
            yield
    finally:
        _SECONDS[stage].observe(time.perf_counter() - began)
