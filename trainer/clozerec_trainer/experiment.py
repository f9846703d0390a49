"""One experiment: a model trained on the part of the log that it may see, judged on what was held out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clozerec_core.bundle import Bundle
from clozerec_core.catalogue import SpecialRows
from clozerec_core.errors import UsageError
from clozerec_trainer.baselines import fit_baselines
from clozerec_trainer.checkpoint import Checkpoints, read_checkpoint
from clozerec_trainer.comparison import MODEL, choose, compare
from clozerec_trainer.data import Dataset, Ints, Log
from clozerec_trainer.distributed import World
from clozerec_trainer.estimate import Estimate, estimate
from clozerec_trainer.evaluate import Judge, ScoreCases, model_scores
from clozerec_trainer.examples import Example, pick_examples
from clozerec_trainer.item_features import Content
from clozerec_trainer.lift import lift_new_items
from clozerec_trainer.loop import Fitted, Validate, fit
from clozerec_trainer.metrics import CUTOFFS, SELECTED_BY, Metrics
from clozerec_trainer.model import HybridBert4Rec, NetworkSpec
from clozerec_trainer.payload import Payload
from clozerec_trainer.progress import Reporter
from clozerec_trainer.sequences import WindowPlan, last_windows
from clozerec_trainer.splits import PARTS, Part, Split, split_log

Figures = dict[str, Any]

_SAID = (SELECTED_BY, "hr@10")

_JUDGED_FOR_ESTIMATE = 256

_HISTORIES_FOR_LIFT = 4096


@dataclass(frozen=True)
class Judgement:
    """What the report says of a model."""

    figures: Figures
    examples: list[Example]


def train_on_split(
    dataset: Dataset,
    content: Content,
    payload: Payload,
    reporter: Reporter,
    checkpoints: Checkpoints | None = None,
    world: World | None = None,
    watch: Callable[[Metrics], None] | None = None,
) -> tuple[HybridBert4Rec, Fitted]:
    """Train on what the split leaves, and keep the epoch that validation likes best.

    Args:
        watch: hears each validation; what it raises ends the training.
    """
    split = split_log(dataset.log, payload)
    judge = _judge(split, "validation", dataset, payload)

    def validate(model: HybridBert4Rec) -> Metrics:
        figures = judge.metrics(model_scores(model, dataset.log))
        if watch is not None:
            watch(figures)
        return figures

    return train_model(
        dataset,
        split.train_stops_U,
        content,
        payload,
        reporter,
        validate if len(split.validation) else None,
        payload.training_epochs,
        checkpoints,
        world,
    )


def prepare_model(
    dataset: Dataset, stops_U: Ints, content: Content, payload: Payload, rank: int = 0
) -> tuple[HybridBert4Rec, WindowPlan, torch.Tensor]:
    """A new model on its device, how to cut each user's events before `stops_U`, and the sorted rows of the items."""
    stride = None if payload.sequence_sampling == "last_window" else payload.stride
    is_shifted = payload.sequence_sampling == "shifted_window"
    plan = WindowPlan(dataset.log, stops_U, payload.max_sequence_length + 1, stride, is_shifted)
    trained_rows = torch.from_numpy(plan.windows().distinct_rows())
    trained_N = torch.zeros(len(dataset.catalogue), dtype=torch.bool)
    trained_N[trained_rows] = True
    device = find_device(payload.device, rank)
    model = _new_model(content, trained_N, payload).to(device)
    if payload.start_from is not None:
        _start_from(payload.start_from, model)
    return model, plan, trained_rows.to(device)


def estimate_training(
    dataset: Dataset, payload: Payload, prepared: tuple[HybridBert4Rec, WindowPlan, torch.Tensor], num_epochs: int
) -> Estimate:
    """Time and memory of the training that the payload asks for, from a few steps and a part of a validation."""
    cases = split_log(dataset.log, payload).validation
    some = cases[:_JUDGED_FOR_ESTIMATE]
    began = time.monotonic()
    judge = Judge(dataset.log, some, len(dataset.catalogue), payload.exclude_seen)
    judge.metrics(model_scores(prepared[0], dataset.log))
    validation_s = (time.monotonic() - began) * len(cases) / max(1, len(some))
    return estimate(*prepared, payload, num_epochs, validation_s)


