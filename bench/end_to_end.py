"""How far is an answer from an empty call? `serve all` beside an echo server, three processes beside an empty chain.

    python bench/end_to_end.py

Four servers in processes of their own, one client: `serve all`; an echo server that returns a canned answer of the same
size; gateway, encoder and retriever as three processes; an empty gateway that calls A, then B, with messages of the
same sizes. Queries are mixed: each type a quarter, some filtered. Reported are ratios; the references are measured in
between, so that a busy machine weighs on both.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
from serving_bundle import serving_bundle

from clozerec.v1 import encoder_pb2, recommender_pb2, retriever_pb2
from clozerec.v1.recommender_pb2_grpc import RecommenderServiceStub
from clozerec_core.bundle import Bundle
from clozerec_core.history_file import HistoryFile

ROUNDS, CALLS = 5, 400
IN_FLIGHT, SECONDS = 32, 3.0
PROMISED = {
    "serve all: p50": 2.0,
    "serve all: calls a second at 32 in flight": 0.35,
    "serve all: p99 at half load": 4.0,
    "three processes: p50": 1.35,
}

RECOMMEND, CALL = "/clozerec.v1.RecommenderService/Recommend", "/bench.Echo/Call"

ECHO = """
import asyncio, sys
import grpc
sys.path.insert(0, "bench")
from end_to_end import serve_echo
asyncio.run(serve_echo(sys.argv[1:]))
"""


async def serve_echo(arguments: list[str]) -> None:
    """An empty server: answers with `size` bytes after calling each target with messages of given sizes."""
    size, hops = int(arguments[0]), [hop.split(",") for hop in arguments[1:]]
    calls = []
    for target, request_size in hops:
        channel = grpc.aio.insecure_channel(target)
        calls.append((channel.unary_unary(CALL), bytes(int(request_size))))
    answer = bytes(size)

    async def call(_: bytes, context: grpc.aio.ServicerContext) -> bytes:
        for method, request in calls:
            await method(request, timeout=5)
        return answer

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(call)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", {"Call": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"event": "serving", "grpc_port": port}), file=sys.stderr, flush=True)
    await server.wait_for_termination()


def started(stack: ExitStack, command: list[str], services: int = 1) -> int:
    """Start a process; its gRPC port once it serves."""
    process = subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True)
    stack.callback(process.wait)
    stack.callback(process.kill)
    assert process.stderr is not None
    for line in process.stderr:
        event = json.loads(line) if line.startswith("{") else {}
        if event.get("event") == "serving" and "grpc_port" in event:
            return int(event["grpc_port"])
    raise SystemExit("a server did not start")


def queries(bundle: Bundle) -> list[recommender_pb2.RecommendRequest]:
    """Each type a quarter; a third of them filtered where there are genres."""
    rng = random.Random(1)
    ids = list(bundle.catalogue.item_ids)
    users = [str(n) for n in range(1, 2_000)]
    cells = (bundle.catalogue.cells(row).get("genres") for row in range(len(ids)))
    genres = [cell[0] for cell in cells if isinstance(cell, tuple) and cell]
    histories = HistoryFile(bundle.file("histories.sqlite"))
    users = [user for user in users if histories.read(user)]
    made = []
    for number in range(400):
        request = recommender_pb2.RecommendRequest(query_type=1 + number % 4, top_k=10)
        match number % 4:
            case 0:
                request.item_id = rng.choice(ids)
            case 1:
                request.user_id = rng.choice(users)
            case 2:
                request.user_id, request.item_id = rng.choice(users), rng.choice(ids)
            case 3:
                request.session_items.extend(rng.sample(ids, rng.randrange(1, 20)))
        if genres and number % 3 == 0:
            request.filters.update({"meta.genres": rng.choice(genres)})
        made.append(request)
    return made


Ask = Callable[[int], Awaitable[object]]


async def latencies(ask: Ask, calls: int) -> list[float]:
    """Seconds of calls one after the other."""
    taken = []
    for number in range(calls):
        began = time.perf_counter()
        await ask(number)
        taken.append(time.perf_counter() - began)
    return taken


async def throughput(ask: Ask) -> float:
    """Calls a second with 32 in flight."""
    done, end = 0, time.perf_counter() + SECONDS

    async def worker(first: int) -> None:
        nonlocal done
        number = first
        while time.perf_counter() < end:
            await ask(number)
            number += IN_FLIGHT
            done += 1

    await asyncio.gather(*(worker(first) for first in range(IN_FLIGHT)))
    return done / SECONDS


async def at_rate(ask: Ask, rate_per_s: float) -> list[float]:
    """Seconds of calls that arrive at a rate, whether earlier ones are done or not."""
    taken: list[float] = []
    rng = random.Random(3)

    async def one(number: int) -> None:
        began = time.perf_counter()
        await ask(number)
        taken.append(time.perf_counter() - began)

    tasks, due = [], time.perf_counter()
    for number in range(int(rate_per_s * SECONDS)):
        due += rng.expovariate(rate_per_s)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.ensure_future(one(number)))
    await asyncio.gather(*tasks)
    return taken


def percentile(taken: list[float], share: float) -> float:
    return sorted(taken)[min(len(taken) - 1, int(share * len(taken)))]


async def measure(bundle: Bundle, ports: dict[str, int], asked: list[recommender_pb2.RecommendRequest]) -> None:
    channels = {name: grpc.aio.insecure_channel(f"127.0.0.1:{port}") for name, port in ports.items()}
    raw = [request.SerializeToString() for request in asked]

    def asking(name: str, method: str) -> Ask:
        """Bytes to bytes: what the caller makes of an answer takes the same time whoever gave it."""
        call = channels[name].unary_unary(method)
        return lambda number: call(raw[number % len(raw)], timeout=5)

    asks = {
        "all": asking("all", RECOMMEND),
        "echo": asking("echo", CALL),
        "three": asking("three", RECOMMEND),
        "chain": asking("chain", CALL),
    }
    taken: dict[str, list[float]] = {name: [] for name in asks}
    for ask in asks.values():
        await latencies(ask, CALLS)  # caches and connections
    for _ in range(ROUNDS):
        for name, ask in asks.items():
            taken[name] += await latencies(ask, CALLS)
    p50 = {name: statistics.median(each) for name, each in taken.items()}
    rates = {name: statistics.median([await throughput(asks[name]) for _ in range(3)]) for name in ("all", "echo")}
    half = await at_rate(asks["all"], rates["all"] / 2)
    ratios = {
        "serve all: p50": p50["all"] / p50["echo"],
        "serve all: calls a second at 32 in flight": rates["all"] / rates["echo"],
        "serve all: p99 at half load": percentile(half, 0.99) / percentile(half, 0.5),
        "three processes: p50": p50["three"] / p50["chain"],
    }
    print(f"p50: echo {p50['echo'] * 1e3:.2f} ms, serve all {p50['all'] * 1e3:.2f}, ", end="")
    print(f"empty chain {p50['chain'] * 1e3:.2f}, three processes {p50['three'] * 1e3:.2f}")
    print(f"calls a second: echo {rates['echo']:.0f}, serve all {rates['all']:.0f}")
    for name, ratio in ratios.items():
        is_least = "calls a second" in name
        holds = ratio >= PROMISED[name] if is_least else ratio <= PROMISED[name]
        bound = f"at {'least' if is_least else 'most'} {PROMISED[name]}"
        print(f"{name:45} {ratio:6.2f}   {bound:14} {'holds' if holds else 'MISSED'}")
    for channel in channels.values():
        await channel.close()


def sizes(bundle: Bundle, port: int, asked: list[recommender_pb2.RecommendRequest]) -> tuple[int, int, int, int, int]:
    """Median bytes of an answer, and of the requests and responses between the services."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = RecommenderServiceStub(channel)
        answers = [stub.Recommend(request, timeout=10).ByteSize() for request in asked[:80]]
    answer = int(statistics.median(answers))
    encode = encoder_pb2.EncodeSequencesRequest(
        bundle_id=bundle.bundle_id, sequences=[encoder_pb2.Sequence(rows=range(1_000, 1_030))]
    ).ByteSize()
    dim = bundle.manifest.model.dim
    search = retriever_pb2.SearchRequest(
        bundle_id=bundle.bundle_id, intent=[0.1] * dim, exclude_rows=range(1_000, 1_100)
    ).ByteSize()
    return answer, encode, 4 * dim + 40, search, answer


