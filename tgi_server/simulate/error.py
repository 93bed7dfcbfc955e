"""How far simulated measurements are from real ones, and when that is too far."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from tgi_server.bench.summary import Summary

TOLERANCE = 0.15
"""Relative error up to which a prediction counts as right."""

QUANTITIES: Mapping[str, Callable[[Summary], float]] = {
    "tokens/s": lambda summary: summary.tokens_per_second,
    "first token p95": lambda summary: summary.first_token.p95,
    "between tokens p95": lambda summary: summary.between_tokens.p95,
    "whole answer p95": lambda summary: summary.whole.p95,
}
"""What is compared."""


@dataclass(frozen=True)
class Errors:
    """The errors of some predictions.

    Attributes:
        relative: predicted / measured - 1 at each point, for each of `QUANTITIES`; NaN where one of both is not known.
        taus: Kendall's tau of measured and predicted values, for each of `QUANTITIES`; NaN for fewer than two points,
            or values that are all the same.
    """

    relative: Mapping[str, Sequence[float]]
    taus: Mapping[str, float]

    @property
    def points(self) -> int:
        """How many were compared."""
        return len(next(iter(self.relative.values()), ()))

    def medians(self) -> Mapping[str, float]:
        """The median of the sizes of the errors of each quantity; NaN where none is known."""
        known = {name: [abs(each) for each in some if not math.isnan(each)] for name, some in self.relative.items()}
        return {name: median(some) if some else math.nan for name, some in known.items()}

    def within(self, tolerance: float = TOLERANCE) -> Mapping[str, int]:
        """At how many points each quantity is predicted this well."""
        return {name: sum(abs(each) <= tolerance for each in some) for name, some in self.relative.items()}

    def all_within(self, tolerance: float = TOLERANCE) -> int:
        """At how many points all quantities are predicted this well."""
        return sum(all(abs(each) <= tolerance for each in some) for some in zip(*self.relative.values(), strict=True))


def compare(measured: Sequence[Summary], predicted: Sequence[Summary]) -> Errors:
    """The errors of predictions, given in the order of what was measured. Raises ValueError for unequal numbers."""
    relative, taus = {}, {}
    for name, value in QUANTITIES.items():
        real, expected = [value(each) for each in measured], [value(each) for each in predicted]
        relative[name] = [_relative(*pair) for pair in zip(real, expected, strict=True)]
        taus[name] = kendall_tau(real, expected)
    return Errors(relative, taus)


def doubt(errors: Errors, tolerance: float = TOLERANCE) -> str | None:
    """Why the simulator does not know, in one line; None where it does: its median errors are within the tolerance."""
    if not errors.points:
        return "the simulator was compared with no measurement"
    reasons = []
    for name, size in errors.medians().items():
        if math.isnan(size):
            reasons.append(f"{name} could not be compared")
        elif size > tolerance:
            reasons.append(f"median error of {name} is {100 * size:.0f} %, more than {100 * tolerance:.0f} %")
    return f"the simulator does not know: {'; '.join(reasons)}" if reasons else None


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall's tau-b: 1 where two rows of values are in the same order, -1 where one is the other reversed.

    Pairs that are equal in a row do not count for it; NaN where one has no other pairs.
    Raises ValueError for rows of unequal length.
    """
    balance = unequal_first = unequal_second = 0
    for (a, x), (b, y) in combinations(zip(first, second, strict=True), 2):
        of_first, of_second = (b > a) - (b < a), (y > x) - (y < x)
        balance += of_first * of_second
        unequal_first += of_first != 0
        unequal_second += of_second != 0
    if not unequal_first or not unequal_second:
        return math.nan
    return balance / math.sqrt(unequal_first * unequal_second)


def _relative(measured: float, predicted: float) -> float:
    return predicted / measured - 1 if measured else math.nan