def train_model(
    dataset: Dataset,
    stops_U: Ints,
    content: Content,
    payload: Payload,
    reporter: Reporter,
    validate: Validate | None,
    num_epochs: int,
    checkpoints: Checkpoints | None = None,
    world: World | None = None,
) -> tuple[HybridBert4Rec, Fitted]:
    """A new model, trained on each user's events before `stops_U`; the arguments of `fit` are explained there."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(payload.seed)
        prepared = prepare_model(dataset, stops_U, content, payload, world.rank if world else 0)
        model, plan, trained_rows = prepared
        reporter.say(
            "training_begins",
            windows=len(plan.windows()),
            trained_items=len(trained_rows),
            device=str(trained_rows.device),
        )
        expected = estimate_training(dataset, payload, prepared, num_epochs)
        expected.say(reporter)
        fitted = fit(model, plan, trained_rows, payload, reporter, validate, num_epochs, checkpoints, world)
        if payload.new_item_lift:
            model.eval()
            lift_new_items(model, payload.new_item_lift, _some_histories(model, dataset.log, stops_U))
    return model.cpu(), replace(fitted, advice=[*expected.advice(), *fitted.advice])


def model_of(bundle: Bundle, payload: Payload) -> HybridBert4Rec:
    """The bundle's model as it was; its payload gives the shape."""
    weights = bundle.weights()
    content = Content(np.array(bundle.content), weights["content.mean"], weights["content.whitening"])
    everything_N = torch.ones(bundle.manifest.model.num_items, dtype=torch.bool)
    # Behaviour is kept as limited, and the two sides may have parted since they were tied.
    as_kept = payload.model_copy(update={"behaviour_limit": None, "weight_tying": False})
    model = _new_model(content, everything_N, as_kept)
    model.load_weights(weights)
    return model


def judge_model(
    model: HybridBert4Rec, dataset: Dataset, content: Content, payload: Payload, best_epoch: int, reporter: Reporter
) -> Judgement:
    """The report's numbers: the model beside the baselines, on both held-out parts."""
    split = split_log(dataset.log, payload)
    cutoffs = sorted({*CUTOFFS, payload.top_k_results})
    counts_N = split.train_counts(len(dataset.catalogue))
    reporter.say("judging", cases=len(split.validation) + len(split.test), baselines=", ".join(payload.baselines))
    scorers: dict[str, ScoreCases] = {
        **fit_baselines(split, content, len(dataset.catalogue), payload),
        MODEL: model_scores(model, dataset.log),
    }
    figures: Figures = {
        "num_users_evaluated": len(np.unique(split.test.users_C)),
        "num_items_ranked": len(np.unique(dataset.log.rows_E)),
        "num_cases": {part: len(split.cases(part)) for part in PARTS},
        "exclude_seen": payload.exclude_seen,
        "best_epoch": best_epoch,
    }
    examples: list[Example] = []
    for part in PARTS:
        judge = _judge(split, part, dataset, payload)
        rankings = {name: judge.rank(score, payload.top_k_results) for name, score in scorers.items()}
        compared = compare(rankings, judge, counts_N, cutoffs, payload.seed)
        figures[part] = compared.pop("systems")
        figures |= {name: {**figures.get(name, {}), part: value} for name, value in compared.items()}
        if part == "validation":
            figures["choice"] = choose(rankings, judge.cases, payload.seed)
        else:
            examples = pick_examples(judge, rankings[MODEL], dataset.catalogue, counts_N)
        for system, metrics in figures[part].items():
            reporter.say(part, system=system, **{name: metrics[name] for name in _SAID if name in metrics})
    return Judgement(figures, examples)


def find_device(name: str, rank: int = 0) -> torch.device:
    """The device that the payload asks for; auto takes a GPU where there is one, each process its own.

    Raises:
        UsageError: it is not there.
    """
    if name == "auto":
        num_gpus = torch.cuda.device_count()
        return torch.device("cuda", rank % num_gpus) if num_gpus else torch.device("cpu")
    device = torch.device(name)
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[device.type]:
        raise UsageError(f'device "{name}" is not there; write auto or cpu')
    return device


def _some_histories(model: HybridBert4Rec, log: Log, stops_U: Ints) -> torch.Tensor:
    """`[B, T]`, of people evenly chosen."""
    with_past_U = np.flatnonzero(stops_U > log.starts_U1[:-1])
    users_B = with_past_U[:: math.ceil(len(with_past_U) / _HISTORIES_FOR_LIFT)]
    rows_BT = last_windows(
        log, stops_U[users_B], users_B, SpecialRows(model.num_items), model.network.spec.num_positions
    )
    return torch.from_numpy(rows_BT).long().to(model.log_temperature.device)


def _start_from(path: Path, model: HybridBert4Rec) -> None:
    """Give the model a checkpoint's weights, the best validated ones where there are any."""
    state = read_checkpoint(path)
    try:
        model.load_state_dict(state["best_weights"] or state["weights"])
    except RuntimeError:
        raise UsageError(
            f"start_from: the model in {path} has another shape; keep hidden_size, model_depth, attention_heads, "
            "max_sequence_length, taste, weight_tying, metadata_columns and the catalogue as they were"
        ) from None


def _judge(split: Split, part: Part, dataset: Dataset, payload: Payload) -> Judge:
    return Judge(dataset.log, split.cases(part), len(dataset.catalogue), payload.exclude_seen)


def _new_model(content: Content, trained_N: torch.Tensor, payload: Payload) -> HybridBert4Rec:
    return HybridBert4Rec(
        NetworkSpec.of(payload),
        content,
        trained_N,
        payload.weight_tying,
        payload.temperature,
        payload.behaviour_limit,
    )
