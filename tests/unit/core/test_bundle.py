"""Bundles are written whole or not at all, and opening one refuses every damage by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from bundle_factory import make_catalogue, make_manifest, random_vectors, write_bundle, write_files

from clozerec_core.bundle import (
    FORMAT_VERSION,
    MANIFEST,
    REQUIRED_FILES,
    Bundle,
    FileEntry,
    Manifest,
    TextInfo,
    point_current,
    publish,
    writing_directory,
)
from clozerec_core.catalogue import ColumnType
from clozerec_core.errors import BadBundle, UsageError
from clozerec_core.history_file import HistoryFile

SCHEMA = {"title": ColumnType.STRING}
TITLES = ["Alien", "Brazil", "Cube", "Dune"]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    catalogue = make_catalogue({"title": TITLES}, SCHEMA)
    return write_bundle(tmp_path / "out", catalogue, random_vectors(4, 3), [5, 0, 7, 1], histories={"u": [2, 0]})


def seal(bundle: Bundle, **changes: object) -> None:
    """Rewrite the manifest with changes and a checksum that fits: what only a writer can do."""
    manifest: Manifest = bundle.manifest.model_copy(update=changes)
    (bundle.path / MANIFEST).write_bytes(manifest.sealed().render())


def test_what_was_written_is_what_is_read(bundle: Bundle) -> None:
    assert list(bundle.catalogue.item_ids) == ["i0", "i1", "i2", "i3"]
    assert [bundle.catalogue.metadata(row)["title"] for row in range(4)] == TITLES
    np.testing.assert_array_equal(bundle.vectors, random_vectors(4, 3))
    assert bundle.popularity_counts.tolist() == [5, 0, 7, 1]
    assert bundle.content.shape == (4, 0)
    histories = HistoryFile(bundle.file("histories.sqlite"))
    assert histories.read("u") == ([2, 0], [0, 1])
    assert histories.read("nobody") is None
    histories.close()


def test_columns_keep_the_order_of_the_items_table(tmp_path: Path) -> None:
    schema = dict.fromkeys(("title", "brand", "year", "an_early_letter"), ColumnType.STRING)
    catalogue = make_catalogue({name: ["x"] for name in schema}, schema)
    bundle = write_bundle(tmp_path, catalogue, random_vectors(1, 3), [1])
    assert list(bundle.manifest.schema_) == list(schema)
    assert list(bundle.catalogue.metadata(0)) == list(schema)


def test_the_current_link_opens_like_the_directory(bundle: Bundle) -> None:
    link = point_current(bundle)
    assert Bundle.open(link).bundle_id == bundle.bundle_id
    assert Bundle.open(link).path == bundle.path


@pytest.mark.parametrize("name", REQUIRED_FILES)
def test_one_flipped_bit_in_any_file_is_refused_by_name(bundle: Bundle, name: str) -> None:
    path = bundle.file(name)
    sound = path.read_bytes()
    for place in {0, len(sound) // 2, len(sound) - 1}:
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 0x10]) + sound[place + 1 :])
        with pytest.raises(BadBundle, match=f"{name} of bundle .* is damaged"):
            Bundle.open(bundle.path)
    path.write_bytes(sound)
    Bundle.open(bundle.path)


@pytest.mark.parametrize("name", REQUIRED_FILES)
def test_a_truncated_file_is_refused_by_name(bundle: Bundle, name: str) -> None:
    path = bundle.file(name)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadBundle, match=f"{name} of bundle .* is damaged: it has"):
        Bundle.open(bundle.path)


@pytest.mark.parametrize("name", REQUIRED_FILES)
def test_a_missing_file_is_refused_by_name(bundle: Bundle, name: str) -> None:
    bundle.file(name).unlink()
    with pytest.raises(BadBundle, match=f"{name} is missing"):
        Bundle.open(bundle.path)


def test_a_file_from_another_bundle_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    other = write_bundle(
        tmp_path / "other", make_catalogue({"title": TITLES}, SCHEMA), random_vectors(4, 3, 1), [1] * 4
    )
    shutil.copy(other.file("vectors.npy"), bundle.file("vectors.npy"))
    with pytest.raises(BadBundle, match=r"vectors\.npy"):
        Bundle.open(bundle.path)


def test_a_flipped_bit_in_any_byte_of_the_manifest_is_refused(bundle: Bundle) -> None:
    path = bundle.file(MANIFEST)
    sound = path.read_bytes()
    for place in range(len(sound)):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ (1 << place % 8)]) + sound[place + 1 :])
        with pytest.raises(BadBundle, match=MANIFEST):
            Bundle.open(bundle.path)


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"null", b"{}", b'{"format_version": "1"}', b'{"format_version": 1}', b"\xff", b"[" * 100_000],
    ids=["empty", "cut", "list", "null", "object", "text version", "no fields", "not utf-8", "deep"],
)
def test_a_manifest_that_is_none_is_refused(bundle: Bundle, raw: bytes) -> None:
    bundle.file(MANIFEST).write_bytes(raw)
    with pytest.raises(BadBundle, match=MANIFEST):
        Bundle.open(bundle.path)


def test_a_manifest_with_half_a_surrogate_pair_is_refused(bundle: Bundle) -> None:
    raw = bundle.file(MANIFEST).read_text().replace('"user"', '"\\ud800"')
    bundle.file(MANIFEST).write_text(raw)
    with pytest.raises(BadBundle, match="damaged"):
        Bundle.open(bundle.path)


def test_a_manifest_that_was_edited_by_hand_is_refused(bundle: Bundle) -> None:
    document = json.loads(bundle.file(MANIFEST).read_bytes())
    document["serving"]["top_k_results"] = 5
    bundle.file(MANIFEST).write_text(json.dumps(document))
    with pytest.raises(BadBundle, match="checksum does not match"):
        Bundle.open(bundle.path)


def test_a_future_format_version_is_refused_with_the_way_out(bundle: Bundle) -> None:
    seal(bundle, format_version=FORMAT_VERSION + 1)
    with pytest.raises(BadBundle, match=rf"manifest\.json .* version {FORMAT_VERSION + 1}, which is newer .* upgrade"):
        Bundle.open(bundle.path)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname"])
def test_a_path_outside_the_bundle_is_refused(bundle: Bundle, name: str) -> None:
    (bundle.path.parent / "outside").write_bytes(b"x")
    seal(bundle, files={**bundle.manifest.files, name: FileEntry(size=1, sha256="0" * 64)})
    with pytest.raises(BadBundle, match="outside of it"):
        Bundle.open(bundle.path)


def test_a_link_that_leads_outside_the_bundle_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    path = bundle.file("vectors.npy")
    shutil.move(path, tmp_path / "elsewhere.npy")
    path.symlink_to(tmp_path / "elsewhere.npy")
    with pytest.raises(BadBundle, match=r"outside of it: vectors\.npy"):
        Bundle.open(bundle.path)


def test_a_manifest_that_leaves_out_a_required_file_is_refused(bundle: Bundle) -> None:
    files = {name: entry for name, entry in bundle.manifest.files.items() if name != "index.faiss"}
    seal(bundle, files=files)
    with pytest.raises(BadBundle, match=r"does not list index\.faiss"):
        Bundle.open(bundle.path)


def test_a_bundle_with_a_text_engine_must_have_its_files(bundle: Bundle) -> None:
    seal(bundle, text=TextInfo(model="m", sha256="0" * 64, content_dim=4, max_tokens=8, columns=("title",)))
    with pytest.raises(BadBundle, match=r"text/model\.onnx"):
        Bundle.open(bundle.path)


def test_a_catalogue_of_another_size_than_the_manifest_says_is_refused(bundle: Bundle) -> None:
    seal(bundle, model=bundle.manifest.model.model_copy(update={"num_items": 5}))
    with pytest.raises(BadBundle, match=r"catalogue\.parquet .* has 4 items"):
        _ = Bundle.open(bundle.path).catalogue


def test_a_path_that_is_no_bundle_is_refused(tmp_path: Path, bundle: Bundle) -> None:
    with pytest.raises(BadBundle, match=r"manifest\.json is missing"):
        Bundle.open(tmp_path / "nowhere")
    with pytest.raises(BadBundle, match=r"manifest\.json is missing"):
        Bundle.open(bundle.file("vectors.npy"))
    bundle.file(MANIFEST).unlink()
    bundle.file(MANIFEST).mkdir()
    with pytest.raises(BadBundle, match=r"manifest\.json is missing or unreadable"):
        Bundle.open(bundle.path)


def test_the_parent_of_bundles_points_to_its_current_one(bundle: Bundle) -> None:
    point_current(bundle)
    with pytest.raises(BadBundle, match=r"did you mean .*/current\?"):
        Bundle.open(bundle.path.parent)


def test_an_output_directory_that_cannot_be_written_is_named_and_nothing_stays(tmp_path: Path) -> None:
    blocker = tmp_path / "a-file"
    blocker.write_text("not a directory")
    with (
        pytest.raises(UsageError, match=r"cannot write to output directory .*a-file/out"),
        writing_directory(blocker / "out"),
    ):
        pytest.fail("the block must not run")
    assert [path.name for path in tmp_path.iterdir()] == ["a-file"]


def test_a_crash_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def crash() -> None:
        with writing_directory(tmp_path) as staging:
            (staging / "vectors.npy").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        crash()
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_already_exists_is_not_overwritten(bundle: Bundle) -> None:
    output_dir = bundle.path.parent
    catalogue = make_catalogue({"title": TITLES[:2]}, SCHEMA)

    def write_again() -> None:
        with writing_directory(output_dir) as staging:
            write_files(staging, catalogue, random_vectors(2, 3), [1, 1])
            publish(staging, output_dir, make_manifest(SCHEMA, 2, 3))

    with pytest.raises(OSError, match="not empty"):
        write_again()
    assert [path.name for path in output_dir.iterdir()] == [bundle.bundle_id]
    assert len(Bundle.open(bundle.path).catalogue) == 4
