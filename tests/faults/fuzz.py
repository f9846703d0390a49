"""Requests that are valid, nearly valid, or no requests at all, over gRPC and HTTP.

What must hold: no INTERNAL or UNKNOWN, no inner text in an error, the service lives and answers as before, and its
memory does not grow by more than 2% once it has warmed up.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections import Counter
from dataclasses import dataclass, field

import aiohttp
import grpc
from google.protobuf import json_format
from google.rpc import code_pb2

from clozerec.v1 import recommender_pb2
from clozerec_core.access import new_token
from clozerec_core.bundle import Bundle
from faults.processes import ServiceProcess
from faults.table import Place

IN_FLIGHT = 16
TIMEOUT_S = 10.0
WARM_UP = 20_000
ODD_HEADERS = (
    {"x-large": "x" * 20_000},  # more than gRPC takes
    {"authorization": ""},
    {"authorization": "Bearer"},
    {"authorization": "Bearer " + "x" * 5_000},
    {"authorization": "Basic Zm9vOmJhcg=="},
    {"x-request-id": "../../etc " + "x" * 200},
    {"traceparent": "00-" + "0" * 32 + "-" + "f" * 16 + "-zz"},
    {"grpc-timeout": "-1S"},
)
LARGEST_GROWTH = 0.02
INNER_TEXT = re.compile(r"Traceback|File \"|\.py\b|Exception|0x[0-9a-f]{6}|/usr/|/tmp/|site-packages")
PATHS = {
    "Recommend": "recommend",
    "RecordInteractions": "interactions",
    "UpsertItems": "items:upsert",
    "DeleteItems": "items:delete",
    "GetItems": "items:get",
    "DeleteUser": "users:delete",
    "GetServiceInfo": "nowhere",
    "RecommendStream": "nowhere",
}
"""Of methods over HTTP; the last two have none for a POST."""
QUERY_TYPES = ("item_to_item", "user_to_item", "contextual", "sequential")
NUM_PEOPLE, NUM_NEW_ITEMS, LIVE_EVENTS = 50, 50, 20
"""Few, so that what callers may store stops growing."""
STREAM_IS_OVER = "Internal error from Core"
"""What gRPC's own client says to itself when it writes to a stream that the server has just ended."""
TEXTS = (
    "",
    "a",
    "\u0000",
    "\ud7ff",
    "😀" * 70,
    "x" * 257,
    "x" * 9000,
    "NaN",
    "meta.title",
    "'; DROP TABLE",
    "../../etc",
)
NUMBERS = (0, 1, -1, 10, 1000, 1001, 2**31, 2**32 - 1, 2**53 + 1, 1e308, float("nan"), float("inf"), 0.5)


