"""Hears what a training says."""

from __future__ import annotations

from clozerec_trainer.progress import SilentReporter


class Listener(SilentReporter):
    """Remembers events and their facts, in order."""

    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, object]]] = []

    def say(self, event: str, **facts: object) -> None:
        self.said.append((event, facts))

    def named(self, event: str) -> list[dict[str, object]]:
        """The facts of each event of that name."""
        return [facts for name, facts in self.said if name == event]
