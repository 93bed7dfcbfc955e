"""How likely a guess is right, learnt from those before it in the same text."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp

from tgi_server.speculate.history import LONGEST

LENGTHS = 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 9, 9, 9, 9, 10
"""Matches of these lengths are told apart."""
RATE = 0.2
"""How far one guess moves what is expected of the next. Fast: a text is ordinary or a copy for a few dozen tokens."""
SURE = 5.0
"""Nothing is expected with longer odds than of so much, as a logarithm: 0.993 at most."""


class Success:
    """The odds of a guess by two signs: how many ids match, and how far the earlier places agree; learnt online.

    A logistic regression. What one guess teaches of its match length serves at once for every degree of agreement.

    Args:
        matches: logarithms of the odds in most texts, by `LENGTHS`.
        agreements: what each degree of agreement adds.
    """

    __slots__ = ("_agreements", "_matches")

    def __init__(self, matches: Sequence[float], agreements: Sequence[float]) -> None:
        self._matches = [*matches]
        self._agreements = [*agreements]

    def chance(self, length: int, agreement: int) -> float:
        """How likely a guess is right for which a match of `length` ids speaks."""
        odds = self._matches[LENGTHS[min(length, LONGEST)]] + self._agreements[agreement]
        return 1 / (1 + exp(-max(-SURE, min(SURE, odds))))

    def learn(self, length: int, agreement: int, surprise: float) -> None:
        """Such a guess was right by `surprise` more than its chance: 1 or 0, less the chance."""
        change = RATE * surprise
        self._matches[LENGTHS[min(length, LONGEST)]] += change
        self._agreements[agreement] += change
