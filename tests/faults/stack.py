"""The three services as real processes, a client that asks at a fixed rate, and ways to break what lies between.

Answers are compared with those that the healthy stack gave to the same questions: an answer is right, flagged as a
fallback, or wrong.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np

from clozerec.v1 import recommender_pb2
from clozerec.v1.recommender_pb2_grpc import RecommenderServiceStub

Caller = tuple[grpc.ChannelCredentials, str]

START_TIMEOUT_S = 60.0
DEADLINE_S = 2.0
HANG_S = DEADLINE_S + 1.0
"""A call that is not over by then has hung, whatever it says afterwards."""

FALLBACK_NONE = recommender_pb2.FALLBACK_NONE


class ServiceProcess:
    """`clozerec serve PART`; `restart` brings it back on the same port."""

    def __init__(self, part: str, *words: str, **variables: str) -> None:
        self.part = part
        self._words = words
        self._variables = variables
        self._port = "0"
        self._http_port = "0"
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self.port = 0
        self.http_port = 0
        self.metrics_port = 0
        self.events: list[dict[str, object]] = []

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Returns once it says that it serves."""
        ports = ["--grpc-port", self._port, "--metrics-port", "0"]
        if self.part in ("gateway", "all"):
            ports += ["--http-port", self._http_port]
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "clozerec_cli", "serve", self.part, *ports, *self._words),
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **self._variables},
            limit=2**22,
        )
        ready = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read(ready))
        async with asyncio.timeout(START_TIMEOUT_S):
            await ready
        self._port, self._http_port = str(self.port), str(self.http_port)

    async def _read(self, ready: asyncio.Future[None]) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            try:
                event = json.loads(line)
            except ValueError:
                event = {"event": "unreadable", "line": line.decode(errors="replace")}
            self.events.append(event)
            self.metrics_port = event.get("metrics_port", self.metrics_port)
            self.http_port = event.get("http_port", self.http_port)
            self.port = event.get("grpc_port", self.port)
            waits_for = "http_port" if self.part in ("gateway", "all") else "grpc_port"
            if event["event"] == "serving" and waits_for in event and not ready.done():
                ready.set_result(None)
        if not ready.done():
            ready.set_exception(RuntimeError(f"{self.part} ended: {self.events[-3:]}"))

    def send(self, number: signal.Signals) -> None:
        """Signal it."""
        assert self._process is not None
        self._process.send_signal(number)

    async def wait(self) -> int:
        """Its exit code, once it has ended."""
        assert self._process is not None
        assert self._reader is not None
        code = await self._process.wait()
        await self._reader
        return code

    async def stop(self) -> None:
        """End it, gently if it listens."""
        if self._process is None or self._process.returncode is not None:
            return
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(20):
                await self.wait()
        except TimeoutError:
            self.send(signal.SIGKILL)
            await self.wait()

    async def restart(self) -> None:
        """The same again, on the same port."""
        await self.stop()
        await self.start()

    def memory_mb(self) -> float:
        """Resident."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def descriptors(self) -> int:
        """Open files and sockets."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())


