"""Training that is cut off goes on as if it had not been."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_world
from listening import Listener

from clozerec_core.bundle import Bundle
from clozerec_core.errors import ClozerecError, UsageError
from clozerec_trainer.checkpoint import DIRECTORY, Checkpoints, read_checkpoint
from clozerec_trainer.payload import parse_payload
from clozerec_trainer.train import train

Build = Callable[..., Bundle]

KEYS: dict[str, Any] = {
    "training_epochs": 3,
    "validate_every": 1,
    "dropout_rate": 0.2,
    "causal_ratio": 0.3,
    "negative_samples": 5,
    "checkpoint_seconds": 0,
}

TRAIN_UNTIL_KILLED = """
import json, os, signal, sys
from contextlib import contextmanager
from pathlib import Path
import torch
from clozerec_trainer.payload import parse_payload
from clozerec_trainer.progress import SilentReporter
from clozerec_trainer.train import train

class Killer(SilentReporter):
    done = 0

    @contextmanager
    def steps(self, what, total):
        def advance(note):
            self.done += 1
            if self.done == int(sys.argv[2]):
                os.kill(os.getpid(), signal.SIGKILL)
        yield advance

torch.set_num_threads(1)
train(parse_payload(json.loads(sys.argv[1]), Path("/")), Path(sys.argv[3]), Killer())
"""


def same_weights(one: Bundle, other: Bundle) -> bool:
    first, second = one.weights(), other.weights()
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def killed_at_step(step: int, keys: dict[str, Any], output_dir: Path) -> None:
    command = [sys.executable, "-c", TRAIN_UNTIL_KILLED, json.dumps(keys), str(step), str(output_dir)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL


def test_after_kill_9_training_goes_on_to_bit_equal_weights(quick_keys: dict[str, Any], tmp_path: Path) -> None:
    keys = {**quick_keys, **KEYS, "refit": True}
    payload = parse_payload({**keys, "checkpoint_seconds": 60}, tmp_path)
    whole = train(payload, tmp_path / "whole").bundle
    cut, listener = tmp_path / "cut", Listener()
    killed_at_step(15, keys, cut)  # an epoch has 8 steps, so in the second
    killed_at_step(13, keys, cut)  # 10 steps are left, so in the refit
    resumed = train(payload, cut, listener).bundle
    assert [(each["epoch"], each["step"]) for each in listener.named("resumed")] == [(4, 0), (1, 2)]
    assert same_weights(whole, resumed)
    assert resumed.manifest.metrics == whole.manifest.metrics
    assert not (cut / DIRECTORY).exists()


def test_a_loss_that_is_no_number_stops_naming_the_step_and_keeps_the_last_good_checkpoint(
    quick_keys: dict[str, Any], tmp_path: Path
) -> None:
    # Decay multiplies weights by -99 a step, so they overflow in the course of an epoch or two.
    ruined = {**quick_keys, **KEYS, "learning_rate": 1e4, "gradient_clipping": 0}
    with pytest.raises(ClozerecError, match=r"at step \d of epoch \d: lower learning_rate, and keep") as caught:
        train(parse_payload(ruined, tmp_path), tmp_path / "out")
    (kept,) = (path for path in (tmp_path / "out" / DIRECTORY).iterdir() if path.suffix == ".pt")
    assert f"the last good checkpoint is {kept}" in str(caught.value)
    assert all(tensor.isfinite().all() for tensor in read_checkpoint(kept)["weights"].values())

    listener = Listener()
    mended = parse_payload({**quick_keys, **KEYS}, tmp_path)
    train(mended, tmp_path / "out", listener)
    assert listener.named("resumed") == []  # another payload starts anew
    assert kept.is_file()


def test_training_may_start_from_a_checkpoint(quick_keys: dict[str, Any], tmp_path: Path) -> None:
    keys = {**quick_keys, **KEYS}
    killed_at_step(15, keys, tmp_path / "cut")
    (kept,) = (path for path in (tmp_path / "cut" / DIRECTORY).iterdir() if path.suffix == ".pt")
    losses = []
    for more in ({}, {"start_from": str(kept)}):
        listener = Listener()
        train(parse_payload({**keys, **more, "training_epochs": 1}, tmp_path), tmp_path / "out", listener)
        losses.append(float(str(listener.named("epoch_done")[0]["loss"])))
    assert losses[1] < losses[0]  # what two epochs have learned is not lost
    wider = parse_payload({**keys, "hidden_size": 16, "start_from": str(kept)}, tmp_path)
    with pytest.raises(UsageError, match=r"start_from: the model in .* has another shape; keep hidden_size"):
        train(wider, tmp_path / "wider")


@pytest.mark.parametrize(
    ("content", "expected"), [(None, "does not exist"), (b"", "damaged"), (b"PK\x03\x04no", "damaged")]
)
def test_what_is_no_checkpoint_is_refused_by_name(content: bytes | None, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "some.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=rf"checkpoint {path}.*{expected}"):
        read_checkpoint(path)


def test_a_checkpoint_counts_once_it_is_confirmed(tmp_path: Path) -> None:
    checkpoints = Checkpoints.of(tmp_path, 0, some="training")
    checkpoints.save({"epoch": 1})
    assert checkpoints.load() is None
    checkpoints.confirm()
    checkpoints.save({"epoch": 2})
    assert checkpoints.load() == {"epoch": 1}


def test_training_stops_when_validation_has_not_improved_for_as_long_as_patience(
    quick_keys: dict[str, Any], tmp_path: Path
) -> None:
    keys = {**quick_keys, "training_epochs": 30, "validate_every": 1, "patience": 2, "learning_rate": 1e-9}
    listener = Listener()
    bundle = train(parse_payload(keys, tmp_path), tmp_path / "out", listener).bundle
    (stopped,) = listener.named("stopped_early")
    best_epoch = int(bundle.manifest.metrics["best_epoch"])
    assert stopped == {"epoch": best_epoch + 2, "best_epoch": best_epoch, "patience": 2}
    document = json.loads(bundle.file("report/metrics.json").read_text())
    assert len(document["epochs"]) == best_epoch + 2 < 30


@pytest.mark.slow
def test_two_processes_learn_as_well_as_one(tmp_path: Path) -> None:
    payload = toy_world.write_toy_payload(tmp_path, training_epochs=25, validate_every=25)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "-m", "clozerec_cli", "train", str(payload), "--output", str(tmp_path / "out")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    bundle = Bundle.open(Path(done.stdout.strip().splitlines()[-1]))
    assert len(done.stdout.strip().splitlines()) == 1
    assert bundle.manifest.metrics["test"]["bert4rec"]["ndcg@10"] > 0.9
