"""Just enough of PromQL to ask in which worlds an alert fires.

What matters here is how Prometheus treats series that do not exist: a sum over nothing is nothing rather than 0, and
nothing plus a number is nothing. A world states each series' value and its pace, so that no time has to pass.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]
"""Values by labels; a metric's name is none of them, for no operator looks at it."""


@dataclass(frozen=True)
class Series:
    """One time series of a world."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    value: float = 0.0
    pace: float | Mapping[str, float] = 0.0
    """A second; where it has changed, by the range that it is asked over."""


TOKEN = re.compile(
    r"""\s*(?:(?P<range>\[\w+\])|(?P<text>"(?:[^"\\]|\\.)*")|(?P<number>\d[\d.]*(?:e\d+)?)|(?P<word>[A-Za-z_]\w*)"""
    r"""|(?P<sign>=~|!~|!=|==|>=|<=|[-+*/<>=(){},]))"""
)
PRECEDENCE = (("or",), ("and",), (">", "<", "=="), ("+", "-"), ("*", "/"))
COMPARE: dict[str, Callable[[float, float], bool]] = {">": operator.gt, "<": operator.lt, "==": operator.eq}
CALCULATE: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": lambda a, b: a / b if b else (math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a)),
}
AGGREGATE: dict[str, Callable[[list[float]], float]] = {"sum": sum, "max": max, "count": len}


def ask(expression: str, world: Iterable[Series]) -> Vector | float:
    """What Prometheus answers; an alert fires where that is not empty.

    Raises:
        ValueError: the expression uses what is not understood here.
    """
    query = _Query(expression, tuple(world))
    answer = query.binary(0)
    if query.peek():
        raise ValueError(f"not understood: {query.peek()} in {expression}")
    return answer


class _Query:
    """Reads an expression from left to right and evaluates as it goes."""

    def __init__(self, expression: str, world: tuple[Series, ...]) -> None:
        self._world = world
        self._tokens: list[str] = []
        at = 0
        while at < len(expression.rstrip()):
            found = TOKEN.match(expression, at)
            if found is None:
                raise ValueError(f"not understood: {expression[at:]}")
            self._tokens.append(found[0].strip())
            at = found.end()

    def peek(self) -> str:
        return self._tokens[0] if self._tokens else ""

    def take(self, *expected: str) -> str:
        if not self._tokens or (expected and self._tokens[0] not in expected):
            raise ValueError(f"expected {expected}, found {self.peek()!r}")
        return self._tokens.pop(0)

    def binary(self, level: int) -> Vector | float:
        """Operators of this precedence and tighter ones; all of them group to the left."""
        if level == len(PRECEDENCE):
            return self.atom()
        left = self.binary(level + 1)
        while self.peek() in PRECEDENCE[level]:
            sign = self.take()
            left = _combine(sign, left, self.binary(level + 1))
        return left

    def atom(self) -> Vector | float:
        if self.peek() == "(":
            return self.in_parentheses()
        word = self.take()
        if word[0].isdigit():
            return float(word)
        if word in AGGREGATE:
            kept = self.names() if self.peek() == "by" else ()
            return _aggregate(word, kept, _vector(self.in_parentheses()))
        if word in ("rate", "deriv"):
            self.take("(")
            chosen = self.selected(self.take())
            over = self.take()[1:-1]
            self.take(")")
            return {_labels(each): each.pace if isinstance(each.pace, float) else each.pace[over] for each in chosen}
        if word == "absent":
            return {} if self.in_parentheses() else {frozenset(): 1.0}
        if word == "vector":
            value = self.in_parentheses()
            assert isinstance(value, float)
            return {frozenset(): value}
        if word == "histogram_quantile":
            self.take("(")
            quantile = float(self.take())
            self.take(",")
            buckets = _vector(self.binary(0))
            self.take(")")
            return _quantile(quantile, buckets)
        return {_labels(each): each.value for each in self.selected(word)}

    def in_parentheses(self) -> Vector | float:
        self.take("(")
        inner = self.binary(0)
        self.take(")")
        return inner

    def names(self) -> tuple[str, ...]:
        self.take("by")
        self.take("(")
        found = [self.take()]
        while self.take(",", ")") == ",":
            found.append(self.take())
        return tuple(found)

    def selected(self, name: str) -> list[Series]:
        chosen = [each for each in self._world if each.name == name]
        if self.peek() == "{":
            self.take("{")
            more = True
            while more:
                label, sign, text = self.take(), self.take("=", "=~", "!=", "!~"), self.take()[1:-1]
                chosen = [each for each in chosen if _matches(sign, text, each.labels.get(label, ""))]
                more = self.take(",", "}") == ","
        return chosen


def _matches(sign: str, text: str, value: str) -> bool:
    holds = re.fullmatch(text, value) is not None if "~" in sign else text == value
    return holds != sign.startswith("!")


def _labels(series: Series) -> Labels:
    return frozenset(series.labels.items())


def _vector(value: Vector | float) -> Vector:
    if isinstance(value, float):
        raise ValueError("a number where series were expected")
    return value


def _aggregate(how: str, kept: tuple[str, ...], values: Vector) -> Vector:
    groups: dict[Labels, list[float]] = {}
    for labels, value in values.items():
        groups.setdefault(frozenset(pair for pair in labels if pair[0] in kept), []).append(value)
    return {labels: float(AGGREGATE[how](group)) for labels, group in groups.items()}


def _quantile(quantile: float, buckets: Vector) -> Vector:
    """The upper bound of the bucket that it falls into; Prometheus goes on to interpolate."""
    cumulative = sorted((float(dict(labels)["le"]), count) for labels, count in buckets.items())
    if not cumulative:
        return {}
    wanted = quantile * cumulative[-1][1]
    return {frozenset(): next(bound for bound, count in cumulative if count >= wanted)}


def _combine(sign: str, left: Vector | float, right: Vector | float) -> Vector | float:
    if sign == "or":
        return {**_vector(right), **_vector(left)}
    if sign == "and":
        return {labels: value for labels, value in _vector(left).items() if labels in _vector(right)}
    if isinstance(left, float) and isinstance(right, float):
        return CALCULATE[sign](left, right)
    pairs = {
        labels: (
            left if isinstance(left, float) else left[labels],
            right if isinstance(right, float) else right[labels],
        )
        for labels in (left if isinstance(left, dict) else _vector(right))
        if (isinstance(left, float) or labels in left) and (isinstance(right, float) or labels in right)
    }
    if sign in COMPARE:
        return {labels: a if isinstance(left, dict) else b for labels, (a, b) in pairs.items() if COMPARE[sign](a, b)}
    return {labels: CALCULATE[sign](a, b) for labels, (a, b) in pairs.items()}