class Wire:
    """A TCP proxy between two services that can fall silent: what is sent is swallowed, nothing is refused."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.delay_s = 0.0
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """From now on nothing passes, in either direction."""
        self._open.clear()

    def mend(self) -> None:
        """What waited passes, and what comes."""
        self._open.set()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._open.wait()
        try:
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.close()
            return
        for source, sink in ((reader, to_writer), (to_reader, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while piece := await source.read(65536):
                await self._open.wait()
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                sink.write(piece)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()


@dataclass
class Outcome:
    """What became of the calls of one run."""

    right: int = 0
    fallback: int = 0
    wrong: int = 0
    hung: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)
    wrong_examples: list[str] = field(default_factory=list)

    @property
    def calls(self) -> int:
        return self.right + self.fallback + self.wrong + sum(self.codes.values())

    @property
    def errors(self) -> int:
        return sum(self.codes.values())

    def percentile_ms(self, percent: float) -> float:
        return float(np.percentile(self.latencies_s, percent)) * 1000 if self.latencies_s else float("nan")

    def __str__(self) -> str:
        codes = ", ".join(f"{code} {count}" for code, count in sorted(self.codes.items()))
        return (
            f"{self.calls} calls: {self.right} right, {self.fallback} fallback, {self.wrong} wrong, {self.hung} hung"
            f"{', ' + codes if codes else ''}; p50 {self.percentile_ms(50):.1f} ms, p99 {self.percentile_ms(99):.1f} ms"
        )


class Asker:
    """Asks a gateway questions whose right answers it learned while all was well."""

    def __init__(
        self, target: str, questions: Sequence[recommender_pb2.RecommendRequest], caller: Caller | None = None
    ) -> None:
        options = (("grpc.use_local_subchannel_pool", 1),)
        if caller is None:
            self._channel = grpc.aio.insecure_channel(target, options)
            self._metadata: tuple[tuple[str, str], ...] = ()
        else:
            self._channel = grpc.aio.secure_channel(target, caller[0], options)
            self._metadata = (("authorization", f"Bearer {caller[1]}"),)
        self._stub = RecommenderServiceStub(self._channel)
        self._questions = questions
        self._right: list[tuple[str, ...]] = []

    async def close(self) -> None:
        await self._channel.close()

    async def learn(self) -> None:
        """Take the present answers as right."""
        answers = [
            await self._stub.Recommend(question, timeout=10, metadata=self._metadata) for question in self._questions
        ]
        assert all(answer.items for answer in answers)
        self._right = [_ids(answer) for answer in answers]

    async def ask(self, number: int, outcome: Outcome) -> None:
        """One call."""
        index = number % len(self._questions)
        began = time.monotonic()
        try:
            answer = await self._stub.Recommend(self._questions[index], timeout=DEADLINE_S, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            outcome.codes[error.code().name] += 1
        else:
            if answer.fallback != FALLBACK_NONE:
                outcome.fallback += 1
            elif _ids(answer) == self._right[index]:
                outcome.right += 1
            else:
                outcome.wrong += 1
                outcome.wrong_examples.append(f"{_ids(answer)} instead of {self._right[index]}")
        took_s = time.monotonic() - began
        outcome.latencies_s.append(took_s)
        outcome.hung += took_s > HANG_S

    async def at_rate(self, per_s: float, duration_s: float, outcome: Outcome) -> None:
        """Open loop: calls begin on time, whatever became of those before."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as calls:
            for number in range(int(per_s * duration_s)):
                await asyncio.sleep(max(0.0, began + number / per_s - time.monotonic()))
                calls.create_task(self.ask(number, outcome))

    async def until_right(self, within_s: float) -> float:
        """Seconds until an answer is right again.

        Raises:
            TimeoutError: it takes longer.
        """
        began = time.monotonic()
        async with asyncio.timeout(within_s):
            while True:
                outcome = Outcome()
                await self.ask(0, outcome)
                if outcome.right:
                    return time.monotonic() - began

    async def capacity(self, in_flight: int = 32, duration_s: float = 3.0) -> float:
        """Closed loop: calls a second that this machine can do, client included."""
        outcome = Outcome()
        ends = time.monotonic() + duration_s

        async def worker(first: int) -> None:
            number = first
            while time.monotonic() < ends:
                await self.ask(number, outcome)
                number += in_flight

        await asyncio.gather(*(worker(first) for first in range(in_flight)))
        return outcome.right / duration_s


def _ids(answer: recommender_pb2.RecommendResponse) -> tuple[str, ...]:
    return tuple(item.item_id for item in answer.items)


@dataclass
class Stack:
    """Two encoders, a retriever and a gateway."""

    encoders: list[ServiceProcess]
    retriever: ServiceProcess
    gateway: ServiceProcess
    to_encoder: Wire
    to_retriever: Wire
    asker: Asker
    state_dir: Path

    @property
    def processes(self) -> list[ServiceProcess]:
        return [*self.encoders, self.retriever, self.gateway]


@asynccontextmanager
async def stack(
    bundle: Path,
    scratch: Path,
    questions: Sequence[recommender_pb2.RecommendRequest],
    num_encoders: int = 1,
    by_wire: bool = False,
    caller: Caller | None = None,
    **variables: str,
) -> AsyncIterator[Stack]:
    """A running stack.

    Args:
        bundle: directory or link.
        scratch: for state.
        questions: asked in turn.
        num_encoders: replicas, which the gateway spreads its calls over.
        caller: TLS credentials and token of who asks; None asks in the clear.
        by_wire: the gateway's calls pass through proxies that can be cut.
        variables: environment of every process.
    """
    common = ("--bundle", str(bundle))
    async with AsyncExitStack() as running:

        async def begin(process: ServiceProcess) -> ServiceProcess:
            running.push_async_callback(process.stop)
            await process.start()
            return process

        def state(part: str) -> dict[str, str]:
            directory = scratch / part
            directory.mkdir(parents=True, exist_ok=True)
            return {"CLOZEREC_STATE_DIR": str(directory), **variables}

        encoders = list(
            await asyncio.gather(*(begin(ServiceProcess("encoder", *common, **variables)) for _ in range(num_encoders)))
        )
        retriever = await begin(ServiceProcess("retriever", *common, **state("retriever")))
        wires = Wire(encoders[0].port), Wire(retriever.port)
        for wire in wires:
            running.push_async_callback(wire.stop)
            await wire.start()
        encoder_target = "ipv4:" + ",".join(encoder.target for encoder in encoders)
        targets = (
            (f"127.0.0.1:{wires[0].port}", f"127.0.0.1:{wires[1].port}")
            if by_wire
            else (encoder_target, retriever.target)
        )
        gateway = await begin(
            ServiceProcess(
                *("gateway", *common, "--encoder-target", targets[0], "--retriever-target", targets[1]),
                **state("gateway"),
            )
        )
        asker = Asker(gateway.target, questions, caller)
        running.push_async_callback(asker.close)
        await asker.learn()
        yield Stack(encoders, retriever, gateway, *wires, asker, scratch)


async def during(load: Awaitable[None], after_s: float, action: Callable[[], Awaitable[None]]) -> None:
    """Let the load run, and do something to the stack in the middle of it."""
    task = asyncio.ensure_future(load)
    await asyncio.sleep(after_s)
    await action()
    await task
