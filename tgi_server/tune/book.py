"""What was measured: points in the order in which they were first asked for, and the trials of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tgi_server.bench.workload import Workload
from tgi_server.sweep.points import Point
from tgi_server.sweep.record import Sweep, Trial
from tgi_server.tune.guard import Guard
from tgi_server.tune.options import TuneOptions
from tgi_server.tune.scoring import Load, Probe
from tgi_server.tune.space import Candidate
from tgi_server.tune.work import guard, run_number, work

Attempt = Callable[[Point, Workload, int, int, Guard], Trial]
"""Measures a point: its work in this repeat, the repeat, the number that decides about prompts, and what may end it."""


@dataclass
class Book:
    """Measures what is not known yet (`scoring.Evaluate`).

    Attributes:
        options: of the search.
        attempt: measures.
        add_point: is told of each point that `earlier` does not have, when it is first asked for.
        add_trial: is told of each trial that is made.
        earlier: what is known from an earlier start.
    """

    options: TuneOptions
    attempt: Attempt
    add_point: Callable[[Point], None] = lambda point: None
    add_trial: Callable[[Trial], None] = lambda trial: None
    earlier: Sweep = field(default_factory=lambda: Sweep({}, [], []))

    def __post_init__(self) -> None:
        self._points: list[Point] = []
        self._trials = {(trial.point, trial.repeat): trial for trial in self.earlier.trials if trial.error is None}

    def __call__(self, candidate: Candidate, load: Load, repeat: int, beat: float | None = None) -> Probe:
        """See `scoring.Evaluate`."""
        point = self.point(candidate, load)
        trial = self._trials.get((point.number, repeat))
        if trial is None:
            asked = work(self.options, load, repeat)
            trial = self.attempt(point, asked, repeat, run_number(load, repeat), guard(self.options, asked, beat))
            self._trials[point.number, repeat] = trial
            self.add_trial(trial)
        return Probe(trial.summary, trial.stopped, trial.error)

    def point(self, candidate: Candidate, load: Load) -> Point:
        """The point of a candidate under a load, a new one where it was not asked for before."""
        settings = {**candidate.settings, **_written(load)}
        for point in self._points:
            if point.settings == settings:
                return point
        known = {described.number: described.settings for described in self.earlier.points}
        number = next((number for number, its in known.items() if its == settings), None)
        numbers = [*known, *(point.number for point in self._points)]
        point = Point(number or max(numbers, default=0) + 1, settings, candidate.task, work(self.options, load, 1))
        self._points.append(point)
        if number is None:
            self.add_point(point)
        return point


def _written(load: Load) -> dict[str, str]:
    if load.closed:
        return {"clients": str(load.clients)}
    name, value = ("request_rate", load.rate) if load.rate is not None else ("traffic_speed", load.speed)
    return {name: f"{value:g}"}
