"""The search from options to result."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from tgi_server.bench import main as bench
from tgi_server.bench.http import BenchError
from tgi_server.bench.progress import Progress
from tgi_server.bench.workload import Workload, numbers
from tgi_server.cache.lengths import is_open
from tgi_server.config.schema import ServerConfig
from tgi_server.errors import UsageError
from tgi_server.jobs.base import Context, Stop, Task
from tgi_server.simulate.predict import Predictor, until
from tgi_server.sweep.driver import logging_to
from tgi_server.sweep.journal import Journal
from tgi_server.sweep.objective import Limits, Objective
from tgi_server.sweep.points import Point
from tgi_server.telemetry import logging as log
from tgi_server.tune import keeping, space
from tgi_server.tune.book import Attempt, Book
from tgi_server.tune.measure import Bench
from tgi_server.tune.options import TuneOptions, limits
from tgi_server.tune.race import Outcome
from tgi_server.tune.scoring import FailedError, Load
from tgi_server.tune.search import Aim, Field, search
from tgi_server.tune.shortlist import single
from tgi_server.tune.simulated import Simulated, Simulator
from tgi_server.tune.space import Candidate
from tgi_server.tune.telling import lines
from tgi_server.tune.work import REQUESTS

_LONGEST = 0.25
"""Part of the budget that one measurement of a goodput may take."""

logger = logging.getLogger(__name__)


def check(options: TuneOptions, config: ServerConfig, origins: Mapping[str, str]) -> None:
    """See `tgi_server.jobs.tune.Tune.check`."""
    bench.check(options, config, origins)
    if is_open(config):
        raise UsageError("max_total_tokens=auto: job=tune compares what serves the same lengths; give numbers")
    objective = options.objective
    if options.target is not None:
        raise UsageError(f"target={options.target}: job=tune starts what it compares; job=bench measures other servers")
    if options.output is not None:
        raise UsageError(f"output={options.output}: is for job=bench")
    if objective is Objective.goodput:
        if limits(options) == Limits():
            raise UsageError("objective=goodput: counts requests that keep limits; give one, slo.ttft_p95_ms=500")
        if options.request_rate is not None:
            rate = f"request_rate={options.request_rate:g}"
            raise UsageError(f"{rate}: objective=goodput looks for the rate itself, leave it out")
        if options.traffic_speed is not None:
            speed = f"traffic_speed={options.traffic_speed:g}"
            raise UsageError(f"{speed}: with objective=goodput requests arrive at random, at a rate that is looked for")
    if objective is not Objective.throughput and options.clients and len(numbers("clients", options.clients)) > 1:
        raise UsageError(f"clients={options.clients}: with objective={objective.name} one number")


def run(tasks: Sequence[Task], context: Context) -> None:
    """See `tgi_server.jobs.tune.Tune.perform`."""
    for task in tasks:
        check(task.job, task.run.config, task.run.origins)
    options, config = tasks[0].job, tasks[0].run.config
    with contextlib.redirect_stdout(sys.stderr):
        log.setup(config, "tune")
        field = among(tasks, context, options.candidates)
        own = keeping.identify(field, options, context.command)
        place = keeping.directory(field, options, own.marks)
        logger.info("the record is in %s", place)
        with Journal(place, own) as journal:
            bar = not config.json_output
            look = until(context.stop)
            learn = partial(_learned, Predictor(context.stage, place, look=look), place / "costs.log", bar)
            simulated = Simulated(options, learn, look)
            attempt = Bench(context, limits(options), place / "points", bar)
            book = _book(options, attempt, journal, simulated)
            outcome = _searched(field, aim(options, config), book, simulated, context.stop)
            journal.add_doubt(outcome.doubt)
            sweep = journal.sweep
    words = list(lines(options.objective, outcome))
    print("\n".join(words), flush=True)
    try:
        written = keeping.report(place, sweep, options, outcome, book, words)
    except OSError as error:  # the record has all of it
        print(f"Warning: the report could not be written ({error})", file=sys.stderr)
    else:
        print("".join(f"written: {path}\n" for path in written), end="", flush=True)


def _searched(field: Field, aim: Aim, book: Book, simulated: Simulated, stop: Stop) -> Outcome:
    try:
        return search(field, aim, book, simulated)
    except FailedError as error:
        raise BenchError(f"the documented defaults cannot be measured: {error}") from error
    except Exception:
        if stop.requested:
            raise BenchError("stopped; the same command goes on with what has been measured") from None
        raise


def _book(options: TuneOptions, attempt: Attempt, journal: Journal, simulated: Simulated) -> Book:
    """The book that writes what is measured, and what was expected, into the record."""

    def add_point(point: Point) -> None:
        journal.add_point(point.described())
        if (expected := simulated.expected(point)) is not None:
            journal.add_prediction(point.number, expected)

    return Book(options, attempt, add_point, journal.add_trial, journal.sweep)


def _learned(predictor: Predictor, file: Path, bar: bool, task: Task) -> Simulator:
    """What steps of a task cost; what its server says is in the file."""
    progress = Progress("measuring what steps cost", bar=bar)
    try:
        with logging_to(file, task):
            return predictor.learn(task, lambda stage, part: progress.show(part, []))
    finally:
        progress.finish()


def among(tasks: Sequence[Task], context: Context, count: int) -> Field:
    """Who takes part: what clients do not notice, or the combinations of --multirun. Raises UsageError."""
    if len(tasks) > 1:
        base, *others = space.written(tasks, context.vary)
        return Field(base, others, others, lambda candidate: candidate, count)
    (task,) = tasks
    free = space.searched(task.run.config, task.run.origins)
    others = [space.sketched(task, settings) for settings in space.combinations(free) if settings]
    singles = [space.sketched(task, settings) for settings in single(free)]
    return Field(Candidate({}, task), others, singles, lambda sketch: space.composed(task, sketch, context.vary), count)


def aim(options: TuneOptions, config: ServerConfig) -> Aim:
    """What is looked for: goodput, and throughput without a load that was given, under the best load."""
    most = config.max_concurrent_requests
    if options.objective is Objective.goodput:
        work = Workload.of(replace(options, request_rate=1.0))
        asked = options.requests or (1 if options.duration else REQUESTS)
        return Aim(options.objective, (), min(most, *work.clients), options.budget, asked / (_LONGEST * options.budget))
    given = options.clients or options.request_rate or options.traffic_speed
    work = Workload.of(options)
    loads = [Load(clients if work.closed else min(clients, most), work.rate, work.speed) for clients in work.clients]
    searched = options.objective is Objective.throughput and not given
    return Aim(options.objective, () if searched else loads, most, options.budget)
