"""Several processes that train one model: `torchrun --nproc-per-node 2 -m clozerec_cli train …`.

Every process reads the same data and draws the same order of windows; of each batch it takes its share, and gradients
are averaged, so that all hold the same weights after every step. The first process alone judges and writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """Who trains together; one process alone unless torchrun started more."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, chosen: Tensor) -> Tensor:
        """This process's part of a batch; all of it where there is too little for everybody."""
        return chosen[self.rank :: self.size] if len(chosen) >= self.size else chosen

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by the mean over processes, in one exchange: one for each would wait for each."""
        if self.size == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = torch.cat([parameter.grad.flatten() for parameter in trained if parameter.grad is not None])
        dist.all_reduce(gradients)
        gradients /= self.size
        shares = torch.split(gradients, [each.numel() for each in trained])
        for parameter, gradient in zip(trained, shares, strict=True):
            parameter.grad = gradient.view_as(parameter)

    def mean(self, value: float) -> float:
        """Of all processes' values; NaN where one is."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(total)
        return float(total) / self.size

    def agreed(self, choice: bool) -> bool:
        """The first process's choice, in every process."""
        if self.size == 1:
            return choice
        chosen = torch.tensor(choice)
        dist.broadcast(chosen, src=0)
        return bool(chosen)

    def from_first(self, compute: Callable[[], T]) -> T:
        """What the first process computes, in every process."""
        if self.size == 1:
            return compute()
        box = [compute() if self.is_first else None]
        dist.broadcast_object_list(box, src=0)
        return box[0]  # type: ignore[return-value]

    def first_before_others(self, compute: Callable[[], T]) -> T:
        """Computed everywhere, after the first has done it: what it left in a cache is there for the others."""
        if self.size == 1:
            return compute()
        result = compute() if self.is_first else None
        dist.barrier()
        return result if result is not None else compute()


@contextmanager
def joined_world() -> Iterator[World]:
    """The processes that torchrun started, joined by gloo; otherwise this one alone."""
    if not dist.is_torchelastic_launched():
        yield World()
        return
    # The others wait while the first embeds a catalogue or judges; a process that dies ends the rest by torchrun.
    dist.init_process_group("gloo", timeout=timedelta(days=1))
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
