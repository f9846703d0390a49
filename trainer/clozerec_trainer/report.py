"""The report: `report/metrics.json` for machines, `report/report.html` for people, complete in itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2

from clozerec_trainer.advice import Advice
from clozerec_trainer.charts import Chart, line_chart
from clozerec_trainer.comparison import MODEL
from clozerec_trainer.examples import Example
from clozerec_trainer.metrics import SELECTED_BY, EpochRecord

SHORT_NAMES = ("ndcg@10", "hr@10", "mrr@10", "ndcg@5", "hr@5", "ndcg@20", "hr@20")

LABELS: Mapping[str, str] = {
    "popularity": "popularity",
    "recent_popularity": "popularity, last 7 days",
    "item_knn": "item-kNN",
    "content_knn": "content-kNN",
    "matrix_factorisation": "matrix factorisation",
    MODEL: "this model",
}

_READS_TEXT = ("content_knn", MODEL)


def write_report(
    directory: Path,
    manifest: Mapping[str, Any],
    epochs: Sequence[EpochRecord],
    examples: Sequence[Example],
    advice: Sequence[Advice] = (),
) -> None:
    """Both files of `report/`.

    Args:
        directory: made here.
        manifest: of the bundle: `bundle_id`, `metrics`, `data`, `split`, `payload`, `text`.
        epochs: what training did.
        examples: cases to show.
        advice: what to change.
    """
    directory.mkdir()
    metrics = manifest["metrics"]
    document = {
        "bundle_id": manifest["bundle_id"],
        "metrics": metrics,
        "epochs": [asdict(each) for each in epochs],
        "examples": [asdict(each) for each in examples],
        "advice": [asdict(each) for each in advice],
    }
    (directory / "metrics.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")
    names = list(metrics["test"].get(MODEL, ()))
    beyond = metrics["beyond_accuracy"]["test"].get(MODEL, {})
    page = (
        _environment()
        .get_template("report.html.jinja")
        .render(
            **{key: manifest[key] for key in ("bundle_id", "metrics", "data", "split", "payload")},
            model=MODEL,
            labels=LABELS,
            choice=explain_choice(metrics, has_text=manifest["text"] is not None),
            advice=[str(each) for each in advice],
            short_names=SHORT_NAMES,
            all_names=names,
            beyond_names=list(beyond),
            charts=_charts(epochs),
            epochs=epochs,
            examples=examples,
        )
    )
    (directory / "report.html").write_text(page, "utf-8")


def explain_choice(metrics: Mapping[str, Any], has_text: bool) -> list[str]:
    """Which system to serve for these data, and why, in sentences."""
    choice = metrics["choice"]
    if choice is None:
        return ["There is nothing to choose by: no user has enough events to hold some out."]
    system, best = choice["system"], choice["best"]
    figures = metrics["validation"]
    sentences = [
        f"For these data: {LABELS[system]}. In validation {LABELS[best]} has the best NDCG@10, "
        f"{figures[best][SELECTED_BY]:.4f}"
    ]
    if system == best:
        simpler = {name: each for name, each in choice["behind"].items() if name != best}
        if simpler:
            next_best = min(simpler, key=lambda name: simpler[name]["difference"])
            low, high = simpler[next_best]["interval"]
            sentences[0] += (
                f"; the next is {LABELS[next_best]}, {_shown(simpler[next_best]['difference'])} behind "
                f"(95% interval {_shown(low)} to {_shown(high)}), "
                + (
                    "so the difference is no accident of these users."
                    if low > 0
                    else f"which may be an accident of these users, but {LABELS[system]} is the simpler of the two."
                )
            )
        else:
            sentences[0] += "; nothing else was compared."
    else:
        (low, high), difference = choice["behind"][system]["interval"], choice["behind"][system]["difference"]
        sentences[0] += (
            f", but {LABELS[system]} is simpler and cannot be told from it: {_shown(difference)} behind, with a 95% "
            f"interval of {_shown(low)} to {_shown(high)} that holds zero."
        )
    if system != MODEL:
        low, high = choice["behind"][MODEL]["interval"]
        sentences.append(
            f"This model stands {_shown(choice['behind'][MODEL]['difference'])} behind (95% interval {_shown(low)} to "
            f"{_shown(high)}). More data may change that; so may longer training or a preset nearer to your case."
        )
    return sentences + _about_new_items(metrics, system, has_text)


def _about_new_items(metrics: Mapping[str, Any], system: str, has_text: bool) -> list[str]:
    target = metrics["segments"]["test"]["target"]
    share = target["cold"]["num_cases"] / max(1, target["total"]["num_cases"])
    if share < 0.01:
        return []
    said = f"{share:.0%} of what people chose in the test is new: no training event shows it. "
    if not has_text:
        return [said + "Only texts can rank such items; name metadata_columns."]
    if system in _READS_TEXT:
        return [said + f"{LABELS[system][0].upper()}{LABELS[system][1:]} ranks such items by their text."]
    return [said + f"{LABELS[system][0].upper()}{LABELS[system][1:]} can never offer it; this model can, by its text."]


def _charts(epochs: Sequence[EpochRecord]) -> list[Chart]:
    loss = [(each.epoch, each.loss) for each in epochs]
    validation = {
        name.upper(): [(each.epoch, each.validation[name]) for each in epochs if name in each.validation]
        for name in (SELECTED_BY, "hr@10")
    }
    charts = [line_chart("Training loss", {"loss": loss}), line_chart("Validation", validation)]
    return [chart for chart in charts if chart is not None]


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clozerec_trainer", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["figure"] = lambda value: "–" if value is None else _shown(value)
    return environment


def _shown(value: float) -> str:
    return f"{value:.4f}"
