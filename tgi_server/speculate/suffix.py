"""Suffix matching: the text goes on as it mostly did where its end occurred before (the idea of arXiv:2411.04975).

Earlier places vote, those that match longer with more weight. Each further guess is made by those that were for the
one before it, so that a run of guesses follows earlier text which led to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from tgi_server.config.schema import option
from tgi_server.speculate.base import Drafter, Surroundings
from tgi_server.speculate.history import History, Match
from tgi_server.speculate.lookup import LookUp, Proposal, Usual

RUNS = 1, 2, 4
"""Lengths of the runs of ids that are looked up; how long a match is, is seen where one is found."""
UNANIMOUS = 0, 0, 1, 2, 2, 3
"""The agreement of so many places that all go on alike."""
DIVIDED = 4
"""That of places of which less than a quarter is for the guess; the next three are for a quarter more each."""
USUAL = Usual((-1.2, -0.9, -0.4, -0.1, 0.1, 0.5, 0.7, 0.8, 1.0, 1.0, 2.7), (0.5, 1.7, 1.7, 2.4, -1.3, -0.9, -0.5, 0.3))


@dataclass
class Suffix:
    """Guesses what mostly followed where the longest run of newest ids that can be found occurred before."""

    places: int = option(
        8, "How many earlier places that end like the text so far are asked how it goes on, the latest ones.",
        minimum=1, maximum=64,
    )  # fmt: skip

    def drafter(self, surroundings: Surroundings) -> Drafter:
        """What guesses for a shard."""
        return LookUp(self._propose, RUNS, USUAL)

    def _propose(self, history: History) -> Iterator[Proposal]:
        matches = history.matches(self.places)
        if not matches:
            return
        for step in count():
            if len(matches) == 1:
                token, agreement = history.after(matches[0][0], step), 0
            else:
                token, agreement, matches = _vote(history, matches, step)
            yield token, max(length for _, length in matches) + step, agreement


def _vote(history: History, matches: list[Match], step: int) -> tuple[int, int, list[Match]]:
    """The token with most weight, how far the places agree about it, and those that are for it."""
    votes: dict[int, int] = {}
    for end, length in matches:
        token = history.after(end, step)
        votes[token] = votes.get(token, 0) + (1 << length)
    if len(votes) == 1:
        return token, UNANIMOUS[min(len(matches), len(UNANIMOUS) - 1)], matches
    token = max(votes, key=votes.__getitem__)
    quarters = min(3, 4 * votes[token] // sum(votes.values()))
    return token, DIVIDED + quarters, [match for match in matches if history.after(match[0], step) == token]
