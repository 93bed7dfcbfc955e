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
from tgi_server.tune.scoring import Evaluate, FailedError, Scorer
from tgi_server.tune.shortlist import shortlist
from tgi_server.tune.space import Candidate

_SIMULATED = 0.2
"""Part of the time that simulations may take."""
_FINER = 0.02
"""Tolerance of a simulated goodput, which repeats exactly."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Field:
    """Who takes part.

    Attributes:
        base: the documented defaults.
        others: all other candidates, those first that differ least; sketches that `composed` makes real.
        singles: of these, who is measured where there is no simulation.
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
    """

    objective: Objective
    clients: tuple[int, ...]
    rate: float | None
    most: int
    budget: float


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
        simulate: None where the simulator does not know.
        tell: takes a line about what has been found.

    Raises:
        FailedError: the documented defaults cannot be measured.
    """
    began = clock()

    def spent() -> float:
        return (clock() - began) / aim.budget

    scorer = Scorer(aim.objective, aim.clients, aim.rate, aim.most, TOLERANCE, lambda: spent() >= 1)
    arms = _simulated(field, aim, simulate, lambda: spent() >= _SIMULATED, tell) if simulate else None
    if arms is None:
        arms = [Arm(field.base), *map(Arm, field.singles)]
    return race([_real(arm, field) for arm in arms], scorer, measure, spent, tell)


def _simulated(
    field: Field, aim: Aim, simulate: Evaluate, over: Callable[[], bool], tell: Callable[[str], None]
) -> list[Arm] | None:
    """Who is best in the simulator; None where it expects nobody to keep the limits."""
    scorer = Scorer(aim.objective, aim.clients, aim.rate, aim.most, _FINER)
    try:
        listed = shortlist(field.base, field.others, scorer, simulate, field.count, over)
    except FailedError as error:
        tell(f"not simulated: {error}")
        return None
    tell(f"simulated {listed.simulated} of {1 + len(field.others)} configurations")
    if not listed.best:
        return None
    for each in filter(None, [listed.base, *listed.best]):
        tell(f"expected of {each.candidate.name}: {abs(each.value):.4g}")
    return listed.arms(field.base)


def _real(arm: Arm, field: Field) -> Arm:
    try:
        return replace(arm, candidate=field.composed(arm.candidate))
    except TgiError as error:
        if not arm.candidate.settings:
            raise
        return replace(arm, dropped=f"failed: {error}")
