"""One experiment: a model trained on the part of the log that it may see, judged on what was held out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from clozerec_core.bundle import Bundle
from clozerec_core.errors import UsageError
from clozerec_trainer.baselines import evaluate_popularity
from clozerec_trainer.data import Dataset, Ints
from clozerec_trainer.evaluate import CUTOFFS, Judge, evaluate_model
from clozerec_trainer.item_features import Content
from clozerec_trainer.loop import Fitted, fit
from clozerec_trainer.model import HybridBert4Rec, NetworkSpec
from clozerec_trainer.payload import Payload
from clozerec_trainer.progress import Reporter
from clozerec_trainer.report import MODEL, POPULARITY
from clozerec_trainer.sequences import LeaveOneOut, cut_windows

Figures = dict[str, Any]

_SAID = ("ndcg@10", "hr@10")


def train_and_judge(
    dataset: Dataset, content: Content, payload: Payload, reporter: Reporter
) -> tuple[HybridBert4Rec, Fitted, Figures]:
    """Train on what leave-one-out leaves, keep the epoch that validation likes best, and judge it."""
    split = LeaveOneOut(dataset.log)
    judge = Judge(split, "validation", len(dataset.catalogue), payload.exclude_seen) if len(split.users) else None
    model, fitted = train_model(
        dataset, split.train_stops_U, content, payload, reporter, judge, payload.training_epochs
    )
    figures = judge_model(model, dataset, payload, fitted.best_epoch)
    for part in ("validation", "test"):
        for system, metrics in figures[part].items():
            reporter.say(part, system=system, **{name: metrics[name] for name in _SAID if name in metrics})
    return model, fitted, figures


def train_model(
    dataset: Dataset,
    stops_U: Ints,
    content: Content,
    payload: Payload,
    reporter: Reporter,
    judge: Judge | None,
    num_epochs: int,
) -> tuple[HybridBert4Rec, Fitted]:
    """A new model, trained on each user's events before `stops_U`; without a judge the last epoch is kept."""
    special = dataset.catalogue.special_rows
    stride = payload.stride if payload.sequence_sampling == "sliding_window" else None
    windows = cut_windows(dataset.log, stops_U, special, payload.max_sequence_length + 1, stride)
    trained_rows = torch.from_numpy(np.setdiff1d(windows.rows_ST, [special.pad]).astype(np.int64))
    trained_N = torch.zeros(len(dataset.catalogue), dtype=torch.bool)
    trained_N[trained_rows] = True
    device = find_device(payload.device)
    reporter.say("training_begins", windows=len(windows), trained_items=len(trained_rows), device=str(device))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(payload.seed)
        model = _new_model(content, trained_N, payload).to(device)
        validate = None if judge is None else lambda candidate: evaluate_model(candidate, judge)
        fitted = fit(model, windows, trained_rows.to(device), payload, reporter, validate, num_epochs)
    return model.cpu(), fitted


def model_of(bundle: Bundle, payload: Payload) -> HybridBert4Rec:
    """The bundle's model as it was; its payload gives the shape."""
    weights = bundle.weights()
    content = Content(np.array(bundle.content), weights["content.mean"], weights["content.whitening"])
    everything_N = torch.ones(bundle.manifest.model.num_items, dtype=torch.bool)
    model = _new_model(content, everything_N, payload)
    model.load_weights(weights)
    return model


def judge_model(model: HybridBert4Rec, dataset: Dataset, payload: Payload, best_epoch: int) -> Figures:
    """The report's numbers: the model beside the popularity baseline, on both held-out parts."""
    split = LeaveOneOut(dataset.log)
    cutoffs = sorted({*CUTOFFS, payload.top_k_results})
    figures: Figures = {
        "num_users_evaluated": len(split.users),
        "num_items_ranked": len(np.unique(dataset.log.rows_E)),
        "exclude_seen": payload.exclude_seen,
        "best_epoch": best_epoch,
    }
    for part in ("validation", "test"):
        judge = Judge(split, part, len(dataset.catalogue), payload.exclude_seen)
        figures[part] = {
            MODEL: evaluate_model(model, judge, cutoffs),
            POPULARITY: evaluate_popularity(judge, cutoffs),
        }
    return figures


def find_device(name: str) -> torch.device:
    """The device that the payload asks for; auto takes a GPU where there is one.

    Raises:
        UsageError: it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[device.type]:
        raise UsageError(f'device "{name}" is not there; write auto or cpu')
    return device


def _new_model(content: Content, trained_N: torch.Tensor, payload: Payload) -> HybridBert4Rec:
    return HybridBert4Rec(NetworkSpec.of(payload), content, trained_N, payload.weight_tying, payload.temperature)
