"""The table of faults: a row names a fault, what must happen, and on which arrangement of processes it is tried.

A row returns what it saw and raises AssertionError where that is not what must happen. Rows of one arrangement share
its processes, so that a repetition costs seconds; each leaves them as it found them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from clozerec.v1 import recommender_pb2
from clozerec_core.bundle import Bundle
from faults.asking import Outcome

RECOVERY_S = 15.0


@dataclass(frozen=True)
class Arrangement:
    """Which processes run, and how."""

    num_encoders: int = 1
    num_retrievers: int = 1
    """More of them share their changes, so they need Redis."""
    follows_link: bool = False
    """Of two bundles; looked at ten times a second."""
    has_redis: bool = False
    has_tls: bool = False
    """On every hop, with tokens."""
    drains_slowly: bool = False
    """A second between NOT_SERVING and refusing calls, as behind a balancer."""


PLAIN = Arrangement()


@dataclass(frozen=True)
class Place:
    """What a row works with that starts its processes itself."""

    bundle: Path
    other_bundle: Path
    """Of the same catalogue, trained apart."""
    scratch: Path

    def apart(self, name: str) -> Place:
        """The same with a directory of its own."""
        scratch = self.scratch / name
        scratch.mkdir()
        return replace(self, scratch=scratch)

    def questions(self) -> list[recommender_pb2.RecommendRequest]:
        """Sessions of the catalogue's items, with three answers each."""
        item_ids = Bundle.open(self.bundle).catalogue.item_ids
        return [
            recommender_pb2.RecommendRequest(
                query_type="QUERY_TYPE_SEQUENTIAL",
                session_items=[item_ids[(first + step) % len(item_ids)] for step in range(3)],
                top_k=3,
            )
            for first in range(0, len(item_ids), max(1, len(item_ids) // 32))
        ]


class Tally(Counter[str]):
    """Counts of what a row saw, by what was counted."""

    def __str__(self) -> str:
        return ", ".join(f"{count:,} {what}" for what, count in self.items())

    def __iadd__(self, other: Tally) -> Tally:  # type: ignore[override, misc]  # zeros are kept: they are the point
        for what, count in other.items():
            self[what] += count
        return self


@dataclass
class Rates:
    """Throughputs that a row compared, and how the calls ended."""

    unit: str
    shares: list[float]
    outcome: Outcome

    def __str__(self) -> str:
        low, high = min(self.shares), max(self.shares)
        return f"{low:.0%} to {high:.0%} {self.unit}; {self.outcome}"

    def __iadd__(self, other: Rates) -> Rates:
        self.shares += other.shares
        self.outcome += other.outcome
        return self


Seen = Outcome | Tally | Rates


@dataclass(frozen=True)
class Row:
    """One fault."""

    fault: str
    expected: str
    do: Callable[..., Awaitable[Seen]]
    arrangement: Arrangement | None
    """None: it takes a Place instead of a Stack."""
    tool: str | None
    """A program that it needs, with root's rights."""


ROWS: dict[str, Row] = {}
"""By the name of the function."""

Do = Callable[..., Awaitable[Seen]]


def row(fault: str, expected: str, on: Arrangement | None = PLAIN, tool: str | None = None) -> Callable[[Do], Do]:
    """Enter a function into the table under its name."""

    def enter(function: Do) -> Do:
        ROWS[function.__name__] = Row(fault, expected, function, on, tool)  # type: ignore[attr-defined]
        return function

    return enter


async def until(holds: Callable[[], Awaitable[bool]], within_s: float = RECOVERY_S) -> None:
    """Wait until something holds, looking again and again: it is another process's doing.

    Raises:
        TimeoutError: it takes longer than `within_s`.
    """
    async with asyncio.timeout(within_s):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.02)


def check(outcome: Outcome, errors: int | None = 0, fallbacks: bool = True) -> None:
    """Nothing wrong and nothing hung, ever; errors and fallbacks where the row allows them."""
    assert outcome.wrong == 0, f"{outcome.wrong} wrong answers: {outcome.wrong_examples[:3]}"
    assert outcome.hung == 0, f"{outcome.hung} calls hung"
    assert set(outcome.codes) <= {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}, dict(outcome.codes)
    if errors is not None:
        assert outcome.errors <= errors, str(outcome)
    if not fallbacks:
        assert outcome.fallback == 0, str(outcome)
