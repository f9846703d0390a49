"""`clozerec doctor`, `train`, `tune` and `evaluate`: settings and progress around the trainer, which does the work."""

from __future__ import annotations

import importlib.util
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clozerec_cli.settings import EVERY_KIND, CommandSettings
from clozerec_core.bundle import Bundle
from clozerec_core.errors import UsageError
from clozerec_core.telemetry import configure_logging

if TYPE_CHECKING:
    from clozerec_trainer.progress import Reporter


def train(payload_path: Path, options: dict[str, Any]) -> Path | None:
    """Train and publish a bundle; returns its path, or None in a process that only helps the first (torchrun).

    Raises:
        UsageError: the payload, the data or an option is wrong.
    """
    settings = CommandSettings.load(options, EVERY_KIND)
    _require_trainer()
    from clozerec_trainer.distributed import joined_world
    from clozerec_trainer.payload import load_payload
    from clozerec_trainer.train import train as train_bundle

    for number in (signal.SIGTERM, signal.SIGHUP):
        # As an exception, so that what is half-written is removed on the way out.
        signal.signal(number, lambda stopped_by, _: sys.exit(128 + stopped_by))
    payload = load_payload(payload_path, settings.preset)
    with joined_world() as world:
        result = train_bundle(payload, settings.output, _reporter(), settings.cache_dir.expanduser(), world)
    return result.bundle.path if world.is_first else None


def doctor(payload_path: Path, options: dict[str, Any]) -> str:
    """What the data can and cannot support, in words.

    Raises:
        UsageError: the payload or the data cannot be trained on.
    """
    settings = CommandSettings.load(options, EVERY_KIND)
    _require_trainer()
    from clozerec_trainer.doctor import examine
    from clozerec_trainer.payload import load_payload

    return str(examine(load_payload(payload_path, settings.preset), _reporter()))


def tune(payload_path: Path, options: dict[str, Any], num_trials: int, minutes: float) -> Path:
    """Search for better keys; returns the path of a payload that has them.

    Raises:
        UsageError: the payload, the data or an option is wrong, or the time was too short.
    """
    settings = CommandSettings.load(options, EVERY_KIND)
    _require_trainer()
    from clozerec_trainer.payload import load_payload
    from clozerec_trainer.tune import tune as search

    payload = load_payload(payload_path, settings.preset)
    tuned = search(payload, settings.output, num_trials, minutes, _reporter(), settings.cache_dir.expanduser())
    return tuned.path


def evaluate(bundle_path: Path, payload_path: Path) -> dict[str, Any]:
    """The report's metrics, computed again from the bundle's weights."""
    _require_trainer()
    from clozerec_trainer.payload import load_payload
    from clozerec_trainer.train import evaluate_bundle

    return evaluate_bundle(Bundle.open(bundle_path), load_payload(payload_path), _reporter())


def _reporter() -> Reporter:
    """Bars for a person at a terminal, log lines for everybody else; both on standard error."""
    from clozerec_trainer.progress import LogReporter, TerminalReporter

    if sys.stderr.isatty():
        return TerminalReporter()
    configure_logging()
    return LogReporter()


def _require_trainer() -> None:
    if importlib.util.find_spec("torch") is None:
        raise UsageError("training needs the trainer's packages: pip install 'clozerec[trainer]'")
