"""The record and the report of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from tgi_server.bench.workload import Workload
from tgi_server.report import page
from tgi_server.sweep import identity
from tgi_server.sweep.journal import Identity
from tgi_server.sweep.points import Point
from tgi_server.sweep.record import Sweep
from tgi_server.tune.book import Book
from tgi_server.tune.options import TuneOptions, limits
from tgi_server.tune.race import Outcome
from tgi_server.tune.search import Field


def identify(field: Field, options: TuneOptions, command: str) -> Identity:
    """What makes a search this one: machine, model, traffic, what is looked for, and among whom."""
    own = identity.identify([_base(field, options)], command)
    bounds = {name: limit for name, limit in asdict(limits(options)).items() if limit is not None}
    marks = {
        **own.marks, "objective": options.objective.name,
        **{f"limit {name}": f"{limit:g} s" for name, limit in bounds.items()},
        "clients": str(options.clients), "requests": str(options.requests), "duration": str(options.duration),
        "candidates": ", ".join(sorted(each.name for each in field.singles)),
    }  # fmt: skip
    return Identity(marks, own.facts, [], bounds)


def directory(field: Field, options: TuneOptions, marks: Mapping[str, str]) -> Path:
    """Of the record."""
    return Path(options.record).expanduser() if options.record else identity.directory([_base(field, options)], marks)


def _base(field: Field, options: TuneOptions) -> Point:
    work = Workload.of(options)
    return Point(1, {}, field.base.task, replace(work, clients=work.clients[:1]))


def report(
    place: Path, sweep: Sweep, options: TuneOptions, outcome: Outcome, book: Book, words: Sequence[str]
) -> list[Path]:
    """Write what was found; returns the files. Raises OSError."""
    winner = outcome.winner
    chosen = book.point(winner.candidate, winner.start).number if winner.known and winner.start else None
    result = [line for line in words if not line.startswith(" ")]  # the others are among the points
    return page.write(place, replace(sweep, chosen=chosen, result=result), options.objective)
