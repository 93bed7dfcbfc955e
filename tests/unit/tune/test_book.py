"""What was measured is measured once, and known again."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tests.unit.tune.servers import candidate, summary
from tgi_server.bench.workload import Workload
from tgi_server.sweep.objective import Objective
from tgi_server.sweep.points import Point
from tgi_server.sweep.record import Described, Sweep, Trial
from tgi_server.tune.book import Book
from tgi_server.tune.guard import Guard
from tgi_server.tune.options import TuneOptions
from tgi_server.tune.scoring import Load, Probe, Scorer

OPTIONS = TuneOptions(objective=Objective.goodput, slo_ttft_p95_ms=500)


@dataclass
class Attempts:
    """Bears three requests a second; candidates that are `broken` end their server."""

    made: list[tuple[int, float | None, int]] = field(default_factory=list)
    asked: list[tuple[Workload, int]] = field(default_factory=list)

    def __call__(self, point: Point, work: Workload, repeat: int, run: int, guard: Guard) -> Trial:
        self.made.append((point.number, work.rate, repeat))
        self.asked.append((work, run))
        trial = Trial(point.number, repeat, "2026-01-01T00:00:00+00:00", 1.0)
        if "broken" in point.settings:
            return replace(trial, error="out of memory", last_words=("a line",))
        return replace(trial, summary=summary(), stopped="saturated" if (work.rate or 0) > 3 else None)


def test_points_are_a_candidate_under_a_load() -> None:
    attempts, told = Attempts(), list[tuple[int, bool]]()
    points, trials = list[Point](), list[Trial]()

    def add_point(point: Point) -> None:
        points.append(point)
        told.append((point.number, False))

    def add_trial(trial: Trial) -> None:
        trials.append(trial)
        told.append((trial.point, True))

    book = Book(OPTIONS, attempts, add_point, add_trial)
    assert book(candidate(wait=5), Load(128, 2.5), 1) == Probe(summary())
    assert book(candidate(wait=5), Load(128, 4.0), 1).broken == "saturated"
    assert book(candidate(wait=5), Load(128, 2.5), 2).good
    assert book(candidate(broken=1), Load(8), 1) == Probe(None, error="out of memory")
    assert [point.settings for point in points] == [
        {"wait": "5", "request_rate": "2.5"}, {"wait": "5", "request_rate": "4"}, {"broken": "1", "clients": "8"}
    ]  # fmt: skip
    assert attempts.made == [(1, 2.5, 1), (2, 4.0, 1), (1, 2.5, 2), (3, None, 1)]
    assert told == [(1, False), (1, True), (2, False), (2, True), (1, True), (3, False), (3, True)]
    (first, run), _, (again, other_run), _ = attempts.asked
    assert again.seed == first.seed + 1 and run != other_run
    assert Sweep({}, [], trials).good(2) == [] and len(Sweep({}, [], trials).good(1)) == 2


@dataclass
class Kept:
    """What one start leaves to the next."""

    points: list[Described] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)

    def book(self, attempts: Attempts, most: int = 100) -> Book:
        """One that knows `most` of the trials."""

        def add_point(point: Point) -> None:
            self.points.append(Described(point.number, point.settings, {}, point.work.clients[0], point.work.rate))

        earlier = Sweep({}, list(self.points), self.trials[:most])
        return Book(OPTIONS, attempts, add_point, self.trials.append, earlier)


def test_a_second_start_goes_on_where_the_first_was_stopped() -> None:
    kept, first, second = Kept(), Attempts(), Attempts()
    scorer = Scorer(Objective.goodput, (), 128)
    found = scorer.find(kept.book(first), candidate(), 1, None, None)
    points = list(kept.points)
    assert scorer.find(kept.book(second), candidate(), 1, None, None) == found and second.made == []
    assert scorer.find(kept.book(second, 3), candidate(), 1, None, None) == found
    assert second.made == first.made[3:] and kept.points == points
    assert kept.book(second)(candidate(wait=5), Load(128, 2.5), 1).good
    assert second.made[-1][0] == len(points) + 1


def test_what_failed_is_tried_again() -> None:
    kept, attempts = Kept(), Attempts()
    kept.points.append(Described(1, {"wait": "5", "clients": "4"}, {}, 4))
    kept.trials.append(Trial(1, 1, "2026-01-01T00:00:00+00:00", 1.0, error="no memory"))
    assert kept.book(attempts)(candidate(wait=5), Load(4), 1).good and attempts.made == [(1, None, 1)]
