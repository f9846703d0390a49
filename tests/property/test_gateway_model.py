"""Random changes, events and queries against a real gateway, and against a slow model of what they mean.

The model knows plain dicts and lists, scores every item one by one, and takes only the two engines from the product: a
text's content vector and a sequence's intent. CI takes 600 steps; all 5,000:

    pytest tests/property/test_gateway_model.py --hypothesis-profile thorough
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import toy_world
from google.protobuf import json_format
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from integration.conftest import TIMEOUT_S, running

from clozerec.v1 import encoder_pb2, recommender_pb2
from clozerec.v1.recommender_pb2_grpc import RecommenderServiceStub
from clozerec_core.bundle import Bundle
from clozerec_core.filters import parse_filter
from clozerec_core.history_file import HistoryFile
from clozerec_core.hybrid import ItemSpace
from clozerec_core.predicate import matches
from clozerec_core.rpc_client import LocalStub
from clozerec_encoder.bundles import LoadedBundles
from clozerec_encoder.servicer import EncoderServicer
from clozerec_encoder.settings import EncoderSettings

STEPS = 50
LONGEST_S = 1_800
"""For 5,000 steps and what it takes to make a difference small, on a machine that does other things beside."""

NEW_IDS = ["new-1", "new-2", "new-3"]
ITEM_IDS = st.sampled_from([*toy_world.ITEM_IDS[:8], *NEW_IDS, "never"])
USER_IDS = st.sampled_from(["user-3", "user-40", "guest-1", "guest-2"])
TEXTS = st.sampled_from([*toy_world.TITLES[:4], "a brass bell", "a garden spade"])
FILTERS: list[dict[str, Any]] = [
    {}, {"meta.brand": "Acme"}, {"meta.in_stock": True}, {"meta.year": {"$gte": 2005}},
    {"meta.genres": ["home", "shoes"]}, {"$not": {"meta.brand": "Acme"}}, {"meta.brand": {"$in": []}},
]  # fmt: skip
OPTIONS = st.fixed_dictionaries(
    {"top_k": st.sampled_from([1, 3, 20])},
    optional={
        "filters": st.sampled_from(FILTERS),
        "exclude_item_ids": st.lists(ITEM_IDS, max_size=2),
        "exclude_seen": st.booleans(),
        "diversity": st.sampled_from([0.25, 0.75, 1.0]),
    },
)
MASKED = st.fixed_dictionaries({}, optional={"mask_index": st.integers(0, 6)})
NO_TEXT = st.just("")
METADATA = st.fixed_dictionaries(
    {},
    optional={
        "brand": st.sampled_from(["Acme", "Globex", None]),
        "in_stock": st.booleans(),
        "year": st.integers(2000, 2010),
        "genres": st.sampled_from([["home"], ["sport", "shoes"], []]),
    },
)


@dataclass
class Engines:
    """What the model borrows: one bundle's text and sequence engine, and its space."""

    bundle: Bundle
    encoder: LocalStub
    loop: asyncio.AbstractEventLoop
    space: ItemSpace
    histories: dict[str, list[tuple[int, str]]]
    contents: dict[str, Any] = field(default_factory=dict)

    def content(self, text: str) -> Any:
        if text not in self.contents:
            request = encoder_pb2.EncodeTextsRequest(texts=[text])
            answer = self.loop.run_until_complete(self.encoder.EncodeTexts(request))
            self.contents[text] = np.array(answer.texts[0].content, np.float32)
        return self.contents[text]

    def item_vector(self, text: str) -> Any:
        """Of a day-zero item with the text."""
        answer = self.loop.run_until_complete(self.encoder.EncodeTexts(encoder_pb2.EncodeTextsRequest(texts=[text])))
        return list(answer.texts[0].item)

    def intent(self, tokens: list[encoder_pb2.Token], before: int) -> Any:
        """None where nothing can be read."""
        sequence = encoder_pb2.Sequence(tokens=tokens, mask_index=before)
        request = encoder_pb2.EncodeSequencesRequest(sequences=[sequence])
        answer = self.loop.run_until_complete(self.encoder.EncodeSequences(request))
        return list(answer.sequences[0].intent) or None


