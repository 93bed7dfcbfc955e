"""`--multirun` with a sweeper or launcher of Hydra's, which choose the points of `job=bench` and say where they run."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tgi_server.bench.http import BenchError
from tgi_server.config import describe, load
from tgi_server.config.arguments import Arguments
from tgi_server.errors import UsageError
from tgi_server.jobs.base import Context, Task
from tgi_server.jobs.bench import Bench
from tgi_server.launcher import prepare
from tgi_server.launcher.stage import Stage
from tgi_server.launcher.supervise import Programs, StopSignals
from tgi_server.report import page
from tgi_server.sweep.chosen import Chosen
from tgi_server.sweep.main import check, tell

Make = Callable[[Arguments], Task]

_here: Chosen | None = None
"""What measures in this process; None in those that a launcher of Hydra's has started."""


def run(arguments: Arguments, context: Context, make: Make) -> None:
    """Have the plugins choose points, measure each, and write the report.

    Args:
        make: composes a task.

    Raises:
        UsageError: the job measures nothing, or a plugin cannot be had.
        BenchError: told to stop, or no point could be measured.
    """
    global _here
    fixed, swept = load.parted(arguments)
    base = make(replace(arguments, overrides=fixed, plugins=[], multirun=False))
    if not isinstance(base.job, Bench):
        raise UsageError(f"{arguments.plugins[0]}: Hydra's sweepers need a job that measures; use job=bench")
    job = base.job
    record = None if job.record is None else Path(job.record).expanduser()
    made = Chosen(base, [*arguments.plugins, *swept], context, record, job.foresee(context))
    with contextlib.redirect_stdout(sys.stderr), made as chosen:
        _here = chosen
        try:
            load.sweep_by_hydra(arguments, chosen.directory, Loss(make, tuple(fixed)))
        except Exception:
            if context.stop.requested:
                raise BenchError("stopped; the same command goes on with what has been measured") from None
            raise
        finally:
            _here = None
    sweep = chosen.sweep  # empty where all was measured elsewhere
    files = {} if job.output is None else {job.output: [point.number for point in sweep.points]}
    tell(chosen.directory, sweep, files, partial(page.write, objective=job.objective))
    check(sweep)


@dataclass(frozen=True)
class Loss:
    """Of one point; see `Chosen.loss`. Launchers may copy it into other processes, which measure by themselves."""

    make: Make
    fixed: tuple[str, ...]

    def __call__(self, arguments: Arguments) -> float:
        """See `config.hydra_sweep.run`."""
        settings = dict(_setting(override) for override in arguments.overrides[len(self.fixed) :])
        if _here is not None:
            return _measured(_here, self.make, arguments, settings)
        with _elsewhere(arguments, self.make) as chosen:
            return _measured(chosen, self.make, arguments, settings)


def _measured(chosen: Chosen, make: Make, arguments: Arguments, settings: Mapping[str, str]) -> float:
    try:
        return chosen.loss(make(arguments), settings)
    except UsageError as error:  # a combination that cannot be had is worse than any that can
        print(f"{', '.join(f'{name}={value}' for name, value in settings.items())}: {error}", file=sys.stderr)
        return float("inf")


@contextmanager
def _elsewhere(arguments: Arguments, make: Make) -> Iterator[Chosen]:
    """What measures a single point in a process of its own, and keeps the record beside the others."""
    stop = StopSignals()
    task = make(arguments)
    with Stage(arguments, Programs(), prepare.fetched, stop) as stage:
        context = Context(stage, stop, lambda task, _: task, describe.command(arguments.overrides))
        with Chosen(task, arguments.overrides, context, None, None) as chosen:
            yield chosen


def _setting(override: str) -> tuple[str, str]:
    name, _, value = override.lstrip("+").partition("=")
    return name.removeprefix("job."), value