def main() -> None:
    bundle = serving_bundle()
    asked = queries(bundle)
    free = ["--grpc-port", "0", "--bundle", str(bundle.path)]
    os.environ["CLOZEREC_METRICS_PORT"] = "0"
    with ExitStack() as stack:
        directory = stack.enter_context(TemporaryDirectory())

        def clozerec(part: str, *more: str) -> int:
            os.environ["CLOZEREC_STATE_DIR"] = str(Path(directory) / f"{part}-{len(more)}")
            return started(stack, ["-m", "clozerec_cli", "serve", part, *free, *more])

        everything = clozerec("all", "--http-port", "0")
        encoder, retriever = clozerec("encoder"), clozerec("retriever")
        three = clozerec(
            "gateway", "--http-port", "0", "--encoder-target", f"127.0.0.1:{encoder}",
            "--retriever-target", f"127.0.0.1:{retriever}",
        )  # fmt: skip
        answer, encode, encoded, search, found = sizes(bundle, everything, asked)
        echo = started(stack, ["-c", ECHO, str(answer)])
        a, b = started(stack, ["-c", ECHO, str(encoded)]), started(stack, ["-c", ECHO, str(found)])
        chain = started(stack, ["-c", ECHO, str(answer), f"127.0.0.1:{a},{encode}", f"127.0.0.1:{b},{search}"])
        ports = {"all": everything, "echo": echo, "three": three, "chain": chain}
        asyncio.run(measure(bundle, ports, asked))


if __name__ == "__main__":
    main()
