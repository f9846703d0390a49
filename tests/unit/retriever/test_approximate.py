"""Graph and cells on a catalogue large enough for them: recall beside brute force, and what is exact all the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bundle_factory import make_catalogue, make_manifest, write_files
from structlog.testing import capture_logs

from clozerec.v1 import retriever_pb2
from clozerec_core import metrics
from clozerec_core.bundle import INDEX, SEARCH, Bundle, publish, writing_directory
from clozerec_core.errors import BadBundle
from clozerec_core.hybrid import Floats, normalise
from clozerec_core.rpc_client import LocalStub
from clozerec_core.search_file import SearchFile
from clozerec_retriever import planner
from clozerec_retriever.assembly import build
from clozerec_retriever.index import ItemIndex
from clozerec_retriever.masks import Mask
from clozerec_retriever.passing import Passing
from clozerec_retriever.planner import Plan
from clozerec_retriever.ranking import rank
from clozerec_retriever.settings import RetrieverSettings
from clozerec_trainer import search_index
from clozerec_trainer.export import write_index
from clozerec_trainer.search_index import Quantisation

NUM_ITEMS, DIM, TOP_K = 6_000, 16, 10


def clustered(num: int, seed: int) -> Floats:
    """Unit vectors around fifty centres that are the same for every seed."""
    centres = np.random.default_rng(0).normal(size=(50, DIM))
    random = np.random.default_rng(seed)
    return normalise((centres[random.integers(0, 50, num)] + 0.3 * random.normal(size=(num, DIM))).astype(np.float32))


VECTORS = clustered(NUM_ITEMS, seed=1)
VECTORS[::500] = 0  # items without a vector
QUERIES = clustered(50, seed=2)


def bundle_of(directory: Path, quantisation: Quantisation) -> Bundle:
    with writing_directory(directory) as staging:
        write_files(staging, make_catalogue({}, {}, num_items=NUM_ITEMS), VECTORS, [1] * NUM_ITEMS)
        write_index(VECTORS, staging, quantisation)
        published = publish(staging, directory, make_manifest({}, NUM_ITEMS, DIM))
    return Bundle.open(published.path)


@pytest.fixture(scope="module", params=["none", "sq8"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_index, "GRAPH_FROM", 1_000)
        patch.setattr(search_index, "ROWS_TO_SCAN", 800)
        patch.setattr(search_index, "ROWS_A_CELL", 60)
        return bundle_of(tmp_path_factory.mktemp("large"), request.param)


@pytest.fixture
def index(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> ItemIndex:
    monkeypatch.setattr(planner, "SCAN_ROWS", 100)
    return ItemIndex.open(bundle)


def passing(index: ItemIndex, rows: Mask) -> Passing:
    return Passing(rows, index.has_vector_N, index.cells)


def true_best(query: Floats, rows: Mask, top_k: int = TOP_K) -> list[int]:
    candidates = np.flatnonzero(rows & VECTORS.any(axis=1))
    return rank(candidates, VECTORS[candidates].astype(np.float64) @ query.astype(np.float64), top_k).rows.tolist()


def found(index: ItemIndex, query: Floats, rows: Passing, top_k: int = TOP_K, exact: bool = False) -> list[int]:
    proposal = index.best(query, top_k, rows, exact)
    return rank(proposal.rows, proposal.scores, top_k).rows.tolist()


def filters() -> dict[str, Mask]:
    """Random rows, and rows in one corner of the space."""
    random = np.random.default_rng(3).random(NUM_ITEMS)
    corner = np.argsort(np.argsort(-(VECTORS @ QUERIES[0]))) / NUM_ITEMS
    shares = (1.0, 0.95, 0.5, 0.1, 0.01)
    return {
        f"{name} {share}": place < share for name, place in (("random", random), ("corner", corner)) for share in shares
    }


@pytest.fixture(params=[planner.FEW_ROWS, 0], ids=["good cells", "poor cells"])
def cells_are_good(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(planner, "FEW_ROWS", request.param)
    monkeypatch.setattr(planner, "ROWS_A_STEP", request.param)
    return request.param > 0


@pytest.mark.parametrize("name", filters())
@pytest.mark.usefixtures("cells_are_good")
def test_recall_is_high_whatever_passes_and_wherever(index: ItemIndex, name: str) -> None:
    rows = filters()[name]
    prepared = passing(index, rows)
    hits = [len(set(found(index, query, prepared)) & set(true_best(query, rows))) for query in QUERIES]
    assert sum(hits) >= 0.98 * TOP_K * len(QUERIES)


def test_each_plan_is_chosen_where_it_should_be(index: ItemIndex, cells_are_good: bool) -> None:
    masks = filters()

    def plans(name: str, exact: bool = False) -> set[Plan]:
        prepared = passing(index, masks[name])
        return {index.best(query, TOP_K, prepared, exact).plan for query in QUERIES}

    assert plans("random 1.0") == {Plan.CELLS if cells_are_good else Plan.GRAPH}
    assert plans("random 1.0", exact=True) == {Plan.SCAN}
    assert (Plan.GRAPH in plans("random 0.5")) is not cells_are_good
    assert plans("random 0.1") == {Plan.CELLS}
    assert plans("corner 0.5") == ({Plan.CELLS} if cells_are_good else {Plan.GRAPH, Plan.CELLS})
    assert plans("random 0.01") == {Plan.SCAN}


async def test_log_and_metric_name_the_plan_that_answered(
    bundle: Bundle, index: ItemIndex, tmp_path: Path, cells_are_good: bool
) -> None:
    servicer = build(bundle, RetrieverSettings(bundle=bundle.path, state_dir=tmp_path))

    def counts() -> dict[str, float]:
        name = "clozerec_retriever_search_seconds_count"
        return {plan.value: metrics.REGISTRY.get_sample_value(name, {"plan": plan.value}) or 0.0 for plan in Plan}

    for exact, plan in ((False, Plan.CELLS if cells_are_good else Plan.GRAPH), (True, Plan.SCAN)):
        before = counts()
        request = retriever_pb2.SearchRequest(bundle_id="tiny", intent=QUERIES[0].tolist(), exact=exact)
        with capture_logs() as said:
            await LocalStub(servicer).Search(request, timeout=5)
        assert {name: count - before[name] for name, count in counts().items()} == {
            each.value: float(each is plan) for each in Plan
        }
        (line,) = said
        assert (line["event"], line["log_level"], line["plan"]) == ("searched", "debug", plan.value)
        assert line["pass_ratio"] == pytest.approx(1 - 12 / NUM_ITEMS)  # those without a vector never pass
        assert line["took_ms"] > 0
    servicer.close()


def test_an_exact_search_and_few_passing_rows_have_every_item(index: ItemIndex) -> None:
    for name, rows in filters().items():
        prepared = passing(index, rows)
        for query in QUERIES[:10]:
            assert found(index, query, prepared, exact=True) == true_best(query, rows), name
            if prepared.count <= 100:
                assert found(index, query, prepared) == true_best(query, rows), name


@pytest.mark.parametrize("top_k", [1, 10, 300, 1_000])
def test_as_many_items_come_as_pass(index: ItemIndex, top_k: int) -> None:
    for rows in filters().values():
        prepared = passing(index, rows)
        for query in QUERIES[:5]:
            answer = found(index, query, prepared, top_k)
            assert len(answer) == len(set(answer)) == min(top_k, prepared.count)
            assert all(rows[answer])
            assert VECTORS[answer].any(axis=1).all()


def test_a_small_catalogue_has_no_graph_and_an_old_bundle_needs_none(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, "none")
    assert SEARCH not in bundle.manifest.files
    assert ItemIndex.open(bundle).cells is None


def test_the_recall_that_was_measured_is_written_down(bundle: Bundle) -> None:
    search_file = SearchFile.open(bundle)
    assert search_file is not None
    assert search_file.recall >= 0.98
    assert search_file.ef_search in search_index.WIDTHS
    assert 0 < search_file.rows_nearby <= search_file.rows_to_scan


def test_a_search_file_that_does_not_fit_is_refused_by_name(bundle: Bundle, tmp_path: Path) -> None:
    small = SearchFile(np.eye(2, DIM, dtype=np.float32), np.zeros(3, np.uint16), 64, 100, 100, 1.0)
    for number, write in enumerate((lambda path: small.save(path), lambda path: path.write_bytes(b"no tensors"))):
        directory = tmp_path / str(number)
        with writing_directory(directory) as staging:
            write_files(staging, make_catalogue({}, {}, num_items=4), VECTORS[1:5], [1] * 4)
            write(staging / SEARCH)
            published = publish(staging, directory, make_manifest({}, 4, DIM))
        with pytest.raises(BadBundle, match=r"search\.safetensors of bundle"):
            ItemIndex.open(Bundle.open(published.path))
    assert INDEX in bundle.manifest.files
