"""`clozerec tune payload.yaml`: search for better keys with Optuna (Akiba et al. 2019, arXiv:1907.10902).

Validation decides; the test is never read. Hopeless trials are pruned after an epoch, and the study lies in SQLite, so
that a search which is cut off goes on where it stood.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from clozerec_core.errors import UsageError
from clozerec_trainer.content import content_of
from clozerec_trainer.data import Dataset, read_dataset
from clozerec_trainer.experiment import train_on_split
from clozerec_trainer.item_features import DEFAULT_CACHE_DIR, Content
from clozerec_trainer.metrics import SELECTED_BY, Metrics
from clozerec_trainer.payload import PATHS, Payload, parse_payload
from clozerec_trainer.progress import Reporter, SilentReporter
from clozerec_trainer.splits import split_log

SEARCHED = (
    "learning_rate",
    "dropout_rate",
    "masking_ratio",
    "causal_ratio",
    "weight_tying",
    "hidden_size",
    "model_depth",
)

_WARMUP_EPOCHS = 1
_STARTUP_TRIALS = 4


@dataclass(frozen=True)
class Tuned:
    """The outcome of a search."""

    keys: dict[str, Any]
    """The best values."""
    validation: float
    num_trials: int
    path: Path
    """A payload with these values, ready to train."""


def tune(
    payload: Payload,
    output_dir: Path,
    num_trials: int,
    minutes: float,
    reporter: Reporter,
    cache_dir: Path = DEFAULT_CACHE_DIR,
) -> Tuned:
    """Search until there are `num_trials`, those of earlier calls included, or the time is up.

    Args:
        payload: its own values are the first trial; its `training_epochs` are those of every trial.
        output_dir: for the study, `tune.sqlite`, and the outcome, `tuned.yaml`.
        num_trials: in all.
        minutes: of this call; a trial that is under way then ends with its epoch.
        reporter: hears of every trial.
        cache_dir: of content vectors.

    Raises:
        UsageError: data or payload are wrong, nothing can be held out, or no trial came to a figure in time.
    """
    deadline = time.monotonic() + 60 * minutes
    dataset = read_dataset(payload, reporter)
    content, _ = content_of(dataset, payload, cache_dir, reporter)
    if not len(split_log(dataset.log, payload).validation):
        raise UsageError("nothing can be held out to choose by: no user has three events")
    study, space = _open_study(payload, dataset, output_dir), space_of(payload)
    while _num_finished(study) < num_trials and time.monotonic() < deadline:
        trial = study.ask(space)
        reporter.say("trial_begins", trial=trial.number, **trial.params)
        value = _run(trial, payload, dataset, content, deadline)
        study.tell(trial, value, None if value is not None else optuna.trial.TrialState.PRUNED)
        reporter.say("trial_done", trial=trial.number, **{SELECTED_BY: value if value is not None else "pruned"})
    if not any(each.value is not None for each in study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))):
        raise UsageError(f"no trial came to a figure within {minutes:g} minutes; allow more, or lower training_epochs")
    path = output_dir / "tuned.yaml"
    document = payload.model_dump(mode="json", exclude_defaults=True) | study.best_params
    for key in document.keys() & PATHS:
        document[key] = str(Path(document[key]).absolute())  # the outcome lies elsewhere than the payload
    path.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), "utf-8")
    return Tuned(study.best_params, study.best_value, _num_finished(study), path)


def space_of(payload: Payload) -> dict[str, BaseDistribution]:
    """What is searched: usual ranges, widened to the payload's own values."""

    def floats(key: str, low: float, high: float, log: bool = False) -> FloatDistribution:
        own = float(getattr(payload, key))
        return FloatDistribution(min(low, own), max(high, own), log=log)

    sizes = {payload.hidden_size, *(payload.attention_heads * size for size in (8, 16, 24, 32))}
    return {
        "learning_rate": floats("learning_rate", 3e-4, 1e-2, log=True),
        "dropout_rate": floats("dropout_rate", 0.0, 0.6),
        "masking_ratio": floats("masking_ratio", 0.1, 0.6),
        "causal_ratio": CategoricalDistribution(sorted({0.0, 0.5, payload.causal_ratio})),
        "weight_tying": CategoricalDistribution((False, True)),
        "hidden_size": CategoricalDistribution(sorted(sizes)),
        "model_depth": IntDistribution(1, max(4, payload.model_depth)),
    }


def _open_study(payload: Payload, dataset: Dataset, output_dir: Path) -> optuna.Study:
    """The study of these data and of all that is not searched; a new one begins with the payload's own values."""
    fixed = payload.model_dump(mode="json", exclude={"interactions", "items", *SEARCHED})
    identity = json.dumps([fixed, dataset.fingerprint], sort_keys=True)
    output_dir.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    name = hashlib.sha256(identity.encode()).hexdigest()[:16]
    study = optuna.create_study(
        study_name=name,
        storage=f"sqlite:///{output_dir.resolve() / 'tune.sqlite'}",
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_STARTUP_TRIALS, n_warmup_steps=_WARMUP_EPOCHS),
        load_if_exists=True,
    )
    # Another seed for what is left, or it would draw what the earlier trials drew.
    study.sampler = optuna.samplers.TPESampler(seed=(payload.seed + len(study.trials)) % 2**32)
    if not study.trials:
        study.enqueue_trial({key: getattr(payload, key) for key in SEARCHED})
    return study


def _num_finished(study: optuna.Study) -> int:
    return sum(each.state.is_finished() for each in study.trials)


def _run(trial: optuna.Trial, payload: Payload, dataset: Dataset, content: Content, deadline: float) -> float | None:
    """Best validation of a training with the trial's values; None: pruned."""
    candidate = parse_payload(payload.model_dump(mode="json") | trial.params, Path())
    best: list[float] = []

    def watch(figures: Metrics) -> None:
        best.append(figures[SELECTED_BY])
        trial.report(max(best), len(best))
        if trial.should_prune() or time.monotonic() > deadline:
            raise optuna.TrialPruned

    try:
        train_on_split(dataset, content, candidate, SilentReporter(), watch=watch)
    except optuna.TrialPruned:
        return None
    return max(best)
