"""Batches across callers: a bounded, fair queue and the threads that empty it. Knows no tensors and no gRPC.

There is no timer. An idle thread takes what comes at once; while it works the next batch gathers, so batches grow with
the load and nobody waits for company. Callers take turns, and so do the calls of one caller: one of a thousand pieces
shares each batch with one of a single piece. Work whose caller has gone is dropped, and a full queue refuses at once.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from clozerec_core import metrics
from clozerec_core.errors import DeadlineExceeded, Overloaded
from clozerec_core.request_context import current_request
from clozerec_core.rpc_client import LOCAL_PEER

W = TypeVar("W")
R = TypeVar("R")

TURNS_A_BATCH = 8
"""A batch has room for so many turns at least: what a large call takes at once, others can be quicker than."""

LONE_GAP_S = 0.00025
"""Since the last call was begun, or done where it was run at once, for the next one's caller to count as alone: nobody
hears an answer and asks again within it, while a crowd's calls reach the event loop together."""

RETRY_S = (0.05, 0.95)
"""Bounds of the time after which a refused caller is told to try again."""


@dataclass(eq=False)
class Call(Generic[W, R]):
    """Pieces of work that one caller waits for together."""

    pieces: Sequence[W]
    costs: Sequence[int]
    caller: str
    answer: asyncio.Future[list[R]]
    deadline: float | None
    """On the monotonic clock, in seconds."""
    num_taken: int = 0
    num_done: int = 0

    def __post_init__(self) -> None:
        self.waiting_cost = sum(self.costs)
        self.results: list[R | None] = [None] * len(self.pieces)


@dataclass(frozen=True)
class Share(Generic[W, R]):
    """Consecutive pieces of one call in a batch."""

    call: Call[W, R]
    start: int
    stop: int

    @property
    def pieces(self) -> Sequence[W]:
        return self.call.pieces[self.start : self.stop]


