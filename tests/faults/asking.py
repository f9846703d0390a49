"""A client that asks at a fixed rate, or as fast as it is answered, and judges every answer.

Answers are compared with those that the healthy stack gave to the same questions: an answer is right, flagged as a
fallback, or wrong. Right is what the bundle says that the answer names, so an answer that mixes two bundles is wrong;
and so is a fallback that is neither what is popular nor what is similar to the last item of the session.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from clozerec.v1 import recommender_pb2
from clozerec.v1.recommender_pb2_grpc import RecommenderServiceStub

Ids = tuple[str, ...]
"""Of an answer, best first."""

Caller = tuple[grpc.ChannelCredentials, str]
"""TLS credentials and token."""

DEADLINE_S = 2.0
HANG_S = DEADLINE_S + 1.0
"""A call that is not over by then has hung, whatever it says afterwards."""

FALLBACK_NONE = recommender_pb2.FALLBACK_NONE
TICK_S = 0.005
OWN_CHANNEL = (("grpc.use_local_subchannel_pool", 1),)
"""A connection of its own, not one that another channel of this process holds."""


@dataclass
class Outcome:
    """What became of the calls of one run, or of several that were added up."""

    right: int = 0
    fallback: int = 0
    wrong: int = 0
    hung: int = 0
    held_back: int = 0
    """Never sent: the caller had as many under way as it allows itself."""
    codes: Counter[str] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)
    right_latencies_s: list[float] = field(default_factory=list)
    recoveries_s: list[float] = field(default_factory=list)
    wrong_examples: list[str] = field(default_factory=list)

    @property
    def calls(self) -> int:
        return self.right + self.fallback + self.wrong + sum(self.codes.values())

    @property
    def errors(self) -> int:
        return sum(self.codes.values())

    def percentile_ms(self, percent: float, only_right: bool = False) -> float:
        """Of the latencies of all calls, or of those with a right answer."""
        latencies_s = self.right_latencies_s if only_right else self.latencies_s
        return float(np.percentile(latencies_s, percent)) * 1000 if latencies_s else float("nan")

    def __iadd__(self, other: Outcome) -> Outcome:
        for name in ("right", "fallback", "wrong", "hung", "held_back"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.codes += other.codes
        for name in ("latencies_s", "right_latencies_s", "recoveries_s", "wrong_examples"):
            getattr(self, name).extend(getattr(other, name))
        return self

    def __str__(self) -> str:
        parts = [f"{self.calls:,} calls: {self.right:,} right"]
        parts += [
            f"{count:,} {what}"
            for count, what in ((self.fallback, "fallback"), (self.held_back, "held back by the caller"))
            if count
        ]
        parts += [f"{self.wrong} wrong, {self.hung} hung"]
        parts += [f"{count:,} {code}" for code, count in sorted(self.codes.items())]
        text = ", ".join(parts) + f"; p50 {self.percentile_ms(50):.1f} ms, p99 {self.percentile_ms(99):.1f} ms"
        return text + (f"; right again within {max(self.recoveries_s):.1f} s" if self.recoveries_s else "")


class Asker:
    """Asks a gateway questions whose right answers it learned while all was well."""

    def __init__(
        self, target: str, questions: Sequence[recommender_pb2.RecommendRequest], caller: Caller | None = None
    ) -> None:
        if caller is None:
            self._channel = grpc.aio.insecure_channel(target, OWN_CHANNEL)
            self._metadata: tuple[tuple[str, str], ...] = ()
        else:
            self._channel = grpc.aio.secure_channel(target, caller[0], OWN_CHANNEL)
            self._metadata = (("authorization", f"Bearer {caller[1]}"),)
        self._stub = RecommenderServiceStub(self._channel)
        self._questions = questions
        self._right: dict[str, list[Ids]] = {}
        self._stand_ins: dict[str, list[set[Ids]]] = {}
        self.under_way = 0

    async def close(self) -> None:
        await self._channel.close()

    @property
    def learned(self) -> tuple[str, ...]:
        """Ids of the bundles whose answers are known."""
        return tuple(self._right)

    async def learn(self) -> str:
        """Take the present answers as right for the bundle that gives them, and what may stand in for them; its id."""
        answers = [
            await self._stub.Recommend(question, timeout=10, metadata=self._metadata) for question in self._questions
        ]
        (bundle_id,) = {answer.bundle_id for answer in answers}
        assert all(answer.items and answer.fallback == FALLBACK_NONE for answer in answers)
        self._right[bundle_id] = [_ids(answer) for answer in answers]
        self._stand_ins[bundle_id] = [await self._stand_ins_of(question) for question in self._questions]
        return bundle_id

    async def _stand_ins_of(self, question: recommender_pb2.RecommendRequest) -> set[Ids]:
        """What the contract allows where a part is gone, asked of the healthy stack in as many words."""
        session = list(question.session_items)
        named = {"top_k": question.top_k, "exclude_item_ids": session}
        queries = [recommender_pb2.RecommendRequest(query_type="QUERY_TYPE_USER_TO_ITEM", user_id="nobody", **named)]
        if session:
            queries.append(
                recommender_pb2.RecommendRequest(query_type="QUERY_TYPE_ITEM_TO_ITEM", item_id=session[-1], **named)
            )
        return {_ids(await self._stub.Recommend(each, timeout=10, metadata=self._metadata)) for each in queries}

    def knows_what(self, other: Asker) -> None:
        """Take over what another one has learned."""
        self._right, self._stand_ins = other._right, other._stand_ins

    async def record(self, events: Sequence[tuple[str, str]]) -> None:
        """Let the gateway know that these users took these items just now."""
        request = recommender_pb2.RecordInteractionsRequest()
        for user_id, item_id in events:
            request.interactions.add(user_id=user_id, item_id=item_id).time.GetCurrentTime()
        recorded = await self._stub.RecordInteractions(request, timeout=10, metadata=self._metadata)
        assert all(status.status.code == 0 for status in recorded.statuses)

    async def ask(self, number: int, outcome: Outcome) -> bool:
        """One call; whether its answer was right."""
        index = number % len(self._questions)
        began = time.monotonic()
        is_right = False
        self.under_way += 1
        try:
            answer = await self._stub.Recommend(self._questions[index], timeout=DEADLINE_S, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            outcome.codes[error.code().name] += 1
        else:
            is_right = self._judge(index, answer, outcome)
        self.under_way -= 1
        took_s = time.monotonic() - began
        outcome.latencies_s.append(took_s)
        if is_right:
            outcome.right_latencies_s.append(took_s)
        outcome.hung += took_s > HANG_S
        return is_right

    def _judge(self, index: int, answer: recommender_pb2.RecommendResponse, outcome: Outcome) -> bool:
        is_fallback = answer.fallback != FALLBACK_NONE
        expected: set[Ids] = set()
        if answer.bundle_id in self._right:
            right, stand_ins = self._right[answer.bundle_id][index], self._stand_ins[answer.bundle_id][index]
            expected = stand_ins if is_fallback else {right}
        if _ids(answer) not in expected:
            outcome.wrong += 1
            flag = recommender_pb2.Fallback.Name(answer.fallback)
            outcome.wrong_examples.append(f"{_ids(answer)} of {answer.bundle_id} ({flag}) instead of {expected}")
            return False
        outcome.fallback += is_fallback
        outcome.right += not is_fallback
        return not is_fallback

    async def at_rate(self, per_s: float, duration_s: float, outcome: Outcome, bound: int | None = None) -> None:
        """Open loop: calls begin on time, whatever became of those before.

        Args:
            per_s: calls a second.
            duration_s: for so long.
            outcome: takes what becomes of them.
            bound: calls that this caller has under way at most; what is due beyond is held back. None: no bound.
        """

        async def one(number: int) -> None:
            if bound is not None and self.under_way >= bound:
                outcome.held_back += 1
            else:
                await self.ask(number, outcome)

        await paced(per_s, duration_s, one)

    async def until_right(self, within_s: float, outcome: Outcome) -> None:
        """Ask until an answer is right again, and note how long that took.

        Raises:
            TimeoutError: it takes longer than `within_s`.
        """
        began = time.monotonic()
        async with asyncio.timeout(within_s):
            while True:
                if await self.ask(0, Outcome()):
                    break
                await asyncio.sleep(0.01)
        outcome.recoveries_s.append(time.monotonic() - began)

    async def closed_loop(
        self,
        outcome: Outcome,
        duration_s: float,
        in_flight: int = 32,
        on_right: Callable[[float], None] = lambda _: None,
    ) -> float:
        """As many calls under way all the time; right answers a second.

        Args:
            outcome: takes what becomes of them.
            duration_s: for so long.
            in_flight: callers that ask anew when they are answered.
            on_right: told the time of each right answer.
        """
        before = outcome.right
        ends = time.monotonic() + duration_s

        async def caller(first: int) -> None:
            number = first
            while time.monotonic() < ends:
                if await self.ask(number, outcome):
                    on_right(time.monotonic())
                number += in_flight

        await asyncio.gather(*(caller(first) for first in range(in_flight)))
        return (outcome.right - before) / duration_s


def _ids(answer: recommender_pb2.RecommendResponse) -> Ids:
    return tuple(item.item_id for item in answer.items)


async def paced(per_s: float, duration_s: float, begin: Callable[[int], Coroutine[Any, Any, None]]) -> None:
    """Open loop: calls begin on time, whatever became of those before.

    Args:
        per_s: calls a second.
        duration_s: for so long; returns when the last one is over.
        begin: one call, by its number.
    """
    began = time.monotonic()
    started = 0
    total = int(per_s * duration_s)
    async with asyncio.TaskGroup() as calls:
        while started < total:
            due = min(total, int((time.monotonic() - began) * per_s) + 1)
            for number in range(started, due):
                calls.create_task(begin(number))
            started = max(started, due)
            await asyncio.sleep(max(TICK_S, began + started / per_s - time.monotonic()))
