"""What is kept of rows that were rendered: never an older version, and never more than was allowed."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from clozerec_retriever.rendered import Rendered

ACTIONS = st.lists(st.tuples(st.integers(0, 5), st.sampled_from([(), ("a",), ("a", "b")]), st.booleans()), max_size=60)


@given(ACTIONS, st.integers(1, 8))
def test_what_is_shown_is_always_the_newest_version(
    actions: list[tuple[int, tuple[str, ...], bool]], most: int
) -> None:
    versions: dict[int, int] = defaultdict(int)
    rendered = Rendered(lambda row, fields: f"{row} {versions[row]} {fields}".encode(), most)
    for row, fields, changes in actions:
        versions[row] += changes
        assert rendered.of(row, versions[row], fields) == f"{row} {versions[row]} {fields}".encode()
        assert len(rendered) <= most


def test_a_row_that_changes_again_and_again_is_kept_once() -> None:
    rendered = Rendered(lambda row, fields: b"x", 1_000)
    for version in range(500):
        rendered.of(3, version, ())
    assert len(rendered) == 1


def test_a_row_that_was_rendered_is_not_rendered_again() -> None:
    asked: list[int] = []
    rendered = Rendered(lambda row, fields: bytes([asked.append(row) or row]), 2)
    for row in (1, 2, 1, 2, 3, 2, 1):  # the third makes the first go
        assert rendered.of(row, 0, ()) == bytes([row])
    assert asked == [1, 2, 3, 1]
