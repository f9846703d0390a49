"""From a payload to a published bundle, top to bottom; and from a bundle back to its figures."""

from __future__ import annotations

import importlib.metadata
import platform
import uuid
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from clozerec_core.bundle import (
    FORMAT_VERSION,
    Bundle,
    Manifest,
    ModelInfo,
    ServingInfo,
    TextInfo,
    point_current,
    publish,
    writing_directory,
)
from clozerec_core.errors import UsageError
from clozerec_trainer.checkpoint import Checkpoints
from clozerec_trainer.content import content_of
from clozerec_trainer.data import Dataset, read_dataset
from clozerec_trainer.distributed import World
from clozerec_trainer.experiment import Figures, judge_model, model_of, train_model, train_on_split
from clozerec_trainer.export import write_model, write_tables
from clozerec_trainer.item_features import (
    DEFAULT_CACHE_DIR,
    TextModel,
    text_info,
)
from clozerec_trainer.payload import Payload
from clozerec_trainer.progress import Reporter, SilentReporter
from clozerec_trainer.report import write_report
from clozerec_trainer.splits import split_log
from clozerec_trainer.text_graph import write_text_engine

_LIBRARIES = ("clozerec", "faiss-cpu", "numpy", "onnx", "polars", "safetensors", "sentence-transformers", "torch")

_READING_KEYS = {
    "user_column",
    "item_column",
    "timestamp_column",
    "timestamp_unit",
    "event_type_column",
    "event_weights",
    "duplicates",
}


@dataclass(frozen=True)
class TrainResult:
    """A published bundle and the figures in its manifest."""

    bundle: Bundle
    metrics: Figures


def train(
    payload: Payload,
    output_dir: Path,
    reporter: Reporter | None = None,
    cache_dir: Path = DEFAULT_CACHE_DIR,
    world: World | None = None,
) -> TrainResult:
    """Read, train, judge, and publish a bundle in `output_dir`, where the link `current` then names it.

    Args:
        payload: what to train on, and how.
        output_dir: made where it is missing; nothing half-written stays in it but checkpoints, from which the same call
            goes on.
        reporter: who hears of the progress.
        cache_dir: keeps content vectors and the text model's ONNX graph for the next run.
        world: the processes that train together; each returns the same bundle, which the first has written.

    Raises:
        UsageError: payload, data or `output_dir` must be changed.
        ClozerecError: the loss is no longer a number.
    """
    world = world or World()
    reporter = reporter if reporter is not None and world.is_first else SilentReporter()
    with writing_directory(output_dir) if world.is_first else nullcontext(output_dir) as staging:
        dataset = read_dataset(payload, reporter)
        content, text_model = world.first_before_others(lambda: content_of(dataset, payload, cache_dir, reporter))
        first, again = (
            Checkpoints.of(output_dir, payload.checkpoint_seconds, **_identity(payload, dataset, text_model, phase))
            for phase in ("training", "refit")
        )
        model, fitted = train_on_split(dataset, content, payload, reporter, first, world)
        judged = world.from_first(lambda: judge_model(model, dataset, content, payload, fitted.best_epoch, reporter))
        if payload.refit:
            stops_U, num_epochs = dataset.log.starts_U1[1:], fitted.best_epoch
            model, _ = train_model(dataset, stops_U, content, payload, reporter, None, num_epochs, again, world)

        def write() -> Path:
            reporter.say("writing_bundle", directory=str(output_dir))
            search_file = write_model(model, staging, payload.index_quantisation)
            if search_file is not None:
                reporter.say("index_recall", recall_at_10=search_file.recall, ef_search=search_file.ef_search)
            write_tables(dataset.catalogue, dataset.log, staging)
            if text_model is not None:
                write_text_engine(text_model, staging, cache_dir)
            text = text_info(text_model, content, payload.metadata_columns) if text_model else None
            manifest = _manifest(dataset, payload, text, judged.figures)
            write_report(
                staging / "report", manifest.model_dump(mode="json"), fitted.epochs, judged.examples, fitted.advice
            )
            bundle = publish(staging, output_dir, manifest)
            # A bundle that does not load must not go live.
            Bundle.open(bundle.path).catalogue  # noqa: B018  # read for its checks
            point_current(bundle)
            for checkpoints in (first, again):
                checkpoints.remove()
            reporter.say("bundle_published", bundle=str(bundle.path))
            return bundle.path

        return TrainResult(Bundle.open(world.from_first(write)), judged.figures)


def evaluate_bundle(bundle: Bundle, payload: Payload, reporter: Reporter | None = None) -> Figures:
    """The figures again, from the bundle's weights and the payload's data.

    Raises:
        UsageError: the data is not what the bundle was trained on, or it was trained on the test events too.
    """
    trained_with = Payload.model_validate(bundle.manifest.payload)
    if trained_with.refit:
        raise UsageError(
            f"bundle {bundle.bundle_id} was trained once more on every event, test events too, so they cannot "
            "judge its weights; its manifest has the figures from before"
        )
    dataset = read_dataset(payload, reporter or SilentReporter())
    # Other events would put what the model was trained on into the test.
    if dataset.fingerprint != bundle.manifest.data["sha256"] or _reading(payload) != _reading(trained_with):
        raise UsageError(
            f"bundle {bundle.bundle_id} was trained on other data than {payload.interactions} as this payload reads "
            "it; its figures can only be had from what it was trained on"
        )
    best_epoch = int(bundle.manifest.metrics["best_epoch"])
    model = model_of(bundle, trained_with)
    return judge_model(model, dataset, model.content, trained_with, best_epoch, reporter or SilentReporter()).figures


def _identity(payload: Payload, dataset: Dataset, text_model: TextModel | None, phase: str) -> dict[str, Any]:
    """What must be equal for a training to go on from another's checkpoint."""
    return {
        "payload": payload.model_dump(mode="json", exclude={"interactions", "items", "checkpoint_seconds"}),
        "data": dataset.fingerprint,
        "text": text_model.sha256 if text_model else None,
        "torch": torch.__version__,
        "phase": phase,
    }


def _reading(payload: Payload) -> dict[str, object]:
    """The keys that decide which events and items are read from the files."""
    return payload.model_dump(include=_READING_KEYS)


def _manifest(dataset: Dataset, payload: Payload, text: TextInfo | None, figures: Figures) -> Manifest:
    now = datetime.now(UTC)
    return Manifest(
        format_version=FORMAT_VERSION,
        bundle_id=f"{now:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}",
        created_at=now.isoformat(timespec="seconds").replace("+00:00", "Z"),
        model=ModelInfo(
            dim=payload.hidden_size,
            max_sequence_length=payload.max_sequence_length,
            use_attention_mask=payload.use_attention_mask,
            num_items=len(dataset.catalogue),
        ),
        text=text,
        serving=ServingInfo(top_k_results=payload.top_k_results, exclude_seen=payload.exclude_seen),
        schema_=dict(dataset.catalogue.schema),
        payload=payload.model_dump(mode="json"),
        data=dataset.facts(),
        split=split_log(dataset.log, payload).facts(),
        metrics=figures,
        libraries=_libraries(),
        files={},
    )


def _libraries() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "source tree"
    return versions
