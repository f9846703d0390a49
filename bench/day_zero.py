"""Does an item that was added a moment ago stand where its text says?

    python bench/day_zero.py [BUNDLE]

Asks `serve all` over gRPC. For 1,000 items of the catalogue a twin is upserted: another id, the same metadata, hence
the same text. In the next call

    like the item       the twin is among the ten most similar to the item (promised: 900 of 1,000)
    like the text       the twin is among the ten nearest to the text (promised: 1,000 of 1,000)

and in place of the item at the end of a session, the twin leads to much the same answers: Spearman's rank correlation
over the union of both first hundred (promised: .8 in the median). The random row replaces the item by another one
instead, so that .8 means something. Without a bundle, that of the other serving benchmarks.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path

import grpc
from serving_bundle import serving_bundle

from clozerec.v1 import recommender_pb2
from clozerec.v1.recommender_pb2_grpc import RecommenderServiceStub
from clozerec_cli.serving import all_in_one
from clozerec_cli.settings import AllSettings
from clozerec_core.bundle import Bundle
from clozerec_core.catalogue import item_text
from clozerec_core.history_file import HistoryFile
from clozerec_core.telemetry import configure_logging

TWINS = 1_000
SESSIONS, SESSION_LEN, LOOKED_AT = 200, 10, 100
ITEM, SEQUENTIAL = recommender_pb2.QUERY_TYPE_ITEM_TO_ITEM, recommender_pb2.QUERY_TYPE_SEQUENTIAL


class Asker:
    """One gateway, one bundle."""

    def __init__(self, stub: RecommenderServiceStub, bundle: Bundle) -> None:
        self.stub = stub
        self.catalogue = bundle.catalogue
        text = bundle.manifest.text
        if text is None:
            raise SystemExit("this bundle has no text engine: nothing is known of a new item")
        self.columns = text.columns

    async def upsert_twin(self, row: int) -> str:
        twin = f"twin-of-{self.catalogue.item_ids[row]}"
        request = recommender_pb2.UpsertItemsRequest()
        request.items.add(item_id=twin).metadata.update(self.catalogue.metadata(row))
        (result,) = (await self.stub.UpsertItems(request, timeout=30)).results
        assert result.status.code == 0, result.status.message
        return twin

    async def delete(self, item_id: str) -> None:
        await self.stub.DeleteItems(recommender_pb2.DeleteItemsRequest(item_ids=[item_id]), timeout=30)

    async def ids(self, top_k: int, **query: object) -> list[str]:
        request = recommender_pb2.RecommendRequest(top_k=top_k, **query)  # type: ignore[arg-type]
        return [item.item_id for item in (await self.stub.Recommend(request, timeout=30)).items]

    async def stands_where_its_text_says(self, row: int) -> tuple[bool, bool]:
        """Whether the twin is found by its item, and by its text."""
        twin = await self.upsert_twin(row)
        by_item = await self.ids(10, query_type=ITEM, item_id=self.catalogue.item_ids[row])
        text = item_text(self.catalogue.cells(row), self.columns)
        by_text = await self.ids(10, query_type=ITEM, item_text=text)
        await self.delete(twin)
        return twin in by_item, twin in by_text

    async def correlations(self, session: Sequence[str], stranger: str) -> tuple[float, float]:
        """How alike the answers are to those with the twin of the last item in its place, and with a stranger."""
        *before, last = session
        row = self.catalogue.row_of(last)
        assert row is not None
        twin = await self.upsert_twin(row)
        answers = []
        for item_id in (last, twin, stranger):
            request = {"session_items": [*before, item_id], "exclude_item_ids": [last, twin, stranger]}
            answers.append(await self.ids(LOOKED_AT, query_type=SEQUENTIAL, **request))
        await self.delete(twin)
        return spearman(answers[0], answers[1]), spearman(answers[0], answers[2])


def spearman(some: Sequence[str], others: Sequence[str]) -> float:
    """Rank correlation over the union; who is missing from one answer shares the places after its end."""
    union = sorted({*some, *others})

    def ranks(answer: Sequence[str]) -> list[float]:
        place = {item_id: float(number) for number, item_id in enumerate(answer)}
        missing = (len(answer) + len(union) - 1) / 2
        return [place.get(item_id, missing) for item_id in union]

    return statistics.correlation(ranks(some), ranks(others))


def sessions(bundle: Bundle, rng: random.Random) -> list[list[str]]:
    """The ends of people's histories."""
    file, ids, found = HistoryFile(bundle.file("histories.sqlite")), bundle.catalogue.item_ids, []
    for user in rng.sample(range(1, 6_000), 5_000):
        history = file.read(str(user))
        if history and len(history[0]) >= SESSION_LEN:
            found.append([ids[row] for row in history[0][-SESSION_LEN:]])
        if len(found) == SESSIONS:
            break
    file.close()
    return found


def report(name: str, value: float, promised: float, form: str) -> None:
    print(f"{name:52} {value:{form}}   at least {promised:{form}}   {'holds' if value >= promised else 'MISSED'}")


async def measure(bundle: Bundle) -> None:
    rng = random.Random(5)
    with tempfile.TemporaryDirectory() as directory:
        settings = AllSettings(bundle=bundle.path, grpc_port=0, http_port=0, state_dir=Path(directory), metrics=False)
        async with (
            all_in_one(bundle, settings) as ports,
            grpc.aio.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel,
        ):
            asker = Asker(RecommenderServiceStub(channel), bundle)
            has_text = [row for row in range(len(bundle.catalogue)) if bundle.content[row].any()]
            rows = rng.sample(has_text, min(TWINS, len(has_text)))
            found = [await asker.stands_where_its_text_says(row) for row in rows]
            num_rows = len(rows)
            report(f"found by its item, of {num_rows}", sum(item for item, _ in found), 0.9 * num_rows, ".0f")
            report(f"found by its text, of {num_rows}", sum(text for _, text in found), num_rows, ".0f")
            pairs = [
                await asker.correlations(session, bundle.catalogue.item_ids[rng.choice(rows)])
                for session in sessions(bundle, rng)
            ]
            if not pairs:
                print("no session long enough in this bundle: correlations skipped")
                return
            twins, strangers = (sorted(each) for each in zip(*pairs, strict=True))
            report(f"correlation in {len(pairs)} sessions, median", statistics.median(twins), 0.8, ".2f")
            print(f"{'the same, worst tenth begins at':52} {twins[len(twins) // 10]:.2f}")
            print(f"{'the same with a random item in its place, median':52} {statistics.median(strangers):.2f}")


def main() -> None:
    bundle = Bundle.open(Path(sys.argv[1])) if len(sys.argv) > 1 else serving_bundle()
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):  # an audit line a change
        configure_logging()
        asyncio.run(measure(bundle))


if __name__ == "__main__":
    main()
