"""Drafters that look the newest ids up in the text itself: what they share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from tgi_server.speculate.base import IntArray
from tgi_server.speculate.history import History
from tgi_server.speculate.success import Success

if TYPE_CHECKING:
    from torch import Tensor

LEAST = 0.02
"""Behind a guess to which it comes less often than this, none is offered: it would pay nowhere."""


@dataclass(frozen=True, slots=True)
class Usual:
    """The odds of guesses in most texts; see `Success`."""

    matches: Sequence[float]
    agreements: Sequence[float]


Proposal = tuple[int, int, int]
"""A token, how many ids match where it was found, and how far the places found agree about it."""


@dataclass(slots=True)
class _Text:
    """A sequence: what it is so far, how guesses fared, and what was offered last, with the chances."""

    history: History
    success: Success
    offered: list[Proposal] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)


class LookUp:
    """See `Drafter`. What it would have guessed is compared with what came, whether it was asked to guess or not.

    Args:
        propose: how a history may go on, each token after the one before it; without an end, or nothing.
        lengths: of the runs of ids that are looked up, ascending.
        usual: what to expect at the beginning of a text.
    """

    def __init__(self, propose: Callable[[History], Iterator[Proposal]], lengths: Sequence[int], usual: Usual) -> None:
        self._propose = propose
        self._lengths = lengths
        self._usual = usual
        self._texts: dict[int, _Text] = {}

    def chances(self, id: int, known: IntArray, most: int) -> Sequence[float]:
        """See `Drafter`."""
        text = self._texts.get(id)
        if text is None:
            success = Success(self._usual.matches, self._usual.agreements)
            text = self._texts[id] = _Text(History(self._lengths), success)
        text.history.extend(known)
        text.offered, text.chances = [], []
        reached = 1.0
        for proposal in islice(self._propose(text.history), most):
            chance = text.success.chance(proposal[1], proposal[2])
            text.offered.append(proposal)
            text.chances.append(chance)
            reached *= chance
            if reached < LEAST:
                break
        return text.chances

    def guess(self, widths: Mapping[int, int]) -> dict[int, list[int]]:
        """See `Drafter`."""
        return {id: [token for token, _, _ in self._texts[id].offered[:width]] for id, width in widths.items()}

    def learn(self, id: int, taken: Sequence[int]) -> None:
        """See `Drafter`. Behind the first token that is not as guessed there is nothing to learn."""
        text = self._texts[id]
        for token, (guess, length, agreement), chance in zip(taken, text.offered, text.chances, strict=False):
            right = token == guess
            text.success.learn(length, agreement, right - chance)
            if not right:
                break
        text.offered = []

    def see(self, ids: Sequence[int], hidden: Tensor, rows: Sequence[int]) -> None:
        """See `Drafter`: of no use here."""

    def forget(self, id: int) -> None:
        """See `Drafter`."""
        self._texts.pop(id, None)
