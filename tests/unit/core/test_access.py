"""Tokens, roles and rates: who gets in, and what a refusal says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clozerec.v1 import recommender_pb2
from clozerec_core.access import ROLE_OF_METHOD, Gate, Role, new_token, parse_inner_tokens, parse_tokens
from clozerec_core.errors import PermissionDenied, RateLimited, Unauthenticated, UsageError

RECOMMEND = "/clozerec.v1.RecommenderService/Recommend"
DELETE_USER = "/clozerec.v1.RecommenderService/DeleteUser"


def tokens_file(path: Path, **roles: str) -> dict[str, str]:
    """Writes a tokens file; the header of each name."""
    made = {name: new_token(name, role) for name, role in roles.items()}
    path.write_text(json.dumps({"tokens": [entry for _, entry in made.values()]}))
    return {name: f"Bearer {token}" for name, (token, _) in made.items()}


def test_every_public_method_has_a_role() -> None:
    methods = recommender_pb2.DESCRIPTOR.services_by_name["RecommenderService"].methods_by_name
    assert set(ROLE_OF_METHOD) == set(methods)


@pytest.mark.parametrize("method", sorted(ROLE_OF_METHOD))
@pytest.mark.parametrize("role", list(Role))
def test_a_role_may_call_what_needs_no_more_than_it(tmp_path: Path, method: str, role: Role) -> None:
    headers = tokens_file(tmp_path / "tokens.json", somebody=role.name.lower())
    gate = Gate(tokens_path=tmp_path / "tokens.json")
    metadata = {"authorization": headers["somebody"]}
    if role >= ROLE_OF_METHOD[method]:
        assert gate.admit(f"/clozerec.v1.RecommenderService/{method}", metadata).name == "somebody"
    else:
        with pytest.raises(PermissionDenied, match=ROLE_OF_METHOD[method].name.lower()):
            gate.admit(f"/clozerec.v1.RecommenderService/{method}", metadata)


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic abc", "Bearer wrong", "Bearer \u00fc", "Bearer \udcff"]
)
def test_a_wrong_token_is_refused_without_being_repeated(tmp_path: Path, header: str) -> None:
    tokens_file(tmp_path / "tokens.json", web="read")
    with pytest.raises(Unauthenticated) as refused:
        Gate(tokens_path=tmp_path / "tokens.json").admit(RECOMMEND, {"authorization": header})
    assert "wrong" not in refused.value.message


def test_a_method_that_nobody_gave_a_role_needs_the_highest(tmp_path: Path) -> None:
    headers = tokens_file(tmp_path / "tokens.json", web="write", root="admin")
    gate = Gate(tokens_path=tmp_path / "tokens.json")
    with pytest.raises(PermissionDenied):
        gate.admit("/clozerec.v1.RetrieverService/CreateSnapshot", {"authorization": headers["web"]})
    gate.admit("/clozerec.v1.RetrieverService/CreateSnapshot", {"authorization": headers["root"]})


def test_without_any_file_everybody_may_do_everything() -> None:
    assert Gate().is_open
    assert Gate().admit(DELETE_USER, {}).role is Role.ADMIN


def test_an_identity_may_spend_a_second_at_once_and_then_its_rate(tmp_path: Path) -> None:
    headers = tokens_file(tmp_path / "tokens.json", web="read", app="read")
    gate = Gate(tokens_path=tmp_path / "tokens.json", rate_per_s=5)
    for _ in range(5):
        gate.admit(RECOMMEND, {"authorization": headers["web"]})
    with pytest.raises(RateLimited) as refused:
        gate.admit(RECOMMEND, {"authorization": headers["web"]})
    assert 0 < refused.value.retry_s <= 0.2
    gate.admit(RECOMMEND, {"authorization": headers["app"]})


def test_an_entrys_own_rate_counts_before_the_common_one(tmp_path: Path) -> None:
    token, entry = new_token("slow", "read")
    (tmp_path / "tokens.json").write_text(json.dumps({"tokens": [{**entry, "rate_per_s": 0.01}]}))
    gate = Gate(tokens_path=tmp_path / "tokens.json", rate_per_s=1_000_000)
    gate.admit(RECOMMEND, {"authorization": f"Bearer {token}"})
    with pytest.raises(RateLimited):
        gate.admit(RECOMMEND, {"authorization": f"Bearer {token}"})


@pytest.mark.parametrize(
    ("raw", "hint"),
    [
        (b"{", "not valid JSON"),
        (b"{}", "tokens: Field required"),
        (b'{"tokens": [{"name": "a", "token_sha256": "abc", "role": "read"}]}', "token_sha256"),
        (b'{"tokens": [{"name": "a", "token_sha256": "' + b"0" * 64 + b'", "role": "root"}]}', "role"),
        (b'{"tokens": [{"name": "a b", "token_sha256": "' + b"0" * 64 + b'", "role": "read"}]}', "name"),
    ],
)
def test_a_wrong_tokens_file_is_refused_by_field_without_its_content(tmp_path: Path, raw: bytes, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        parse_tokens(raw)
    path = tmp_path / "tokens.json"
    path.write_bytes(raw)
    with pytest.raises(UsageError, match=f"{path}: .*{hint}"):
        Gate(tokens_path=path)


def test_two_entries_cannot_share_a_token() -> None:
    _, entry = new_token("a", "read")
    with pytest.raises(ValueError, match="same token"):
        parse_tokens(json.dumps({"tokens": [entry, {**entry, "name": "b", "role": "admin"}]}).encode())


def test_an_inner_token_file_holds_one_token_a_line() -> None:
    assert parse_inner_tokens(b"a" * 16 + b"\n\n" + b"b" * 20 + b"\n") == ("a" * 16, "b" * 20)
    for raw in (b"", b"\n", b"short\n"):
        with pytest.raises(ValueError, match="at least 16 characters"):
            parse_inner_tokens(raw)
