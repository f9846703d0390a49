"""Files that change under a running process."""

from __future__ import annotations

from pathlib import Path

import pytest

from clozerec_core.errors import UsageError
from clozerec_core.live_file import LiveFiles


def parse_number(raw: bytes) -> int:
    try:
        return int(raw)
    except ValueError:
        raise ValueError("not a number") from None


def test_a_changed_file_is_read_again_also_when_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "number"
    path.write_text("1")
    live = LiveFiles([path], parse_number, check_every_s=0)
    assert live.current() == 1
    path.write_text("22")
    assert live.current() == 22
    (tmp_path / "new").write_text("33")
    (tmp_path / "new").rename(path)
    assert live.current() == 33


def test_a_swapped_symlink_counts_as_a_change_as_in_a_mounted_secret(tmp_path: Path) -> None:
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "number").write_text(version)
    (tmp_path / "data").symlink_to("1")
    live = LiveFiles([tmp_path / "data" / "number"], parse_number, check_every_s=0)
    (tmp_path / "next").symlink_to("2")
    (tmp_path / "next").rename(tmp_path / "data")
    assert live.current() == 2


@pytest.mark.parametrize("broken", ["no number", None])
def test_a_bad_or_missing_file_leaves_the_last_good_value(tmp_path: Path, broken: str | None) -> None:
    path = tmp_path / "number"
    path.write_text("1")
    live = LiveFiles([path], parse_number, check_every_s=0)
    if broken is None:
        path.unlink()
    else:
        path.write_text(broken)
    assert live.current() == 1
    path.write_text("222")
    assert live.current() == 222


def test_a_file_that_is_bad_at_the_start_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="absent: No such file"):
        LiveFiles([tmp_path / "absent"], parse_number)
    (tmp_path / "bad").write_text("secret")
    with pytest.raises(UsageError, match="bad: not a number") as refused:
        LiveFiles([tmp_path / "bad"], parse_number)
    assert "secret" not in refused.value.message