@dataclass
class Item:
    """An item of the model."""

    row: int
    cells: dict[str, Any]
    vector: Any
    content: Any
    count: int = 0
    deleted: bool = False
    is_bundled: bool = True


@dataclass
class Question:
    """What an answer is ranked by; or the code of a refusal."""

    fallback: str
    vector: Any = None
    """None: popularity."""
    source: str = "model"
    unknown: Sequence[str] = ()


POPULAR = Question("popularity", None, "popularity")


class Model:
    """What everything means, slowly."""

    def __init__(self, engines: Engines) -> None:
        self.engines = engines
        bundle = engines.bundle
        self.items = {
            item_id: Item(
                row, bundle.catalogue.cells(row), bundle.vectors[row], None, int(bundle.popularity_counts[row])
            )
            for row, item_id in enumerate(bundle.catalogue.item_ids)
        }
        self.largest = max(item.count for item in self.items.values())
        self.rows = {item_id: item.row for item_id, item in self.items.items()}
        self.live: dict[str, list[tuple[int, str, str]]] = {}
        self.forgotten: set[str] = set()

    def row_of(self, item_id: str) -> int:
        """Given when callers first speak of an item, be it to delete it."""
        return self.rows.setdefault(item_id, len(self.rows))

    def upsert(self, item_id: str, metadata: dict[str, Any], text: str) -> None:
        engines = self.engines
        cells = {name: metadata.get(name) for name in engines.bundle.manifest.schema_}
        cells = {name: tuple(cell) if isinstance(cell, list) else cell for name, cell in cells.items()}
        content = engines.content(text) if text else None
        before = self.items.get(item_id)
        row = self.row_of(item_id)
        is_bundled = before is not None and before.is_bundled
        behaviour = engines.space.behaviour[row] if is_bundled else np.zeros(engines.space.dim)
        whole = behaviour + (0 if content is None else engines.space.project(content[None])[0])
        norm = np.linalg.norm(whole)
        vector = (whole / norm if norm > 1e-6 else whole * 0).astype(np.float32)
        self.items[item_id] = Item(row, cells, vector, content, before.count if before else 0, False, is_bundled)

    def history(self, user_id: str) -> list[str] | None:
        old = [] if user_id in self.forgotten else self.engines.histories.get(user_id, [])
        new = [(time, item_id) for time, item_id, _ in self.live.get(user_id, [])]
        return [item_id for _, item_id in sorted([*old, *new], key=lambda event: event[0])] or None

    def is_known(self, item_id: str) -> bool:
        return item_id in self.items and not self.items[item_id].deleted

    def tokens(self, item_ids: Sequence[str]) -> list[Any]:
        """What a sequence reads: the bundle's items also when deleted, day-zero items by their content."""
        tokens: list[Any] = []
        for item_id in item_ids:
            item = self.items.get(item_id)
            if item is not None and item.is_bundled:
                tokens.append(encoder_pb2.Token(item_id=item_id))
            elif item is not None and not item.deleted and item.content is not None:
                tokens.append(encoder_pb2.Token(content=encoder_pb2.ContentVector(values=item.content)))
        return tokens

    def sequence(self, query: dict[str, Any]) -> tuple[list[Any], int]:
        """Tokens of what the query encodes, the item at hand aside, and how many stand before the mask."""
        if query["query_type"] == "sequential":
            item_ids = query["session_items"]
        else:
            item_ids = self.history(query["user_id"]) or []
        mask_index = query.get("mask_index", len(item_ids))
        return self.tokens(item_ids), len(self.tokens(item_ids[:mask_index]))

    def question(self, query: dict[str, Any]) -> Question:
        """What the candidates are scored by."""
        kind, item_id, text = query["query_type"], query.get("item_id", ""), query.get("item_text", "")
        if kind in ("item_to_item", "contextual") and not self.is_known(item_id) and not text:
            return Question("NOT_FOUND")
        by_text = [] if self.is_known(item_id) or not text else [encoder_pb2.Token(text=text)]
        if kind == "item_to_item":
            if by_text:
                return Question("none", self.engines.item_vector(text), "text", [item_id] if item_id else [])
            vector = self.items[item_id].vector
            return Question("none", vector) if np.any(vector) else POPULAR
        sequence = query.get("session_items") or self.history(query["user_id"])
        if sequence is not None and query.get("mask_index", 0) > len(sequence):
            return Question("INVALID_ARGUMENT")
        tokens, before = self.sequence(query)
        fallback = "none"
        if kind == "contextual":
            at_hand = by_text or self.tokens([item_id])
            fallback = "none" if tokens or not at_hand else "session_only"
            tokens, before = tokens + at_hand, len(tokens + at_hand)
        vector = self.engines.intent(tokens, before) if tokens else None
        if kind == "sequential":
            unknown = [each for each in dict.fromkeys(query["session_items"]) if not self.is_read(each)]
        else:
            unknown = [item_id] if by_text and item_id else []
        if vector is None:
            return replace(POPULAR, unknown=unknown)
        return Question(fallback, vector, "text" if by_text else "model", unknown)

    def is_read(self, item_id: str) -> bool:
        """Whether a sequence knows the id: the bundle's items also when deleted."""
        return self.is_known(item_id) or (item_id in self.items and self.items[item_id].is_bundled)

    def order(self, query: dict[str, Any], question: Question) -> list[tuple[str, float]]:
        """Everything that may be returned with its score, best first."""
        excluded = {query.get("item_id", ""), *query.get("exclude_item_ids", [])}
        if query.get("exclude_seen", True):
            history = self.history(query["user_id"]) if "user_id" in query else None
            excluded |= {*query.get("session_items", []), *(history or [])}
        where = parse_filter(query.get("filters", {}), self.engines.bundle.manifest.schema_)
        passing = {
            each: item
            for each, item in self.items.items()
            if not item.deleted and each not in excluded and matches(where, item.cells)
        }
        if question.vector is None:
            scores = {each: item.count / self.largest for each, item in passing.items()}
        else:
            unit = np.asarray(question.vector, np.float64)
            unit = (unit / np.linalg.norm(unit)).astype(np.float32).astype(np.float64)
            scores = {
                each: float(item.vector.astype(np.float64) @ unit)
                for each, item in passing.items()
                if np.any(item.vector)
            }
        steps = {each: round(score * 10_000) for each, score in scores.items()}
        order = sorted(steps, key=lambda each: (-steps[each], self.items[each].row))
        return [(each, steps[each] / 10_000) for each in order]

    def vector_of(self, item_id: str, question: Question) -> Any:
        """What likeness is measured by; popularity knows the vectors of the bundle only."""
        item = self.items[item_id]
        if question.vector is not None:
            return item.vector
        return self.engines.bundle.vectors[item.row] if item.is_bundled else np.zeros_like(item.vector)


