"""How many tokens a second does a training step take in, beside BERT4Rec written straightforwardly in PyTorch?

    python bench/training_step.py [STEPS] [DIRECTORY]         default: 120 steps of ../shared/data/ml-1m

Reference: the same network out of PyTorch's own parts, `nn.Embedding` and `nn.TransformerEncoder`, every window padded
to full length, logits at every position against every item, cross-entropy where a mask stands. Both learn the same
batches of the same Cloze task, by turns, ids alone, with cosine logits over a temperature and the full softmax, so that
their losses must run together. Where DIRECTORY is missing, histories of random lengths stand in for MovieLens-1M.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clozerec_core.catalogue import SpecialRows
from clozerec_trainer.cloze import Batch
from clozerec_trainer.data import Log, read_dataset
from clozerec_trainer.item_features import no_content
from clozerec_trainer.loop import draw_batch
from clozerec_trainer.model import HybridBert4Rec, NetworkSpec
from clozerec_trainer.objective import Objective
from clozerec_trainer.payload import Payload, parse_payload
from clozerec_trainer.progress import SilentReporter
from clozerec_trainer.sequences import cut_windows

TURN = 5
"""Steps of one before the other's turn, so that a noisy neighbour meets both."""

PROMISED_RATIO = 2.0
KEYS = {
    "user_column": "user_id",
    "item_column": "item_id",
    "timestamp_column": "timestamp",
    "negative_samples": 0,
    "weight_tying": True,
    "max_sequence_length": 100,
    "masking_ratio": 0.2,
}


class Straightforward(nn.Module):
    """BERT4Rec as one would write it first."""

    def __init__(self, num_items: int, payload: Payload, temperature: float) -> None:
        super().__init__()
        self.num_positions, self.temperature = payload.max_sequence_length + 1, temperature
        self.items = nn.Embedding(num_items + 2, payload.hidden_size)
        self.positions = nn.Embedding(self.num_positions, payload.hidden_size)
        nn.init.normal_(self.items.weight, std=0.1)
        nn.init.normal_(self.positions.weight, std=0.02)
        self.dropout = nn.Dropout(payload.dropout_rate)
        layer = nn.TransformerEncoderLayer(
            payload.hidden_size,
            payload.attention_heads,
            4 * payload.hidden_size,
            payload.dropout_rate,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.encoder = nn.TransformerEncoder(layer, payload.model_depth, enable_nested_tensor=False)
        self.head = nn.Sequential(
            nn.LayerNorm(payload.hidden_size),
            nn.Linear(payload.hidden_size, payload.hidden_size),
            nn.GELU(),
            nn.Linear(payload.hidden_size, payload.hidden_size),
        )
        self.special = SpecialRows(num_items)

    def loss(self, batch: Batch) -> Tensor:
        """Mean cross-entropy at the masks."""
        padding = self.num_positions - batch.rows_BL.shape[1]
        rows_BT = F.pad(batch.rows_BL, (padding, 0), value=self.special.pad)
        targets_BL = torch.full_like(batch.rows_BL, -100)
        targets_BL[batch.asked_BL] = batch.targets_M
        targets_BT = F.pad(targets_BL, (padding, 0), value=-100)
        table = F.normalize(self.items.weight, dim=1)
        hidden = self.dropout(F.embedding(rows_BT, table) + self.positions.weight)
        hidden = self.encoder(hidden, src_key_padding_mask=rows_BT == self.special.pad)
        logits = F.normalize(self.head(hidden), dim=-1) @ table[: self.special.pad].T / self.temperature
        return F.cross_entropy(logits.flatten(0, 1), targets_BT.flatten())


def main() -> None:
    num_steps = int(sys.argv[1]) if len(sys.argv) > 1 else 120
    default = Path(__file__).resolve().parents[2] / "shared" / "data" / "ml-1m"
    log, num_items, payload = load(Path(sys.argv[2]) if len(sys.argv) > 2 else default)
    torch.manual_seed(0)
    windows = cut_windows(log, log.starts_U1[1:], payload.max_sequence_length + 1, payload.stride)
    trained_rows = torch.from_numpy(windows.distinct_rows())
    trained_N = torch.zeros(num_items, dtype=torch.bool).index_fill(0, trained_rows, True)
    temperature = 0.1
    ours = HybridBert4Rec(NetworkSpec.of(payload), no_content(num_items), trained_N, True, temperature)
    plain = Straightforward(num_items, payload, temperature)
    objective = Objective(ours, trained_rows, 0, 0.0)
    draws, own = torch.Generator().manual_seed(1), torch.Generator()
    systems = {"clozerec": (ours, lambda batch: objective.loss(batch, own)), "straightforward": (plain, plain.loss)}
    optimisers = {name: torch.optim.AdamW(model.parameters(), 1e-3, fused=True) for name, (model, _) in systems.items()}
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    losses: dict[str, list[float]] = {name: [] for name in systems}
    num_tokens, steps_per_pass = 0, math.ceil(len(windows) / payload.batch_size)
    chosen = [each for seed in range(99) for each in windows.batches(steps_per_pass, draws.manual_seed(seed))]
    for begin in range(0, num_steps, TURN):
        batches = [
            draw_batch(windows, each, SpecialRows(num_items), payload, draws) for each in chosen[begin : begin + TURN]
        ]
        num_tokens += sum(int((batch.rows_BL != num_items).sum()) for batch in batches)
        for name, (model, loss_of) in systems.items():
            model.train()
            began = time.process_time()
            for batch in batches:
                optimisers[name].zero_grad(set_to_none=True)
                loss = loss_of(batch)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), payload.gradient_clipping)
                optimisers[name].step()
                losses[name].append(loss.item())
            seconds[name].append(time.process_time() - began)
    print(f"{'':18}{'tokens a processor second':>28}{'times the reference':>22}   loss by quarters of the run")
    for name in systems:
        quarters = " ".join(f"{np.mean(part):.3f}" for part in np.array_split(losses[name], 4))
        ratio = sum(seconds["straightforward"]) / sum(seconds[name])
        print(f"{name:18}{num_tokens / sum(seconds[name]):28,.0f}{ratio:22.2f}   {quarters}")
    ratio = sum(seconds["straightforward"]) / sum(seconds["clozerec"])
    verdict = "held" if ratio >= PROMISED_RATIO else "MISSED"
    print(f"{num_steps} steps, {torch.get_num_threads()} threads; {PROMISED_RATIO} times the reference: {verdict}")


def load(directory: Path) -> tuple[Log, int, Payload]:
    """The log of DIRECTORY, or one of random lengths."""
    if (directory / "interactions.parquet").is_file():
        payload = parse_payload({"interactions": "interactions.parquet", **KEYS}, directory)
        dataset = read_dataset(payload, SilentReporter())
        return dataset.log, len(dataset.catalogue), payload
    print(f"{directory} is missing: histories of random lengths")
    generator = np.random.default_rng(0)
    lengths = np.minimum(20 + generator.exponential(150, 3000).astype(np.int64), 2000)
    rows = generator.zipf(1.3, lengths.sum()) % 3700
    starts, ones = np.concatenate([[0], lengths.cumsum()]), np.ones(len(rows), np.float32)
    log = Log([str(u) for u in range(len(lengths))], starts, rows, np.arange(len(rows)), ones)
    return log, 3700, parse_payload({"interactions": "none", **KEYS}, directory)


if __name__ == "__main__":
    main()
