"""What was measured: points in the order in which they were first asked for, and the trials of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tgi_server.bench.workload import Workload
from tgi_server.sweep.points import Point
from tgi_server.sweep.record import Trial
from tgi_server.tune.guard import Guard
from tgi_server.tune.options import TuneOptions
from tgi_server.tune.scoring import Load, Probe
from tgi_server.tune.space import Candidate
from tgi_server.tune.work import guard, run_number, work

Attempt = Callable[[Point, Workload, int, int, Guard], Trial]
"""Measures a point: its work in this repeat, the repeat, the number that decides about prompts, and what may end it."""

_Key = tuple[tuple[tuple[str, str], ...], int]


def key(settings: Mapping[str, str], repeat: int) -> _Key:
    """By which a trial is found again."""
    return tuple(sorted(settings.items())), repeat


@dataclass
class Book:
    """Measures what is not known yet (`scoring.Evaluate`).

    Attributes:
        options: of the search.
        attempt: measures.
        add: is told of each point when it is first asked for, and then of each of its trials that is made.
        known: trials of an earlier start, by `key`.
        points: those that were asked for.
        trials: of these points.
    """

    options: TuneOptions
    attempt: Attempt
    add: Callable[[Point, Trial | None], None] = lambda point, trial: None
    known: Mapping[_Key, Trial] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)

    def __call__(self, candidate: Candidate, load: Load, repeat: int, beat: float | None = None) -> Probe:
        """See `scoring.Evaluate`."""
        point = self.point(candidate, load)
        trial = self.known.get(key(point.settings, repeat))
        if trial is None or trial.error is not None:
            asked = work(self.options, load, repeat)
            ends = guard(self.options, asked, beat)
            trial = self.attempt(point, asked, repeat, run_number(load, repeat), ends)
            self.add(point, trial)
        self.trials.append(trial)
        return Probe(trial.summary, trial.stopped, trial.error)

    def point(self, candidate: Candidate, load: Load) -> Point:
        """The point of a candidate under a load, a new one where it was not asked for before."""
        settings = {**candidate.settings, **_written(load)}
        for point in self.points:
            if point.settings == settings:
                return point
        point = Point(len(self.points) + 1, settings, candidate.task, work(self.options, load, 1))
        self.points.append(point)
        self.add(point, None)
        return point


def _written(load: Load) -> dict[str, str]:
    return {"clients": str(load.clients)} if load.rate is None else {"request_rate": f"{load.rate:g}"}