class Gateway(RuleBasedStateMachine):
    """Does the same to both, and compares every answer."""

    engines: Engines

    @initialize(arrangement=st.sampled_from(["all in one", "one process each"]))
    def start(self, arrangement: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.stack = AsyncExitStack()
        self.directory = tempfile.TemporaryDirectory()
        self.model = Model(self.engines)
        self.num_events = 0
        self.loop.run_until_complete(self._serve(arrangement))

    async def _serve(self, arrangement: str) -> None:
        # A machine that is slow for a second is no difference of meaning.
        patient = {"encoder_timeout_s": TIMEOUT_S, "retriever_timeout_s": TIMEOUT_S, "history_timeout_s": TIMEOUT_S}
        serving = running(
            self.engines.bundle, arrangement, state_dir=Path(self.directory.name), grace_s=0, metrics=False, **patient
        )
        gateway = await self.stack.enter_async_context(serving)
        channel = await self.stack.enter_async_context(grpc.aio.insecure_channel(gateway.target))
        self.stub = RecommenderServiceStub(channel)

    def teardown(self) -> None:
        self.loop.run_until_complete(self.stack.aclose())
        self.loop.close()
        self.directory.cleanup()

    def call(self, method: str, request: Any) -> Any:
        async def one() -> Any:
            return await getattr(self.stub, method)(request, timeout=30)

        return self.loop.run_until_complete(one())

    @rule(item_id=ITEM_IDS.filter(lambda each: each != "never"), metadata=METADATA, text=TEXTS | st.just(""))
    def upsert(self, item_id: str, metadata: dict[str, Any], text: str) -> None:
        request = recommender_pb2.UpsertItemsRequest()
        item = request.items.add(item_id=item_id, text=text)
        item.metadata.update(metadata)
        (result,) = self.call("UpsertItems", request).results
        assert result.status.code == 0
        self.model.upsert(item_id, metadata, text)

    @rule(item_id=ITEM_IDS)
    def delete(self, item_id: str) -> None:
        (result,) = self.call("DeleteItems", recommender_pb2.DeleteItemsRequest(item_ids=[item_id])).results
        assert result.status.code == 0
        self.model.row_of(item_id)
        if item_id in self.model.items:
            self.model.items[item_id].deleted = True

    @rule(user_id=USER_IDS, item_id=ITEM_IDS, minute=st.integers(-200, 200), is_repeat=st.booleans())
    def record(self, user_id: str, item_id: str, minute: int, is_repeat: bool) -> None:
        self.num_events += not (is_repeat and self.num_events)
        event_id = str(self.num_events)
        # Seconds of their own: an event in the same second as one of the bundle's is the same event.
        time = toy_world.FIRST_EVENT + timedelta(days=30, minutes=minute, seconds=self.num_events % 60)
        event = recommender_pb2.LiveInteraction(user_id=user_id, item_id=item_id, event_id=event_id)
        event.time.FromDatetime(time)
        request = recommender_pb2.RecordInteractionsRequest(interactions=[event])
        assert self.call("RecordInteractions", request).statuses[0].status.code == 0
        known = self.model.live.setdefault(user_id, [])
        if event_id not in {each for _, _, each in known}:
            known.append((event.time.ToMicroseconds(), item_id, event_id))

    @rule(user_id=USER_IDS)
    def forget(self, user_id: str) -> None:
        answer = self.call("DeleteUser", recommender_pb2.DeleteUserRequest(user_id=user_id))
        assert answer.erased_events == len(self.model.live.pop(user_id, []))
        self.model.forgotten.add(user_id)

    @rule(item_id=ITEM_IDS, text=NO_TEXT | TEXTS, options=OPTIONS)
    def similar(self, item_id: str, text: str, options: dict[str, Any]) -> None:
        self.compare({"query_type": "item_to_item", "item_id": item_id, "item_text": text, **options})

    @rule(text=TEXTS, options=OPTIONS)
    def similar_to_a_text(self, text: str, options: dict[str, Any]) -> None:
        self.compare({"query_type": "item_to_item", "item_text": text, **options})

    @rule(user_id=USER_IDS, options=OPTIONS, masked=MASKED)
    def for_a_person(self, user_id: str, options: dict[str, Any], masked: dict[str, int]) -> None:
        self.compare({"query_type": "user_to_item", "user_id": user_id, **options, **masked})

    @rule(user_id=USER_IDS, item_id=ITEM_IDS, text=NO_TEXT | TEXTS, options=OPTIONS)
    def in_context(self, user_id: str, item_id: str, text: str, options: dict[str, Any]) -> None:
        query = {"query_type": "contextual", "user_id": user_id, "item_id": item_id, "item_text": text}
        self.compare({**query, **options})

    @rule(
        session=st.lists(ITEM_IDS, min_size=1, max_size=5),
        user_id=st.none() | USER_IDS,
        options=OPTIONS,
        masked=MASKED,
    )
    def after_a_session(
        self, session: list[str], user_id: str | None, options: dict[str, Any], masked: dict[str, int]
    ) -> None:
        person = {} if user_id is None else {"user_id": user_id}
        self.compare({"query_type": "sequential", "session_items": session, **person, **options, **masked})

    def compare(self, query: dict[str, Any]) -> None:
        """Ask page after page, three at most."""
        question = self.model.question(query)
        word = f"QUERY_TYPE_{query['query_type'].upper()}"
        request = json_format.ParseDict(query | {"query_type": word}, recommender_pb2.RecommendRequest())
        if question.fallback.isupper():
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                self.call("Recommend", request)
            assert refused.value.code() is grpc.StatusCode[question.fallback], query
            return
        order, top_k, diversity = self.model.order(query, question), query["top_k"], query.get("diversity", 0)
        if diversity:
            order = order[: max(50, 5 * top_k)]
        before: list[str] = []
        for _ in range(3):
            answer = self.call("Recommend", request)
            assert recommender_pb2.Fallback.Name(answer.fallback) == f"FALLBACK_{question.fallback.upper()}", query
            assert list(answer.unknown_item_ids) == list(question.unknown), query
            assert {item.source for item in answer.items} <= {
                recommender_pb2.Source.Value(f"SOURCE_{question.source.upper()}")
            }
            page = [item.item_id for item in answer.items]
            scores = dict(order)
            assert [item.score for item in answer.items] == pytest.approx([scores[each] for each in page], abs=1e-6)
            assert len(page) == min(top_k, len(order) - len(before)), query
            if diversity:
                self.check_picks(scores, before, page, diversity, question)
            else:
                assert page == [each for each, _ in order[len(before) : len(before) + top_k]], query
            assert answer.exhausted is (len(page) < top_k)
            before += page
            if not answer.next_page_token:
                assert len(before) == len(order) or answer.exhausted
                break
            request.page_token = answer.next_page_token

    def check_picks(
        self, scores: dict[str, float], before: list[str], page: list[str], diversity: float, question: Question
    ) -> None:
        """Each pick has the best gain, given those before it; gains so close that rounding decides are all right."""
        vectors = {each: np.asarray(self.model.vector_of(each, question), np.float64) for each in scores}
        left = {each for each in scores if each not in before}
        for number, pick in enumerate(page):
            picked = before + page[:number]
            gains = {
                each: (1 - diversity) * scores[each]
                - diversity * max((float(vectors[each] @ vectors[other]) for other in picked), default=0.0)
                for each in left
            }
            assert gains[pick] >= max(gains.values()) - 1e-5
            left.remove(pick)


@pytest.mark.timeout(LONGEST_S)
def test_a_gateway_does_what_a_slow_model_of_the_contract_does(toy_text_bundle: Bundle) -> None:
    bundle = toy_text_bundle
    file = HistoryFile(bundle.file("histories.sqlite"))
    ids = bundle.catalogue.item_ids
    histories = {
        user_id: [(time, ids[row]) for row, time in zip(*found, strict=True)]
        for user_id in ("user-3", "user-40")
        if (found := file.read(user_id))
    }
    file.close()
    loop = asyncio.new_event_loop()
    servicer = EncoderServicer(LoadedBundles(bundle, EncoderSettings(bundle=bundle.path)))
    space = ItemSpace.from_weights(bundle.weights(), "output")
    Gateway.engines = Engines(bundle, LocalStub(servicer), loop, space, histories)
    budget = settings()
    few = settings(budget, max_examples=min(budget.max_examples, 100) if budget.max_examples != 150 else 12)
    try:
        run_state_machine_as_test(Gateway, settings=settings(few, stateful_step_count=STEPS))
    finally:
        servicer.close()
        loop.close()
