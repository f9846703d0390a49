"""The training loop: AdamW, warm-up and cosine decay, clipping, the best validated epoch kept, early stopping.

Randomness comes from one CPU generator and torch's global one, both seeded anew at each epoch, so that equal seeds give
equal weights and a run that was killed goes on as if it had not been.

Shapes: S windows, T positions, B batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clozerec_core.catalogue import SpecialRows
from clozerec_core.errors import ClozerecError
from clozerec_trainer.advice import Advice, advise_on_training
from clozerec_trainer.checkpoint import Checkpoints, State
from clozerec_trainer.cloze import Batch, causal_batch, cloze_batch
from clozerec_trainer.distributed import World
from clozerec_trainer.metrics import SELECTED_BY, EpochRecord, Metrics
from clozerec_trainer.model import HybridBert4Rec
from clozerec_trainer.objective import Objective
from clozerec_trainer.payload import Payload
from clozerec_trainer.progress import Reporter
from clozerec_trainer.sequences import WindowPlan, Windows

_BETAS = (0.9, 0.98)

Validate = Callable[[HybridBert4Rec], Metrics]


@dataclass(frozen=True)
class Fitted:
    """The outcome; the model holds the best epoch's weights."""

    best_epoch: int
    epochs: list[EpochRecord]
    advice: list[Advice]
    """What the curves called for."""


def fit(
    model: HybridBert4Rec,
    plan: WindowPlan,
    trained_rows: Tensor,
    payload: Payload,
    reporter: Reporter,
    validate: Validate | None,
    num_epochs: int,
    checkpoints: Checkpoints | None = None,
    world: World | None = None,
) -> Fitted:
    """Train in place, from where the checkpoint stands if there is one.

    Args:
        model: on the device to train on.
        plan: cuts the samples of each pass.
        trained_rows: sorted rows of the items in them.
        validate: figures of the model as it stands; None: the last epoch is kept.
        num_epochs: passes over the windows.
        checkpoints: where to keep them; None: nowhere.
        world: the processes that train together; None: this one alone.

    Raises:
        ClozerecError: the loss is no longer a number; the last good checkpoint stays.
    """
    checkpoints, world = checkpoints or Checkpoints(), world or World()
    objective = Objective(model, trained_rows, payload.negative_samples, payload.behaviour_dropout)
    steps_per_epoch = math.ceil(len(plan.windows()) / payload.batch_size)
    run = _Run(model, _optimiser(model, payload), steps_per_epoch, num_epochs, payload, world)
    if (saved := checkpoints.load()) is not None:
        run.load_state(saved)
        reporter.say("resumed", epoch=run.epoch, step=run.step, checkpoint=str(checkpoints.path))
    advised: dict[str, Advice] = {}
    num_done = (run.epoch - 1) * steps_per_epoch + run.step
    with reporter.steps("training", steps_per_epoch * num_epochs - num_done) as advance:
        while run.epoch <= num_epochs and not run.is_stale(payload.patience):
            windows, batches = run.remaining_batches(plan)
            for chosen in batches:
                began = time.monotonic()
                batch = draw_batch(windows, chosen, SpecialRows(model.num_items), payload, run.generator, world)
                loss = run.take_step(objective, batch.to(trained_rows.device), payload.gradient_clipping)
                run.seconds += time.monotonic() - began
                if not math.isfinite(loss):
                    raise _no_number(loss, run, checkpoints)
                checkpoints.confirm()
                advance(f"epoch {run.epoch}/{num_epochs}  loss {loss:.3f}")
                # Others' random states are not ours to save: several processes keep whole epochs only.
                if checkpoints.due and world.size == 1:
                    checkpoints.save(run.state())
            due = validate is not None and (run.epoch % payload.validate_every == 0 or run.epoch == num_epochs)
            figures = world.from_first(lambda: validate(model)) if validate is not None and due else {}
            record = run.end_epoch(figures)
            reporter.say(
                "epoch_done", epoch=record.epoch, loss=record.loss, seconds=round(record.seconds, 1), **_shown(figures)
            )
            if world.is_first:
                checkpoints.save(run.state())
            if (advice := advise_on_training(run.records, num_epochs)) and advice.symptom not in advised:
                advised[advice.symptom] = advice
                reporter.say("advice", symptom=advice.symptom, seen=advice.seen, change=advice.change)
    checkpoints.confirm()
    if run.epoch <= num_epochs:
        reporter.say("stopped_early", epoch=run.epoch - 1, best_epoch=run.best_epoch, patience=payload.patience)
    if run.best_weights is not None:
        model.load_state_dict(run.best_weights)
    model.eval()
    return Fitted(run.best_epoch or len(run.records), run.records, list(advised.values()))


