"""The whole search: all candidates simulated, the best of them and the documented defaults measured."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tgi_server.errors import TgiError
from tgi_server.sweep.objective import Objective
from tgi_server.tune.capacity import TOLERANCE
from tgi_server.tune.race import Arm, Outcome, race
from tgi_server.tune.scoring import Evaluate, FailedError, Load, Scorer
from tgi_server.tune.shortlist import Shortlist, shortlist
from tgi_server.tune.space import Candidate

_SIMULATED = 0.2
"""Part of the time that simulations may take, besides finding out what steps cost."""
_BELIEVED = 0.15
"""Error of the simulator, as a part of the score of the documented defaults, up to which it is believed."""
_FINER = 0.02
"""Tolerance of a simulated goodput, which repeats exactly."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Field:
    """Who takes part.

    Attributes:
        base: the documented defaults.
        others: all other candidates, those first that differ least; sketches that `composed` makes real.
        singles: of these, who is measured where the simulator does not know.
        composed: the candidate as it can be measured; raises TgiError where it cannot be had.
        count: how many are measured after a simulation, beside the defaults.
    """

    base: Candidate
    others: Sequence[Candidate]
    singles: Sequence[Candidate]
    composed: Callable[[Candidate], Candidate]
    count: int


@dataclass(frozen=True)
class Aim:
    """What is looked for, see `Scorer`.

    Attributes:
        budget: seconds of it all.
        least: see `Scorer`.
    """

    objective: Objective
    loads: Sequence[Load]
    most: int
    budget: float
    least: float = 1e-3


def search(
    field: Field,
    aim: Aim,
    measure: Evaluate,
    simulate: Evaluate | None,
    tell: Callable[[str], None] = logger.info,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Simulate, then measure.

    Args:
        simulate: None where there is no simulator.
        tell: takes a line about what has been found.

    Raises:
        FailedError: the documented defaults cannot be measured.
    """
    began = clock()

    def spent() -> float:
        return (clock() - began) / aim.budget

    scorer = Scorer(aim.objective, aim.loads, aim.most, aim.least, TOLERANCE, lambda: spent() >= 1)
    listed = _simulated(field, aim, simulate, _Share(spent).over, tell) if simulate else None
    doubts = list[str]()

    def rivals(base: Arm) -> list[Arm]:
        doubts.extend(filter(None, [_doubt(listed, base)]))
        for line in doubts:
            tell(f"{line}; options are measured one by one")
        likely = [Arm(each.candidate, each.load) for each in listed.best] if listed else []
        known = [arm.candidate.settings for arm in likely]
        single = [Arm(each) for each in field.singles if each.settings not in known]
        return [_real(arm, field) for arm in (likely if likely and not doubts else [*likely, *single])]

    start = listed.base.load if listed and listed.base else None
    outcome = race(Arm(field.base, start), rivals, scorer, measure, spent, tell)
    return replace(outcome, doubt=next(iter(doubts), None))


class _Share:
    """Whether the candidates beside the defaults have been simulated for long enough."""

    def __init__(self, spent: Callable[[], float]) -> None:
        self._spent = spent
        self._began: float | None = None

    def over(self) -> bool:
        """To be asked before each of them."""
        now = self._spent()
        self._began = now if self._began is None else self._began
        return now - self._began >= _SIMULATED


def _doubt(listed: Shortlist | None, base: Arm) -> str | None:
    """Why the simulation is not to be believed, by what the documented defaults have shown; None where it is."""
    if listed is None or (listed.base is None and not base.known):
        return None
    if listed.base is None or not base.known:
        return "the simulator does not know: it is wrong about whether the documented defaults keep the limits"
    error = listed.base.value / base.typical - 1
    if abs(error) <= _BELIEVED:
        return None
    return f"the simulator does not know: it is {100 * error:+.0f} % off for the documented defaults"


def _simulated(
    field: Field, aim: Aim, simulate: Evaluate, over: Callable[[], bool], tell: Callable[[str], None]
) -> Shortlist | None:
    """Who is best in the simulator; None where it cannot run."""
    scorer = Scorer(aim.objective, aim.loads, aim.most, aim.least, _FINER)
    try:
        listed = shortlist(field.base, field.others, scorer, simulate, field.count, over)
    except FailedError as error:
        tell(f"not simulated: {error}")
        return None
    tell(f"simulated {listed.simulated} of {1 + len(field.others)} configurations")
    for each in filter(None, [listed.base, *listed.best]):
        tell(f"expected of {each.candidate.name}: {abs(each.value):.4g}")
    return listed


def _real(arm: Arm, field: Field) -> Arm:
    try:
        return replace(arm, candidate=field.composed(arm.candidate))
    except TgiError as error:
        return replace(arm, dropped=f"failed: {error}")
