"""Candidates measured in turns until the best is known from the documented defaults, or the time is over."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tgi_server.sweep.objective import Objective
from tgi_server.tune.scoring import Evaluate, FailedError, Load, Scorer
from tgi_server.tune.space import Candidate

_FIRST_PART = 0.6
"""Of the time, for the first measurement of each: the rest is for telling the best from the defaults."""
_FEWEST, _MOST = 3, 6
"""Repeats before two are told apart, and at all."""
_STUDENT = (math.inf, 12.71, 4.303, 3.182, 2.776, 2.571)
"""Quantiles of 97.5 % of Student's distribution, by degrees of freedom."""
_CLOSE = 0.1
"""Who was worse than the best by more than this part in the first round is out."""

UNMEASURED = "not measured: the time was over"


@dataclass
class Arm:
    """A candidate and what became of it.

    Attributes:
        start: a load that is about right, simulated at first.
        scores: by repeat; None where no load counted.
        dropped: why it is not measured any more.
        why: what its last probe that did not count died of.
        failed: whether it was dropped because it failed or kept the limits at no load: it cannot be the best then.
    """

    candidate: Candidate
    start: Load | None = None
    scores: dict[int, float | None] = field(default_factory=dict)
    dropped: str | None = None
    why: str | None = None
    failed: bool = False

    @property
    def known(self) -> list[float]:
        """The scores that count."""
        return [score for score in self.scores.values() if score is not None]

    @property
    def typical(self) -> float:
        """The median score; minus infinity where none counts."""
        return statistics.median(self.known) if self.known else -math.inf


@dataclass(frozen=True)
class Gain:
    """How much better one is than another, as a part: 0.2 is 20 % more, or 20 % shorter answers.

    Attributes:
        margin: from it to the lower end of the interval in which it lies with 95 % confidence, were there no choice
            among several; None of one repeat.
    """

    mean: float
    margin: float | None

    @property
    def sure(self) -> bool:
        """Whether it is more than the noise."""
        return self.margin is not None and self.mean - self.margin > 0


@dataclass(frozen=True)
class Outcome:
    """What a race came to.

    Attributes:
        arms: the documented defaults first.
        best: whoever scored best beside the defaults; None where nobody scored.
        gain: of `best` over the defaults; None where either has no score of a common repeat.
        complete: whether it ended by itself, not because the time was over.
        doubt: why the simulator did not know whom to measure; None where it did, or was not asked.
    """

    arms: Sequence[Arm]
    best: Arm | None
    gain: Gain | None
    complete: bool
    doubt: str | None = None

    @property
    def base(self) -> Arm:
        """The documented defaults."""
        return self.arms[0]

    @property
    def winner(self) -> Arm:
        """Who is to be used: the defaults, unless something is better by more than the noise."""
        if self.best is not None and (not self.base.known or (self.gain is not None and self.gain.sure)):
            return self.best
        return self.base


def gain(objective: Objective, arm: Arm, base: Arm, resolution: float = 0.0) -> Gain | None:
    """Of one over another, of the repeats that both have scores of: what happens on the machine meets both.

    Args:
        resolution: how far, as a part, a score may lie from the truth however often it is repeated.
    """
    pairs = [(score, base.scores.get(repeat)) for repeat, score in arm.scores.items()]
    logs = [math.log(mine / other) for mine, other in pairs if mine and other]
    if not logs:
        return None
    if objective is Objective.latency:  # scores are times below 0
        logs = [-value for value in logs]
    count, mean = len(logs), statistics.fmean(logs)
    spread = statistics.stdev(logs) if count > 1 else 0.0
    margin = max(_STUDENT[min(count, len(_STUDENT)) - 1] * spread / math.sqrt(count), resolution)
    sign = -1 if objective is Objective.latency else 1
    part = sign * math.expm1(sign * mean)
    return Gain(part, None if count == 1 else part - sign * math.expm1(sign * (mean - margin)))


