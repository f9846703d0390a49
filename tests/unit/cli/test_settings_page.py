"""The documented settings are those that processes read."""

from __future__ import annotations

from pathlib import Path

from clozerec_cli.settings import EVERY_KIND
from clozerec_cli.settings_page import page
from clozerec_core.settings import ENV_PREFIX

DOCUMENTED = Path(__file__).parents[3] / "docs" / "settings.md"


def test_the_page_is_that_of_this_release() -> None:
    assert page() == DOCUMENTED.read_text("utf-8"), "run `clozerec settings > docs/settings.md`"


def test_each_setting_stands_on_it_once() -> None:
    rows = [line for line in page().splitlines() if line.startswith(f"| `{ENV_PREFIX}")]
    names = [row.split("`")[1] for row in rows]
    assert sorted(names) == sorted({ENV_PREFIX + name.upper() for kind in EVERY_KIND for name in kind.model_fields})
    assert not [row for row in rows if "None" in row]
