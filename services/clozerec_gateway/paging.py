"""Page tokens: what an answer was ranked by and where it ended, signed, so that any gateway with the key can go on.

A token is bytes in base64: HMAC-SHA-256 (its first 16 bytes), then what it covers: version, the request's fingerprint,
expiry, and a body in JSON. A caller can read it and cannot change it.
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

import numpy as np

from clozerec_core.errors import BadRequest, StalePage
from clozerec_gateway.query import Fallback, Place, Source

LIFETIME_S = 30 * 60

_SIGNATURE_BYTES = 16
_HEAD = struct.Struct(">B16sQ")
_VERSION = 1


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
    unknown_item_ids: Sequence[str] = ()
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
        ranked = page.ranked
        body = {
            "b": ranked.bundle_id,
            "i": "" if ranked.intent is None else _floats_to_text(ranked.intent),
            "s": ranked.stored_item_id,
            "o": ranked.source.value,
            "f": ranked.fallback.value,
            "m": ranked.missing,
            "u": list(ranked.unknown_item_ids),
            "t": ranked.text_truncated,
            "a": None if page.after is None else [page.after.score, page.after.row],
            "r": sorted(page.returned),
        }
        signed = _HEAD.pack(_VERSION, fingerprint, int(self._now_s()) + LIFETIME_S)
        signed += json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
        return base64.urlsafe_b64encode(self._signature(signed) + signed).decode()

    def read(self, token: str, fingerprint: bytes) -> Page:
        """What a token says.

        Raises:
            BadRequest: it is no token of ours, or another request's.
            StalePage: its time is over.
        """
        try:
            raw = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            raise _not_ours() from None
        signature, signed = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._signature(signed)):
            raise _not_ours()
        _, of_request, expires_s = _HEAD.unpack_from(signed)
        if of_request != fingerprint:
            raise BadRequest.of("page_token", "belongs to another request; a page needs all other fields as they were")
        if self._now_s() > expires_s:
            raise StalePage(f"this page token is over {LIFETIME_S // 60} minutes old; ask for the first page again")
        body = json.loads(signed[_HEAD.size :])
        ranked = Ranked(
            bundle_id=body["b"],
            intent=_floats_from_text(body["i"]) if body["i"] else None,
            stored_item_id=body["s"],
            source=Source(body["o"]),
            fallback=Fallback(body["f"]),
            missing=body["m"],
            unknown_item_ids=body["u"],
            text_truncated=body["t"],
        )
        return Page(ranked, None if body["a"] is None else Place(*body["a"]), frozenset(body["r"]))

    def _signature(self, signed: bytes) -> bytes:
        return hmac.digest(self._key, signed, "sha256")[:_SIGNATURE_BYTES]


def mark(item_id: str) -> int:
    """A short name for an item: 48 bits, so that two of a thousand candidates share one once in 10^8 sets."""
    return int.from_bytes(hashlib.blake2b(item_id.encode(), digest_size=6).digest())


def _not_ours() -> BadRequest:
    return BadRequest.of("page_token", "expected the next_page_token of an earlier answer, unchanged")


def _floats_to_text(values: Sequence[float]) -> str:
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()


def _floats_from_text(text: str) -> list[float]:
    values: list[float] = np.frombuffer(base64.b64decode(text), "<f4").tolist()
    return values