def race(
    base: Arm,
    rivals: Callable[[Arm], Sequence[Arm]],
    scorer: Scorer,
    evaluate: Evaluate,
    spent: Callable[[], float],
    tell: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Measure the documented defaults, then their rivals, and those that may be best again and again.

    Args:
        rivals: who they are, once the defaults have been measured; the likeliest winner first.
        spent: the part of the time that is over; from 1 on no further measurement begins.
        tell: takes a line about each score.

    Raises:
        FailedError: the documented defaults cannot be measured.
    """
    run = _Race(base, scorer, evaluate, spent, tell)
    run.measure(base, 1, None)
    arms = [base, *rivals(base)]
    complete = run.first_round(arms)
    complete = run.later_rounds(arms) and complete
    best = max((arm for arm in arms[1:] if not arm.failed), key=lambda arm: arm.typical, default=None)
    if best is None or not best.known:
        return Outcome(arms, None, None, complete)
    return Outcome(arms, best, run.gain(best), complete)


class _Race:
    def __init__(
        self,
        base: Arm,
        scorer: Scorer,
        evaluate: Evaluate,
        spent: Callable[[], float],
        tell: Callable[[str], None],
    ) -> None:
        self._base = base
        self._scorer = scorer
        self._evaluate = evaluate
        self._spent = spent
        self._tell = tell

    def gain(self, arm: Arm) -> Gain | None:
        resolution = self._scorer.tolerance if self._scorer.objective is Objective.goodput else 0.0
        return gain(self._scorer.objective, arm, self._base, resolution)

    def first_round(self, arms: Sequence[Arm]) -> bool:
        """Each rival once, and shortly where it cannot beat the best so far; whether the time sufficed."""
        for arm in arms[1:]:
            if arm.dropped is not None:
                continue
            if self._spent() >= _FIRST_PART:
                arm.dropped = UNMEASURED
                continue
            best = max(other.typical for other in arms)
            self.measure(arm, 1, best if best > -math.inf else None)
        best = max(arm.typical for arm in arms)
        for arm in arms[1:]:
            if arm.dropped is None and arm.typical < best - _CLOSE * abs(best):
                arm.dropped = "clearly worse than the best"
        return all(arm.dropped != UNMEASURED for arm in arms)

    def later_rounds(self, arms: Sequence[Arm]) -> bool:
        """The best and the defaults in turns; whether that came to an end."""
        for repeat in range(2, _MOST + 1):
            rivals = self._rivals(arms[1:], repeat)
            if not rivals or (repeat > _FEWEST and self._separated(rivals[0])):
                return True
            turn = [self._base, *rivals]
            for arm in turn if repeat % 2 else reversed(turn):
                if self._spent() >= 1:
                    return False
                self.measure(arm, repeat, None)
        return True

    def _rivals(self, arms: Sequence[Arm], repeat: int) -> list[Arm]:
        """Who may still be best, the best first: half as many every round."""
        alive = [arm for arm in arms if arm.dropped is None and arm.known]
        alive.sort(key=lambda arm: arm.typical, reverse=True)
        room = max(1, math.ceil(len(arms) / 2 ** (repeat - 1)))
        for arm in alive[room:]:
            arm.dropped = "another one was better"
        return alive[:room]

    def _separated(self, arm: Arm) -> bool:
        found = self.gain(arm)
        return found is not None and found.margin is not None and abs(found.mean) > found.margin

    def measure(self, arm: Arm, repeat: int, beat: float | None) -> None:
        try:
            found = self._scorer.find(self._evaluate, arm.candidate, repeat, arm.start, beat)
        except FailedError as error:
            if arm is self._base:
                raise
            arm.dropped, arm.failed = f"failed: {error}", True
            self._tell(f"{arm.candidate.name}: failed: {error}")
            return
        arm.scores[repeat] = found.value
        arm.start, arm.why = found.load or arm.start, found.why
        if found.value is None and arm is not self._base:
            arm.dropped, arm.failed = found.why or "no load counted", True
        result = "no score" if found.value is None else f"{abs(found.value):.4g}"
        self._tell(f"round {repeat}, {arm.candidate.name}: {result}" + (f" ({found.why})" if found.why else ""))
