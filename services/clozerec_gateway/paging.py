"""Page tokens: what an answer was ranked by and where it ended, signed, so that any gateway with the key can go on.

A token is bytes in base64: keyed BLAKE2b (16 bytes), then what it covers: version, the request's fingerprint,
expiry, the place where the page ended, the intent, and the rest in JSON. A caller can read it and cannot change it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clozerec_core.errors import BadRequest, StalePage
from clozerec_gateway.query import Fallback, Place, Source

LIFETIME_S = 30 * 60

_SIGNATURE_BYTES = 16
_VERSION = 3
_HEAD = struct.Struct(">B16sQ")
"""Version, fingerprint, expiry in seconds since the epoch."""
_PLACE = struct.Struct(">dIH")
"""Score, row, length of the intent."""
_NO_ROW = 2**32 - 1
_to_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


@dataclass(frozen=True)
class Ranked:
    """What the candidates of an answer are ranked by, page after page."""

    bundle_id: str
    intent: Sequence[float] | None = None
    """A vector of the bundle's space; None: `stored_item_id`, or popularity."""
    stored_item_id: str = ""
    source: Source = Source.MODEL
    fallback: Fallback = Fallback.NONE
    missing: str = ""
    """What made it fall back: `person`, `encoder`, `retriever` or `histories`."""
    unknown_places: Sequence[int] = ()
    """Of the unknown ids among those that the request names: a token with the ids themselves could get too long."""
    text_truncated: bool = False


@dataclass(frozen=True)
class Page:
    """Where the next page begins."""

    ranked: Ranked
    after: Place | None
    """The last candidate of the page before; None with `returned`."""
    returned: frozenset[int] = frozenset()
    """With diversity, which picks from one set of candidates: marks of the ones that were returned."""


class PageTokens:
    """Writes and reads tokens with one key."""

    def __init__(self, key: bytes, now_s: Callable[[], float] = time.time) -> None:
        self._key = hashlib.sha256(key).digest()
        self._now_s = now_s

    def write(self, page: Page, fingerprint: bytes) -> str:
        """The token that continues a request."""
        ranked, after = page.ranked, page.after
        intent = () if ranked.intent is None else ranked.intent
        place = (0.0, _NO_ROW) if after is None else (after.score, after.row)
        words = [
            ranked.bundle_id,
            ranked.stored_item_id,
            ranked.source.value,
            ranked.fallback.value,
            ranked.missing,
            list(ranked.unknown_places),
            ranked.text_truncated,
            sorted(page.returned),
        ]
        signed = b"".join(
            (
                _HEAD.pack(_VERSION, fingerprint, int(self._now_s()) + LIFETIME_S),
                _PLACE.pack(*place, len(intent)),
                struct.pack(f">{len(intent)}f", *intent),
                _to_json(words).encode(),
            )
        )
        return base64.urlsafe_b64encode(self._signature(signed) + signed).decode()

    def read(self, token: str, fingerprint: bytes) -> Page:
        """What a token says.

        Raises:
            BadRequest: it is no token of ours, or another request's.
            StalePage: its time is over, or another release wrote it.
        """
        try:
            raw = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            raise _not_ours() from None
        signature, signed = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._signature(signed)):
            raise _not_ours()
        version, of_request, expires_s = _HEAD.unpack_from(signed)
        if of_request != fingerprint:
            raise BadRequest.of("page_token", "belongs to another request; a page needs all other fields as they were")
        if self._now_s() > expires_s:
            raise StalePage(f"this page token is over {LIFETIME_S // 60} minutes old; ask for the first page again")
        if version != _VERSION:
            raise StalePage("another release wrote this page token; ask for the first page again")
        score, row, dim = _PLACE.unpack_from(signed, _HEAD.size)
        start = _HEAD.size + _PLACE.size
        intent = struct.unpack_from(f">{dim}f", signed, start)
        bundle_id, stored, source, fallback, missing, unknown, truncated, returned = json.loads(
            signed[start + 4 * dim :]
        )
        ranked = Ranked(
            bundle_id=bundle_id,
            intent=intent or None,
            stored_item_id=stored,
            source=Source(source),
            fallback=Fallback(fallback),
            missing=missing,
            unknown_places=unknown,
            text_truncated=truncated,
        )
        return Page(ranked, None if row == _NO_ROW else Place(score, row), frozenset(returned))

    def _signature(self, signed: bytes) -> bytes:
        return hashlib.blake2b(signed, key=self._key, digest_size=_SIGNATURE_BYTES).digest()


def mark(item_id: str) -> int:
    """A short name for an item: 48 bits, so that two of a thousand candidates share one once in 10^8 sets."""
    return int.from_bytes(hashlib.blake2b(item_id.encode(), digest_size=6).digest())


def _not_ours() -> BadRequest:
    return BadRequest.of("page_token", "expected the next_page_token of an earlier answer, unchanged")
