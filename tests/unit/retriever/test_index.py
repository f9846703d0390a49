"""The index: the order of answers, and which files it refuses. Random worlds are in tests/property."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest
from bundle_factory import make_catalogue, make_manifest, random_vectors, write_files

from clozerec_core.bundle import INDEX, Bundle, publish, writing_directory
from clozerec_core.errors import BadBundle
from clozerec_core.hybrid import Floats
from clozerec_retriever.index import ItemIndex
from clozerec_retriever.masks import Mask
from clozerec_retriever.passing import Passing
from clozerec_retriever.ranking import Ranking, rank

EAST = np.array([1, 0], np.float32)


def index_of(vectors: list[list[float]] | Floats) -> ItemIndex:
    return ItemIndex(np.array(vectors, np.float32))


def search(index: ItemIndex, intent: Floats, top_k: int, passing: Mask | None = None) -> Ranking:
    rows = np.ones(len(index), np.bool_) if passing is None else passing
    proposal = index.best(intent, top_k, Passing(rows, index.has_vector_N))
    return rank(proposal.rows, proposal.scores, top_k)


def bundle_with(tmp_path: Path, index: object | bytes) -> Bundle:
    """A bundle of 4 items and 3 dims that has this index under valid checksums."""
    with writing_directory(tmp_path) as staging:
        write_files(staging, make_catalogue({}, {}, num_items=4), random_vectors(4, 3), [1] * 4)
        if isinstance(index, bytes):
            (staging / INDEX).write_bytes(index)
        else:
            faiss.write_index(index, str(staging / INDEX))
        publish(staging, tmp_path, make_manifest({}, 4, 3))
    return Bundle.open(tmp_path / "tiny")


def test_the_nearest_come_first_with_their_cosines() -> None:
    index = index_of([[0, 1], [1, 0], [-1, 0], [0.6, 0.8]])
    ranking = search(index, EAST, 4)
    assert ranking.rows.tolist() == [1, 3, 0, 2]
    assert ranking.scores.tolist() == [1.0, 0.6, 0.0, -1.0]


def test_scores_that_round_to_the_same_are_ordered_by_row() -> None:
    nearly = [[0.60001, 0.8], [0.60003, 0.8], [0.6002, 0.8], [0.60002, 0.8]]
    assert search(index_of(nearly), EAST, 3).rows.tolist() == [2, 0, 1]


def test_many_more_ties_than_asked_for_leave_the_lowest_rows() -> None:
    index = index_of([[0.0, 1.0]] * 500 + [[1.0, 0.0]] * 500)
    assert search(index, EAST, 5).rows.tolist() == [500, 501, 502, 503, 504]
    passing = np.ones(1000, np.bool_)
    passing[501] = False
    assert search(index, EAST, 5, passing).rows.tolist() == [500, 502, 503, 504, 505]


def test_items_without_a_vector_never_appear_even_where_all_others_point_away() -> None:
    index = index_of([[0, 0], [-1, 0], [0, 0]])
    assert search(index, EAST, 3).rows.tolist() == [1]
    assert search(index, EAST, 3, np.array([True, False, True])).rows.tolist() == []
    assert index.vector(0) is None


def test_the_same_request_gives_the_same_answer() -> None:
    index = index_of(random_vectors(2_000, 16))
    intent = random_vectors(1, 16, seed=1)[0]
    first = search(index, intent, 100)
    again = search(index, intent, 100)
    assert first.rows.tolist() == again.rows.tolist()
    assert first.scores.tolist() == again.scores.tolist()


def test_stored_vectors_cannot_be_changed() -> None:
    vector = index_of([[1, 0]]).vector(0)
    assert vector is not None
    with pytest.raises(ValueError, match="read-only"):
        vector[0] = 2


def test_the_index_of_a_sound_bundle_opens(tmp_path: Path) -> None:
    flat = faiss.IndexFlatIP(3)
    flat.add(random_vectors(4, 3))
    index = ItemIndex.open(bundle_with(tmp_path, flat))
    np.testing.assert_array_equal(index.vector(2), random_vectors(4, 3)[2])


def test_an_index_of_another_size_than_the_manifest_says_is_refused(tmp_path: Path) -> None:
    flat = faiss.IndexFlatIP(2)
    flat.add(random_vectors(5, 2))
    with pytest.raises(BadBundle, match=r"index\.faiss .* 5 vectors of length 2, but the manifest says 4 of length 3"):
        ItemIndex.open(bundle_with(tmp_path, flat))


def test_an_index_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadBundle, match=r"index\.faiss .* is no flat or HNSW index by inner product"):
        ItemIndex.open(bundle_with(tmp_path, faiss.IndexFlatL2(3)))
    with pytest.raises(BadBundle, match="is no flat or HNSW index by inner product"):
        ItemIndex.open(bundle_with(tmp_path / "graph", faiss.IndexHNSWFlat(3, 8, faiss.METRIC_L2)))


@pytest.mark.parametrize("raw", [b"", b"IxFI", b"not an index at all"], ids=["empty", "cut", "text"])
def test_a_file_that_is_no_index_is_refused(tmp_path: Path, raw: bytes) -> None:
    with pytest.raises(BadBundle, match=r"index\.faiss of bundle .* is no FAISS index"):
        ItemIndex.open(bundle_with(tmp_path, raw))


def test_an_index_whose_header_promises_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    flat = faiss.IndexFlatIP(3)
    flat.add(random_vectors(4, 3))
    raw = bytearray(faiss.serialize_index(flat).tobytes())
    size = (12).to_bytes(8, "little")
    assert raw.count(size) == 1, "the length of the vector array"
    lying = bytes(raw).replace(size, (1 << 36).to_bytes(8, "little"))
    with pytest.raises(BadBundle, match="is no FAISS index"):
        ItemIndex.open(bundle_with(tmp_path, lying))
