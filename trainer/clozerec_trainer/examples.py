"""Cases of the test that a person can read: what somebody had, what came next, what the model said."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clozerec_core.catalogue import Catalogue
from clozerec_trainer.evaluate import Judge, Ranking
from clozerec_trainer.metrics import NO_ITEM, NOT_RANKED

NUM_EXAMPLES = 20
HISTORY_SHOWN = 8


@dataclass(frozen=True)
class Example:
    """One case, by display names."""

    history: list[str]
    """The newest items before, oldest first."""
    num_earlier: int
    """How many more came before those."""
    came_next: str
    answers: list[str]
    """Best first."""
    rank: int | None
    """Of what came next; None: it could not be an answer, because it was seen or has no vector."""
    cold: bool
    """Whether no training event shows what came next."""


def pick_examples(judge: Judge, ranking: Ranking, catalogue: Catalogue, train_counts_N: np.ndarray) -> list[Example]:
    """Cases spread evenly over the users, in their order; nobody is named."""
    log, names = judge.log, catalogue.display_names
    chosen = np.unique(np.linspace(0, len(judge.cases) - 1, NUM_EXAMPLES).round().astype(np.int64))
    examples = []
    for case in chosen if len(judge.cases) else []:
        user, stop = judge.cases.users_C[case], judge.cases.stops_C[case]
        start = int(log.starts_U1[user])
        first = max(start, int(stop) - HISTORY_SHOWN)
        target, rank = log.rows_E[stop], int(ranking.ranks_C[case])
        examples.append(
            Example(
                history=[names[row] for row in log.rows_E[first:stop]],
                num_earlier=first - start,
                came_next=names[target],
                answers=[names[row] for row in ranking.top_CK[case] if row != NO_ITEM],
                rank=None if rank == NOT_RANKED else rank,
                cold=bool(train_counts_N[target] == 0),
            )
        )
    return examples
