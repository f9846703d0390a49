"""The parts that an answer's time is made of, each in a metric and, where requests are traced, in a span of its own."""

from __future__ import annotations

import time
from enum import Enum
from types import TracebackType

from clozerec_core import metrics
from clozerec_core.tracing import is_tracing, stage_span


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
        self._seconds = _SECONDS[stage]
        self._span = stage_span(stage.value) if is_tracing() else None

    def __enter__(self) -> None:
        self._began = time.perf_counter()
        if self._span is not None:
            self._span.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._span is not None:
            self._span.__exit__(kind, error, trace)
        self._seconds.observe(time.perf_counter() - self._began)
