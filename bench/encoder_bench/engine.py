"""The engine alone, on one thread."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from bundle_factory import random_vectors

from clozerec_encoder.engine import RowSequence, SequenceEngine
from clozerec_encoder.settings import EncoderSettings
from clozerec_trainer.model import SequenceNetwork
from encoder_bench.setting import MAX_ITEMS, NUM_ITEMS, RANDOM, SPEC, bundle, network, real_lengths, say

MEMORY_SEQUENCES = 1_000_000


class Reference(torch.nn.Module):
    """What a straight deployment runs: every position, padded to the full length."""

    def __init__(self, module: SequenceNetwork) -> None:
        super().__init__()
        self.module = module

    def forward(self, vectors_BLD: torch.Tensor, is_mask_BL: torch.Tensor, is_pad_BL: torch.Tensor) -> torch.Tensor:
        return self.module.answer(self.module(vectors_BLD, is_mask_BL, is_pad_BL).at((slice(None), -1)))


@torch.inference_mode()
def single_sequences(scratch: Path) -> None:
    """One sequence of 50 items, and one of 5."""
    torch.set_num_threads(1)
    eager, ours = Reference(network()), our_engine(scratch)
    compiled, plain = torch.compile(eager), plain_session(eager, scratch)
    for length, wanted in ((50, "at most 0.5"), (5, "at most 0.25")):
        inputs, sequences = padded([length]), rows([length])
        feeds = as_feeds(inputs)
        got = medians_us(
            100,
            ours=lambda sequences=sequences: ours.intents(sequences),
            plain=lambda feeds=feeds: plain.run(None, feeds),
            eager=lambda inputs=inputs: eager(*inputs),
            compiled=lambda inputs=inputs: compiled(*inputs),
        )
        what, figure = f"one sequence of {length}", f"{got['ours']:.0f} us"
        say(what, figure, got["ours"] / got["plain"], "plain ONNX Runtime", wanted)
        say(what, figure, got["ours"] / got["eager"], "torch eager")
        say(what, figure, got["ours"] / got["compiled"], "torch.compile")


@torch.inference_mode()
def batches_of_real_lengths(scratch: Path) -> None:
    """32 sequences at a time."""
    torch.set_num_threads(1)
    eager, ours = Reference(network()), our_engine(scratch)
    compiled, plain = torch.compile(eager), plain_session(eager, scratch)
    for data, wanted in (("ml-1m", "at least 2.2"), ("amazon-beauty", "at least 4")):
        lengths = real_lengths(data)
        if lengths is None:
            print(f"32 of {data}: skipped, ../shared/data/{data} is not there")
            continue
        sample = RANDOM.choice(lengths, 32)
        inputs, trimmed, sequences = padded(sample), padded(sample, int(sample.max()) + 1), rows(sample)
        feeds = as_feeds(inputs)
        got = medians_us(
            20,
            ours=lambda sequences=sequences: ours.intents(sequences),
            eager=lambda inputs=inputs: eager(*inputs),
            trimmed=lambda trimmed=trimmed: eager(*trimmed),
            compiled=lambda inputs=inputs: compiled(*inputs),
            plain=lambda feeds=feeds: plain.run(None, feeds),
        )
        what, figure = f"32 of {data}, {sample.mean():.1f} items each", f"{32e6 / got['ours']:.0f}/s"
        say(what, figure, got["eager"] / got["ours"], "torch eager's throughput", wanted)
        say(what, figure, got["trimmed"] / got["ours"], "torch eager's, padded to the longest of the batch")
        say(what, figure, got["compiled"] / got["ours"], "torch.compile's")
        say(what, figure, got["plain"] / got["ours"], "plain ONNX Runtime's")


def memory(scratch: Path) -> None:
    """A million sequences of random lengths, in batches of random sizes."""
    ours = our_engine(scratch)
    done, marks = 0, []
    while done < MEMORY_SEQUENCES:
        batch = rows(RANDOM.integers(1, MAX_ITEMS + 1, size=int(RANDOM.integers(1, 129))))
        ours.intents(batch)
        done += len(batch)
        if done >= MEMORY_SEQUENCES * (len(marks) + 1) / 10:
            marks.append(resident_mb())
    growth = marks[-1] / marks[0] - 1
    say(
        "memory after a million sequences",
        f"{marks[-1]:.0f} MB",
        1 + growth,
        "that after the first tenth",
        "under 1.02",
    )


def our_engine(scratch: Path) -> SequenceEngine:
    made = bundle(scratch)
    run_tokens = EncoderSettings(bundle=made.path).encoder_run_tokens
    return SequenceEngine(made, random_vectors(NUM_ITEMS, SPEC.dim), run_tokens, threads=1, device="cpu")


def plain_session(reference: Reference, scratch: Path) -> onnxruntime.InferenceSession:
    """An export of the module, as the exporter makes it, with ONNX Runtime's defaults."""
    path, batch = scratch / "plain.onnx", {0: torch.export.Dim("batch")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            reference.eval(),
            padded([MAX_ITEMS, MAX_ITEMS]),
            path,
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=["vectors", "is_mask", "is_pad"],
            output_names=["intent"],
            dynamic_shapes=(batch, batch, batch),
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])


def padded(lengths: Sequence[int], positions: int = SPEC.num_positions) -> tuple[torch.Tensor, ...]:
    """Inputs of the reference: items right-aligned, the mask last."""
    batch = len(lengths)
    vectors = torch.nn.functional.normalize(torch.randn(batch, positions, SPEC.dim), dim=-1)
    is_mask = torch.zeros(batch, positions, dtype=torch.bool)
    is_mask[:, -1] = True
    is_pad = torch.arange(positions)[None, :] < positions - 1 - torch.as_tensor(np.array(lengths))[:, None]
    vectors[is_mask | is_pad] = 0
    return vectors, is_mask, is_pad


def as_feeds(inputs: tuple[torch.Tensor, ...]) -> dict[str, np.ndarray]:
    return dict(zip(("vectors", "is_mask", "is_pad"), (each.numpy() for each in inputs), strict=True))


def rows(lengths: Sequence[int]) -> list[RowSequence]:
    return [RowSequence(RANDOM.integers(NUM_ITEMS, size=length).tolist(), int(length)) for length in lengths]


def medians_us(rounds: int, **runs: Callable[[], object]) -> dict[str, float]:
    """The median of each, in microseconds; they take turns, so that a busy moment meets them all."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(), run()
    for _ in range(rounds):
        for name, run in runs.items():
            for _ in range(5):
                began = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(each) * 1e6 for name, each in times.items()}


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20
