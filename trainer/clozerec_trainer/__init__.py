"""The trainer: from a log of interactions and a table of items to one immutable bundle.

The only home of torch. `payload.py` says what is asked, `train.py` does it from top to bottom; everything else is one
step each: read (`tables`, `times`, `items`, `data`), split (`splits`) and cut (`sequences`), mask (`cloze`), embed text
(`item_features`, `content`), learn (`model`, `objective`, `loop`, `checkpoint`, `distributed`, `experiment`), judge
(`evaluate`, `metrics`, `baselines`, `comparison`, `report`), advise (`advice`, `estimate`, `doctor`, `tune`), write
(`export`, `encoder_graph`, `text_graph`).
"""

import os

# Read by OpenMP when torch is first imported. Its threads wait for each other busily by default, which on two shared
# cores made training up to five times slower than one thread alone; waiting passively it never is.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
