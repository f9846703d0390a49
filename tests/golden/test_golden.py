"""Bundles of every published format keep loading and keep their answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from golden.make import GOLDEN_DIR, answers

from clozerec_core.bundle import FORMAT_VERSION, Bundle

VERSIONS = sorted(GOLDEN_DIR.glob("v*"))


def test_every_format_version_has_a_golden_bundle() -> None:
    assert [version.name for version in VERSIONS] == [f"v{number}" for number in range(1, FORMAT_VERSION + 1)]


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_an_old_bundle_keeps_its_answers(version: Path) -> None:
    expected = json.loads((version / "answers.json").read_text())
    found = answers(Bundle.open(version / "bundle"))
    assert {session: [item_id for item_id, _ in items] for session, items in found.items()} == {
        session: [item_id for item_id, _ in items] for session, items in expected.items()
    }
    for session, items in found.items():
        assert [score for _, score in items] == pytest.approx([score for _, score in expected[session]], abs=1e-3)