class _Run:
    """Everything that changes from step to step."""

    def __init__(
        self,
        model: HybridBert4Rec,
        optimiser: torch.optim.Optimizer,
        steps_per_epoch: int,
        num_epochs: int,
        payload: Payload,
        world: World,
    ) -> None:
        self.model = model
        self.optimiser = optimiser
        self.schedule = _schedule(optimiser, steps_per_epoch * num_epochs, payload.warmup_ratio)
        self.generator = torch.Generator()
        self.epoch = 1
        """Under way."""
        self.step = 0
        """Steps done in it."""
        self.losses: list[float] = []
        self.seconds = 0.0
        self.records: list[EpochRecord] = []
        self.best_epoch: int | None = None
        self.best_weights: dict[str, Tensor] | None = None
        self._steps_per_epoch = steps_per_epoch
        self._payload = payload
        self._world = world

    def remaining_batches(self, plan: WindowPlan) -> tuple[Windows, list[Tensor]]:
        """This epoch's windows, and the indices of those of each step that is left in it, each process its share."""
        seed, rank = self._payload.seed, self._world.rank
        order = torch.Generator().manual_seed(_mix(seed, self.epoch))
        windows = plan.windows(order)
        batches = windows.batches(self._steps_per_epoch, order)
        if self.step == 0:
            self.generator.manual_seed(_mix(seed, self.epoch, 1, rank))
            torch.manual_seed(_mix(seed, self.epoch, 2, rank))
        return windows, [self._world.share(chosen) for chosen in batches[self.step :] if len(chosen)]

    def take_step(self, objective: Objective, batch: Batch, gradient_clipping: float) -> float:
        """One update of the weights; returns the loss before it. Where that is no number, nothing is updated."""
        self.model.train()
        self.optimiser.zero_grad(set_to_none=True)
        loss = objective.loss(batch, self.generator)
        value = self._world.mean(loss.item())
        if not math.isfinite(value):
            return value
        loss.backward()  # type: ignore[no-untyped-call]
        self._world.average_gradients(self.model.parameters())
        if gradient_clipping:
            nn.utils.clip_grad_norm_(self.model.parameters(), gradient_clipping)
        self.optimiser.step()
        self.schedule.step()
        self.losses.append(value)
        self.step += 1
        return value

    def end_epoch(self, figures: Metrics) -> EpochRecord:
        """Write the epoch down, keep its weights where they are the best, and go on to the next."""
        record = EpochRecord(self.epoch, sum(self.losses) / len(self.losses), self.seconds, figures)
        best = max((each.validation[SELECTED_BY] for each in self.records if each.validation), default=-math.inf)
        if figures and figures[SELECTED_BY] > best:
            self.best_epoch, self.best_weights = self.epoch, _copy(self.model.state_dict())
        self.records.append(record)
        self.epoch, self.step, self.losses, self.seconds = self.epoch + 1, 0, [], 0.0
        return record

    def is_stale(self, patience: int) -> bool:
        """Whether as many validations as `patience` have passed since the best."""
        since_best = [each for each in self.records if each.validation and each.epoch > (self.best_epoch or 0)]
        return patience > 0 and len(since_best) >= patience

    def state(self) -> State:
        """For a checkpoint."""
        device = next(self.model.parameters()).device
        return {
            "weights": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generator": self.generator.get_state(),
            "torch_rng": torch.get_rng_state(),
            "device_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "epoch": self.epoch,
            "step": self.step,
            "losses": self.losses,
            "seconds": self.seconds,
            "records": [asdict(each) for each in self.records],
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
        }

    def load_state(self, state: State) -> None:
        """The inverse of `state`."""
        self.model.load_state_dict(state["weights"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_rng"])
        if state["device_rng"] is not None:
            torch.cuda.set_rng_state(state["device_rng"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.losses, self.seconds = state["losses"], state["seconds"]
        self.records = [EpochRecord(**each) for each in state["records"]]
        self.best_epoch, self.best_weights = state["best_epoch"], state["best_weights"]


def draw_batch(
    windows: Windows,
    chosen: Tensor,
    special: SpecialRows,
    payload: Payload,
    generator: torch.Generator,
    world: World | None = None,
) -> Batch:
    """The windows of a step with a draw of the task; as long as the longest of them, unless padding is to be read.

    Processes that train together draw one task: a causal step takes twice as long as one of Cloze, and the first to end
    waits for the last.
    """
    num_positions = None if payload.use_attention_mask else payload.max_sequence_length + 1
    rows, weights = windows.lay_out(chosen.numpy(), special, num_positions)
    rows_BL, weights_BL = torch.from_numpy(rows), torch.from_numpy(weights)
    is_causal = torch.rand((), generator=generator).item() < payload.causal_ratio
    if (world or World()).agreed(is_causal):
        return causal_batch(rows_BL, weights_BL, special)
    return cloze_batch(rows_BL, weights_BL, special, payload.masking_ratio, payload.last_item_ratio, generator)


def _no_number(loss: float, run: _Run, checkpoints: Checkpoints) -> ClozerecError:
    is_kept = checkpoints.path is not None and checkpoints.path.is_file()
    kept = f"; the last good checkpoint is {checkpoints.path}, and start_from takes it" if is_kept else ""
    return ClozerecError(
        f"the loss became {loss} at step {run.step + 1} of epoch {run.epoch}: lower learning_rate, and keep "
        f"gradient_clipping on{kept}"
    )


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


def _mix(*parts: int) -> int:
    """A seed from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _copy(weights: dict[str, Any]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in weights.items()}


def _shown(figures: Metrics) -> Metrics:
    return {f"validation_{name}": figures[name] for name in (SELECTED_BY, "hr@10") if name in figures}