class Fuzzer:
    """One seed's stream of requests."""

    def __init__(self, seed: int, item_ids: list[str]) -> None:
        self._random = random.Random(seed)
        self._item_ids = item_ids

    def document(self, method: str) -> dict[str, object]:
        """A request in JSON: valid, or with a few fields spoiled, or with fields of any kind."""
        pick = self._random
        if pick.random() < 0.2:
            return self._any_fields()
        document = self._valid(method)
        for _ in range(pick.choice((0, 0, 0, 1, 1, 3))):
            document[pick.choice((*document, "topk", "\u0000"))] = self._value(3)
        return document

    def message(self, method: str) -> bytes:
        """Protobuf of such a request where it can be one, mutated now and then."""
        document = self.document(method)
        if document.get("query_type") in QUERY_TYPES:
            document["query_type"] = f"QUERY_TYPE_{str(document['query_type']).upper()}"
        message = getattr(recommender_pb2, f"{method.removesuffix('Stream')}Request")()
        for name, value in document.items():
            try:
                json_format.ParseDict({name: value}, message)
            except (json_format.ParseError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
                continue
        raw = bytearray(message.SerializeToString())
        for _ in range(self._random.choice((0, 0, 0, 1, 8))):
            if raw:
                raw[self._random.randrange(len(raw))] = self._random.randrange(256)
        return bytes(raw)

    def bytes(self) -> bytes:
        """Anything."""
        return self._random.randbytes(self._random.choice((0, 1, 7, 64, 4096)))

    def method(self) -> str:
        """What is asked; to recommend, half of the time."""
        return "Recommend" if self._random.random() < 0.5 else self._random.choice(list(PATHS))

    def headers(self, token: str) -> dict[str, str]:
        """The caller's token and, now and then, what no caller should send, over either protocol."""
        odd = self._random.choice(ODD_HEADERS) if self.chance(0.03) else {}
        return {"authorization": f"Bearer {token}", **odd}

    def chance(self, share: float) -> bool:
        """True this often."""
        return self._random.random() < share

    def _valid(self, method: str) -> dict[str, object]:
        pick = self._random
        match method:
            case "Recommend" | "RecommendStream":
                return self._valid_query()
            case "RecordInteractions":
                events = [
                    {
                        "user_id": self._person(),
                        "item_id": self._item(),
                        "time": f"2026-01-05T00:00:{pick.randrange(60):02}Z",
                    }
                    for _ in range(pick.choice((1, 3)))
                ]
                return {"interactions": events}
            case "UpsertItems":
                metadata = {
                    "title": f"title {pick.randrange(100)}",
                    "year": 1900 + pick.randrange(120),
                    "in_stock": True,
                }
                return {"items": [{"item_id": self._new_item(), "metadata": metadata}]}
            case "DeleteItems":
                return {"item_ids": [self._new_item()]}
            case "GetItems":
                return {"item_ids": [self._item(), self._new_item()], "metadata_fields": ["title"]}
            case "DeleteUser":
                return {"user_id": self._person()}
            case _:
                return {}

    def _valid_query(self) -> dict[str, object]:
        pick = self._random
        kind = pick.choice(QUERY_TYPES)
        query: dict[str, object] = {"query_type": kind, "top_k": pick.randrange(1, 20)}
        if kind in ("user_to_item", "contextual"):
            query["user_id"] = self._person()
        if kind in ("item_to_item", "contextual"):
            query["item_id"] = self._item()
        if kind == "sequential":
            query["session_items"] = [self._item() for _ in range(pick.randrange(1, 12))]
        for name, value in (
            ("filters", {"meta.year": {"$gte": 1900 + pick.randrange(120)}, "meta.in_stock": pick.random() < 0.5}),
            ("diversity", 0.5),
            ("explain", True),
            ("exclude_seen", pick.random() < 0.5),
            ("exclude_item_ids", [self._item()]),
            ("metadata_fields", ["title", "genres"]),
        ):
            if pick.random() < 0.25:
                query[name] = value
        return query

    def _person(self) -> str:
        return f"person-{self._random.randrange(NUM_PEOPLE)}"

    def _item(self) -> str:
        return self._random.choice(self._item_ids)

    def _new_item(self) -> str:
        return f"new-{self._random.randrange(NUM_NEW_ITEMS)}"

    def _any_fields(self) -> dict[str, object]:
        """Those of a query, and others, without regard to each other."""
        pick = self._random
        fields: dict[str, object] = {"query_type": pick.choice(QUERY_TYPES) if pick.random() < 0.95 else self._value(2)}
        for name, value in (
            ("user_id", self._text()),
            ("item_id", self._text()),
            ("item_text", self._text()),
            ("session_items", [self._text() for _ in range(pick.choice((0, 1, 3, 60)))]),
            ("filters", self._filter(pick.choice((0, 1, 3, 12)))),
            ("top_k", pick.choice((0, 1, 10, 1000, 1001, -1, 2**33, "5", None))),
            ("exclude_item_ids", [self._text() for _ in range(pick.choice((0, 2)))]),
            ("mask_index", pick.choice(NUMBERS)),
            ("metadata_fields", [self._text()]),
            ("page_token", self._text()),
            ("bundle_id", self._text()),
            (pick.choice(("topk", "userId", "filters.meta", "\u0000")), self._value(3)),
        ):
            if pick.random() < 0.25:
                fields[name] = value
        return fields

    def _text(self) -> str:
        return self._random.choice(self._item_ids) if self._random.random() < 0.5 else self._random.choice(TEXTS)

    def _value(self, depth: int) -> object:
        pick = self._random
        kind = pick.randrange(7 if depth else 5)
        if kind == 5:
            return [self._value(depth - 1) for _ in range(pick.randrange(4))]
        if kind == 6:
            return {self._text(): self._value(depth - 1) for _ in range(pick.randrange(4))}
        return (None, True, pick.choice(NUMBERS), self._text(), "2026-01-01T00:00:00Z")[kind]

    def _filter(self, depth: int) -> object:
        pick = self._random
        column = pick.choice(("meta.title", "meta.year", "meta.genres", "meta.in_stock", "meta.nothing", "title", ""))
        if depth and pick.random() < 0.7:
            inner = self._filter(depth - 1)
            return pick.choice(({"$and": [inner, inner]}, {"$or": [inner]}, {"$not": inner}, {"$or": inner}))
        operator = pick.choice(("$eq", "$ne", "$in", "$nin", "$gt", "$gte", "$lt", "$lte", "$exists", "$all", "$x"))
        return {column: {operator: self._value(2)} if pick.random() < 0.7 else self._value(2)}


@dataclass
class Found:
    """What a slice of requests brought."""

    requests: int
    codes: Counter[str]
    faults: list[str]
    growth: float
    """Of the process's resident memory after it had warmed up, as a share."""
    took_s: float

    @property
    def held(self) -> bool:
        return not self.faults and self.growth <= LARGEST_GROWTH

    def kept(self) -> dict[str, object]:
        """For the report."""
        return {
            "requests": self.requests,
            "faults": len(self.faults),
            "growth": round(self.growth, 4),
            "took_s": round(self.took_s),
        }

    def __str__(self) -> str:
        seen = ", ".join(f"{code} {count:,}" for code, count in sorted(self.codes.items()))
        bad = f"{len(self.faults)} faults: {self.faults[:3]}" if self.faults else "no INTERNAL, UNKNOWN or inner text"
        return f"{self.requests:,} requests in {self.took_s:.0f} s: {seen}; {bad}; memory {self.growth:+.1%}"


async def fuzz(place: Place, num_requests: int, seed: int = 0) -> Found:
    """Send requests, half over gRPC and half over HTTP, and say what came back.

    Args:
        place: bundle and scratch.
        num_requests: in this slice.
        seed: of the slice; another one sends other requests.
    """
    item_ids = list(Bundle.open(place.bundle).catalogue.item_ids)
    token, entry = new_token("fuzzer", "admin")
    tokens = place.scratch / "tokens.json"
    tokens.write_text(json.dumps({"tokens": [entry]}))
    variables = {
        "CLOZEREC_STATE_DIR": str(place.scratch / "state"),
        "CLOZEREC_TOKENS_PATH": str(tokens),
        "CLOZEREC_MAX_LIVE_EVENTS": str(LIVE_EVENTS),
    }
    service = ServiceProcess("all", "--bundle", str(place.bundle), **variables)
    await service.start()
    sent = Sent()
    began = time.monotonic()
    try:
        async with (
            grpc.aio.insecure_channel(service.target) as channel,
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(TIMEOUT_S)) as session,
        ):
            channels = Channels(channel, session, f"http://127.0.0.1:{service.http_port}/v1/", token)

            async def some(worker: int, how_many: int) -> None:
                fuzzer = Fuzzer(seed * 1000 + worker, item_ids)
                for number in range(how_many):
                    await (channels.over_grpc if number % 2 else channels.over_http)(fuzzer, sent)

            async def many(total: int, first: int) -> None:
                await asyncio.gather(*(some(first + worker, total // IN_FLIGHT) for worker in range(IN_FLIGHT)))

            await many(min(WARM_UP, num_requests // 2), 0)
            before_mb = service.memory_mb()
            await many(num_requests - sent.total, 100)
            growth = service.memory_mb() / before_mb - 1
    finally:
        await service.stop()
    sent.faults += [str(event) for name in ("unexpected_error", "library_said") for event in service.said(name)]
    return Found(sent.total, sent.codes, sent.faults, growth, time.monotonic() - began)


@dataclass
class Sent:
    """Answers so far."""

    codes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(self.codes.values())


@dataclass(frozen=True)
class Channels:
    """The two ways in."""

    channel: grpc.aio.Channel
    session: aiohttp.ClientSession
    url: str
    token: str

    async def over_grpc(self, fuzzer: Fuzzer, sent: Sent) -> None:
        """One request."""
        method = fuzzer.method()
        raw = fuzzer.bytes() if fuzzer.chance(0.1) else fuzzer.message(method)
        path, options = f"/clozerec.v1.RecommenderService/{method}", {"timeout": TIMEOUT_S}
        metadata = tuple(fuzzer.headers(self.token).items())
        try:
            if method == "RecommendStream":
                requests = [raw, fuzzer.message("Recommend"), raw]
                async for answer in self.channel.stream_stream(path)(iter(requests), metadata=metadata, **options):
                    status = recommender_pb2.RecommendResult.FromString(answer).status
                    _judge(code_pb2.Code.Name(status.code), status.message, raw, sent.faults)
            else:
                await self.channel.unary_unary(path)(raw, metadata=metadata, **options)
            sent.codes["OK"] += 1
        except grpc.aio.AioRpcError as error:
            if method == "RecommendStream" and error.details() == STREAM_IS_OVER:
                sent.codes["stream over"] += 1
                return
            sent.codes[error.code().name] += 1
            _judge(error.code().name, error.details() or "", raw, sent.faults)

    async def over_http(self, fuzzer: Fuzzer, sent: Sent) -> None:
        """One request."""
        method = fuzzer.method()
        body = fuzzer.bytes() if fuzzer.chance(0.1) else json.dumps(fuzzer.document(method)).encode()
        headers = fuzzer.headers(self.token)
        if fuzzer.chance(0.01):
            headers["authorization"] = "Bearer \xff"  # gRPC's own client sends no such thing
        async with self.session.post(self.url + PATHS[method], data=body, headers=headers) as response:
            text = await response.text()
            sent.codes[f"HTTP {response.status}"] += 1
            if response.status == 400 and "x-large" in headers:
                return  # in the HTTP library's own words
            if response.status != 200:
                _judge(str(response.status), json.loads(text)["error"]["message"], body, sent.faults)


def _judge(code: str, message: str, raw: bytes, faults: list[str]) -> None:
    if code in ("INTERNAL", "UNKNOWN", "500", "UNAVAILABLE", "503") or INNER_TEXT.search(message):
        faults.append(f"{code}: {message[:200]} for {raw[:300]!r}")
