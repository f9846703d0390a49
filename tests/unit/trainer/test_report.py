from __future__ import annotations

import html
import json
import re
from typing import Any

import pytest
import toy_world

from clozerec_core.bundle import Bundle
from clozerec_trainer.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, line_chart
from clozerec_trainer.report import explain_choice


def page_of(bundle: Bundle) -> str:
    return bundle.file("report/report.html").read_text("utf-8")


def metrics_with(system: str, best: str, num_cold: int = 0) -> dict[str, Any]:
    behind = {
        "popularity": {"difference": 0.03, "interval": [0.02, 0.04]},
        "item_knn": {"difference": 0.001, "interval": [-0.002, 0.004]},
        "bert4rec": {"difference": 0.0, "interval": [0.0, 0.0]},
    }
    return {
        "choice": {"system": system, "best": best, "behind": behind},
        "validation": {name: {"ndcg@10": 0.05} for name in behind},
        "segments": {"test": {"target": {"cold": {"num_cases": num_cold}, "total": {"num_cases": 100}}}},
    }


def test_the_page_holds_every_system_and_needs_nothing_from_outside(toy_bundle: Bundle) -> None:
    page = page_of(toy_bundle)
    for label in ("this model", "popularity, last 7 days", "item-kNN", "matrix factorisation"):
        assert label in page
    assert not re.search(r"(src|href|@import|url\()", page)
    assert page.count("<svg") == 2


def test_twenty_examples_show_titles_and_mark_what_was_right(toy_bundle: Bundle) -> None:
    page = page_of(toy_bundle)
    assert page.count('<div class="example">') == 20
    document = json.loads(toy_bundle.file("report/metrics.json").read_text("utf-8"))
    assert len(document["examples"]) == 20
    for example in document["examples"]:
        last, target = (toy_world.TITLES.index(title) for title in (example["history"][-1], example["came_next"]))
        assert toy_world.next_item(toy_world.ITEM_IDS[last]) == toy_world.ITEM_IDS[target]
        if example["rank"] is not None and example["rank"] <= 10:
            assert example["answers"][example["rank"] - 1] == example["came_next"]
    assert f'<span class="hit">{document["examples"][0]["came_next"]}</span>' in page


def test_names_with_markup_are_shown_and_not_read(quick_bundle: Any, tmp_path: Any) -> None:
    title = "<script>alert(1)</script> & co"
    toy_world.items_frame().with_columns(title=toy_world.pl.lit(title)).write_parquet(tmp_path / "items.parquet")
    page = page_of(quick_bundle(items=str(tmp_path / "items.parquet")))
    assert "<script>" not in page
    assert html.escape(title) in page


def test_the_best_is_chosen_with_its_lead() -> None:
    (sentence,) = explain_choice(metrics_with("bert4rec", "bert4rec"), has_text=False)
    assert sentence.startswith("For these data: this model.")
    assert "the next is item-kNN, 0.0010 behind (95% interval -0.0020 to 0.0040)" in sentence


def test_a_lead_that_may_be_chance_is_called_so() -> None:
    sentence, _ = explain_choice(metrics_with("item_knn", "item_knn"), has_text=False)
    assert "may be an accident of these users, but item-kNN is the simpler of the two" in sentence


def test_a_simpler_system_is_chosen_with_the_reason() -> None:
    sentence, standing = explain_choice(metrics_with("item_knn", "bert4rec"), has_text=False)
    assert sentence.startswith("For these data: item-kNN.")
    assert "cannot be told from it: 0.0010 behind, with a 95% interval of -0.0020 to 0.0040 that holds zero" in sentence
    assert standing.startswith("This model stands 0.0000 behind")


@pytest.mark.parametrize(
    ("system", "has_text", "expected"),
    [
        ("item_knn", True, "Item-kNN can never offer it; this model can, by its text."),
        ("bert4rec", True, "This model ranks such items by their text."),
        ("bert4rec", False, "Only texts can rank such items; name metadata_columns."),
    ],
)
def test_new_items_are_spoken_of_where_there_are_some(system: str, has_text: bool, expected: str) -> None:
    said = explain_choice(metrics_with(system, "bert4rec", num_cold=12), has_text)
    assert said[-1] == f"12% of what people chose in the test is new: no training event shows it. {expected}"


@pytest.mark.parametrize(
    "curve", [[(1, 0.5)], [(1, 7.2), (2, 3.3), (40, 3.1)], [(3, 0.0), (6, 0.0)], [(1, 1e-7), (2, 3e-7)]]
)
def test_curves_and_ticks_lie_inside_the_chart(curve: list[tuple[int, float]]) -> None:
    chart = line_chart("loss", {"loss": curve})
    assert chart is not None
    assert 1 <= len(chart.y_ticks) <= 9
    for x, y, _ in chart.curves[0].points:
        assert LEFT <= x <= WIDTH - RIGHT
        assert TOP <= y <= HEIGHT - BOTTOM
    for tick in chart.y_ticks:
        assert TOP - 0.1 <= tick.at <= HEIGHT - BOTTOM + 0.1
    for tick in chart.x_ticks:
        assert LEFT <= tick.at <= WIDTH - RIGHT


def test_nothing_to_draw_is_no_chart() -> None:
    assert line_chart("validation", {"NDCG@10": []}) is None
