"""What each extra brings along: services must install without the engines of others."""

from __future__ import annotations

from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HEAVY = {"torch", "sentence-transformers", "transformers", "faiss-cpu", "onnxruntime"}


def closure(name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]]) -> set[str]:
    """Names of all distributions that installing `name[extras]` brings here, itself included."""
    if (name, extras) in seen:
        return set()
    seen.add((name, extras))
    found = {name}
    for line in requires(name) or ():
        requirement = Requirement(line)
        wanted = requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in extras or {""}
        )
        if wanted:
            found |= closure(canonicalize_name(requirement.name), frozenset(requirement.extras), seen)
    return found


@pytest.mark.parametrize(
    ("extra", "allowed"),
    [
        ("gateway", set()),
        ("encoder", {"onnxruntime"}),
        ("retriever", {"faiss-cpu"}),
        ("trainer", {"torch", "sentence-transformers", "transformers", "faiss-cpu"}),
    ],
)
def test_an_extra_brings_its_own_engine_and_no_other(extra: str, allowed: set[str]) -> None:
    assert closure("clozerec", frozenset({extra}), set()) & HEAVY == allowed


def test_the_bare_install_has_no_engine() -> None:
    assert not closure("clozerec", frozenset(), set()) & HEAVY
