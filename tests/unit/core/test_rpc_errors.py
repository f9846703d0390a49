"""Errors as statuses: what callers see, what they do not, and that it fits into a response."""

from __future__ import annotations

import base64
from urllib.parse import quote

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from clozerec_core.errors import BadRequest, ClozerecError, NotReady, Overloaded, UnknownItem, Violation
from clozerec_core.rpc_errors import relayed, shorten, status_trailers, to_status

PEERS_LIMIT = 8192
OTHER_TRAILERS = 1024

texts = st.text(st.characters(codec=None), max_size=40).map(lambda text: text * 60)


def details(status: status_pb2.Status, kind: type) -> list:
    found = []
    for packed in status.details:
        detail = kind()
        if packed.Unpack(detail):
            found.append(detail)
    return found


@given(st.lists(st.builds(Violation, texts, texts), min_size=1, max_size=300))
def test_a_status_always_fits_into_the_trailers_and_keeps_its_first_violation(violations: list[Violation]) -> None:
    status = to_status(BadRequest(violations), "r" * 128)
    ((_, packed),) = status_trailers(status)
    size = len(base64.b64encode(packed)) + len(quote(status.message)) + 128
    assert size <= PEERS_LIMIT - OTHER_TRAILERS
    (bad_request,) = details(status, error_details_pb2.BadRequest)
    assert bad_request.field_violations[0].field == shorten(violations[0].field, 256)
    if len(bad_request.field_violations) < len(violations):
        left_out = len(violations) - len(bad_request.field_violations) + 1
        assert bad_request.field_violations[-1].description == f"and {left_out} more"


@given(texts, st.integers(3, 600))
def test_a_shortened_text_is_valid_and_no_longer_than_allowed(text: str, max_bytes: int) -> None:
    assert len(shorten(text, max_bytes).encode()) <= max_bytes


@pytest.mark.parametrize("error", [ValueError("/secret/path"), ClozerecError("inner words"), RuntimeError("x")])
def test_what_we_did_not_expect_leaves_with_a_request_id_and_nothing_else(error: Exception) -> None:
    status = to_status(error, "my-id")
    assert status.code == grpc.StatusCode.INTERNAL.value[0]
    assert "my-id" in status.message
    assert str(error) not in status.message
    assert len(status.details) == 1


def test_too_much_work_says_when_to_come_back() -> None:
    status = to_status(Overloaded("the encoder is busy", retry_s=0.25), "my-id")
    assert status.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    (retry,) = details(status, error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToTimedelta().total_seconds() == 0.25


def test_an_inner_refusal_of_what_the_gateway_let_through_is_our_fault() -> None:
    assert relayed(BadRequest.of("intent", "too short"), "the retriever").status is grpc.StatusCode.INTERNAL
    for error in (UnknownItem("a"), NotReady("loading")):
        assert relayed(error, "the retriever") is error
