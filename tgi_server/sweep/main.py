"""A sweep from tasks to table, files and exit status."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tgi_server.bench.http import BenchError
from tgi_server.errors import ConfigError, TgiError, UsageError
from tgi_server.jobs.base import Context, Task
from tgi_server.sweep import identity, output, screen, table
from tgi_server.sweep.driver import Driver
from tgi_server.sweep.journal import Journal
from tgi_server.sweep.options import SweepOptions
from tgi_server.sweep.order import Turn, order
from tgi_server.sweep.points import points_of
from tgi_server.sweep.predictions import Foresee
from tgi_server.sweep.record import Sweep
from tgi_server.telemetry import logging as log

Report = Callable[[Path, Sweep], Sequence[Path]]
"""Writes files about a sweep into its directory, and returns their paths."""

logger = logging.getLogger(__name__)


def run(tasks: Sequence[Task], context: Context, report: Report, foresee: Foresee | None = None) -> None:
    """Measure all points that the tasks describe, print the table and write the report.

    Args:
        foresee: how to know what to expect of the points; None: nothing is expected.

    Raises:
        UsageError: an option cannot be read or has no effect; nothing has been started then.
        BenchError: told to stop, or not a single point could be measured.
        ConfigError: the record is another sweep's, or cannot be written.
    """
    for task in tasks:
        task.job.check(task.run.config, task.run.origins)
    options, points = _options(tasks), points_of(tasks)
    own = identity.identify(points, context.command)
    directory = Path(options.record).expanduser() if options.record else identity.directory(points, own.marks)
    with contextlib.redirect_stdout(sys.stderr):
        log.setup(tasks[0].run.config, "bench")
        logger.info("%d points, %d measurements each; the record is in %s", len(points), options.repeats, directory)
        with Journal(directory, own) as journal:
            try:
                _go(directory, journal, order(points, options.repeats), context, foresee)
            except TgiError as error:
                reason: TgiError | None = error
            else:
                reason = None
            sweep = journal.sweep
    tell(directory, sweep, output.asked(tasks), report)
    if reason is not None:
        raise reason
    check(sweep)


def _go(directory: Path, journal: Journal, turns: Sequence[Turn], context: Context, foresee: Foresee | None) -> None:
    shown = _screen(journal.sweep, len(turns), bar=not turns[0].point.task.run.config.json_output)
    try:
        Driver(directory, journal, turns, context, shown, foresee and foresee(directory)).go()
    finally:
        shown.close()


def _screen(sweep: Sweep, total: int, bar: bool) -> screen.Screen:
    done = len({(trial.point, trial.repeat) for trial in sweep.trials if trial.summary is not None})
    if bar and sys.stderr.isatty():
        return screen.Picture(sweep, done, total)
    return screen.Lines(done, total)


def tell(directory: Path, sweep: Sweep, files: output.Files, report: Report) -> None:
    """Print what was measured and write the report and these files, where anything was."""
    if not any(trial.summary for trial in sweep.trials):
        return
    try:
        print(table.whole(sweep), flush=True)
        written = [*output.write(files, sweep), *report(directory, sweep)]
        print("".join(f"written: {path}\n" for path in written), end="", flush=True)
    except BrokenPipeError:
        raise
    except (OSError, ConfigError) as error:  # the record has all of it
        print(f"Warning: the report could not be written ({error})", file=sys.stderr)


def check(sweep: Sweep) -> None:
    """Raise BenchError where points failed, and all of them."""
    failed = [trial for point in sweep.points if (trial := sweep.failed(point.number))]
    if failed and len(failed) == len(sweep.points):
        raise BenchError(f"no point could be measured; the first: {failed[0].error}")


def _options(tasks: Sequence[Task]) -> SweepOptions:
    """Those of the first task, which have to be the same at all. Raises UsageError."""
    jobs: list[SweepOptions] = [task.job for task in tasks]
    for name in ("repeats", "record", "simulate", "objective"):
        if len({getattr(job, name) for job in jobs}) > 1:
            raise UsageError(f"{name}: has to be the same at all points of a sweep")
    return jobs[0]
