"""The peer of against_rectools.py: RecTools' BERT4Rec, judged after every epoch. Runs where RecTools is installed.

    python bench/rectools_peer.py DIRECTORY SECONDS MODEL_JSON

DIRECTORY holds `train.csv` (user_id, item_id, place) and `targets.csv` (user_id, item_id); `peer.json` is
written there: seconds of training and NDCG@10 after each epoch.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path

import pandas as pd
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import BERT4RecModel

NUM_ANSWERS = 10


def main() -> None:
    directory, budget_s, model_keys = Path(sys.argv[1]), float(sys.argv[2]), json.loads(sys.argv[3])
    events = pd.read_csv(directory / "train.csv")
    events[Columns.Datetime] = pd.Timestamp("2000-01-01") + pd.to_timedelta(events.pop("place"), unit="s")
    events[Columns.Weight] = 1
    targets = pd.read_csv(directory / "targets.csv").set_index("user_id")["item_id"]
    dataset = Dataset.construct(events)
    model = BERT4RecModel(**model_keys, epochs=1, verbose=0)
    curve: list[tuple[float, float]] = []
    seconds = 0.0
    while seconds <= budget_s:
        began = time.monotonic()
        model.fit_partial(dataset, min_epochs=1, max_epochs=1)
        seconds += time.monotonic() - began
        answers = model.recommend(targets.index.to_numpy(), dataset, k=NUM_ANSWERS, filter_viewed=True)
        hits = answers[answers[Columns.Item] == answers[Columns.User].map(targets)]
        gain = sum(1 / math.log2(rank + 1) for rank in hits[Columns.Rank])
        curve.append((seconds, gain / len(targets)))
        print(f"RecTools  {seconds:7.0f} s   {curve[-1][1]:.4f}", flush=True)
    (directory / "peer.json").write_text(json.dumps(curve))


if __name__ == "__main__":
    main()
