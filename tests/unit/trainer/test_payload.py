from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clozerec_core.errors import UsageError
from clozerec_trainer.payload import Payload, load_payload, parse_payload, preset_names, read_preset

REQUIRED = {"interactions": "i.csv", "user_column": "u", "item_column": "i", "timestamp_column": "t"}


def refused(**keys: Any) -> str:
    with pytest.raises(UsageError) as caught:
        parse_payload({**REQUIRED, **keys}, Path("/data"))
    return caught.value.message


def test_defaults_are_those_of_the_documentation() -> None:
    payload = parse_payload(REQUIRED, Path("/data"))
    documented = {
        "metadata_columns": (), "display_name": None, "max_sequence_length": 50, "sequence_sampling": "sliding_window",
        "masking_ratio": 0.15, "hidden_size": 64, "model_depth": 2, "attention_heads": 4, "training_epochs": 10,
        "learning_rate": 0.001, "dropout_rate": 0.1, "weight_tying": False, "gradient_clipping": 1.0,
        "use_attention_mask": True, "negative_samples": 100, "top_k_results": 10, "batch_size": 128, "stride": 25,
        "exclude_seen": True, "device": "auto", "refit": False, "timestamp_unit": "auto", "causal_ratio": 0.0,
    }  # fmt: skip
    assert {name: getattr(payload, name) for name in documented} == documented


def test_every_key_says_what_it_means() -> None:
    assert [name for name, field in Payload.model_fields.items() if not field.description] == []


def test_an_unknown_key_is_refused_with_a_suggestion() -> None:
    assert 'key "hiden_size" is unknown (did you mean "hidden_size"?)' in refused(hiden_size=64)


def test_all_faults_are_named_at_once() -> None:
    message = refused(batch_size=0, dropout_rate=2)
    assert "batch_size: Input should be greater than or equal to 1, not 0" in message
    assert "dropout_rate" in message


def test_a_missing_key_says_what_it_is_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="timestamp_column is missing: column of event times"):
        parse_payload({key: value for key, value in REQUIRED.items() if key != "timestamp_column"}, tmp_path)


@pytest.mark.parametrize(("size", "heads", "near"), [(64, 3, "63 or 66"), (2, 4, "4 would")])
def test_hidden_size_must_be_divisible_by_heads(size: int, heads: int, near: str) -> None:
    message = refused(hidden_size=size, attention_heads=heads)
    assert f"hidden_size {size} is not divisible by attention_heads {heads}" in message
    assert near in message


def test_a_lift_of_new_items_needs_a_direction_to_spare() -> None:
    assert "hidden_size must be 2 or more" in refused(hidden_size=1, attention_heads=1, new_item_lift=0.06)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"event_weights": {"buy": 1}}, "event_weights needs event_type_column"),
        (
            {"event_type_column": "k", "event_weights": {"buy": -1}},
            'the weight of "buy" is -1.0; it must be 0, or from 1e-06',
        ),
        ({"metadata_columns": ["title"]}, "metadata_columns names columns of the items table, but items is not given"),
        ({"items": "x.csv", "list_columns": {"genres": ""}}, 'the separator of "genres" is empty'),
        ({"device": "gpu"}, "device"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"timestamp_unit": "minutes"}, "timestamp_unit"),
    ],
)
def test_keys_that_make_no_sense_are_refused(keys: dict[str, Any], expected: str) -> None:
    assert expected in refused(**keys)


def test_yaml_and_json_mean_the_same_and_paths_start_at_the_file(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps(REQUIRED))
    (tmp_path / "p.yaml").write_text("interactions: i.csv\nuser_column: u\nitem_column: i\ntimestamp_column: t\n")
    assert load_payload(tmp_path / "p.json") == load_payload(tmp_path / "p.yaml")
    assert load_payload(tmp_path / "p.json").interactions == tmp_path / "i.csv"


@pytest.mark.parametrize("text", ["[1, 2]", "a: b: c", "", "{"])
def test_what_is_no_object_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"p\.yaml"):
        load_payload(tmp_path / "p.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        load_payload(tmp_path / "nowhere.yaml")


def test_explicit_keys_lie_over_the_preset(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps({**REQUIRED, "model_depth": 1}))
    payload = load_payload(tmp_path / "p.json", preset="music-playlist")
    assert (payload.hidden_size, payload.model_depth, payload.attention_heads) == (96, 1, 3)


def test_an_unknown_preset_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match='did you mean "music-playlist"'):
        read_preset("music-playlists")


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_a_valid_payload(name: str) -> None:
    parse_payload({**REQUIRED, "items": "x.csv", **read_preset(name)}, Path("/data"))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("video-next-episode", (128, 4, 3, 50, 20)),
        ("ecommerce-session", (64, 2, 2, 20, 15)),
        ("music-playlist", (96, 3, 3, 30, 25)),
    ],
)
def test_presets_have_the_documented_shape(name: str, shape: tuple[int, ...]) -> None:
    keys = ("hidden_size", "attention_heads", "model_depth", "max_sequence_length", "training_epochs")
    assert tuple(read_preset(name)[key] for key in keys) == shape


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"training_epochs": True}, "training_epochs: is true or false"),
        ({"learning_rate": True}, "learning_rate: is true or false"),
        ({"items": ""}, "items: is empty"),
        ({"event_type_column": ""}, "event_type_column: is empty"),
        ({"items": "x.csv", "metadata_columns": "title"}, "write [title]"),
        ({"items": "x.csv", "metadata_columns": ["i"]}, 'names "i", the item_column'),
        ({"items": "x.csv", "list_columns": {"i": "|"}}, 'names "i", the item_column'),
        ({"user_column": "i"}, "must be three different columns"),
        ({"sequence_stride": 51}, "sequence_stride 51 is longer than max_sequence_length 50"),
        ({"temperature": 0.001}, "temperature"),
        ({"negative_samples": 10**20}, "negative_samples"),
        ({"hidden_size": 400_000_000}, "hidden_size"),
        ({"event_type_column": "k", "event_weights": {"buy": 1e39}}, 'the weight of "buy"'),
    ],
)
def test_values_that_cannot_be_meant_are_refused_in_words(keys: dict[str, Any], expected: str) -> None:
    assert expected in refused(**keys)


def test_kinds_of_event_may_be_numbers() -> None:
    payload = parse_payload({**REQUIRED, "event_type_column": "k", "event_weights": {1: 0, 5: 2.0}}, Path("/data"))
    assert payload.event_weights == {"1": 0, "5": 2.0}


@pytest.mark.parametrize(
    "text", ["a: 1\na: 2", '{"a": 1, "a": 2}', "[" * 3000, "a: 2024-99-99", "a: " + "9" * 5000, "a: b: c"]
)
def test_text_that_is_no_payload_is_refused_without_a_traceback(tmp_path: Path, text: str) -> None:
    (tmp_path / "payload.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"payload\.yaml"):
        load_payload(tmp_path / "payload.yaml")
