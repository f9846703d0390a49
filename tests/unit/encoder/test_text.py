"""Texts: each is run once however often it is asked for, and the cache forgets the one that was longest unused."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from clozerec_core import metrics
from clozerec_core.bundle import Bundle
from clozerec_encoder.settings import EncoderSettings
from clozerec_encoder.text import TextEngine, Texts
from clozerec_encoder.text_cache import EmbeddedText, TextCache


def test_the_cache_forgets_the_text_that_was_longest_unused() -> None:
    cache = TextCache(max_texts=2)
    embedded = {text: EmbeddedText(np.zeros(1, np.float32), truncated=False) for text in ("a", "b", "c")}
    cache.put("a", embedded["a"])
    cache.put("b", embedded["b"])
    assert cache.get("a") is embedded["a"]
    cache.put("c", embedded["c"])
    assert [cache.get(text) for text in ("a", "b", "c")] == [embedded["a"], None, embedded["c"]]


def test_a_cache_of_no_size_keeps_nothing() -> None:
    cache = TextCache(max_texts=0)
    cache.put("a", EmbeddedText(np.zeros(1, np.float32), truncated=False))
    assert cache.get("a") is None


class CountingEngine(TextEngine):
    """The real one, which also writes down what it runs."""

    ran: list[str]

    def embed(self, texts: list[str]) -> list[EmbeddedText]:  # type: ignore[override]
        self.ran.extend(texts)
        return super().embed(texts)


@pytest.fixture
def engine(toy_text_bundle: Bundle) -> CountingEngine:
    info = toy_text_bundle.manifest.text
    assert info is not None
    made = CountingEngine(toy_text_bundle, info, EncoderSettings(bundle=toy_text_bundle.path))
    made.ran = []
    return made


@pytest.fixture
def texts(engine: CountingEngine, toy_text_bundle: Bundle) -> Iterator[Texts]:
    made = Texts(engine, EncoderSettings(bundle=toy_text_bundle.path))
    yield made
    made.close()


def cache_count(result: str) -> float:
    return metrics.REGISTRY.get_sample_value("clozerec_encoder_texts_total", {"cache": result}) or 0.0


async def test_a_text_is_run_once_for_all_who_ask_and_counted(texts: Texts, engine: CountingEngine) -> None:
    hits, misses = cache_count("hit"), cache_count("miss")
    first = await texts.embed(["red shoes", "blue jeans", "red shoes"], "x")
    again = await texts.embed(["blue jeans"], "y")
    np.testing.assert_array_equal(first["blue jeans"].content, again["blue jeans"].content)
    assert sorted(engine.ran) == ["blue jeans", "red shoes"]
    assert (cache_count("hit") - hits, cache_count("miss") - misses) == (1, 2)


async def test_callers_who_ask_for_the_same_new_text_at_once_cause_one_run(
    texts: Texts, engine: CountingEngine
) -> None:
    answers = await asyncio.gather(*(texts.embed(["green tea"], str(caller)) for caller in range(20)))
    assert engine.ran == ["green tea"]
    assert all(np.array_equal(each["green tea"].content, answers[0]["green tea"].content) for each in answers)


def test_a_text_has_the_same_vector_alone_and_among_others(engine: CountingEngine) -> None:
    lot = ["tea", "a much longer text about a pot of green tea " * 5, "red shoes", "tea " * 300]
    together = engine.embed(lot)
    assert [each.truncated for each in together] == [False, False, False, True]
    for text, among in zip(lot, together, strict=True):
        np.testing.assert_allclose(engine.embed([text])[0].content, among.content, atol=1e-5)


BURST = """
import sys
from pathlib import Path

from clozerec_core.bundle import Bundle
from clozerec_encoder.settings import EncoderSettings
from clozerec_encoder.text import TextEngine

def kib(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))

bundle = Bundle.open(Path(sys.argv[1]))
engine = TextEngine(bundle, bundle.manifest.text, EncoderSettings(bundle=bundle.path, text_batch_tokens=4096))
for _ in range(3):
    engine.embed(["a short text"])
before = kib("VmRSS")
engine.embed([f"{number} " + "long words " * 1000 for number in range(16)])
print(before, kib("VmHWM"), kib("VmRSS"))
"""


def test_memory_that_a_burst_of_long_texts_took_is_given_back(toy_text_bundle: Bundle) -> None:
    """In a process of its own, with batches sixteen times as large as by default, so much is to be given back."""
    printed = subprocess.run(
        [sys.executable, "-c", BURST, str(toy_text_bundle.path)], capture_output=True, text=True, check=True
    ).stdout
    before, peak, after = map(int, printed.split())
    assert peak - before > 100_000
    assert after - before < (peak - before) / 4
