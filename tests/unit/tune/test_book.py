"""What was measured is measured once, and known again."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tests.unit.tune.servers import candidate, summary
from tgi_server.bench.workload import Workload
from tgi_server.sweep.objective import Objective
from tgi_server.sweep.points import Point
from tgi_server.sweep.record import Sweep, Trial
from tgi_server.tune.book import Book, key
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
    book = Book(OPTIONS, attempts, lambda point, trial: told.append((point.number, trial is not None)))
    assert book(candidate(wait=5), Load(128, 2.5), 1) == Probe(summary())
    assert book(candidate(wait=5), Load(128, 4.0), 1).broken == "saturated"
    assert book(candidate(wait=5), Load(128, 2.5), 2).good
    assert book(candidate(broken=1), Load(8), 1) == Probe(None, error="out of memory")
    assert [point.settings for point in book.points] == [
        {"wait": "5", "request_rate": "2.5"}, {"wait": "5", "request_rate": "4"}, {"broken": "1", "clients": "8"}
    ]  # fmt: skip
    assert attempts.made == [(1, 2.5, 1), (2, 4.0, 1), (1, 2.5, 2), (3, None, 1)]
    assert told == [(1, False), (1, True), (2, False), (2, True), (1, True), (3, False), (3, True)]
    (first, run), _, (again, other_run), _ = attempts.asked
    assert again.seed == first.seed + 1 and run != other_run
    assert Sweep({}, [], book.trials).good(2) == [] and len(Sweep({}, [], book.trials).good(1)) == 2


def test_a_second_start_goes_on_where_the_first_was_stopped() -> None:
    first = Attempts()
    book = Book(OPTIONS, first)
    scorer = Scorer(Objective.goodput, (), None, 128)
    found = scorer.find(book, candidate(), 1, None, None)
    settings = {point.number: point.settings for point in book.points}
    known = {key(settings[trial.point], trial.repeat): trial for trial in book.trials}

    second = Attempts()
    again = Book(OPTIONS, second, known=known)
    assert scorer.find(again, candidate(), 1, None, None) == found and second.made == []
    assert [trial.point for trial in again.trials] == [trial.point for trial in book.trials]
    some = dict(list(known.items())[:3])
    assert scorer.find(Book(OPTIONS, second, known=some), candidate(), 1, None, None) == found
    assert second.made == first.made[3:]


def test_what_failed_is_tried_again() -> None:
    failed = Trial(1, 1, "2026-01-01T00:00:00+00:00", 1.0, error="no memory")
    attempts = Attempts()
    book = Book(OPTIONS, attempts, known={key({"wait": "5", "clients": "4"}, 1): failed})
    assert book(candidate(wait=5), Load(4), 1).good and len(attempts.made) == 1
