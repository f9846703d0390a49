"""Write the golden bundle of the current format: `python tests/golden/make.py`, once a version, then never again.

A bundle in `tests/golden/v<N>/` is what a user of that version has on disk. It must keep loading, and keep its answers.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from pathlib import Path

from clozerec_core.bundle import FORMAT_VERSION, Bundle
from clozerec_core.predicate import EVERYTHING
from clozerec_encoder.encoder import Encoder
from clozerec_encoder.settings import EncoderSettings
from clozerec_encoder.tokens import TokenSequence
from clozerec_retriever.retriever import Retriever, Selection

GOLDEN_DIR = Path(__file__).parent
SESSIONS = ("a", "abc", "cdefg", "nop", "gfe")
TOP_K = 5


def answers(bundle: Bundle) -> dict[str, list[tuple[str, float]]]:
    """Item ids and scores for each session."""
    encoder = Encoder(bundle, EncoderSettings(bundle=bundle.path), texts=None)
    retriever = Retriever.open(bundle)
    encoded = asyncio.run(encoder.encode(encoder.read([TokenSequence(list(session)) for session in SESSIONS]), ""))
    encoder.close()
    found = {}
    for session, each in zip(SESSIONS, encoded, strict=True):
        assert each.intent is not None
        ranking = retriever.search_by_vector(each.intent, Selection(TOP_K, EVERYTHING, list(session))).ranking
        ids = [bundle.catalogue.item_ids[row] for row in ranking.rows]
        found[session] = list(zip(ids, [float(score) for score in ranking.scores], strict=True))
    return found


def main() -> None:
    sys.path.insert(0, str(GOLDEN_DIR.parent))
    from toy_world import train_toy_bundle

    target = GOLDEN_DIR / f"v{FORMAT_VERSION}"
    if target.exists():
        raise SystemExit(f"{target} exists: a published format never changes; raise FORMAT_VERSION instead")
    with tempfile.TemporaryDirectory() as scratch:
        bundle = train_toy_bundle(Path(scratch))
        shutil.copytree(bundle.path, target / "bundle")
    (target / "answers.json").write_text(json.dumps(answers(Bundle.open(target / "bundle")), indent=1) + "\n")


if __name__ == "__main__":
    main()
