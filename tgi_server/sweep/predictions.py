"""What a simulator expects of the points of a sweep, beside what is measured."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tgi_server.bench.summary import Percentiles, Summary
from tgi_server.bench.workload import Workload
from tgi_server.errors import TgiError
from tgi_server.jobs.base import Task
from tgi_server.sweep.journal import Journal
from tgi_server.sweep.order import same_shards
from tgi_server.sweep.points import Point
from tgi_server.sweep.record import Sweep

logger = logging.getLogger(__name__)


class Simulator(Protocol):
    """See `simulate.predict.Predictor`."""

    def learn(self, task: Task, report: Callable[[str, float], None]) -> Any:
        """Measure what a task's steps cost, unless that is known."""

    def predict(self, task: Task, work: Workload) -> Summary:
        """What measuring a task would say; `learn` has been called for it. Raises UsageError."""


@dataclass(frozen=True)
class Foresight:
    """Who is asked.

    Attributes:
        simulator: expects something of single points.
        doubt: why it does not know, by what was measured of some points and what it expected of the same; None where
            it does.
    """

    simulator: Simulator
    doubt: Callable[[Sequence[Summary], Sequence[Summary]], str | None]


Foresee = Callable[[Path], Foresight]
"""Makes a simulator that keeps its files in a sweep's directory."""


class Predictions:
    """Adds to a record what is expected.

    Args:
        foresight: None: nothing is expected.
        say: told what is done.
    """

    def __init__(
        self, foresight: Foresight | None, points: Sequence[Point], journal: Journal, say: Callable[[str], None]
    ) -> None:
        self._foresight = foresight
        self._points = points
        self._journal = journal
        self._say = say
        self._asked = set(journal.sweep.predictions)

    def wanted(self, point: Point) -> bool:
        """Whether `of` has something to do."""
        return self._foresight is not None and point.number not in self._asked

    def of(self, point: Point) -> None:
        """For this point and all that have the same shards, which are started where they do not run.

        What cannot be simulated is told, and left out. Raises ConfigError where the record cannot be written.
        """
        assert self._foresight is not None
        alike = [each for each in self._points if self.wanted(each) and same_shards(each, point)]
        self._asked |= {each.number for each in alike}
        simulator = self._foresight.simulator
        try:
            simulator.learn(point.task, lambda stage, part: self._say(f"{stage}: {100 * part:.0f} %"))
            found = {each.number: simulator.predict(each.task, each.work) for each in alike}
        except TgiError as error:
            logger.info("%s and those with the same shards cannot be simulated: %s", point.name, error)
            return
        for number, summary in found.items():
            self._journal.add_prediction(number, summary)

    def judge(self) -> None:
        """Add whether to believe it, by all that was measured. Raises ConfigError as `of` does."""
        sweep = self._journal.sweep
        both = [number for number in sweep.predictions if sweep.good(number)]
        if self._foresight is None or not both:
            return
        doubt = self._foresight.doubt([mean(sweep, number) for number in both], [sweep.predictions[n] for n in both])
        if doubt != sweep.doubt:
            self._journal.add_doubt(doubt)


def mean(sweep: Sweep, point: int) -> Summary:
    """The mean of a point's measurements, number by number; there has to be one."""
    good = sweep.good(point)
    values: Mapping[str, Any] = {name: _mean([getattr(each, name) for each in good]) for name in vars(good[0])}
    return Summary(**values)


def _mean(values: Sequence[Any]) -> Any:
    """Of numbers or percentiles; of anything else the first one."""
    first = values[0]
    if isinstance(first, Percentiles):
        return Percentiles(*(_mean([getattr(each, name) for each in values]) for name in ("p50", "p95", "p99")))
    if isinstance(first, float):
        return sum(values) / len(values)
    return first
