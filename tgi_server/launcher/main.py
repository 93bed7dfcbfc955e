"""`python -m tgi_server`: options and checks, then the job."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby

import tgi_server
from tgi_server.config import cli, describe, load, usage
from tgi_server.config.arguments import Arguments, Composition
from tgi_server.errors import TgiError, UsageError
from tgi_server.jobs.base import Context, Job, Task
from tgi_server.launcher import check, prepare
from tgi_server.launcher.prepare import Fetch
from tgi_server.launcher.stage import Stage
from tgi_server.launcher.supervise import Programs, StoppedError, StopSignals

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None, programs: Programs | None = None, fetch: Fetch | None = None) -> int:
    """Run a job and return the exit status: 0 when done or told to stop, 2 for unreadable options, 1 for all else.

    Args:
        argv: the arguments after the program's name.
        programs: what to run instead of the real shards and router.
        fetch: what to call instead of `weights.fetch`.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that cannot show a name is no reason to fail
    stop = StopSignals()
    stop.install()
    try:
        _run(sys.argv[1:] if argv is None else argv, programs or Programs(), fetch or prepare.fetched, stop)
    except StoppedError:
        logger.info("stopped before the server was ready")
    except BrokenPipeError:  # whoever read what we print has gone, as in --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except TgiError as error:
        print(f"Error: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    return 0


def _run(argv: Sequence[str], programs: Programs, fetch: Fetch, stop: StopSignals) -> None:
    arguments = cli.parse(argv)
    if arguments.show in ("summary", "help"):
        print(usage.text(long=arguments.show == "help"))
    elif arguments.show == "version":
        print(f"tgi_server {tgi_server.__version__}")
    elif arguments.show == "hydra":
        load.ask_hydra(arguments)
    elif arguments.show == "config":
        _show([load.composition(each) for each in load.combinations(arguments)], arguments)
    elif arguments.plugins:
        from tgi_server.launcher import plugins  # with all that measures

        with Stage(arguments, programs, fetch, stop) as stage:
            plugins.run(arguments, Context(stage, stop, _varied, describe.command(argv)), _task)
    else:
        tasks = [_task(each) for each in load.combinations(arguments)]
        _check_jobs(tasks, arguments)
        with Stage(arguments, programs, fetch, stop) as stage:
            context = Context(stage, stop, _varied, describe.command(argv))
            for kind, some in groupby(tasks, key=lambda task: type(task.job)):
                kind.perform(list(some), context)


def _show(runs: Sequence[Composition], arguments: Arguments) -> None:
    """`--cfg job`: print, then check as a start does before it starts anything."""
    print("---\n".join(load.as_yaml(run, arguments.resolve) for run in runs), end="", flush=True)
    for warning in [*arguments.warnings, *arguments.suspects]:
        print(f"Warning: {warning}", file=sys.stderr)
    for run in runs:
        job: Job = load.instantiate(run.config.job)
        job.check(run.config, run.origins)
        if job.starts_server:
            check.options(run.config, run.origins, prepare.accelerators())


def _task(arguments: Arguments) -> Task:
    run = load.composition(arguments)
    return Task(run, load.instantiate(run.config.job), arguments)


def _varied(task: Task, settings: Mapping[str, str]) -> Task:
    """See `tgi_server.jobs.base.Context.vary`."""
    more = cli.parse([f"{name}={value}" for name, value in settings.items()], {})
    before = task.arguments
    return _task(
        replace(
            before,
            overrides=[*before.overrides, *more.overrides],
            origins={**before.origins, **more.origins},
            problems=more.problems,
        )
    )


def _check_jobs(tasks: Sequence[Task], arguments: Arguments) -> None:
    """Flags that would have no effect are refused."""
    jobs: list[Job] = [task.job for task in tasks]
    endless = [task for task in tasks if task.job.endless]
    if len(jobs) > 1 and endless:
        name = type(endless[0].job).__name__.lower()
        raise UsageError(f"--multirun: job={name} runs until it is told to stop; use job=bench, or --cfg job to look")
    if arguments.report and not all(job.starts_server for job in jobs):
        raise UsageError("--env: tells about a server that is started here; leave it or target out")
