"""Many strings in one buffer, and where each of them stands.

As Python objects a million ids of a dozen characters take 70 MB, and a dict from id to row 40 MB more; here they take
15 and 12. A string is made when it is asked for.

Shapes: N strings, B buckets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, overload

import numpy as np
import polars as pl
from numpy.typing import NDArray

_HASH_BITS = 64
_ALL_BITS = 2**_HASH_BITS - 1

RECENT = 2**15
"""Strings whose place is remembered: what is popular is asked for again and again."""


class PackedStrings(Sequence[str]):
    """Read-only."""

    def __init__(self, strings: Iterable[str]) -> None:
        series = strings if isinstance(strings, pl.Series) else pl.Series(strings, dtype=pl.String)
        ends_N = np.cumsum(series.str.len_bytes().to_numpy(), dtype=np.uint64)
        self._bytes: bytes = series.str.join("").item().encode()
        self._starts = _packed(np.concatenate(([0], ends_N)))

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[each] for each in range(len(self))[place]]
        if place < 0:
            place = range(len(self))[place]
        return self._bytes[self._starts[place] : self._starts[place + 1]].decode()

    def __iter__(self) -> Iterator[str]:
        for start, end in pairwise(self._starts):
            yield self._bytes[start:end].decode()


class Places:
    """Finds strings in a sequence of distinct ones: those whose hashes begin alike share a bucket of about one."""

    def __init__(self, strings: PackedStrings) -> None:
        """
        Args:
            strings: all different.
        """
        num_strings = len(strings)
        self._strings = strings
        bits = max(1, num_strings.bit_length())
        self._shift = _HASH_BITS - bits
        hashes_N = np.fromiter(map(hash, strings), np.int64, num_strings).view(np.uint64)
        order_N = np.argsort(hashes_N)
        hashes_N = hashes_N[order_N]
        for like_next in np.flatnonzero(hashes_N[:-1] == hashes_N[1:]):
            assert strings[order_N[like_next]] != strings[order_N[like_next + 1]], "strings are distinct"
        bucket_of_N = hashes_N >> np.uint64(self._shift)
        starts_B1 = np.searchsorted(bucket_of_N, np.arange(2**bits + 1, dtype=np.uint64))
        self._places, self._starts = _packed(order_N), _packed(starts_B1)
        self.of = lru_cache(RECENT)(self._find)
        """The place of a string; None where it is not among them."""

    def _find(self, string: str) -> int | None:
        bucket = (hash(string) & _ALL_BITS) >> self._shift
        for place in self._places[self._starts[bucket] : self._starts[bucket + 1]]:
            if self._strings[place] == string:
                return place
        return None


def _packed(numbers: NDArray[Any]) -> memoryview[int]:
    """Unsigned numbers as narrow as they may be; a view of them gives Python's own, and faster than NumPy would."""
    narrow = np.uint32 if numbers.max(initial=0) < 2**32 else np.uint64
    return memoryview(numbers.astype(narrow))  # type: ignore[arg-type]
