"""An open-loop gRPC load generator: calls start when the schedule says, whether or not earlier ones were answered.

A grpc client in Python cannot send several times what a grpc server in Python can answer: it costs more itself. So this
one writes HTTP/2 frames that are made beforehand, which takes a few microseconds a call. It keeps to the protocol: the
server's stream limit and its flow control windows. Calls over the limit wait here, oldest first, as in grpc's own
clients; a `Patience` says how many may be under way and how many may wait, beyond which a call fails at once.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW = 3, 4
LARGE_WINDOW = 2**30


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name: str, value: str) -> bytes:
    """A header that leaves no trace in the compression state, so that its bytes serve every call."""
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


@dataclass(frozen=True)
class Patience:
    """How a client treats its calls, on each connection."""

    deadline_s: float
    """From the time that a call is due to its answer."""
    most_under_way: int
    """Beside the limit that the server sets."""
    most_waiting: int


@dataclass
class Outcome:
    """What became of the calls of one run."""

    num_good: int = 0
    num_refused: int = 0
    """By the server."""
    num_turned_away: int = 0
    """By the client: too many were waiting."""
    num_late: int = 0
    latencies_s: list[float] = field(default_factory=list)
    """Of the good ones, from the time they were due."""


class Connection(asyncio.Protocol):
    """One HTTP/2 connection with calls of one kind."""

    def __init__(self, method: str, message: bytes, patience: Patience, outcome: Outcome) -> None:
        headers = [
            (":method", "POST"), (":scheme", "http"), (":path", method), (":authority", "localhost"),
            ("te", "trailers"), ("content-type", "application/grpc"),
            ("grpc-timeout", f"{int(patience.deadline_s * 1000)}m"),
        ]  # fmt: skip
        self.headers = b"".join(literal(*header) for header in headers)
        self.body = b"\x00" + struct.pack(">I", len(message)) + message
        self.patience = patience
        self.deadline_s = patience.deadline_s
        self.outcome = outcome
        self.waiting: deque[float] = deque()
        self.due: dict[int, float] = {}
        self.answered: set[int] = set()
        self.next_stream = 1
        self.max_streams = patience.most_under_way
        self.window = 65535
        self.buffer = b""
        self.ready = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        settings = struct.pack(">HI", INITIAL_WINDOW, LARGE_WINDOW)
        update = frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", LARGE_WINDOW - 65536))
        transport.write(PREFACE + frame(SETTINGS, 0, 0, settings) + update)

    def call(self, due: float) -> None:
        self.waiting.append(due)
        self.pump()
        if len(self.waiting) > self.patience.most_waiting:
            self.waiting.pop()
            self.outcome.num_turned_away += 1

    def pump(self) -> None:
        """Start what may start; give up what is too late."""
        now = time.monotonic()
        out = []
        while self.waiting:
            if now - self.waiting[0] > self.deadline_s:
                self.waiting.popleft()
                self.outcome.num_late += 1
                continue
            if len(self.due) >= self.max_streams or self.window < len(self.body):
                break
            stream, self.next_stream = self.next_stream, self.next_stream + 2
            self.due[stream] = self.waiting.popleft()
            self.window -= len(self.body)
            out.append(frame(HEADERS, END_HEADERS, stream, self.headers) + frame(DATA, END_STREAM, stream, self.body))
        for stream, due in list(self.due.items()):
            if now - due <= self.deadline_s:
                break  # streams start in the order in which they were due
            del self.due[stream]
            self.answered.discard(stream)
            self.outcome.num_late += 1
            out.append(frame(RST_STREAM, 0, stream, struct.pack(">I", 8)))
        if out:
            self.transport.write(b"".join(out))

    def data_received(self, data: bytes) -> None:
        buffer = self.buffer + data if self.buffer else data
        at = 0
        while len(buffer) - at >= 9:
            size = int.from_bytes(buffer[at : at + 3], "big")
            if len(buffer) - at < 9 + size:
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            stream = int.from_bytes(buffer[at + 5 : at + 9], "big")
            self.received(kind, flags, stream, buffer[at + 9 : at + 9 + size])
            at += 9 + size
        self.buffer = buffer[at:]
        self.pump()

    def received(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == DATA:
            self.answered.add(stream)
        elif kind == WINDOW_UPDATE and stream == 0:
            self.window += int.from_bytes(payload, "big")
        elif kind == SETTINGS and not flags & ACK:
            for name, value in struct.iter_unpack(">HI", payload):
                if name == MAX_CONCURRENT_STREAMS:
                    self.max_streams = min(value, self.patience.most_under_way)
            self.transport.write(frame(SETTINGS, ACK, 0))
            if not self.ready.done():
                self.ready.set_result(None)
        elif kind == PING and not flags & ACK:
            self.transport.write(frame(PING, ACK, 0, payload))
        if (kind in (HEADERS, DATA) and flags & END_STREAM) or kind == RST_STREAM:
            due = self.due.pop(stream, None)
            good = stream in self.answered
            self.answered.discard(stream)
            if due is None:
                return
            if good and time.monotonic() - due <= self.deadline_s:
                self.outcome.num_good += 1
                self.outcome.latencies_s.append(time.monotonic() - due)
            elif good:
                self.outcome.num_late += 1
            else:
                self.outcome.num_refused += 1


async def offer(
    port: int,
    method: str,
    messages: Sequence[bytes],
    calls_per_s: float,
    duration_s: float,
    connections: int,
    patience: Patience,
) -> Outcome:
    """Offer calls evenly in time over some connections; each is good if its answer comes within the deadline.

    A connection sends one of the messages, the next one the next.
    """
    outcome = Outcome()
    loop = asyncio.get_running_loop()

    def connection(number: int) -> Connection:
        return Connection(method, messages[number % len(messages)], patience, outcome)

    open_ = [
        (await loop.create_connection(partial(connection, number), "127.0.0.1", port))[1]
        for number in range(connections)
    ]
    await asyncio.gather(*(each.ready for each in open_))
    began = time.monotonic()
    num_due = 0
    while (now := time.monotonic()) - began < duration_s:
        while num_due < (now - began) * calls_per_s:
            open_[num_due % connections].call(began + num_due / calls_per_s)
            num_due += 1
        await asyncio.sleep(0.001)
        for each in open_:
            each.pump()
    for each in open_:
        each.transport.abort()
    return outcome
