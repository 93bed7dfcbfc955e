"""The search from options to result."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Mapping, Sequence

from tgi_server.bench import main as bench
from tgi_server.bench.http import BenchError
from tgi_server.bench.workload import numbers
from tgi_server.config.schema import ServerConfig
from tgi_server.errors import UsageError
from tgi_server.jobs.base import Context, Task
from tgi_server.sweep.objective import Limits, Objective
from tgi_server.telemetry import logging as log
from tgi_server.tune import space
from tgi_server.tune.book import Book
from tgi_server.tune.measure import Bench
from tgi_server.tune.options import TuneOptions, limits
from tgi_server.tune.scoring import FailedError
from tgi_server.tune.search import Aim, Field, search
from tgi_server.tune.shortlist import single
from tgi_server.tune.space import Candidate
from tgi_server.tune.telling import lines

logger = logging.getLogger(__name__)


def check(options: TuneOptions, config: ServerConfig, origins: Mapping[str, str]) -> None:
    """See `tgi_server.jobs.tune.Tune.check`."""
    bench.check(options, config, origins)
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
        book = Book(options, Bench(context, limits(options), bar=not config.json_output))
        try:
            outcome = search(field, aim(options, config), book, None)
        except FailedError as error:
            raise BenchError(f"the documented defaults cannot be measured: {error}") from error
    for line in lines(options.objective, outcome):
        print(line)


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
    """What is looked for: latency and given loads under that load, all else under the best one."""
    clients = numbers("clients", options.clients) if options.clients else ()
    if options.objective is Objective.latency and options.request_rate is None:
        clients = clients or (1,)
    return Aim(options.objective, clients, options.request_rate, config.max_concurrent_requests, options.budget)
