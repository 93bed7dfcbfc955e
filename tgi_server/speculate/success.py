"""How likely a guess is right, learnt from those before it in the same text."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp

Signs = tuple[int, int, int]
"""What speaks for a guess, by three scales."""
RATE = 0.2
"""How far one guess moves what is expected of the next. Fast: a text is ordinary or a copy for a few dozen tokens."""


class Success:
    """The odds of a guess by its signs, learnt online: a logistic regression.

    What a guess teaches of one of its signs serves at once for all guesses that share it.

    Args:
        usual: for each scale, what each sign on it adds to the logarithm of the odds in most texts.
    """

    __slots__ = ("_first", "_second", "_third")

    def __init__(self, usual: Sequence[Sequence[float]]) -> None:
        self._first, self._second, self._third = ([*scale] for scale in usual)

    def chance(self, signs: Signs) -> float:
        """How likely such a guess is right."""
        odds = self._first[signs[0]] + self._second[signs[1]] + self._third[signs[2]]
        return 1 / (1 + exp(-odds))

    def learn(self, signs: Signs, surprise: float) -> None:
        """Such a guess was right by `surprise` more than its chance: 1 or 0, less the chance."""
        change = RATE * surprise
        self._first[signs[0]] += change
        self._second[signs[1]] += change
        self._third[signs[2]] += change
