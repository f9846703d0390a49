"""The parts that an answer's time is made of, each in a metric and, where requests are traced, in a span of its own."""

from __future__ import annotations

import time
from enum import Enum
from types import TracebackType

from clozerec_core import metrics
from clozerec_core.tracing import add_stage, is_tracing


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


class timed:  # noqa: N801  # reads like `asyncio.timeout`
    """The block is this stage of an answer; a class and no generator, since every call pays for four."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        took_s = time.perf_counter() - self._began
        _SECONDS[self._stage].observe(took_s)
        if is_tracing():
            add_stage(self._stage.value, took_s)
