"""What a step costs by its number of rows, as measured at the start, and how many guesses pay at that."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from operator import mul

import numpy as np
import numpy.typing as npt

FEWEST_GAINED = 1.03
"""Tokens a second with guesses, in the measure of those without, from which on it is worth while to guess."""
DEAR = 0.005
"""Share of a step from which on guesses are not asked for in vain all the time."""
LARGEST = 128
"""Rows of the largest step that is measured; what lies beyond is taken to grow as before."""
REPEATS = 3
SLOW = 0.3
"""Seconds of a step that is tried twice only."""
PATIENCE = 20.0
"""Seconds after which no larger step is measured: of slow models only, which guesses help most."""


@dataclass(frozen=True)
class Costs:
    """Seconds of a decode step.

    Attributes:
        rows: numbers of rows that were measured, growing.
        seconds: of a step with so many rows and next to no context.
        position: more for each row and each position that it sees.
    """

    rows: tuple[int, ...]
    seconds: tuple[float, ...]
    position: float = 0.0

    def of(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Seconds of steps by their rows: straight lines between what was measured, and on behind the last."""
        slope = self.seconds[-1] / self.rows[-1]
        beyond = np.maximum(rows - self.rows[-1], 0) * slope
        return np.interp(rows, self.rows, self.seconds) + beyond

    def listed(self) -> str:
        """Milliseconds by rows."""
        return ", ".join(f"{n}: {s * 1e3:.3g}" for n, s in zip(self.rows, self.seconds, strict=True))

    @classmethod
    def measure(cls, step: Callable[[int, int], float], contexts: tuple[int, int], most: int = LARGEST) -> Costs:
        """Of a machine on which `step(rows, context)` takes so many seconds.

        The best of a few tries counts. Rows are doubled up to `most`, or until PATIENCE is over, or as far as it works:
        a step that fails takes infinitely long.
        """
        short, long = contexts
        rows, seconds, spent = [1], [_best(step, 1, short)], 0.0
        while 2 * rows[-1] <= most and spent < PATIENCE:
            larger = _best(step, 2 * rows[-1], short)
            if math.isinf(larger):
                break
            rows.append(2 * rows[-1])
            seconds.append(max(seconds[-1], larger))  # a larger step is never cheaper
            spent += (REPEATS if seconds[-1] < SLOW else 2) * seconds[-1]
        middle = min(8, rows[-1])
        more = _best(step, middle, long) - seconds[rows.index(middle)] if long > short else 0.0
        position = max(0.0, more if math.isfinite(more) else 0.0) / (middle * max(1, long - short))
        base = [max(1e-9, s - n * short * position) for n, s in zip(rows, seconds, strict=True)]
        return cls(tuple(rows), tuple(accumulate(base, max)), position)


def _best(step: Callable[[int, int], float], rows: int, context: int) -> float:
    seconds = min(step(rows, context), step(rows, context))  # what is set up lazily is over then
    return seconds if seconds >= SLOW else min(seconds, *(step(rows, context) for _ in range(REPEATS - 2)))


FREE = Costs((1,), (0.0,))


class Allotment:
    """Decides how many guesses of each sequence join a step: as many as make the most tokens a second.

    A guess that is right with probability p brings p tokens and costs a row. The more sequences decode, the more a
    row costs: at large batches nothing pays, and nobody is asked for guesses.

    Args:
        costs: of steps.
        most: guesses of a sequence in a step.
        extra: what the guesses of so many sequences take by themselves.
    """

    def __init__(self, costs: Costs, most: int, extra: Costs = FREE) -> None:
        self._costs = costs
        self._most = most
        self._extra = extra
        self.may_pay = lru_cache(maxsize=None)(self._may_pay)
        """Whether guesses could pay in a step of so many sequences if all of them were right."""
        self.dear = lru_cache(maxsize=None)(self._dear)
        """Whether to ask so many sequences for guesses takes a share of a step that counts."""

    def widths(self, chances: Mapping[int, Sequence[float]], contexts: Mapping[int, int], batch: int) -> dict[int, int]:
        """How many guesses of each sequence pay in a step with `batch` sequences; those with none are left out.

        Args:
            chances: that each guess is right if those before it are, by id.
            contexts: positions that a row of a sequence sees, by id.
        """
        gains, owners = [], []
        for id, each in chances.items():
            run = list(accumulate(each, mul))
            gains += run
            owners += [id] * len(run)
        if not gains:
            return {}
        order = np.argsort(-np.array(gains), kind="stable")
        seen = np.array([contexts[id] for id in owners])[order] * self._costs.position
        rows = np.arange(batch, batch + len(order) + 1)
        spent = self._costs.of(rows) + np.concatenate([[0.0], np.cumsum(seen)])
        spent += sum(contexts.values()) * self._costs.position
        spent[1:] += self._extra.of(np.array([len(chances)]))
        speeds = (batch + np.concatenate([[0.0], np.cumsum(np.array(gains)[order])])) / spent
        count = int(speeds.argmax())
        if speeds[count] < FEWEST_GAINED * speeds[0]:
            return {}
        widths: dict[int, int] = {}
        for index in order[:count].tolist():  # the guesses of a sequence come in their order: their gains fall
            widths[owners[index]] = widths.get(owners[index], 0) + 1
        return widths

    def _may_pay(self, batch: int) -> bool:
        ids = range(batch)
        return bool(self.widths({id: [1.0] * self._most for id in ids}, dict.fromkeys(ids, 0), batch))

    def _dear(self, batch: int) -> bool:
        each = np.array([batch])
        return bool(self._extra.of(each)[0] > DEAR * self._costs.of(each)[0])

    def __str__(self) -> str:
        """For a log: what was measured and what follows from it."""
        times = self._costs.listed()
        own = f"; of guessing by texts: {self._extra.listed()}" if self._extra.seconds[-1] > 1e-5 else ""
        batches = [1, 2, 4, 8, 16, 32, 64]
        never = next((batch for batch in batches if not self.may_pay(batch)), None)
        least = ", ".join(f"{batch}: {self.least(batch):.0%}" for batch in batches if self.may_pay(batch))
        pays = f"guesses pay for sequences in a step from this share of right ones on: {least}" if least else ""
        rest = "guesses never pay" if not least else f"; not from {never} on" if never else ""
        return (
            f"ms of a step by its rows: {times} (and {self._costs.position * 1e9:.3g} ns a row and position){own}; "
            f"{pays}{rest}"
        )

    def least(self, batch: int) -> float:
        """The share of right guesses from which on one at least pays in such a step; found to 5 %."""
        ids = range(batch)
        shares = (step / 20 for step in range(1, 21))
        contexts = dict.fromkeys(ids, 0)
        return next((p for p in shares if self.widths({i: [p] * self._most for i in ids}, contexts, batch)), 1.0)
