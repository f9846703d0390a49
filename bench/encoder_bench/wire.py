"""The encoder over gRPC on loopback, client and server in processes of their own."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import toy_world
from tokenizers import Tokenizer

from clozerec.v1 import encoder_pb2
from clozerec_core.bundle import TEXT_MODEL, TOKENIZER, Bundle
from encoder_bench.engine import medians_us, our_engine, rows
from encoder_bench.open_loop import Patience, offer
from encoder_bench.servers import ECHO, ENCODE_SEQUENCES, ENCODE_TEXTS, Call, calling, echo, encoder
from encoder_bench.setting import MAX_ITEMS, NUM_ITEMS, RANDOM, bundle, real_lengths, say

CALLERS, BULK = 64, 64
RATE_S = 3.0
FLOOD_PER_S = 10_000
ALWAYS_ASKING = Patience(deadline_s=10.0, most_under_way=1, most_waiting=1)
TEXT = "a cast iron pan for frying eggs and baking bread over an open fire in the woods"
"""20 word pieces, with the two special ones."""


def single_sequences(scratch: Path) -> None:
    """One sequence a call: one caller, then many."""
    asyncio.run(_single_sequences(scratch))


async def _single_sequences(scratch: Path) -> None:
    made = bundle(scratch)
    lengths = real_lengths("ml-1m")
    lengths = np.full(CALLERS, MAX_ITEMS) if lengths is None else RANDOM.choice(lengths, CALLERS)
    with encoder(made) as port, encoder(made, encoder_batch_tokens=1, encoder_lone_tokens=0) as alone_port:
        async with calling(port, ENCODE_SEQUENCES) as ours:
            for length in (MAX_ITEMS, 5):
                for how, request in in_both_ways(made, [length]):
                    got = await beside_echo(ours, request, 500)
                    what = f"one caller, {length} items by {how}, p50"
                    say(what, f"{got['ours']:.0f} us", got["ours"] / got["echo"], "echo", "at most 1.6")
        requests = [sequences_request([length]) for length in lengths]
        got = await crowd(requests, ours=port, unbatched=alone_port)
        what = f"{CALLERS} callers, {lengths.mean():.0f} items each"
        say(what, f"{got['ours']:.0f}/s", got["ours"] / got["unbatched"], "batches of one", "at least 1.3")


def bulk(scratch: Path) -> None:
    """Calls of 64 sequences, four under way."""
    asyncio.run(_bulk(scratch))


async def _bulk(scratch: Path) -> None:
    made = bundle(scratch)
    lengths = real_lengths("ml-1m")
    lengths = np.full(BULK, MAX_ITEMS) if lengths is None else RANDOM.choice(lengths, BULK)
    ours, sequences = our_engine(scratch / "engine"), rows(lengths)
    with encoder(made) as port:
        async with calling(port, ENCODE_SEQUENCES) as call:
            for how, request in in_both_ways(made, lengths):
                served, raw = [], []
                for _ in range(4):
                    raw.append(BULK * 1e6 / medians_us(4, raw=lambda: ours.intents(sequences))["raw"])
                    served.append(BULK * await rate(4, request, call))
                figure = statistics.median(served)
                what = f"calls of {BULK} sequences by {how}"
                say(what, f"{figure:.0f} seq/s", figure / statistics.median(raw), "the raw engine", "at least 0.9")


def texts(scratch: Path) -> None:
    """A new text, and one that came before."""
    asyncio.run(_texts(scratch))


async def _texts(scratch: Path) -> None:
    made = toy_world.train_toy_bundle(scratch, metadata_columns=["title"], training_epochs=1)
    tokenizer = Tokenizer.from_file(str(made.file(TOKENIZER)))
    ids = np.array([tokenizer.encode(TEXT).ids], np.int64)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(made.file(TEXT_MODEL), options, ["CPUExecutionProvider"])
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    words = TEXT.split()
    with encoder(made) as port:
        async with calling(port, ENCODE_TEXTS) as call:
            answer_len = len(await call(texts_request(TEXT)))
            with echo(answer_len) as echo_port:
                async with calling(echo_port, ECHO) as echoing:
                    served, raw, empty = [], [], []
                    for _ in range(40):
                        shuffled = " ".join(RANDOM.permutation(words))  # a new text of the same length
                        served.append(await timed(call, texts_request(shuffled)))
                        began = time.perf_counter()
                        session.run(None, feeds)
                        raw.append(time.perf_counter() - began)
                        empty.append(await timed(echoing, texts_request(TEXT)))
            figure, reference = statistics.median(served), statistics.median(raw)
            what = f"a new text of {ids.shape[1]} word pieces, p50"
            say(what, f"{figure * 1e3:.2f} ms", figure / reference, "the raw ONNX run", "at most 1.1")
            # A run reads 90 MB of weights, which leave nothing else in the caches: an echo is slower after it.
            floor = reference + statistics.median(empty)
            say("the same", f"{figure * 1e3:.2f} ms", figure / floor, "the raw ONNX run and an echo after it", "")
            got = await beside_echo(call, texts_request(TEXT), 500)
            say("a text that came before, p50", f"{got['ours']:.0f} us", got["ours"] / got["echo"], "echo", "under 2")


def in_both_ways(made: Bundle, lengths: Sequence[int]) -> list[tuple[str, bytes]]:
    """A request with items by their ids, as anybody may send it, and one by rows, as the gateway does."""
    by_rows = [encoder_pb2.Sequence(rows=RANDOM.integers(NUM_ITEMS, size=length).tolist()) for length in lengths]
    request = encoder_pb2.EncodeSequencesRequest(bundle_id=made.bundle_id, sequences=by_rows)
    return [("ids", sequences_request(lengths)), ("rows", request.SerializeToString())]


def sequences_request(lengths: Sequence[int]) -> bytes:
    sequences = [
        encoder_pb2.Sequence(
            tokens=[encoder_pb2.Token(item_id=f"i{row}") for row in RANDOM.integers(NUM_ITEMS, size=length)]
        )
        for length in lengths
    ]
    return encoder_pb2.EncodeSequencesRequest(sequences=sequences).SerializeToString()


def texts_request(text: str) -> bytes:
    return encoder_pb2.EncodeTextsRequest(texts=[text]).SerializeToString()


async def beside_echo(ours: Call, request: bytes, num_calls: int) -> dict[str, float]:
    """Median latency of one caller, in microseconds, and that of an echo of the same sizes; they take turns."""
    with echo(len(await ours(request))) as port:
        async with calling(port, ECHO) as echoing:
            times: dict[str, list[float]] = {"ours": [], "echo": []}
            for _ in range(num_calls // 50):
                for name, call in (("ours", ours), ("echo", echoing)):
                    times[name] += [await timed(call, request) for _ in range(50)]
            return {name: statistics.median(each) * 1e6 for name, each in times.items()}


async def timed(call: Call, request: bytes) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    await call(request)
    return time.perf_counter() - began


async def crowd(requests: Sequence[bytes], **ports: int) -> dict[str, float]:
    """Calls a second with a caller for each request, always asking; the servers take turns.

    The callers are made to cost next to nothing (`open_loop.py`): grpc's own take as much as the server, and on two
    cores it is they that would be measured.
    """
    found: dict[str, list[float]] = {name: [] for name in ports}
    for _ in range(3):
        for name, port in ports.items():
            outcome = await offer(port, ENCODE_SEQUENCES, requests, FLOOD_PER_S, RATE_S, len(requests), ALWAYS_ASKING)
            found[name].append(outcome.num_good / RATE_S)
    return {name: statistics.median(each) for name, each in found.items()}


async def rate(callers: int, request: bytes, call: Call) -> float:
    """Calls a second with so many callers, each asking again once it has its answer."""
    done, began = 0, time.perf_counter()

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() - began < RATE_S:
            await call(request)
            done += 1

    await asyncio.gather(*(caller() for _ in range(callers)))
    return done / (time.perf_counter() - began)
