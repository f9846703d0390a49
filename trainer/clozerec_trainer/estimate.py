"""How long training will take and how much memory it needs, told before the first epoch, from a few trial steps."""

from __future__ import annotations

import math
import os
import resource
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from clozerec_core.catalogue import SpecialRows
from clozerec_trainer.advice import Advice
from clozerec_trainer.loop import draw_batch
from clozerec_trainer.model import HybridBert4Rec
from clozerec_trainer.objective import Objective
from clozerec_trainer.payload import Payload
from clozerec_trainer.progress import Reporter
from clozerec_trainer.sequences import WindowPlan

_TRIAL_STEPS = 3
LONG_S = 3600.0
"""From here on there is advice on time."""
_FULL = 0.8
"""Share of the memory that may be used before there is advice on it."""


@dataclass(frozen=True)
class Estimate:
    """Of a whole training."""

    seconds: float
    peak_bytes: int
    available_bytes: int

    def say(self, reporter: Reporter) -> None:
        """Tell it, and what to lower where it is too much."""
        reporter.say("estimate", **self.facts())
        for each in self.advice():
            reporter.say("advice", symptom=each.symptom, seen=each.seen, change=each.change)

    def facts(self) -> dict[str, float]:
        """In units for people."""
        return {
            "minutes": round(self.seconds / 60, 1),
            "memory_gib": round(self.peak_bytes / 2**30, 2),
            "available_gib": round(self.available_bytes / 2**30, 1),
        }

    def advice(self) -> list[Advice]:
        """What to lower, where it is too much."""
        found = []
        if self.seconds > LONG_S:
            found.append(
                Advice(
                    "long",
                    f"Training will take about {self.seconds / 3600:.1f} hours on this machine.",
                    "Lower hidden_size, model_depth or max_sequence_length, raise batch_size or sequence_stride, set "
                    "negative_samples to 100, or use a GPU.",
                )
            )
        if self.peak_bytes > _FULL * self.available_bytes:
            found.append(
                Advice(
                    "memory",
                    f"Training will need about {self.peak_bytes / 2**30:.1f} of {self.available_bytes / 2**30:.1f} GiB "
                    "of memory.",
                    "Lower batch_size or max_sequence_length; with negative_samples: 0, set it to 100.",
                )
            )
        return found


def estimate(
    model: HybridBert4Rec,
    plan: WindowPlan,
    trained_rows: Tensor,
    payload: Payload,
    num_epochs: int,
    validation_s: float,
) -> Estimate:
    """Run some steps without an update; the weights and the random state are as before.

    Args:
        model, plan, trained_rows, num_epochs: as in `fit`.
        validation_s: seconds of a validation.

    The memory is the peak of the process so far, and what the optimiser and the best epoch's copy will add.
    """
    objective = Objective(model, trained_rows, payload.negative_samples, payload.behaviour_dropout)
    generator, special = torch.Generator().manual_seed(payload.seed), SpecialRows(model.num_items)
    windows, durations = plan.windows(), []
    steps_per_epoch = math.ceil(len(windows) / payload.batch_size)
    with torch.random.fork_rng(devices=[]):
        model.train()
        for chosen in windows.batches(steps_per_epoch, generator)[:_TRIAL_STEPS]:
            began = time.monotonic()
            batch = draw_batch(windows, chosen, special, payload, generator).to(trained_rows.device)
            objective.loss(batch, generator).backward()  # type: ignore[no-untyped-call]
            durations.append(time.monotonic() - began)
        peak_bytes = _peak_bytes(trained_rows.device)
        model.zero_grad(set_to_none=True)
    num_validations = math.ceil(num_epochs / payload.validate_every)
    weights_bytes = sum(each.numel() * each.element_size() for each in model.parameters())
    return Estimate(
        seconds=statistics.mean(durations) * steps_per_epoch * num_epochs + validation_s * num_validations,
        peak_bytes=peak_bytes + 3 * weights_bytes,  # two moments, and the best epoch's weights
        available_bytes=_available_bytes(trained_rows.device),
    )


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _available_bytes(device: torch.device) -> int:
    """Of the device, or of the machine or the container's limit, the smaller of the two."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return machine if text == "max" else min(machine, int(text))
