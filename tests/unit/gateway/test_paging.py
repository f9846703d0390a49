"""Page tokens: what they say comes back, and nothing else is accepted."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clozerec_core.errors import BadRequest, StalePage
from clozerec_gateway.paging import LIFETIME_S, Page, PageTokens, Ranked
from clozerec_gateway.query import Fallback, Place, Source

REQUEST = b"0123456789abcdef"
FLOATS = st.floats(-1, 1, width=32)
PAGES = st.builds(
    Page,
    st.builds(
        Ranked,
        bundle_id=st.text(),
        intent=st.none() | st.lists(FLOATS, min_size=1, max_size=8).map(tuple),
        stored_item_id=st.text(),
        source=st.sampled_from(Source),
        fallback=st.sampled_from(Fallback),
        missing=st.sampled_from(["", "person"]),
        unknown_places=st.lists(st.integers(0, 999)),
        text_truncated=st.booleans(),
    ),
    after=st.none() | st.builds(Place, FLOATS, st.integers(0, 2**32 - 2)),
    returned=st.frozensets(st.integers(0, 2**48 - 1)),
)


@given(PAGES)
def test_a_page_comes_back_as_it_was(page: Page) -> None:
    tokens = PageTokens(b"key")
    assert tokens.read(tokens.write(page, REQUEST), REQUEST) == page


@given(PAGES, st.data())
def test_a_token_with_any_bit_flipped_is_refused(page: Page, data: st.DataObject) -> None:
    tokens = PageTokens(b"key")
    raw = bytearray(base64.urlsafe_b64decode(tokens.write(page, REQUEST)))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(BadRequest):
        tokens.read(base64.urlsafe_b64encode(bytes(raw)).decode(), REQUEST)


@given(st.text() | st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_garbage_is_refused(token: str) -> None:
    with pytest.raises(BadRequest):
        PageTokens(b"key").read(token, REQUEST)


def test_a_token_has_its_time_and_belongs_to_its_request_and_key() -> None:
    now_s = 1_000.0
    tokens = PageTokens(b"key", lambda: now_s)
    token = tokens.write(Page(Ranked("b"), Place(0.5, 3)), REQUEST)
    with pytest.raises(BadRequest, match="another request"):
        tokens.read(token, b"x" * 16)
    with pytest.raises(BadRequest):
        PageTokens(b"another key").read(token, REQUEST)
    now_s += LIFETIME_S + 1
    with pytest.raises(StalePage, match="30 minutes"):
        tokens.read(token, REQUEST)
