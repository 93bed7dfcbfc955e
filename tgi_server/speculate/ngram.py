"""N-gram: the newest ids go on as they did when they occurred last (what the option `speculate` is documented as)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from tgi_server.config.schema import option
from tgi_server.speculate.base import Drafter, Surroundings
from tgi_server.speculate.history import LONGEST, History
from tgi_server.speculate.lookup import LookUp, Proposal, Usual

ALONE, AGREES, DIFFERS = range(3)
"""What the place before the latest one says, if the newest ids occurred there as well."""
USUAL = Usual((-1.7, -1.1, -0.6, -0.2, 0.0, 0.2, 0.5, 0.7, 0.9, 0.9, 2.5), (0.8, 2.1, -1.0))


@dataclass
class NGram:
    """Guesses what followed the latest place where as many of the newest ids as possible occurred."""

    longest: int = option(
        3, "How many of the newest ids are looked up in the text so far; fewer are when they are new together.",
        minimum=1, maximum=LONGEST,
    )  # fmt: skip

    def drafter(self, surroundings: Surroundings) -> Drafter:
        """What guesses for a shard."""
        return LookUp(_propose, range(1, self.longest + 1), USUAL)


def _propose(history: History) -> Iterator[Proposal]:
    matches = history.matches(2)
    if not matches:
        return
    (latest, length), (before, _) = matches[0], matches[-1]
    alone = len(matches) == 1
    for step in count():
        token = history.after(latest, step)
        says = ALONE if alone else AGREES if history.after(before, step) == token else DIFFERS
        alone = alone or says == DIFFERS
        yield token, length + step, says
