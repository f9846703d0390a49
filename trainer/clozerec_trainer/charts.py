"""Line charts as inline SVG: where the points of a curve lie on the page, and which ticks stand beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 440, 240
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 36
_TICKS_WANTED = 5


@dataclass(frozen=True)
class Tick:
    """A value on an axis and where it lies, in pixels."""

    at: float
    label: str


@dataclass(frozen=True)
class Curve:
    """One named line."""

    name: str
    points: list[tuple[float, float, str]]
    """Pixels from the left and the top, and what the point says."""

    @property
    def path(self) -> str:
        """For a polyline."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in self.points)


@dataclass(frozen=True)
class Chart:
    """Curves over epochs, ready to draw."""

    title: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    curves: list[Curve]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def line_chart(title: str, curves: Mapping[str, Sequence[tuple[int, float]]]) -> Chart | None:
    """A chart of named curves of (epoch, value); None where there is not a point to draw."""
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return None
    epochs, values = [epoch for epoch, _ in points], [value for _, value in points]
    x_values = _round_values(min(epochs), max(epochs), whole=True)
    y_values = _round_values(min(values), max(values))
    low, high = min(y_values[0], min(values)), max(y_values[-1], max(values))

    def x(epoch: float) -> float:
        return LEFT + (epoch - min(epochs)) / max(1, max(epochs) - min(epochs)) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / ((high - low) or 1) * (HEIGHT - TOP - BOTTOM)

    return Chart(
        title,
        [Tick(x(epoch), f"{epoch:.0f}") for epoch in x_values if min(epochs) <= epoch <= max(epochs)],
        [Tick(y(value), f"{value:g}") for value in y_values],
        [
            Curve(name, [(x(epoch), y(value), f"{name}, epoch {epoch}: {value:.4f}") for epoch, value in curve])
            for name, curve in curves.items()
        ],
    )


def _round_values(low: float, high: float, whole: bool = False) -> list[float]:
    """A handful of round numbers from just below `low` to just above `high`."""
    step = 10 ** math.floor(math.log10(max(high - low, abs(high) * 1e-3, 1e-9) / _TICKS_WANTED))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= _TICKS_WANTED)
    step = max(1, step) if whole else step
    return [round(n * step, 10) for n in range(math.floor(low / step), math.ceil(high / step) + 1)]
