"""Checkpoints: where training stands, on disk, so that `kill -9` costs seconds and changes nothing.

A file holds weights, optimiser, schedule, random state, progress and the best weights so far, as tensors and plain
values (read with `weights_only`, so that nothing in it is executed). Each is written whole under another name, synced,
and renamed once the next loss has shown that its weights are good.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle  # for the name of its error; nothing is unpickled
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from clozerec_core.errors import UsageError

State = dict[str, Any]

DIRECTORY = ".checkpoints"
"""Inside the output directory."""


@dataclass
class Checkpoints:
    """The checkpoint of one training, replaced as it goes on."""

    path: Path | None = None
    """None: none are kept."""
    every_s: float = 60.0
    _saved_at: float = field(default_factory=time.monotonic)
    _is_pending: bool = False

    @classmethod
    def of(cls, output_dir: Path, every_s: float, **identity: Any) -> Checkpoints:
        """Of the training that `identity` describes: only an equal one goes on from it."""
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        return cls(output_dir / DIRECTORY / f"{key}.pt", every_s)

    @property
    def _pending(self) -> Path:
        assert self.path is not None
        return self.path.with_suffix(".writing")

    @property
    def due(self) -> bool:
        """Whether the last one is old enough for another in the middle of an epoch."""
        return self.path is not None and time.monotonic() - self._saved_at >= self.every_s

    def load(self) -> State | None:
        """What was saved last, if anything was."""
        return read_checkpoint(self.path) if self.path is not None and self.path.is_file() else None

    def save(self, state: State) -> None:
        """Write a checkpoint; `confirm` makes it the one that `load` reads.

        Raises:
            UsageError: the directory cannot be written to.
        """
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._pending.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UsageError(f"cannot write checkpoint {self.path}: {error.strerror}") from None
        self._saved_at, self._is_pending = time.monotonic(), True

    def confirm(self) -> None:
        """The weights that were saved last are good: let them replace the checkpoint before."""
        if self.path is not None and self._is_pending:
            self._pending.replace(self.path)
            self._is_pending = False

    def remove(self) -> None:
        """After the bundle is out; with it the directory, once it is empty."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            self._pending.unlink(missing_ok=True)
            if self.path.parent.is_dir() and not any(self.path.parent.iterdir()):
                self.path.parent.rmdir()


def read_checkpoint(path: Path) -> State:
    """A checkpoint's contents.

    Raises:
        UsageError: it is not there, or is no checkpoint.
    """
    try:
        state: State = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"checkpoint {path} does not exist") from None
    except (RuntimeError, EOFError, ValueError, OSError, KeyError, pickle.UnpicklingError):
        raise UsageError(f"checkpoint {path} is damaged, or none; delete it to start anew") from None
    return state
