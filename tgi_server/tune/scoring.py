"""One candidate in one number: the objective, by as many probes as that takes, measured or simulated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tgi_server.bench.summary import Summary
from tgi_server.sweep.objective import Objective, score
from tgi_server.tune.capacity import TOLERANCE, greatest, peak, rounded
from tgi_server.tune.space import Candidate

_FASTEST = 1e6
"""Requests a second."""


@dataclass(frozen=True)
class Load:
    """What a server has to bear: so many requests at a time, or at most so many of those that arrive.

    Attributes:
        rate: of arrivals a second at random moments.
        speed: how many times as fast as the traffic says they arrive.
    """

    clients: int
    rate: float | None = None
    speed: float | None = None

    @property
    def closed(self) -> bool:
        """Whether requests wait for answers."""
        return self.rate is None and self.speed is None


@dataclass(frozen=True)
class Probe:
    """One candidate under one load.

    Attributes:
        summary: what was measured, or simulated; of what there was where it was ended early. None where it failed.
        broken: why it does not count: limits, a queue that grew, or nothing to win; None where it counts.
        error: why the candidate cannot be had at all.
    """

    summary: Summary | None
    broken: str | None = None
    error: str | None = None

    @property
    def good(self) -> bool:
        """Whether it counts."""
        return self.summary is not None and self.broken is None and self.error is None


class Evaluate(Protocol):
    """Measures, or simulates."""

    def __call__(self, candidate: Candidate, load: Load, repeat: int, beat: float | None = None) -> Probe:
        """A probe of a candidate; equal `repeat`s have the same arrivals and prompts.

        Args:
            beat: a score that it has to reach to be of interest, except for goodput.
        """


class FailedError(Exception):
    """A candidate cannot be had; the text says why."""


@dataclass(frozen=True)
class Found:
    """The score of a candidate.

    Attributes:
        value: more is better; None where no load counts.
        load: under which that was.
        why: what the last probe that did not count died of.
    """

    value: float | None
    load: Load | None = None
    why: str | None = None


class Scorer:
    """Finds scores.

    Args:
        loads: those to try; empty: the best is looked for.
        most: requests at a time that there may be: the server would refuse more.
        least: rate below which no goodput is looked for, as it would take too long to measure.
        tolerance: of a goodput.
        enough: whether no further probe may begin.
    """

    def __init__(
        self,
        objective: Objective,
        loads: Sequence[Load],
        most: int,
        least: float = 1e-3,
        tolerance: float = TOLERANCE,
        enough: Callable[[], bool] = lambda: False,
    ) -> None:
        self.objective = objective
        self.tolerance = tolerance
        self._loads = loads
        self._most = most
        self._least = rounded(least)
        self._enough = enough

    def find(
        self, evaluate: Evaluate, candidate: Candidate, repeat: int, start: Load | None, beat: float | None
    ) -> Found:
        """The score of a candidate.

        Args:
            start: a load that is about right.
            beat: a score below which it is of no interest; it may then be told as none.

        Raises:
            FailedError: it cannot be had.
        """
        search = _Search(self, evaluate, candidate, repeat, beat)
        if self.objective is Objective.goodput:
            return self._goodput(search, start)
        if repeat > 1 and start is not None:
            search.score(start)
        elif self._loads:
            for load in self._loads:
                search.score(load)
        else:
            first = start.clients if start else 1
            peak(lambda clients: search.score(Load(clients)), first, self._most, enough=self._enough)
        return search.best()

    def _goodput(self, search: _Search, start: Load | None) -> Found:
        def keeps(rate: float) -> bool:
            return search.score(Load(self._most, rate)) is not None

        first = start.rate if start and start.rate else 1.0
        if search.beat is not None:  # below that it is of no interest, however it does there
            hurdle = rounded(search.beat * (1 + self.tolerance))
            if not keeps(hurdle):
                return Found(None, None, search.why)
            first = max(first, hurdle)
        blind = start is None and search.beat is None
        bounds = (self._least, _FASTEST)
        greatest(keeps, first, self.tolerance, self._enough, bounds, step=2.0 if blind else None)
        return search.best()


class _Search:
    """The probes of one search; none is made twice."""

    def __init__(
        self, scorer: Scorer, evaluate: Evaluate, candidate: Candidate, repeat: int, beat: float | None
    ) -> None:
        self.beat = beat
        self.scores: dict[Load, float | None] = {}
        self.why: str | None = None
        self._scorer = scorer
        self._evaluate = evaluate
        self._candidate = candidate
        self._repeat = repeat

    def score(self, load: Load) -> float | None:
        """Of a load, None where it does not count. Raises FailedError."""
        if load not in self.scores:
            self.scores[load] = self._score(load)
        return self.scores[load]

    def best(self) -> Found:
        """Of all that was probed."""
        good = {load: value for load, value in self.scores.items() if value is not None}
        load = max(good, key=lambda load: good[load], default=None)
        return Found(None, None, self.why) if load is None else Found(good[load], load, self.why)

    def _score(self, load: Load) -> float | None:
        goodput = self._scorer.objective is Objective.goodput
        probe = self._evaluate(self._candidate, load, self._repeat, None if goodput else self.beat)
        if probe.error is not None:
            raise FailedError(probe.error)
        self.why = probe.broken or self.why
        if not probe.good or probe.summary is None:
            return None
        return load.rate if goodput else score(self._scorer.objective, probe.summary)
