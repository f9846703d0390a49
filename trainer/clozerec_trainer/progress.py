"""How training tells what it does: facts as they are found, and bars with the time left.

Everything goes to standard error; standard output belongs to the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from clozerec_core.telemetry import get_logger

Advance = Callable[[str], None]
"""One step is done; the text beside the bar."""


class Reporter(Protocol):
    """Who listens."""

    def say(self, event: str, **facts: object) -> None:
        """Something is known or done."""
        ...

    def steps(self, what: str, total: int) -> AbstractContextManager[Advance]:
        """A stretch of equal steps; call what it yields after each."""
        ...


class SilentReporter:
    """Says nothing."""

    def say(self, event: str, **facts: object) -> None:
        """Nothing."""

    @contextmanager
    def steps(self, what: str, total: int) -> Iterator[Advance]:
        """Steps without a bar."""
        yield lambda _: None


class LogReporter:
    """One structured line for each fact; no bars. For machines."""

    def __init__(self) -> None:
        self._log = get_logger("trainer")

    def say(self, event: str, **facts: object) -> None:
        """A line."""
        self._log.info(event, **facts)

    @contextmanager
    def steps(self, what: str, total: int) -> Iterator[Advance]:
        """A line where the steps begin."""
        self._log.info("steps_begin", what=what, total=total)
        yield lambda _: None


class TerminalReporter:
    """Facts as lines and steps as bars with an estimate of the time left. For people."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)

    def say(self, event: str, **facts: object) -> None:
        """A line."""
        shown = "  ".join(f"{name}={_brief(value)}" for name, value in facts.items())
        self._console.print(f"[bold]{event.replace('_', ' ')}[/bold]  {escape(shown)}", highlight=False)

    @contextmanager
    def steps(self, what: str, total: int) -> Iterator[Advance]:
        """A bar."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task(what, total=total, note="")
            yield lambda note: progress.update(task, advance=1, note=note)


def _brief(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
