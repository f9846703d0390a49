"""Words that error messages share."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

MAX_SUGGESTED_LEN = 64
MAX_SUGGESTED_FROM = 500
"""No suggestion is made for longer words, nor from more known ones: comparing is quadratic in the length of the words,
and the word is the caller's."""


def suggest(word: str, known: Sequence[str]) -> str:
    """` (did you mean "…"?)` where a known word is close, else nothing."""
    if len(word) > MAX_SUGGESTED_LEN:
        return ""
    close = difflib.get_close_matches(word, known[:MAX_SUGGESTED_FROM], n=1)
    return f' (did you mean "{close[0]}"?)' if close else ""


def json_kind(value: object) -> str:
    """What a JSON value is."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case Mapping():
            return "an object"
        case _:
            return "a list"