class FairQueue(Generic[W, R]):
    """Calls in turn. Not for two threads at once."""

    def __init__(self, max_cost: int) -> None:
        self._max_cost = max_cost
        self._callers: OrderedDict[str, deque[Call[W, R]]] = OrderedDict()
        self.cost = 0
        """Of all pieces that wait."""

    def __bool__(self) -> bool:
        return bool(self._callers)

    def put(self, call: Call[W, R]) -> bool:
        """Let a call wait; false where there is no room. An empty queue takes a call of any size."""
        if self.cost and self.cost + call.waiting_cost > self._max_cost:
            return False
        self.cost += call.waiting_cost
        self._callers.setdefault(call.caller, deque()).append(call)
        return True

    def drop(self, call: Call[W, R]) -> None:
        """Forget what still waits of a call; its place in the turns goes when it is reached."""
        self.cost -= call.waiting_cost
        call.waiting_cost = 0
        call.num_taken = len(call.pieces)

    def take(self, budget: int) -> list[Share[W, R]]:
        """The next batch: turns until the budget is spent, at least one piece where one waits."""
        turn = max(1, budget // TURNS_A_BATCH)
        shares = []
        while self._callers and budget > 0:
            caller, calls = self._callers.popitem(last=False)
            call = calls.popleft()
            if call.num_taken < len(call.pieces):
                share, cost = self._share(call, min(turn, budget))
                shares.append(share)
                budget -= cost
            if call.num_taken < len(call.pieces):
                calls.append(call)
            if calls:
                self._callers[caller] = calls
        return shares

    def _share(self, call: Call[W, R], most: int) -> tuple[Share[W, R], int]:
        """As many pieces as fit into `most`, at least one, and their cost."""
        start = stop = call.num_taken
        cost = 0
        while stop < len(call.pieces) and (stop == start or cost + call.costs[stop] <= most):
            cost += call.costs[stop]
            stop += 1
        call.num_taken = stop
        call.waiting_cost -= cost
        self.cost -= cost
        return Share(call, start, stop), cost


class Batcher(Generic[W, R]):
    """Runs pieces of work on threads of its own, many callers' at a time. Serves one event loop."""

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[W]], Iterable[R]],
        batch_cost: int,
        max_waiting_cost: int,
        lone_cost: int = 0,
        threads: int = 1,
    ) -> None:
        """Start the threads.

        Args:
            name: of the threads, and in the message of a refusal.
            run: results for pieces, in their order; called on the threads.
            batch_cost: what a thread takes at a time; larger batches hold up the next caller.
            max_waiting_cost: beyond it a call is refused.
            lone_cost: a lone caller's call up to this is run at once on the event loop: handing a run of 0.2 ms to a
                thread and back takes longer than the run.
            threads: how many batches run at once.
        """
        self._name = name
        self._run = run
        self._batch_cost = batch_cost
        self._lone_cost = lone_cost
        self._last_call = 0.0
        self._num_working = 0
        self._queue = FairQueue[W, R](max_waiting_cost)
        self._metrics = _Metrics(name)
        self._changed = threading.Condition()
        self._closing = False
        self._cost_per_s = 0.0
        self._threads = [threading.Thread(target=self._work, name=f"{name}-{i}", daemon=True) for i in range(threads)]
        for thread in self._threads:
            thread.start()

    async def submit(self, pieces: Sequence[W], costs: Sequence[int], caller: str) -> list[R]:
        """The results of the pieces, in their order.

        Args:
            pieces: at least one.
            costs: of each, in the unit of the budgets.
            caller: who asks; callers take turns.

        Raises:
            Overloaded: too much is waiting.
            DeadlineExceeded: the request's time was up before its turn came.
        """
        if self._is_alone(sum(costs), caller):
            return self._run_here(pieces)
        call = Call[W, R](pieces, costs, caller, asyncio.get_running_loop().create_future(), current_request().deadline)
        with self._changed:
            if not self._queue.put(call):
                self._metrics.refused.inc()
                raise Overloaded(f"the {self._name} has too much work waiting; try again", self._retry_s())
            self._changed.notify()
        try:
            return await call.answer
        except asyncio.CancelledError:
            with self._changed:
                self._queue.drop(call)
            self._metrics.cancelled.inc()
            raise

    def at_once(self, piece: W, cost: int) -> R | None:
        """The result of one small piece for a caller of this process; None where it is to be submitted."""
        return self._run_here([piece])[0] if self._is_alone(cost, LOCAL_PEER) else None

    def close(self) -> None:
        """Finish what waits, and end the threads."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run_here(self, pieces: Sequence[W]) -> list[R]:
        """On the event loop."""
        self._metrics.pieces.observe(len(pieces))
        results = list(self._run(pieces))
        self._last_call = time.monotonic()
        return results

    def _is_alone(self, cost: int, caller: str) -> bool:
        """Whether the work is small and nobody else is served. Nor has just been, where calls come from other
        processes: a batch could gather. In one process the loop that would wait is the one that calls."""
        now = time.monotonic()
        gap_s, self._last_call = now - self._last_call, now
        is_small = cost <= self._lone_cost and not self._queue and not self._num_working
        return is_small and (gap_s > LONE_GAP_S or caller == LOCAL_PEER)

    def _retry_s(self) -> float:
        """How long what waits will take."""
        least, most = RETRY_S
        return min(most, max(least, self._queue.cost / self._cost_per_s)) if self._cost_per_s else least

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closing:
                    self._changed.wait()
                if not self._queue:
                    return
                shares = self._take()
                self._num_working += 1
                self._metrics.waiting.set(self._queue.cost)
            if shares:
                self._run_batch(shares)
            with self._changed:
                self._num_working -= 1

    def _take(self) -> list[Share[W, R]]:
        """The next batch without what is too late; under the lock."""
        shares = self._queue.take(self._batch_cost)
        now = time.monotonic()
        late = [share for share in shares if share.call.deadline is not None and share.call.deadline <= now]
        for share in late:
            self._queue.drop(share.call)
            self._metrics.late.inc()
            _tell(share.call, _fail, share.call, DeadlineExceeded("the deadline passed before the work was done"))
        return [share for share in shares if share not in late] if late else shares

    def _run_batch(self, shares: Sequence[Share[W, R]]) -> None:
        started = time.perf_counter()
        try:
            results = list(self._run([piece for share in shares for piece in share.pieces]))
        except Exception as error:  # noqa: BLE001  # every caller in the batch hears of it
            for share in shares:
                _tell(share.call, _fail, share.call, error)
            return
        self._metrics.pieces.observe(len(results))
        cost = sum(sum(share.call.costs[share.start : share.stop]) for share in shares)
        rate = cost / max(1e-9, time.perf_counter() - started)
        self._cost_per_s = rate if not self._cost_per_s else 0.9 * self._cost_per_s + 0.1 * rate
        _tell(shares[0].call, _deliver, shares, results)


class _Metrics:
    """Of one queue, bound."""

    def __init__(self, engine: str) -> None:
        self.pieces = metrics.ENCODER_BATCH_PIECES.labels(engine)
        self.waiting = metrics.ENCODER_WAITING_TOKENS.labels(engine)
        self.refused, self.cancelled, self.late = (
            metrics.ENCODER_DROPPED.labels(engine, reason) for reason in ("full", "cancelled", "late")
        )


def _tell(call: Call[W, R], what: Callable[..., None], *about: object) -> None:
    """From a thread, on the event loop of the call."""
    call.answer.get_loop().call_soon_threadsafe(what, *about)


def _fail(call: Call[W, R], error: Exception) -> None:
    if not call.answer.done():
        call.answer.set_exception(error)


def _deliver(shares: Sequence[Share[W, R]], results: Sequence[R]) -> None:
    start = 0
    for share in shares:
        call, num_pieces = share.call, share.stop - share.start
        call.results[share.start : share.stop] = results[start : start + num_pieces]
        start += num_pieces
        call.num_done += num_pieces
        if call.num_done == len(call.pieces) and not call.answer.done():
            call.answer.set_result(cast("list[R]", call.results))
