"""The report: `report/metrics.json` for machines, `report/report.html` for people, complete in itself."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clozerec_trainer.comparison import MODEL
from clozerec_trainer.loop import EpochRecord
from clozerec_trainer.metrics import Metrics

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Training report {bundle_id}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; margin: 1rem 0 }}
th, td {{ padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #8884 }}
th:first-child, td:first-child {{ text-align: left }}
</style>
<h1>Training report</h1>
<p>Bundle {bundle_id}. Leave-one-out over {num_users} users, full ranking of {num_items} items with events,
{seen}. Epoch {best_epoch} was chosen by validation NDCG@10.</p>
{parts}
<h2>Epochs</h2>
{epochs}
<h2>Payload</h2>
{payload}
</html>
"""


def write_report(
    directory: Path,
    bundle_id: str,
    metrics: Mapping[str, Any],
    epochs: Sequence[EpochRecord],
    payload: Mapping[str, Any],
) -> None:
    """Both files of `report/`."""
    directory.mkdir()
    document = {"bundle_id": bundle_id, "metrics": metrics, "epochs": [vars(each) for each in epochs]}
    (directory / "metrics.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    page = _PAGE.format(
        bundle_id=html.escape(bundle_id),
        num_users=metrics["num_users_evaluated"],
        num_items=metrics["num_items_ranked"],
        seen="seen items removed" if metrics["exclude_seen"] else "seen items stay",
        best_epoch=metrics["best_epoch"],
        parts="".join(f"<h2>{part.title()}</h2>\n{_systems(metrics[part])}" for part in ("test", "validation")),
        epochs=_table(
            ["epoch", "loss", "seconds", "validation NDCG@10"],
            [[each.epoch, each.loss, each.seconds, each.validation.get("ndcg@10")] for each in epochs],
        ),
        payload=_table(["key", "value"], [[key, json.dumps(value)] for key, value in payload.items()]),
    )
    (directory / "report.html").write_text(page, encoding="utf-8")


def _systems(systems: Mapping[str, Metrics]) -> str:
    columns = list(systems[MODEL])
    return _table(["", *columns], [[name, *figures.values()] for name, figures in systems.items()])


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    lines = ["".join(f"<td>{html.escape(_shown(value))}</td>" for value in row) for row in rows]
    return f"<table>\n<tr>{cells}</tr>\n" + "".join(f"<tr>{line}</tr>\n" for line in lines) + "</table>\n"


def _shown(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)
