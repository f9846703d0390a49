"""Alerts and dashboard speak of metrics that a real gateway shows, and each alert has its entry in the runbook."""

from __future__ import annotations

import json
import re
from pathlib import Path

import aiohttp
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from clozerec_core import metrics
from integration.conftest import Gateway

REPOSITORY = Path(__file__).parents[2]
MONITORING = REPOSITORY / "deploy" / "k8s" / "components" / "monitoring"
METRIC = re.compile(r"\b(?:clozerec|grpc_server|process)_[a-z_]+\b")
LABELS = re.compile(r"\{([^}]*)\}")
SUFFIX = re.compile(r"_(bucket|sum|count|total)$")
NOT_SHOWN = {"process_virtual_memory_bytes", "process_start_time_seconds"}
"""Every process exposes them."""


def alerts() -> list[dict[str, str]]:
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["spec"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> list[str]:
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    shown = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    return [*shown, *(rule["expr"] for rule in alerts())]


@pytest.mark.parametrize("expression", expressions())
def test_every_metric_and_label_is_in_a_scrape(scraped: dict[str, set[str]], expression: str) -> None:
    names = METRIC.findall(LABELS.sub("", re.sub(r"by \([^)]*\)", "", expression)))
    assert names
    for name in names:
        assert SUFFIX.sub("", name) in scraped or name in scraped, name
    for found in re.finditer(rf"({METRIC.pattern})\{{([^}}]*)\}}", expression):
        used = {part.split("=")[0].strip("!~ ") for part in found[2].split('",') if part}
        known = scraped.get(found[1], set()) | scraped.get(SUFFIX.sub("", found[1]), set())
        # A family without samples yet shows no labels.
        assert not known or used <= known | {"job", "le"}, (expression, used - known)


def test_every_metric_of_ours_is_shown_or_watched() -> None:
    used = {SUFFIX.sub("", name) for expression in expressions() for name in METRIC.findall(expression)}
    assert {family.name for family in metrics.REGISTRY.collect()} - used <= NOT_SHOWN


def test_each_alert_has_one_entry_in_the_runbook_and_leads_there() -> None:
    headings = re.findall(r"^## (\w+)$", (REPOSITORY / "docs" / "runbook.md").read_text(), re.MULTILINE)
    assert headings == [rule["alert"] for rule in alerts()]
    for rule in alerts():
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"  # type: ignore[index]


@pytest.fixture
async def scraped(gateway: Gateway) -> dict[str, set[str]]:
    """Name of each sample and family to its label names, from a gateway that has answered a query."""
    await gateway.recommend(query_type="sequential", session_items=["a"])
    await gateway.post("/v1/recommend", {"query_type": "sequential", "session_items": ["a"]})
    async with aiohttp.ClientSession() as session, session.get(gateway.url + "/metrics") as response:
        text = await response.text()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        found.setdefault(family.name, set())
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
            found[family.name].update(sample.labels)
    return found
