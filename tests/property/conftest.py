"""One profile for all property tests: the same examples on every run and machine, and no time limit on any of them."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "clozerec",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("clozerec")
