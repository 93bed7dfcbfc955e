"""Who is worth a measurement: the best in the simulator, or single differences where it cannot tell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from tgi_server.tune.scoring import Evaluate, FailedError, Load, Scorer
from tgi_server.tune.space import Candidate, Value

_WORTH = 0.01
"""What one more difference has to gain, as a part."""


@dataclass(frozen=True)
class Expected:
    """What the simulator expects of a candidate: its score, under the load that goes with it."""

    candidate: Candidate
    value: float
    load: Load | None


@dataclass(frozen=True)
class Shortlist:
    """Who is to be measured.

    Attributes:
        base: what is expected of the documented defaults; None where no load keeps the limits.
        best: the others, the best first.
        simulated: how many candidates were looked at.
    """

    base: Expected | None
    best: Sequence[Expected]
    simulated: int


def shortlist(
    base: Candidate,
    others: Iterable[Candidate],
    scorer: Scorer,
    simulate: Evaluate,
    count: int,
    over: Callable[[], bool] = lambda: False,
) -> Shortlist:
    """The `count` best of the others, as far as `over` leaves the time for them.

    A candidate that differs from another in further options, too, takes its place only if it is better by 1 %.

    Raises:
        FailedError: the defaults cannot be simulated.
    """
    first = _expected(base, scorer, simulate, None, None)
    start = first.load if first else None
    best: list[Expected] = []
    simulated = 1
    for candidate in others:
        if over():
            break
        simulated += 1
        bar = best[-1].value if len(best) == count else None
        try:
            found = _expected(candidate, scorer, simulate, start, bar)
        except FailedError:  # it would fail for the same reason when measured
            continue
        if found is not None:
            best = _joined(best, found)[:count]
    return Shortlist(first, best, simulated)


def _expected(
    candidate: Candidate, scorer: Scorer, simulate: Evaluate, start: Load | None, beat: float | None
) -> Expected | None:
    found = scorer.find(simulate, candidate, 1, start, beat)
    return None if found.value is None else Expected(candidate, found.value, found.load)


def _joined(best: Sequence[Expected], new: Expected) -> list[Expected]:
    settings = new.candidate.settings.items()
    simpler = [each for each in best if each.candidate.settings.items() <= settings]
    if any(new.value < each.value + _WORTH * abs(each.value) for each in simpler):
        return list(best)
    kept = [each for each in best if each not in simpler]
    return sorted([*kept, new], key=lambda each: each.value, reverse=True)


def single(space: Mapping[str, Sequence[Value]]) -> Iterator[dict[str, Value]]:
    """Settings that differ from the defaults in one option: of each the first value, then of each the second."""
    for row in zip_longest(*([(name, value) for value in some[1:]] for name, some in space.items())):
        yield from (dict([pair]) for pair in row if pair is not None)
