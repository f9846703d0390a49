"""The training loop: AdamW, warm-up and cosine decay, clipping, the best validated epoch kept.

All randomness comes from one CPU generator and torch's global one, both seeded, so that equal seeds give equal weights.

Shapes: S windows, T positions, B batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from clozerec_core.catalogue import SpecialRows
from clozerec_core.errors import ClozerecError
from clozerec_trainer.cloze import Batch, causal_batch, cloze_batch
from clozerec_trainer.metrics import SELECTED_BY, Metrics
from clozerec_trainer.model import HybridBert4Rec
from clozerec_trainer.objective import Objective
from clozerec_trainer.payload import Payload
from clozerec_trainer.progress import Reporter
from clozerec_trainer.sequences import Windows

_BETAS = (0.9, 0.98)

Validate = Callable[[HybridBert4Rec], Metrics]


@dataclass(frozen=True)
class EpochRecord:
    """What an epoch did."""

    epoch: int
    loss: float
    seconds: float
    validation: Metrics = field(default_factory=dict)
    """Empty where the epoch was not validated."""


@dataclass(frozen=True)
class Fitted:
    """The outcome; the model holds the best epoch's weights."""

    best_epoch: int
    epochs: list[EpochRecord]


def fit(
    model: HybridBert4Rec,
    windows: Windows,
    trained_rows: Tensor,
    payload: Payload,
    reporter: Reporter,
    validate: Validate | None,
    num_epochs: int,
) -> Fitted:
    """Train in place.

    Args:
        model: on the device to train on.
        windows: samples.
        trained_rows: sorted rows of the items in them.
        validate: figures of the model as it stands; None: the last epoch is kept.
        num_epochs: passes over the windows.

    Raises:
        ClozerecError: the loss is no longer a number.
    """
    generator = torch.Generator().manual_seed(payload.seed)
    objective = Objective(model, trained_rows, payload.negative_samples, payload.behaviour_dropout)
    optimiser = _optimiser(model, payload)
    steps_per_epoch = math.ceil(len(windows) / payload.batch_size)
    schedule = _schedule(optimiser, steps_per_epoch * num_epochs, payload.warmup_ratio)
    records: list[EpochRecord] = []
    best: tuple[float, int, dict[str, Tensor]] | None = None
    with reporter.steps("training", steps_per_epoch * num_epochs) as advance:
        for epoch in range(1, num_epochs + 1):
            began = time.monotonic()
            losses = []
            for batch in _batches(windows, SpecialRows(model.num_items), payload, generator, trained_rows.device):
                losses.append(_step(objective, batch, optimiser, payload.gradient_clipping, generator))
                schedule.step()
                advance(f"epoch {epoch}/{num_epochs}  loss {losses[-1]:.3f}")
            seconds = time.monotonic() - began
            due = validate is not None and (epoch % payload.validate_every == 0 or epoch == num_epochs)
            figures = validate(model) if validate is not None and due else {}
            records.append(EpochRecord(epoch, sum(losses) / len(losses), seconds, figures))
            reporter.say("epoch_done", epoch=epoch, loss=records[-1].loss, seconds=round(seconds, 1), **_shown(figures))
            if figures and (best is None or figures[SELECTED_BY] > best[0]):
                best = figures[SELECTED_BY], epoch, _snapshot(model)
    if best is not None:
        model.load_state_dict(best[2])
    model.eval()
    return Fitted(best[1] if best else num_epochs, records)


def _step(
    objective: Objective,
    batch: Batch,
    optimiser: torch.optim.Optimizer,
    gradient_clipping: float,
    generator: torch.Generator,
) -> float:
    objective.model.train()
    optimiser.zero_grad(set_to_none=True)
    loss = objective.loss(batch, generator)
    value = loss.item()
    if not math.isfinite(value):
        raise ClozerecError(f"the loss became {value}; lower learning_rate, and keep gradient_clipping on")
    loss.backward()  # type: ignore[no-untyped-call]
    if gradient_clipping:
        nn.utils.clip_grad_norm_(objective.model.parameters(), gradient_clipping)
    optimiser.step()
    return value


def _batches(
    windows: Windows, special: SpecialRows, payload: Payload, generator: torch.Generator, device: torch.device
) -> Iterator[Batch]:
    """One pass over the windows in random order, each batch with its own draw of the task."""
    order = torch.randperm(len(windows), generator=generator)
    for chosen in torch.split(order, payload.batch_size):
        rows_BT = torch.from_numpy(windows.rows_ST[chosen.numpy()]).long()
        weights_BT = torch.from_numpy(windows.weights_ST[chosen.numpy()])
        if torch.rand((), generator=generator).item() < payload.causal_ratio:
            batch = causal_batch(rows_BT, weights_BT, special)
        else:
            batch = cloze_batch(rows_BT, weights_BT, special, payload.masking_ratio, payload.last_item_ratio, generator)
        yield batch.to(device)


def _optimiser(model: HybridBert4Rec, payload: Payload) -> torch.optim.Optimizer:
    """AdamW with decay on matrices only: shrinking biases, norms or the temperature serves nothing."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [each for each in parameters if each.ndim >= 2], "weight_decay": payload.weight_decay},
        {"params": [each for each in parameters if each.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=payload.learning_rate, betas=_BETAS, fused=True)


def _schedule(
    optimiser: torch.optim.Optimizer, num_steps: int, warmup_ratio: float
) -> torch.optim.lr_scheduler.LRScheduler:
    """Up in a line, down in a cosine."""
    num_warmup = max(1, round(num_steps * warmup_ratio))

    def factor(step: int) -> float:
        if step < num_warmup:
            return (step + 1) / num_warmup
        return 0.5 * (1 + math.cos(math.pi * (step - num_warmup) / max(1, num_steps - num_warmup)))

    return torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


def _snapshot(model: HybridBert4Rec) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _shown(figures: Metrics) -> Metrics:
    return {f"validation_{name}": figures[name] for name in (SELECTED_BY, "hr@10") if name in figures}
