"""How a text may go on as it did before, and what speaks for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress, repeat

from tgi_server.speculate.history import LONGEST, History
from tgi_server.speculate.passage import Passage
from tgi_server.speculate.success import Signs

Proposal = tuple[int, Signs]
"""A token, and what speaks for it: the longest match, how far the places agree, what the passage says."""

LENGTHS = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 10, 10, 10, 10, 11
"""The sign for each length of a match; the last one stands for all longer ones."""
NOWHERE, NOBODY = 8, 9
"""The agreement of no places, where the passage alone speaks, and of places that are all against it."""
UNANIMOUS = NOWHERE, 0, 1, 2, 2, 3
"""That of so many places that all go on alike, the last one that of more of them, too."""
DIVIDED = 4
"""That of places of which less than a quarter, by weight, is for the guess; the next three are for a quarter more."""
SILENT, AGAINST = 0, 5
"""There is no passage, or it says another token."""
RESUMED = 1, 2, 3, 4
"""It says this token, so many ids after a changed one; the last one is that of more, too."""
FOLLOWED = 4
"""A passage has as much weight as a match that is by so many ids longer."""

USUAL = (
    (-1.7, -0.5, -0.2, 0.0, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4, 2.0),
    (0.5, 1.5, 1.9, 2.3, -1.5, -1.2, -0.8, -0.6, 0.2, -1.5),
    (-0.9, -0.1, 0.5, 0.7, 0.7, -0.2),
)  # fmt: skip
"""For `Success`: what each of these signs means in texts of all kinds, mostly ordinary ones."""


def proposals(history: History, passage: Passage, places: int, most: int) -> Iterator[Proposal]:
    """At most so many tokens that may come next, one after the other.

    The latest `places` where the longest run of newest ids occurred vote, those that match longer with more weight,
    and so does the passage. Each further token is said by those that were for the token before it.
    """
    matches = history.matches(places)
    passage.begin(matches)
    weights = [1 << length for _, length in matches]
    if passage.end >= 0:
        matches.append((passage.end, passage.length))
        weights.append(1 << min(passage.length, LONGEST) + FOLLOWED)
    if not matches:
        return iter(())
    runs, lengths = [history.following(end, most) for end, _ in matches], [length for _, length in matches]
    return _Voices(runs, lengths, weights, passage.end >= 0).spoken(most)


@dataclass(slots=True)
class _Voices:
    """Those who say how the text goes on.

    Attributes:
        runs: the tokens that each of them says.
        lengths: how many ids match there.
        weights: of each of them.
        passage: whether the last one is the passage.
    """

    runs: list[list[int]]
    lengths: list[int]
    weights: list[int]
    passage: bool

    def spoken(self, most: int) -> Iterator[Proposal]:
        """So many tokens: by votes, until those who are left say the same to the end."""
        step = 0
        while step < most and self.runs.count(self.runs[0]) < len(self.runs):
            yield self._vote(step)
            step += 1
        # in one go, for long copies are worth most
        lengths = chain(LENGTHS[max(self.lengths) + step :], repeat(LENGTHS[-1]))
        says = chain(RESUMED[self.lengths[-1] + step :], repeat(RESUMED[-1])) if self.passage else repeat(SILENT)
        agreement = repeat(_of(UNANIMOUS, len(self.runs) - self.passage))
        yield from zip(self.runs[0][step:], zip(lengths, agreement, says, strict=False), strict=False)

    def _vote(self, step: int) -> Proposal:
        """The token with most weight; those who say another are heard no more."""
        tokens = [run[step] for run in self.runs]
        token = tokens[0]
        says = _of(RESUMED, self.lengths[-1] + step) if self.passage else SILENT
        if tokens.count(token) == len(tokens):
            agreement = _of(UNANIMOUS, len(tokens) - self.passage)
        else:
            votes: dict[int, int] = {}
            for other, weight in zip(tokens, self.weights, strict=True):
                votes[other] = votes.get(other, 0) + weight
            token = max(votes, key=votes.__getitem__)
            agreement = self._agreement(tokens, token)
            if self.passage and tokens[-1] != token:
                self.passage, says = False, AGAINST
            self._keep([other == token for other in tokens])
        return token, (_of(LENGTHS, max(self.lengths) + step), agreement, says)

    def _agreement(self, tokens: Sequence[int], token: int) -> int:
        """How far the places are for the token."""
        places = len(tokens) - self.passage
        if not (count := tokens[:places].count(token)):
            return NOBODY if places else NOWHERE
        if count == places:
            return _of(UNANIMOUS, places)
        weights = self.weights[:places]
        share = sum(compress(weights, [other == token for other in tokens]))
        return DIVIDED + 4 * share // sum(weights)

    def _keep(self, kept: Sequence[bool]) -> None:
        self.runs = [*compress(self.runs, kept)]
        self.lengths = [*compress(self.lengths, kept)]
        self.weights = [*compress(self.weights, kept)]


def _of(signs: Sequence[int], number: int) -> int:
    """The one for a number, the last one for greater ones."""
    return signs[number] if number < len(signs) else signs[-1]
