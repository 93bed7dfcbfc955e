"""Drafters that look the newest ids up in the text itself: what they share."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tgi_server.speculate.evidence import USUAL, Proposal, proposals
from tgi_server.speculate.history import History
from tgi_server.speculate.passage import Passage
from tgi_server.speculate.success import Success

if TYPE_CHECKING:
    from torch import Tensor

    from tgi_server.rope.table import IntArray

SAMPLE, MANY = 50, 8
"""Ids of a text that is copied to find out what that takes, and guesses about it."""
LEAST = 0.02
"""Behind a guess to which it comes less often than this, none is offered: it would pay nowhere."""


@dataclass(slots=True)
class _Text:
    """A sequence: what it is so far, how guesses fared, and what was offered last, with the chances."""

    history: History
    passage: Passage = field(default_factory=Passage)
    success: Success = field(default_factory=lambda: Success(USUAL))
    offered: list[Proposal] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)


class LookUp:
    """See `Drafter`. What it would have guessed is compared with what came, whether it was asked to guess or not.

    Args:
        lengths: of the runs of ids that are looked up, ascending; the longest that occurred before is taken.
        places: how many of the latest places are asked where it did.
    """

    def __init__(self, lengths: Sequence[int], places: int) -> None:
        self._lengths = lengths
        self._places = places
        self._texts: dict[int, _Text] = {}

    def chances(self, id: int, known: IntArray, most: int) -> Sequence[float]:
        """See `Drafter`."""
        text = self._texts.get(id)
        if text is None:
            text = self._texts[id] = _Text(History(self._lengths))
        before = len(text.history.ids)
        text.history.extend(known)
        text.passage.follow(text.history.ids, before)
        offered, chances, chance_of = list[Proposal](), list[float](), text.success.chance
        reached = 1.0
        for proposal in proposals(text.history, text.passage, self._places, most):
            chance = chance_of(proposal[1])
            offered.append(proposal)
            chances.append(chance)
            reached *= chance
            if reached < LEAST:
                break
        text.offered, text.chances = offered, chances
        return chances

    def guess(self, widths: Mapping[int, int]) -> dict[int, list[int]]:
        """See `Drafter`."""
        return {id: [token for token, _ in self._texts[id].offered[:width]] for id, width in widths.items()}

    def learn(self, id: int, taken: Sequence[int]) -> None:
        """See `Drafter`. Behind the first token that is not as guessed there is nothing to learn."""
        text = self._texts[id]
        for token, (guess, signs), chance in zip(taken, text.offered, text.chances, strict=False):
            right = token == guess
            text.success.learn(signs, right - chance)
            if not right:
                break
        text.offered = []

    def see(self, ids: Sequence[int], hidden: Tensor, rows: Sequence[int]) -> None:
        """See `Drafter`: of no use here."""

    def seconds(self, sequences: int) -> float:
        """See `Drafter`: where all of them copy, which takes longest."""
        import numpy as np  # not at the top: the launcher reads this file

        known, ids = np.tile(np.arange(SAMPLE), 2), range(-sequences, 0)
        for id in ids:
            self.chances(id, known[:-1], MANY)
        begin = time.perf_counter()
        for id in ids:
            self.learn(id, [SAMPLE - 1])
            self.chances(id, known, MANY)
        taken = time.perf_counter() - begin
        for id in ids:
            self.forget(id)
        return taken

    def forget(self, id: int) -> None:
        """See `Drafter`."""
        self._texts.pop(id, None)
